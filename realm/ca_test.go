package realm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	f := filesIn(dir, Config{})
	if err := os.Mkdir(filepath.Dir(f.ca), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := NewLayout("sekisho.internal")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := makeCA(f, l, now); err != nil {
		t.Fatal(err)
	}
	c := Config{Names: []string{"Ldap.Sekisho.Internal", "203.0.113.5", "2001:DB8::1", "localhost"}, LDAP: []string{"0.0.0.0:389", "198.51.100.7:389"}}
	names := certNames(c, "Dir1")
	want := []string{"127.0.0.1", "198.51.100.7", "2001:db8::1", "203.0.113.5", "::1", "dir1", "ldap.sekisho.internal", "localhost"}
	if !slices.Equal(names, want) {
		t.Errorf("names %v, want %v", names, want)
	}
	renew := func(what string, names []string, at time.Time, want bool) *x509.Certificate {
		t.Helper()
		made, err := renewCert(f, names, at)
		if err != nil || made != want {
			t.Errorf("%s: made %v, %v", what, made, err)
		}
		cert, key, err := loadPair(f.cert, f.certKey)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if pub, ok := key.Public().(*ecdsa.PublicKey); !ok || !pub.Equal(cert.PublicKey) || pub.Curve != elliptic.P256() {
			t.Errorf("%s: a key of another kind", what)
		}
		return cert
	}
	first := renew("first", names, now, true)
	renew("again", names, now.Add(time.Hour), false)
	renew("31 days before its end", names, first.NotAfter.Add(-31*24*time.Hour), false)
	second := renew("29 days before its end", names, first.NotAfter.Add(-29*24*time.Hour), true)
	renew("before its time", names, now, true)
	renew("another name", append(names, "x"), now, true)
	renew("one name less", names, now, true)
	if second.SerialNumber.Cmp(first.SerialNumber) == 0 {
		t.Error("the serial number did not change")
	}

	ca, caKey, err := loadPair(f.ca, f.caKey)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	for _, n := range names {
		if _, err := first.Verify(x509.VerifyOptions{Roots: pool, DNSName: n, CurrentTime: now}); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
	if _, err := first.Verify(x509.VerifyOptions{Roots: pool, DNSName: "evil.test", CurrentTime: now}); err == nil {
		t.Error("a name that is not in it was verified")
	}
	if _, err := first.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the server certificate serves a client")
	}
	for path, mode := range map[string]os.FileMode{f.caKey: 0o600, f.certKey: 0o600, f.ca: 0o644, f.cert: 0o644} {
		if st, err := os.Stat(path); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
	}

	// A pair that does not fit, as a crash leaves it, and certificates of another CA.
	if err := writeKey(f.certKey, caKey); err != nil {
		t.Fatal(err)
	}
	renew("half of a pair", names, now, true)
	if err := os.WriteFile(f.cert, []byte("-----BEGIN"), 0o644); err != nil {
		t.Fatal(err)
	}
	renew("cut", names, now, true)
	if err := makeCA(f, l, now); err != nil {
		t.Fatal(err)
	}
	renew("of another CA", names, now, true)
	if made, err := renewCert(f, names, now.Add(caLife+time.Hour)); err == nil || made {
		t.Errorf("expired CA: %v, %v", made, err)
	}
	if late := renew("near the CA's end", names, now.Add(caLife-48*time.Hour), true); !late.NotAfter.Equal(now.Add(caLife)) {
		t.Errorf("ends at %v, after the CA", late.NotAfter)
	}
}

// TestKDCCertificate: it is made and renewed like the server's, and openssl reads in
// it what RFC 4556 §3.2.4 wants. Real clients check it in TestCodesAtKDC.
func TestKDCCertificate(t *testing.T) {
	dir := t.TempDir()
	f := filesIn(dir, Config{})
	if err := os.Mkdir(filepath.Dir(f.ca), 0o700); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := makeCA(f, Layout{Realm: "SEKISHO.INTERNAL"}, now); err != nil {
		t.Fatal(err)
	}
	renew := func(what, realm string, at time.Time, want bool) *x509.Certificate {
		t.Helper()
		made, err := renewKDCCert(f, realm, at)
		if err != nil || made != want {
			t.Errorf("%s: made %v, %v", what, made, err)
		}
		cert, _, err := loadPair(f.kdcCert, f.kdcKey)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	first := renew("first", "SEKISHO.INTERNAL", now, true)
	renew("again", "SEKISHO.INTERNAL", now.Add(time.Hour), false)
	renew("29 days before its end", "SEKISHO.INTERNAL", first.NotAfter.Add(-29*24*time.Hour), true)
	renew("another realm", "EXAMPLE.ORG", now, true)
	if err := os.Remove(f.kdcKey); err != nil {
		t.Fatal(err)
	}
	renew("without its key", "EXAMPLE.ORG", now, true)
	out, err := exec.Command("openssl", "x509", "-in", f.kdcCert, "-noout", "-text").CombinedOutput()
	for _, want := range []string{"Signing KDC Response", "Digital Signature", "othername", "sekisho KDC"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("openssl does not read %q: %v\n%s", want, err, out)
		}
	}
	if st, err := os.Stat(f.kdcKey); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	makeServer, err := renewCert(f, []string{"localhost"}, now)
	if err != nil || !makeServer {
		t.Fatal(err)
	}
	server, _, err := loadPair(f.cert, f.certKey)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := kdcName("EXAMPLE.ORG"); err != nil || isKDC(server, name) {
		t.Error("the directory's certificate passes for a KDC's")
	}
}
