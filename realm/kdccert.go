package realm

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// What makes a certificate a KDC's (RFC 4556 §3.2.4).
var (
	oidSAN       = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidPKINITSAN = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 2, 2}    // id-pkinit-san
	oidKPKDC     = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 2, 3, 5} // id-pkinit-KPKdc
)

// kdcKeyBits: MIT's plugin of Debian 12 signs with RSA alone.
const kdcKeyBits = 3072

// kdcName is the GeneralNames of a KDC's certificate: one otherName that holds the
// KRB5PrincipalName krbtgt/REALM@REALM.
func kdcName(realm string) ([]byte, error) {
	var b cryptobyte.Builder
	general := func(b *cryptobyte.Builder, s string) {
		b.AddASN1(casn1.GeneralString, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
	}
	tag := func(n int) casn1.Tag { return casn1.Tag(n).ContextSpecific().Constructed() }
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(tag(0), func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidPKINITSAN)
			b.AddASN1(tag(0), func(b *cryptobyte.Builder) {
				b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(tag(0), func(b *cryptobyte.Builder) { general(b, realm) })
					b.AddASN1(tag(1), func(b *cryptobyte.Builder) {
						b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
							b.AddASN1(tag(0), func(b *cryptobyte.Builder) { b.AddASN1Int64(2) }) // NT-SRV-INST
							b.AddASN1(tag(1), func(b *cryptobyte.Builder) {
								b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
									general(b, "krbtgt")
									general(b, realm)
								})
							})
						})
					})
				})
			})
		})
	})
	return b.Bytes()
}

// renewKDCCert is renewCert for the KDC's own certificate, by which clients know it
// when they come as nobody for a ticket to armour their codes with.
func renewKDCCert(f files, realm string, now time.Time) (bool, error) {
	ca, caKey, err := loadCA(f, now)
	if err != nil {
		return false, err
	}
	name, err := kdcName(realm)
	if err != nil {
		return false, err
	}
	if cert, key, err := loadPair(f.kdcCert, f.kdcKey); err == nil && current(cert, key, ca, now) && isKDC(cert, name) {
		return false, nil
	}
	key, err := rsa.GenerateKey(rand.Reader, kdcKeyBits)
	if err != nil {
		return false, err
	}
	tmpl := leaf(ca, "sekisho KDC", now)
	tmpl.UnknownExtKeyUsage = []asn1.ObjectIdentifier{oidKPKDC}
	tmpl.ExtraExtensions = []pkix.Extension{{Id: oidSAN, Value: name}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, key.Public(), caKey)
	if err != nil {
		return false, fmt.Errorf("the KDC's certificate: %w", err)
	}
	return true, writePair(f.kdcCert, f.kdcKey, der, key)
}

func isKDC(cert *x509.Certificate, name []byte) bool {
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidSAN) {
			return bytes.Equal(e.Value, name) && len(cert.UnknownExtKeyUsage) == 1 && cert.UnknownExtKeyUsage[0].Equal(oidKPKDC)
		}
	}
	return false
}

// keepPKINIT makes what clients need to come as nobody: the principal, where a realm
// was made before there was any, and then the KDC's certificate, whose presence says
// that the principal is there.
func (m maker) keepPKINIT(ctx context.Context, f files) error {
	if _, err := os.Lstat(f.kdcCert); errors.Is(err, fs.ErrNotExist) {
		e := anonymous(m.layout, m.c.Now())
		out, err := m.tool(ctx, "", m.sys.slapcat, "-o", "ldif-wrap=no", "-n", "1", "-F", f.slapdD, "-a", "(krbPrincipalName="+anonymousName+"@"+m.layout.Realm+")")
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(out)) == 0 {
			if _, err := m.tool(ctx, ldif([]entry{e}), m.sys.slapadd, "-w", "-n", "1", "-F", f.slapdD); err != nil {
				return fmt.Errorf("adding %s: %w", anonymousName, err)
			}
		}
	} else if err != nil {
		return err
	}
	_, err := renewKDCCert(f, m.layout.Realm, m.c.Now())
	return err
}

// CodesFault says what the KDC of this machine lacks to ask for one-time codes, or
// nil. Without it nobody who must show a code gets a ticket.
func CodesFault() error {
	for _, p := range []struct{ file, pkg string }{{"otp.so", "krb5-otp"}, {"pkinit.so", "krb5-pkinit"}} {
		if !hasPlugin("preauth/" + p.file) {
			return fmt.Errorf("the KDC's plugin %s is not installed: install the package %s", p.file, p.pkg)
		}
	}
	return nil
}
