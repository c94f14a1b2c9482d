package realm

import (
	"os"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

func TestLayout(t *testing.T) {
	l, err := NewLayout("corp.example.test")
	if err != nil || l.Base != "dc=corp,dc=example,dc=test" || l.Realm != "CORP.EXAMPLE.TEST" {
		t.Errorf("%+v, %v", l, err)
	}
	for got, want := range map[string]string{
		l.UserDN("alice"):     "uid=alice,ou=people,dc=corp,dc=example,dc=test",
		l.UserDN("a,ou=x"):    `uid=a\,ou=x,ou=people,dc=corp,dc=example,dc=test`,
		l.GroupDN("a+b"):      `cn=a\+b,ou=groups,dc=corp,dc=example,dc=test`,
		l.RuleDN(" x\x00"):    `cn=\ x\00,ou=access,dc=corp,dc=example,dc=test`,
		l.HostDN("web1.test"): "cn=web1.test,ou=hosts,dc=corp,dc=example,dc=test",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for _, d := range []string{"", "internal", "a..b", "A.b", "a b.c", "a,dc=x.y", "-a.b", "a-.b", "a.b.c.d.e.f.g.h.i",
		strings.Repeat("x", 64) + ".y", "ü.test", "a\n.b", `a".b`} {
		if l, err := NewLayout(d); err == nil {
			t.Errorf("%q: %+v", d, l)
		}
	}
}

func TestConfig(t *testing.T) {
	good := Config{Dir: "/var/lib/sekisho", RunDir: "/run/sekisho", Log: logrus.NewEntry(logrus.New()), UID: 1, GID: 1}
	if os.Geteuid() != 0 {
		good.UID, good.GID = os.Geteuid(), os.Getegid()
	}
	c, err := good.validate()
	if err != nil {
		t.Fatal(err)
	}
	if c.Domain != "sekisho.internal" || c.LDAP[0] != "127.0.0.1:389" || c.LDAPS[0] != "127.0.0.1:636" || c.KDC[0] != "127.0.0.1:88" ||
		c.Kpasswd[0] != "127.0.0.1:464" || c.Now == nil {
		t.Errorf("defaults: %+v", c)
	}
	for name, change := range map[string]func(*Config){
		"no log":          func(c *Config) { c.Log = nil },
		"relative":        func(c *Config) { c.Dir = "state" },
		"no run dir":      func(c *Config) { c.RunDir = "" },
		"unclean":         func(c *Config) { c.Dir = "/var/../etc" },
		"root":            func(c *Config) { c.Dir = "/" },
		"space":           func(c *Config) { c.Dir = "/var/my dir" },
		"newline":         func(c *Config) { c.RunDir = "/run/x\nolcRootPW: x" },
		"long socket":     func(c *Config) { c.RunDir = "/run/" + strings.Repeat("x", 100) },
		"host as address": func(c *Config) { c.LDAP = []string{"localhost:389"} },
		"no port":         func(c *Config) { c.LDAPS = []string{"127.0.0.1"} },
		"port 0":          func(c *Config) { c.KDC = []string{"127.0.0.1:0"} },
		"zone":            func(c *Config) { c.KDC = []string{"[fe80::1%eth0]:88"} },
		"address list":    func(c *Config) { c.KDC = []string{"127.0.0.1:88 0.0.0.0:88"} },
		"kpasswd":         func(c *Config) { c.Kpasswd = []string{"127.0.0.1"} },
		"past the last":   func(c *Config) { c.KDC = []string{"127.0.0.1:65400"} },
		"bad name":        func(c *Config) { c.Names = []string{"a b"} },
		"bad domain":      func(c *Config) { c.Domain = "x" },
		"bad admin":       func(c *Config) { c.AdminUIDs = []int{-1} },
	} {
		c := good
		change(&c)
		if _, err := c.validate(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	high, err := Config{Dir: "/var/lib/sekisho", RunDir: "/run/sekisho", KDC: []string{"0.0.0.0:8088"}, Names: []string{"203.0.113.1", "B.example.org"}}.Info()
	if err != nil || strings.Join(high.Kpasswd, " ") != "127.0.0.1:8464" || high.Service.String() != "sekisho/b.example.org@SEKISHO.INTERNAL" ||
		high.Keytab != "/var/lib/sekisho/realm/sekisho.keytab" {
		t.Errorf("%+v, %v", high, err)
	}
	i, err := Config{Dir: "/var/lib/sekisho", RunDir: "/run/sekisho", LDAPS: []string{"0.0.0.0:636", "[::]:636", "198.51.100.7:636"}}.Info()
	if err != nil || i.LDAPI != "ldapi://%2Frun%2Fsekisho%2Fldapi" || i.Stash != "/var/lib/sekisho/realm/stash" ||
		strings.Join(i.LDAPS, " ") != "ldaps://127.0.0.1:636 ldaps://[::1]:636 ldaps://198.51.100.7:636" {
		t.Errorf("%+v, %v", i, err)
	}
}
