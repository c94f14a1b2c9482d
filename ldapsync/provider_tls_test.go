package ldapsync

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/testenv"
)

func writeFile(t testing.TB, b []byte) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(f, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func testCA(t *testing.T, name string) *testenv.CA {
	t.Helper()
	ca, err := testenv.NewCA(name)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// TestBind: the ways to a provider that work, and the clear words on those
// that do not, of the sync and of the client alike.
func TestBind(t *testing.T) {
	ca := testCA(t, "ours")
	d := startDirectory(t, testenv.SlapdConfig{CA: ca})
	d.user("alice", 2001, "userPassword", "alices")
	good, other := writeFile(t, ca.PEM), writeFile(t, testCA(t, "another").PEM)
	root, wrong := PasswordFile(writeFile(t, []byte("secret\n"))), PasswordFile(writeFile(t, []byte("wrong")))
	open := writeFile(t, []byte("secret"))
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	bound := func(p Provider) Provider { p.BindDN, p.Password = d.RootDN, root; return p }
	for name, c := range map[string]struct {
		p    Provider
		want string // in the error; empty: it works
	}{
		"ldaps":            {bound(Provider{URLs: []string{d.TLSURL}, CAFile: good}), ""},
		"starttls":         {bound(Provider{URLs: []string{d.URL}, CAFile: good, StartTLS: true}), ""},
		"external":         {Provider{URLs: []string{d.LDAPI}, External: true}, ""},
		"plain loopback":   {bound(Provider{URLs: []string{d.URL}}), ""},
		"anonymous":        {Provider{URLs: []string{d.URL}}, ""},
		"untrusted":        {bound(Provider{URLs: []string{d.TLSURL}, CAFile: other}), "set the CA file to the directory's CA"},
		"system's CAs":     {bound(Provider{URLs: []string{d.TLSURL}}), "not in the system's CAs"},
		"starttls, too":    {bound(Provider{URLs: []string{d.URL}, CAFile: other, StartTLS: true}), "set the CA file to the directory's CA"},
		"no CA file":       {bound(Provider{URLs: []string{d.TLSURL}, CAFile: "/nonexistent"}), "reading the CA file"},
		"CA file of wood":  {bound(Provider{URLs: []string{d.TLSURL}, CAFile: writeFile(t, []byte("wood"))}), "no PEM certificate"},
		"wrong password":   {Provider{URLs: []string{d.LDAPI}, BindDN: d.RootDN, Password: wrong}, "Invalid Credentials"},
		"open file":        {Provider{URLs: []string{d.LDAPI}, BindDN: d.RootDN, Password: PasswordFile(open)}, "chmod 600"},
		"no file":          {Provider{URLs: []string{d.LDAPI}, BindDN: d.RootDN, Password: PasswordFile("/nonexistent")}, "reading the bind password"},
		"nobody listening": {Provider{URLs: []string{"ldap://127.0.0.1:9"}}, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			c.p.Timeout = 20 * time.Second
			cl, err := Dial(t.Context(), ClientConfig{Provider: c.p})
			if err == nil {
				defer cl.Close()
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("client: %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error holds the password: %v", err)
			}
			cfg := d.config(t)
			cfg.Provider = c.p
			r := startSync(t, cfg)
			if c.want == "" {
				r.until("alice is there", hasUser("alice"))
				return
			}
			wait(t, "the error is told", func() bool { return strings.Contains(r.Status().LastError, c.want) })
			if r.View().Snapshot != nil {
				t.Error("a snapshot out of nothing")
			}
		})
	}
}

func TestCertificates(t *testing.T) {
	ca := testCA(t, "ours")
	for name, c := range map[string]struct {
		cert testenv.CertConfig
		want string
	}{
		"expired":    {testenv.CertConfig{Names: []string{"127.0.0.1"}, NotBefore: time.Now().AddDate(0, -2, 0), NotAfter: time.Now().AddDate(0, -1, 0)}, "renew the server's certificate"},
		"other name": {testenv.CertConfig{Names: []string{"ldap.example.org"}}, "use a name that is in the server's certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			cert, err := ca.Issue(c.cert)
			if err != nil {
				t.Fatal(err)
			}
			d := startDirectory(t, testenv.SlapdConfig{CA: ca, Cert: cert})
			cfg := d.config(t)
			cfg.Provider = Provider{URLs: []string{d.TLSURL}, CAFile: writeFile(t, ca.PEM)}
			r := startSync(t, cfg)
			wait(t, "the error is told", func() bool { return strings.Contains(r.Status().LastError, c.want) })
		})
	}
}

// TestConfigRefused: what New must not take.
func TestConfigRefused(t *testing.T) {
	pw := func() ([]byte, error) { return []byte("x"), nil }
	ok := Config{Provider: Provider{URLs: []string{"ldaps://ldap.example.org"}, BindDN: "cn=x,dc=y", Password: pw}, BaseDN: testBase, Log: quietLog()}
	for want, change := range map[string]func(*Config){
		"no directory URL":   func(c *Config) { c.URLs = nil },
		"unknown scheme":     func(c *Config) { c.URLs = []string{"http://x"} },
		"no host":            func(c *Config) { c.URLs = []string{"ldaps://"} },
		"in the clear":       func(c *Config) { c.URLs = []string{"ldap://ldap.example.org"} },
		"only a host":        func(c *Config) { c.URLs = []string{"ldaps://ldap.example.org/dc=x"} },
		"over ldapi:// only": func(c *Config) { c.BindDN, c.External = "", true },
		"exclude each other": func(c *Config) { c.URLs, c.External = []string{"ldapi:///x"}, true },
		"without a Password": func(c *Config) { c.Password = nil },
		"base DN":            func(c *Config) { c.BaseDN = "example.org" },
		"StateDir":           func(c *Config) { c.StateDir = "" },
		"hold share":         func(c *Config) { c.HoldShare = 1.5 },
		"attribute or class": func(c *Config) { c.Schema = RFC2307bis(); c.Schema.UserClasses = []string{"a)(b"} },
		"filter":             func(c *Config) { c.Schema = RFC2307bis(); c.Schema.Filter = "(a=" },
	} {
		c := ok
		c.StateDir = t.TempDir()
		change(&c)
		if s, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
			if s != nil {
				s.Close()
			}
		}
	}
	for u, want := range map[string]string{"ldapi://%2Frun%2Fx%2Fldapi": "/run/x/ldapi", "ldapi:///run/x": "/run/x", "ldapi:///": "/run/slapd/ldapi",
		"ldaps://h": "h:636", "ldap://[::1]": "[::1]:389", "ldap://h:1389": "h:1389"} {
		if e, err := parseURL(u); err != nil || e.addr != want {
			t.Errorf("%s: %q %v", u, e.addr, err)
		}
	}
}

// TestWrongDirectory: no such base, no right to read, a schema without our
// classes.
func TestWrongDirectory(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{Schemas: testenv.PackagedSchemas("core", "cosine", "nis"), Access: []string{"to * by * none"}})
	d.add("uid=alice,ou=people,"+testBase, "objectClass", "account", "objectClass", "posixAccount", "uid", "alice",
		"cn", "x", "uidNumber", "2001", "gidNumber", "5000", "homeDirectory", "/x")
	r := startSync(t, d.config(t))
	r.until("alice is there, though half of the classes are unknown to slapd", hasUser("alice"))
	c := d.config(t)
	c.BaseDN = "ou=nowhere," + testBase
	r2 := startSync(t, c)
	wait(t, "no such base is told", func() bool { return strings.Contains(r2.Status().LastError, "No Such Object") })
	c = d.config(t)
	c.External, c.URLs = false, []string{d.URL}
	r3 := startSync(t, c)
	wait(t, "no right to read is told", func() bool { return r3.Status().LastError != "" })
	if r3.View().Snapshot != nil {
		t.Error("a snapshot without the right to read")
	}
}

// TestClient: the client's requests, and that a hung server cannot hold it.
func TestClient(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{})
	d.user("alice", 2001)
	if id, err := d.admin.WhoAmI(t.Context()); err != nil || !strings.Contains(id, "cn=peercred") {
		t.Errorf("who am I: %q %v", id, err)
	}
	e, err := d.admin.Get(t.Context(), userDN("alice"), "uidNumber")
	if err != nil || e.GetAttributeValue("uidNumber") != "2001" {
		t.Errorf("get: %v %v", e, err)
	}
	if _, err := d.admin.Get(t.Context(), userDN("nobody")); !IsCode(err, ldap.LDAPResultNoSuchObject) {
		t.Errorf("get of nobody: %v", err)
	}
	if err := d.tryAdd(userDN("alice"), "objectClass", "account"); !IsCode(err, ldap.LDAPResultEntryAlreadyExists) || !strings.Contains(err.Error(), userDN("alice")) {
		t.Errorf("adding alice again: %v", err)
	}
	if err := d.admin.ModifyDN(t.Context(), newRename(userDN("alice"), "uid=al")); err != nil {
		t.Error(err)
	}
	d.modify(userDN("al"), "replace", "gecos", "x")
	d.delete(userDN("al"))
	if _, err := Dial(t.Context(), ClientConfig{Provider: Provider{URLs: []string{d.LDAPI}, BindDN: d.RootDN,
		Password: func() ([]byte, error) { return nil, nil }}}); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an empty password: %v", err)
	}
	cl, err := Dial(t.Context(), ClientConfig{Provider: Provider{URLs: []string{"ldap://127.0.0.1:9", d.URL}, Timeout: 5 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	if cl.URL() != d.URL {
		t.Errorf("connected to %s", cl.URL())
	}
	if err := d.Hang(); err != nil {
		t.Fatal(err)
	}
	defer d.Resume()
	// What is not ended by the client's Timeout is by this.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := cl.WhoAmI(ctx); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("a hung server: %v", err)
	}
	if _, err := cl.WhoAmI(ctx); err == nil {
		t.Error("a client lives on after its deadline")
	}
	if err := cl.Close(); err != nil {
		t.Error(err)
	}
	cl.Close()
	if _, err := Dial(ctx, ClientConfig{Provider: Provider{URLs: []string{d.LDAPI}, External: true, Timeout: time.Second}}); err == nil {
		t.Error("bound to a hung server")
	}
	if ctx.Err() != nil {
		t.Error("a hung server held us for a minute")
	}
}
