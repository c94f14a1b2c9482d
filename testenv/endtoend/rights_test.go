package endtoend

import (
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"
)

// With a host's service account nobody learns a secret, and nothing can be
// written.
func TestServiceAccount(t *testing.T) {
	t.Parallel()
	p := someone(t, "svc-a")
	password, err := world.web.ReadFile("/etc/sekisho/password")
	need(t, err)
	c := world.dialTLS(t)
	need(t, c.Bind("cn=web1,ou=services,"+world.realm.base, strings.TrimSpace(string(password))))

	secrets := []string{"userPassword", "krbPrincipalKey", "krbExtraData", "krbMKey", "krbPwdHistory", "pwdHistory", "oathSecret", "oathHOTPCounter", "pwdFailureTime"}
	everything := append([]string{"*", "+"}, secrets...)
	r, err := c.Search(ldap.NewSearchRequest(world.realm.base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false, "(objectClass=*)", everything, nil))
	need(t, err)
	people := 0
	for _, e := range r.Entries {
		if strings.HasPrefix(e.DN, "uid=") {
			people++
		}
		for _, a := range e.Attributes {
			for _, s := range secrets {
				if strings.EqualFold(strings.Split(a.Name, ";")[0], s) {
					t.Errorf("%s of %s is readable", s, e.DN)
				}
			}
			for _, v := range a.Values {
				if strings.Contains(v, "{ARGON2}") {
					t.Errorf("a password's hash is in %s of %s", a.Name, e.DN)
				}
			}
		}
	}
	if people == 0 {
		t.Fatal("the account reads no people at all: this test sees nothing")
	}
	// One password policy, so that it knows whose lock-outs end by which.
	r, err = c.Search(ldap.NewSearchRequest(world.realm.base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false, "(objectClass=pwdPolicy)", nil, nil))
	if err != nil || len(r.Entries) != 1 || r.Entries[0].GetAttributeValue("pwdLockoutDuration") != "600" {
		t.Errorf("the policies seen: %+v, %v", r, err)
	}
	// Nor can it find a secret out by asking for a value, or by a filter.
	for _, f := range []string{"(userPassword=*)", "(krbPrincipalKey=*)", "(krbExtraData=*)", "(oathSecret=*)"} {
		r, err := c.Search(ldap.NewSearchRequest(world.realm.base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false, f, []string{"1.1"}, nil))
		if err != nil || len(r.Entries) != 0 {
			t.Errorf("the filter %s finds %v, %v", f, r, err)
		}
	}
	if yes, err := c.Compare(world.realm.dn(p.name, "people"), "userPassword", p.password); err == nil && yes {
		t.Error("compare tells a password")
	}
	for _, base := range []string{"cn=config", "cn=monitor", "cn=accesslog", "ou=otp," + world.realm.base} {
		r, err := c.Search(ldap.NewSearchRequest(base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false, "(objectClass=*)", nil, nil))
		for _, e := range r.Entries { // but for the directory's clock, see doctor
			if err == nil && !(e.DN == "cn=Current,cn=Time,cn=Monitor" && base == "cn=monitor") {
				t.Errorf("%s is readable: %s", base, e.DN)
			}
		}
	}

	denied := func(what string, err error) {
		t.Helper()
		if !ldap.IsErrorAnyOf(err, ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultNoSuchObject, ldap.LDAPResultUnwillingToPerform) {
			t.Errorf("%s: %v", what, err)
		}
	}
	alice := world.realm.dn("alice", "people")
	for _, w := range [][2]string{{alice, "sshPublicKey"}, {alice, "userPassword"}, {alice, "loginShell"}, {"cn=web1,ou=services," + world.realm.base, "userPassword"},
		{"cn=web1,ou=services," + world.realm.base, "description"}, {world.realm.dn("alice", "access"), "sekishoLogin"}, {"cn=config", "olcLogLevel"}} {
		m := ldap.NewModifyRequest(w[0], nil)
		m.Replace(w[1], []string{"a-new-root-value"})
		denied("writing "+w[1]+" of "+w[0], c.Modify(m))
	}
	add := ldap.NewAddRequest(world.realm.dn("mine", "access"), nil)
	for k, v := range map[string]string{"objectClass": "sekishoRule", "cn": "mine", "sekishoSubject": "*", "sekishoDoor": "*", "sekishoTarget": "*"} {
		add.Attribute(k, []string{v})
	}
	denied("adding a rule", c.Add(add))
	denied("deleting alice", c.Del(ldap.NewDelRequest(alice, nil)))
	denied("renaming alice", c.ModifyDN(ldap.NewModifyDNRequest(alice, "uid=mallory", true, "")))
	_, err = c.PasswordModify(ldap.NewPasswordModifyRequest(alice, "", newSecret()))
	if err == nil {
		t.Error("alice's password was set by the service account")
	}

	// Nobody at all, over the network, reads nothing.
	anonymous := world.dialTLS(t)
	if r, err := anonymous.Search(ldap.NewSearchRequest(world.realm.base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false, "(objectClass=*)", nil, nil)); err == nil && len(r.Entries) > 0 {
		t.Errorf("anonymous reads %s", r.Entries[0].DN)
	}
}

// What a local user of web1 can learn: about himself.
func TestLocalUser(t *testing.T) {
	t.Parallel()
	p, q := someone(t, "loc-a"), someone(t, "loc-b")
	rule(t, "loc-a", "user:loc-a")
	rule(t, "loc-b", "user:loc-b", "--permit", "environment:HINT=x")
	caughtUp(t, world.web)
	p.in(t, call{to: world.web})
	run := func(command string) (string, int) {
		out, err := p.ssh(t.Context(), call{to: world.web, command: command})
		return out, code(err)
	}
	for _, path := range []string{"/etc/sekisho/password", "/var/lib/sekisho/snapshot/*", "/var/lib/sekisho/*", "/proc/$(pgrep -o sekishod)/environ",
		"/proc/$(pgrep -o sekishod)/maps"} {
		if out, n := run("cat " + path); n == 0 {
			t.Errorf("cat %s: %q", path, out)
		}
	}
	if out, n := run("ls /var/lib/sekisho/snapshot"); n == 0 {
		t.Errorf("he can list the snapshot: %s", out)
	}
	const keys = "/usr/local/lib/sekisho/sekisho-keys "
	if out, n := run(keys + p.name); n != 0 || !strings.Contains(out, "ssh-ed25519") {
		t.Errorf("his own keys: %d %s", n, out)
	}
	for _, name := range []string{q.name, "alice", "root"} {
		if out, n := run(keys + name); n != 75 || strings.Contains(out, "ssh-ed25519") {
			t.Errorf("the keys of %s: %d %s", name, n, out)
		}
	}
	if out, n := run("sekisho why " + p.name + " keys web1"); n != 0 || !strings.Contains(out, "YES") {
		t.Errorf("why about himself: %d %s", n, out)
	}
	if out, n := run("sekisho why " + q.name + " keys web1"); n == 0 || strings.Contains(out, "HINT") || strings.Contains(out, "loc-b\t") {
		t.Errorf("why about another: %d %s", n, out)
	}
	if out, n := run("sekisho sync accept"); n == 0 {
		t.Errorf("sync accept: %s", out)
	}
	out, n := run("sekisho status --json")
	if n != 0 || strings.Contains(out, "ldaps://") || strings.Contains(out, "skipped") {
		t.Errorf("status tells an unprivileged user: %d %s", n, out)
	}
	// He cannot put himself between sshd and sekishod.
	for _, c := range []string{"rm -f " + socketPath, "mv /run/sekisho /run/x", "touch /run/sekisho/x", "touch /run/systemd/userdb/x", "kill -9 $(pgrep -o sekishod)"} {
		if out, n := run(c); n == 0 {
			t.Errorf("%s: %s", c, out)
		}
	}
}
