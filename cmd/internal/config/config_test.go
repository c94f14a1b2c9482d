package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestEmptyIsTheEmbeddedRealm(t *testing.T) {
	for _, text := range []string{"", "\n# nothing\n", "[realm]\n"} {
		c, err := parse([]byte(text), "f")
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if !c.Embedded() || c.Realm.Domain != "sekisho.internal" || c.Host == "" ||
			time.Duration(c.Snapshot.MaxAge) != 24*time.Hour || c.Socket() != "/run/sekisho/sekisho.sock" {
			t.Errorf("%q gives %+v", text, c)
		}
	}
}

func TestWhole(t *testing.T) {
	c, err := parse([]byte(`
host = "Web1.Example.ORG."
state_dir = "/srv/s"
[directory]
url = ["ldaps://a.example.org", "ldap://127.0.0.1:1389"]
base = "dc=example,dc=org"
bind_dn = "cn=sekishod,ou=services,dc=example,dc=org"
password_file = "/etc/sekisho/password"
schema = "freeipa"
password_policy = "cn=default,ou=policies,dc=example,dc=org"
[snapshot]
max_age = "90m"
[keys]
types = ["ssh-ed25519"]
`), "f")
	if err != nil {
		t.Fatal(err)
	}
	if schema, err := c.Schema(); err != nil || schema.PolicyDefaultDN != "cn=default,ou=policies,dc=example,dc=org" {
		t.Errorf("the default policy is %q, %v", schema.PolicyDefaultDN, err)
	}
	if c.Host != "web1.example.org" || c.Embedded() || c.Snapshot.MaxAge.String() != "90m" || c.Policy().Types[0] != "ssh-ed25519" {
		t.Errorf("got %+v", c)
	}
}

// TestRefused holds what each wrong file is answered with.
func TestRefused(t *testing.T) {
	const dir = "[directory]\nurl = [\"ldaps://a.example.org\"]\n"
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "host = \"a\"\n\n[directory]\nbse = \"x\"\n", "f:4: unknown key directory.bse; did you mean directory.base?"},
		{"unknown section", "[directry]\nurl = []\n", "f:1: unknown key directry; did you mean directory?"},
		{"right key, wrong place", "uid_min = 5\n", "f:1: unknown key uid_min; did you mean userdb.uid_min?"},
		{"far from everything", "frobnicate = 1\n", "f:1: unknown key frobnicate"},
		{"no TOML", "host = \"a\"\nhost web1\n", "f:2: "},
		{"wrong type", "\n[userdb]\nuid_min = \"many\"\n", "f:3: "},
		{"twice", "user = \"a\"\nuser = \"b\"\n", "f:2: "},
		{"negative", "[userdb]\nuid_min = -1\n", "f:2: "},
		{"too big", "[userdb]\nuid_max = 4294967296\n", "f:2: "},
		{"no duration", "[snapshot]\nmax_age = \"soon\"\n", `"soon" is no duration`},
		{"duration of zero", "[snapshot]\nmax_age = \"0s\"\n", "snapshot.max_age"},
		{"share", "[snapshot]\nhold_share = 1.5\n", "snapshot.hold_share"},
		{"share that is no number", "[snapshot]\nhold_share = nan\n", "snapshot.hold_share"},
		{"host", "host = \"web 1\"\n", "is no host name"},
		{"relative", "state_dir = \"var\"\n", "state_dir"},
		{"dots", "state_dir = \"/var/../etc\"\n", "state_dir"},
		{"one directory", "state_dir = \"/run/sekisho\"\n", "two directories"},
		{"long", "runtime_dir = \"/" + strings.Repeat("x", 90) + "\"\n", "at most 80"},
		{"root", "user = \"root\"\n", "other than root"},
		{"base without url", "[directory]\nbase = \"dc=x\"\n", "directory.url is not"},
		{"no base", dir, "directory.base is not set"},
		{"no policy", dir + "base = \"dc=x\"\npassword_policy = \"default\"\n", "directory.password_policy"},
		{"no DN", dir + "base = \"x\"\n", "is no DN"},
		{"clear", "[directory]\nurl = [\"ldap://a.example.org\"]\nbase = \"dc=x\"\n", "without TLS"},
		{"clear, named like loopback", "[directory]\nurl = [\"ldap://localhost.example.org\"]\nbase = \"dc=x\"\n", "without TLS"},
		{"TLS twice", dir + "base = \"dc=x\"\nstart_tls = true\n", "take start_tls out"},
		{"password in the URL", "[directory]\nurl = [\"ldaps://u:secret@a\"]\nbase = \"dc=x\"\n", "more than a scheme"},
		{"base in the URL", "[directory]\nurl = [\"ldaps://a/dc=x\"]\nbase = \"dc=x\"\n", "more than a scheme"},
		{"no host", "[directory]\nurl = [\"ldaps://\"]\nbase = \"dc=x\"\n", "names no host"},
		{"http", "[directory]\nurl = [\"http://a\"]\nbase = \"dc=x\"\n", "must begin with"},
		{"half a bind", dir + "base = \"dc=x\"\nbind_dn = \"cn=a\"\n", "go together"},
		{"relative file", dir + "base = \"dc=x\"\nca_file = \"ca.pem\"\n", "absolute"},
		{"schema", dir + "base = \"dc=x\"\nschema = \"nis\"\n", "must be rfc2307bis"},
		{"realm beside a url", dir + "base = \"dc=x\"\n[realm]\ndomain = \"x.org\"\n", "take one of them out"},
		{"domain", "[realm]\ndomain = \"a,dc=b\"\n", "realm.domain"},
		{"listen on a name", "[realm]\nldaps = [\"web1:636\"]\n", "IP:PORT"},
		{"port 0", "[realm]\nkdc = [\"127.0.0.1:0\"]\n", "IP:PORT"},
		{"name", "[realm]\nnames = [\"a b\"]\n", "realm.names"},
		{"caller", "[keys]\ncallers = [\"a:b\"]\n", "keys.callers"},
		{"type", "[keys]\ntypes = [\"ssh-foo\"]\n", "keys.types"},
		{"bits", "[keys]\nrsa_bits = 12\n", "keys.rsa_bits"},
		{"uid 0", "[userdb]\nuid_min = 0\n", "begins at 1"},
		{"no range", "[userdb]\nuid_min = 9\nuid_max = 8\n", "begins at 1"},
		{"level", "[log]\nlevel = \"loud\"\n", "log.level"},
		{"format", "[log]\nformat = \"xml\"\n", "log.format"},
	} {
		got, err := parse([]byte(c.text), "f")
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line with %q", c.name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows a password: %v", c.name, err)
		}
		if got.StateDir != "" {
			t.Errorf("%s: a configuration is returned beside the error", c.name)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	if _, err := Load(path); err == nil {
		t.Error("a path that was given and is not there must be an error")
	}
	if err := os.WriteFile(path, []byte("host = \"web1\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if c, err := Load(path); err != nil || c.Host != "web1" {
		t.Errorf("got %v, %v", c.Host, err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "chmod o-w") {
		t.Errorf("a file that all may write: got %v", err)
	}
	if err := os.WriteFile(path, make([]byte, maxFile+1), 0o644); err != nil {
		t.Fatal(err)
	}
	os.Chmod(path, 0o644)
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "it is no configuration") {
		t.Errorf("a huge file: got %v", err)
	}
}

func TestReadSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	for _, c := range []struct {
		text string
		mode os.FileMode
		want string // of the error; empty: the password is "s3kr3t pw"
	}{
		{"s3kr3t pw\n", 0o600, ""},
		{"s3kr3t pw", 0o400, ""},
		{"s3kr3t pw\r\n\n", 0o600, ""},
		{"s3kr3t pw\n", 0o640, "chmod 0600"},
		{"s3kr3t pw\n", 0o604, "chmod 0600"},
		{"", 0o600, "empty"},
		{"\ns3kr3t pw\n", 0o600, "empty"},
		{"s3kr3t pw\nmore\n", 0o600, "one line"},
		{strings.Repeat("s3kr3t", 1000), 0o600, "one line"},
		{"s3kr3t\x00pw\n", 0o600, "NUL"},
	} {
		os.Remove(path)
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		got, err := ReadSecret(path)
		switch {
		case c.want == "" && (err != nil || got != "s3kr3t pw"):
			t.Errorf("%.20q %o: got %q, %v", c.text, c.mode, got, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || got != ""):
			t.Errorf("%.20q %o: got %q, %v; want an error with %q", c.text, c.mode, got, err, c.want)
		case err != nil && strings.Contains(err.Error(), "s3kr3t"):
			t.Errorf("%.20q %o: the error shows the password", c.text, c.mode)
		}
	}
	if _, err := ReadSecret(t.TempDir()); err == nil {
		t.Error("a directory is no password file")
	}
}
