package enrol

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"
)

// anyBundle is one that is well formed, but for a certificate, which it lacks.
func anyBundle() Bundle {
	return Bundle{
		Version: bundleVersion, Made: time.Unix(1_800_000_000, 0).UTC(), Host: "web1", FQDN: "web1.example.org",
		Directory: &BundleDirectory{URL: []string{"ldaps://203.0.113.1:636"}, Base: "dc=example,dc=org", RuleBase: "ou=access,dc=example,dc=org",
			BindDN: "cn=web1,ou=services,dc=example,dc=org", Password: "x", Schema: "rfc2307bis"},
		Kerberos: BundleKerberos{Realm: "EXAMPLE.ORG", KDC: []string{"203.0.113.1:88"}, Kpasswd: []string{"[2001:db8::1]:464"},
			HostKeytab: []byte{5, 2, 0}, ServiceKeytab: []byte{5, 2, 0}},
		Clock: []string{"ntp.example.org:123"},
	}
}

// realCA makes a certificate.
func realCA(t testing.TB) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1_900_000_000, 0)}
	der, err := x509.CreateCertificate(nil, c, c, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func FuzzParseBundle(f *testing.F) {
	b := anyBundle()
	b.Directory.CA = realCA(f)
	text, err := json.Marshal(b)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":2,"host":"x"} `))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := parseBundle(text)
		if err != nil {
			if !reflect.DeepEqual(b, Bundle{}) || strings.Contains(err.Error(), "ldaps://") {
				t.Errorf("%v beside %v", b, err)
			}
			return
		}
		for _, text := range []string{sekishodConf(b, true), wholeKrb5Conf(b), krb5Snippet(b)} {
			if strings.ContainsAny(text, "\x00\r\x1b") {
				t.Errorf("%q", text)
			}
		}
	})
}

// FuzzEdits: an edit, done twice, is the same as once, and our lines taken out
// again leave what was there.
func FuzzEdits(f *testing.F) {
	for _, text := range debian {
		f.Add(text)
	}
	f.Add("passwd:files\u00a0x\ngroup:\vfiles\fx\nshadow:a:files files\n")
	f.Add("auth [success=2 default=ignore] pam_unix.so\nauth x y\nauth requisite pam_deny.so\nauth required pam_permit.so")
	f.Fuzz(func(t *testing.T, text string) {
		for name, edit := range map[string]func(string) (string, error){
			"auth":    func(s string) (string, error) { return pamAuth("auth", s, "/m.so") },
			"account": func(s string) (string, error) { return pamAccount(s, "/m.so") },
			"session": func(s string) (string, error) { return pamSession(s, "/m.so") },
			"sshd":    func(s string) (string, error) { return sshdInclude(s, sshdSnippet) },
			"nss":     nssSystemd,
		} {
			once, err := edit(text)
			if err != nil {
				continue
			}
			if twice, err := edit(once); err != nil || twice != once {
				t.Errorf("%s: %q became %q, then %q, %v", name, text, once, twice, err)
			}
			if name == "nss" || strings.Contains(text, markBegin) {
				continue
			}
			bare, err := editLines(once, func(l []string) ([]string, error) { return l, nil })
			if want, _ := editLines(text, func(l []string) ([]string, error) { return l, nil }); err != nil || bare != want {
				t.Errorf("%s: %q, with our lines taken out, became %q, %v", name, text, bare, err)
			}
		}
	})
}

// TestValidate: each field that is written into a file is checked.
func TestValidate(t *testing.T) {
	if err := anyBundle().Validate(); err == nil || !strings.Contains(err.Error(), "directory.ca") {
		t.Errorf("the first thing wrong is to be the CA: %v", err)
	}
	for name, spoil := range map[string]func(*Bundle){
		"host":                  func(b *Bundle) { b.Host = "web1\n" },
		"fqdn":                  func(b *Bundle) { b.FQDN = "web1" },
		"directory.url":         func(b *Bundle) { b.Directory.URL = []string{"ldap://203.0.113.1"} },
		"directory.base":        func(b *Bundle) { b.Directory.Base = "dc=\"x" },
		"directory.rule_base":   func(b *Bundle) { b.Directory.RuleBase = "x\ny" },
		"directory.bind_dn":     func(b *Bundle) { b.Directory.BindDN = "" },
		"directory.password":    func(b *Bundle) { b.Directory.Password = "a\nb" },
		"directory.schema":      func(b *Bundle) { b.Directory.Schema = "a b" },
		"kerberos.realm":        func(b *Bundle) { b.Kerberos.Realm = "example.org" },
		"kerberos.kdc":          func(b *Bundle) { b.Kerberos.KDC = []string{"203.0.113.1:88\n}"} },
		"kerberos.kpasswd":      func(b *Bundle) { b.Kerberos.Kpasswd = []string{"x"} },
		"kerberos.host_keytab":  func(b *Bundle) { b.Kerberos.HostKeytab = nil },
		"kerberos.service_keyt": func(b *Bundle) { b.Kerberos.ServiceKeytab = nil },
		"clock":                 func(b *Bundle) { b.Clock = []string{"a\" b"} },
	} {
		b := anyBundle()
		spoil(&b)
		b.Directory.CA = realCA(t)
		if err := b.Validate(); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := anyBundle()
	b.Directory.CA = realCA(t)
	if err := b.Validate(); err != nil {
		t.Error(err)
	}
	b.Directory.CA += "and more"
	if err := b.Validate(); err == nil {
		t.Error("what follows a certificate was taken")
	}
}
