package realm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	caLife     = 20 * 365 * 24 * time.Hour
	certLife   = 397 * 24 * time.Hour
	renewAhead = 30 * 24 * time.Hour
	backdate   = time.Hour // for clients whose clock is a little behind
)

// makeCA writes a new private CA: ECDSA P-256, for certificates of servers and the KDC.
func makeCA(f files, l Layout, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Sekisho realm " + l.Realm},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return err
	}
	if err := writeKey(f.caKey, key); err != nil {
		return err
	}
	return writeFile(f.ca, pemBlock("CERTIFICATE", der), 0o644)
}

// certNames are the names that the server certificate must have, sorted.
func certNames(c Config, hostname string) []string {
	names := append([]string{"localhost", "127.0.0.1", "::1"}, c.Names...)
	if validHost(hostname) {
		names = append(names, hostname)
	}
	for _, a := range slices.Concat(c.LDAP, c.LDAPS) {
		if ap, err := netip.ParseAddrPort(a); err == nil && !ap.Addr().IsUnspecified() {
			names = append(names, ap.Addr().String())
		}
	}
	for i, n := range names {
		names[i] = strings.ToLower(n)
		if a, err := netip.ParseAddr(n); err == nil {
			names[i] = a.String()
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// renewCert makes a server certificate where there is none, or where it ends
// within 30 days, names others than it should, or is not the CA's. It says
// whether it made one.
func renewCert(f files, names []string, now time.Time) (bool, error) {
	ca, caKey, err := loadCA(f, now)
	if err != nil {
		return false, err
	}
	if cert, key, err := loadPair(f.cert, f.certKey); err == nil && current(cert, key, ca, now) && slices.Equal(namesOf(cert), names) {
		return false, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return false, err
	}
	tmpl := leaf(ca, "sekisho directory", now)
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, key.Public(), caKey)
	if err != nil {
		return false, err
	}
	return true, writePair(f.cert, f.certKey, der, key)
}

// loadCA gives the realm's CA while it is good.
func loadCA(f files, now time.Time) (*x509.Certificate, crypto.Signer, error) {
	ca, key, err := loadPair(f.ca, f.caKey)
	if err != nil {
		return nil, nil, fmt.Errorf("the realm's CA: %w", err)
	}
	if now.After(ca.NotAfter) {
		return nil, nil, fmt.Errorf("the realm's CA (%s) has expired: no certificate of it is good any more", f.ca)
	}
	return ca, key, nil
}

// leaf is a certificate to be signed by the CA, for signatures alone and of no use yet.
func leaf(ca *x509.Certificate, name string, now time.Time) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(certLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	if c.NotAfter.After(ca.NotAfter) {
		c.NotAfter = ca.NotAfter
	}
	return c
}

// current reports whether a pair is the CA's, fits, and need not be renewed yet.
func current(cert *x509.Certificate, key crypto.Signer, ca *x509.Certificate, now time.Time) bool {
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(cert.PublicKey) && cert.CheckSignatureFrom(ca) == nil &&
		now.Add(renewAhead).Before(cert.NotAfter) && !now.Before(cert.NotBefore)
}

// writePair writes the key and then the certificate. A crash between the two leaves a
// pair that does not fit: the next start makes another.
func writePair(certPath, keyPath string, der []byte, key crypto.Signer) error {
	if err := writeKey(keyPath, key); err != nil {
		return err
	}
	return writeFile(certPath, pemBlock("CERTIFICATE", der), 0o644)
}

func namesOf(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	slices.Sort(names)
	return names
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // rand.Reader never fails
	return n.Add(n, big.NewInt(1))
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func writeKey(path string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writeFile(path, pemBlock("PRIVATE KEY", der), 0o600)
}

func loadPair(certPath, keyPath string) (*x509.Certificate, crypto.Signer, error) {
	der, err := readPEM(certPath, "CERTIFICATE")
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certPath, err)
	}
	if der, err = readPEM(keyPath, "PRIVATE KEY"); err != nil {
		return nil, nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, nil, fmt.Errorf("%s is not a private key", keyPath)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("%s is not a key to sign with", keyPath)
	}
	return cert, signer, nil
}

func readPEM(path, kind string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != kind || len(rest) != 0 {
		return nil, errors.New(path + " is not one PEM block of type " + kind)
	}
	return block.Bytes, nil
}
