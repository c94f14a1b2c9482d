package realm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"time"
)

// HostCert is what a host shows when it follows a broker.
type HostCert struct {
	// Cert and Key are PEM; the key is an ECDSA key on P-256.
	Cert, Key []byte
	// Pin is the key as the attribute sekishoHostKey has it.
	Pin string
}

// String keeps the key out of logs.
func (h HostCert) String() string   { return "certificate with the key " + h.Pin }
func (h HostCert) GoString() string { return h.String() }

// HostCert makes a certificate for a host of the embedded realm, good for 397
// days and for nothing but a client of that name, and a new key. Who calls it must
// be able to read the realm's files. UID, GID, Log and Now need not be set.
func (c Config) HostCert(name string) (HostCert, error) {
	c, err := c.validatePlaces()
	if err != nil {
		return HostCert{}, fmt.Errorf("realm: %w", err)
	}
	if !validHost(name) {
		return HostCert{}, fmt.Errorf("a certificate for %.80q: it is no host name", name)
	}
	now := time.Now()
	if c.Now != nil {
		now = c.Now()
	}
	ca, caKey, err := loadCA(c.files(), now)
	if err != nil {
		return HostCert{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return HostCert{}, err
	}
	tmpl := leaf(ca, "sekisho host", now)
	tmpl.DNSNames = []string{name}
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, key.Public(), caKey)
	if err != nil {
		return HostCert{}, fmt.Errorf("a certificate for %s: %w", name, err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return HostCert{}, fmt.Errorf("a certificate for %s: %w", name, err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return HostCert{}, fmt.Errorf("a certificate for %s: %w", name, err)
	}
	sum := sha256.Sum256(spki)
	return HostCert{pemBlock("CERTIFICATE", der), pemBlock("PRIVATE KEY", private), "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])}, nil
}
