package realm

// CheckCert is what a running realm does every hour.
func (r *Realm) CheckCert() { r.checkCert() }

const MaxFailures = maxFailures
