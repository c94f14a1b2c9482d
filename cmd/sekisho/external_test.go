package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/testenv"
)

// TestExternalDirectory manages a directory that is not ours, as its
// administrator, in both of OpenLDAP's usual schemas.
func TestExternalDirectory(t *testing.T) {
	for i, schema := range []string{"rfc2307bis", "rfc2307"} {
		t.Run(schema, func(t *testing.T) {
			cfg := testenv.SlapdConfig{Port: 3890 + i, LDIF: []byte(`dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
dc: example
o: example

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=org
objectClass: organizationalUnit
ou: groups

dn: ou=hosts,dc=example,dc=org
objectClass: organizationalUnit
ou: hosts

dn: ou=access,dc=example,dc=org
objectClass: organizationalUnit
ou: access
`)}
			if schema == "rfc2307" {
				lpk, err := filepath.Abs("../../realm/schema/openssh-lpk.ldif")
				if err != nil {
					t.Fatal(err)
				}
				cfg.Schemas = append(testenv.PackagedSchemas("core", "cosine", "nis", "inetorgperson"), lpk)
			}
			s, err := testenv.StartSlapd(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Stop()
			dir := t.TempDir()
			config, password := filepath.Join(dir, "c.toml"), filepath.Join(dir, "pw")
			text := fmt.Sprintf("host = \"web1.example.org\"\n[directory]\nurl = [%q]\nbase = \"dc=example,dc=org\"\nschema = %q\n", s.URL, schema)
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(password, []byte(s.RootPW+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			run := func(args ...string) (string, error) {
				var out bytes.Buffer
				cmd := exec.CommandContext(t.Context(), "sekisho", append(args, "--config", config, "--as", s.RootDN, "--password-file", password)...)
				cmd.Stdout, cmd.Stderr = &out, &out
				err := cmd.Run()
				return out.String(), err
			}
			must := func(want string, args ...string) {
				t.Helper()
				if out, err := run(args...); err != nil || !strings.Contains(out, want) {
					t.Errorf("%v: %v: %s; want %q", args, err, out, want)
				}
			}
			mustNot := func(want string, args ...string) {
				t.Helper()
				if out, err := run(args...); err == nil || !strings.Contains(out, want) {
					t.Errorf("%v: %v: %s; want an error with %q", args, err, out, want)
				}
			}
			must("no password and no Kerberos principal were made", "user", "add", "alice", "--name", "Alice Example")
			must("uid 10001, gid 10001", "user", "add", "bob")
			mustNot("a password cannot be set here", "user", "add", "carol", "--password-stdin")
			must("/home/alice", "user", "show", "alice")
			must("group team added", "group", "add", "team", "--add", "alice")
			must("1 member added", "group", "set", "team", "--add", "bob")
			must("users  alice, bob", "group", "show", "team")
			must("2 removed", "group", "set", "team", "--remove", "alice", "--remove", "bob")
			must("expired 2001-02-03", "user", "set", "alice", "--expires", "2001-02-03")
			must("locked, expired", "user", "set", "alice", "--lock")
			must("open", "user", "set", "alice", "--unlock", "--expires", "never")
			mustNot("the number 10001 is taken", "user", "add", "carol", "--uid", "10001")
			mustNot("there is no user carol", "user", "show", "carol")
			mustNot("there is no group carol", "group", "show", "carol")
			must("the group of his own removed", "user", "rm", "bob", "--yes")
			if schema == "rfc2307" {
				mustNot("no members but users", "group", "set", "team", "--add-group", "alice")
				mustNot("has not loaded the schema", "rule", "add", "r", "--subject", "*", "--door", "keys", "--target", "*")
				return
			}
			must("1 member added", "group", "set", "team", "--add-group", "alice")
			must("host web1.example.org added", "host", "add", "web1.example.org", "--addr", "203.0.113.5")
			must("rule r added", "rule", "add", "r", "--subject", "group:team", "--door", "keys", "--target", "*")
			must("in use", "rule", "show", "r")
		})
	}
}
