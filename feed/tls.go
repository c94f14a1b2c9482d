package feed

import "crypto/x509"

// CAs are the authorities that may sign the other side's certificate.
type CAs = *x509.CertPool
