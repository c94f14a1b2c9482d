package realm

// Layout says where things are in an embedded realm's tree.
type Layout struct {
	// Base is the base DN, for example dc=sekisho,dc=internal.
	Base string
	// Realm is the Kerberos realm, for example SEKISHO.INTERNAL.
	Realm string
}

// People, Groups, Hosts, Access, Services, Policies, OTP and Kerberos are the
// DNs of the containers.
func (l Layout) People() string   { return "ou=people," + l.Base }
func (l Layout) Groups() string   { return "ou=groups," + l.Base }
func (l Layout) Hosts() string    { return "ou=hosts," + l.Base }
func (l Layout) Access() string   { return "ou=access," + l.Base }
func (l Layout) Services() string { return "ou=services," + l.Base }
func (l Layout) Policies() string { return "ou=policies," + l.Base }
func (l Layout) OTP() string      { return "ou=otp," + l.Base }
func (l Layout) Kerberos() string { return "cn=kerberos," + l.Base }

// Sekishod is the broker's own identity: what uid Config.UID is over ldapi.
func (l Layout) Sekishod() string { return "cn=sekishod," + l.Services() }
