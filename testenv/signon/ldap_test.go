package signon

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/testenv"
)

// outside is a directory of somebody else's with a password policy, and a host
// whose passwords it proves.
type outside struct {
	v    *site
	conn *ldap.Conn
}

const outsideBase = "dc=example,dc=org"

func newOutside(t *testing.T) *outside {
	t.Helper()
	ctx := t.Context()
	ca, err := testenv.NewCA("test CA")
	need(t, err)
	dir, err := calm.w.Host("directory")
	need(t, err)
	slapd, err := testenv.StartSlapd(ctx, testenv.SlapdConfig{Host: dir, CA: ca, Debug: "0", NoSync: true,
		Access: []string{"to attrs=userPassword by self =xw by anonymous auth by * none", "to * by * read"},
		Config: `dn: olcOverlay={1}ppolicy,olcDatabase={1}mdb,cn=config
objectClass: olcOverlayConfig
objectClass: olcPPolicyConfig
olcOverlay: {1}ppolicy
olcPPolicyDefault: cn=default,ou=policies,` + outsideBase + `
olcPPolicyHashCleartext: TRUE
olcPPolicyUseLockout: TRUE
`})
	need(t, err)
	conn, err := ldap.DialURL(slapd.URL)
	need(t, err)
	t.Cleanup(func() { conn.Close() })
	need(t, conn.Bind(slapd.RootDN, slapd.RootPW))
	o := &outside{conn: conn}
	for _, ou := range []string{"people", "hosts", "access", "policies"} {
		o.add(t, "ou="+ou+","+outsideBase, "objectClass", "organizationalUnit", "ou", ou)
	}
	for name, more := range map[string][]string{"default": nil, "grace": {"pwdMaxAge", "3600", "pwdGraceAuthnLimit", "2", "pwdExpireWarning", "1800"}} {
		o.add(t, "cn="+name+",ou=policies,"+outsideBase, append([]string{"objectClass", "device", "objectClass", "pwdPolicy", "cn", name, "pwdAttribute", "userPassword",
			"pwdMinLength", "8", "pwdCheckQuality", "2", "pwdInHistory", "2", "pwdMustChange", "TRUE", "pwdLockout", "TRUE", "pwdMaxFailure", "5"}, more...)...)
	}
	h, err := calm.w.Host("site")
	need(t, err)
	o.add(t, "cn=site,ou=hosts,"+outsideBase, "objectClass", "device", "objectClass", "ipHost", "cn", "site", "ipHostNumber", h.Addr.String())
	o.add(t, "cn=all,ou=access,"+outsideBase, "objectClass", "sekishoRule", "cn", "all", "sekishoSubject", "*", "sekishoDoor", "pam", "sekishoTarget", "*")
	conf := fmt.Sprintf("host = \"site\"\n[log]\nlevel = \"debug\"\n[directory]\nurl = [%q]\nbase = %q\nca_file = \"/etc/sekisho/ca.crt\"\n[pam]\npassword = \"ldap\"\n",
		slapd.TLSURL, outsideBase)
	o.v = &site{Host: h, r: calm.realm}
	for _, f := range []hostFile{{"/etc/sekisho/sekishod.toml", []byte(conf), 0o644}, {"/etc/sekisho/ca.crt", ca.PEM, 0o644}, {"/etc/pam.d/alone", []byte(alone), 0o644}} {
		need(t, h.WriteFile(f.path, f.data, f.mode))
	}
	need(t, o.v.start(ctx))
	return o
}

func (o *outside) add(t *testing.T, dn string, pairs ...string) {
	t.Helper()
	r := ldap.NewAddRequest(dn, nil)
	var order []string
	values := map[string][]string{}
	for i := 0; i < len(pairs); i += 2 {
		if values[pairs[i]] == nil {
			order = append(order, pairs[i])
		}
		values[pairs[i]] = append(values[pairs[i]], pairs[i+1])
	}
	for _, a := range order {
		r.Attribute(a, values[a])
	}
	need(t, o.conn.Add(r))
}

// person adds a user, with more attributes, and returns his password.
func (o *outside) person(t *testing.T, name string, uid int, more ...string) string {
	t.Helper()
	password := newSecret()
	o.add(t, "uid="+name+",ou=people,"+outsideBase, append([]string{"objectClass", "inetOrgPerson", "objectClass", "posixAccount", "uid", name, "cn", name, "sn", name,
		"uidNumber", fmt.Sprint(uid), "gidNumber", "100", "homeDirectory", "/home/" + name, "loginShell", "/bin/bash", "userPassword", password}, more...)...)
	soon(t, func() error {
		out, err := o.v.Command(context.Background(), "/usr/local/bin/sekisho", "why", name, "pam", "site").CombinedOutput()
		return errorOf(string(out), err)
	})
	return password
}

// set replaces an attribute, also one that only servers write (relax rules).
func (o *outside) set(t *testing.T, name, attr, value string) {
	t.Helper()
	m := ldap.NewModifyRequest("uid="+name+",ou=people,"+outsideBase, []ldap.Control{ldap.NewControlString("1.3.6.1.4.1.4203.666.5.12", true, "")})
	m.Replace(attr, []string{value})
	need(t, o.conn.Modify(m))
}

// What the policy of a directory says, through PAM: a change that it forces, one
// that it refuses, warnings and grace logins.
func TestDirectoryPolicy(t *testing.T) {
	t.Parallel()
	o := newOutside(t)
	sign := func(name string, replies ...string) (string, error) {
		return o.v.pamtester(t.Context(), strings.Join(replies, "\n")+"\n", "alone", name, "authenticate", "acct_mgmt")
	}
	must := func(what, out string, err error, in bool, words ...string) {
		t.Helper()
		if (err == nil) != in {
			t.Errorf("%s: %v: %s", what, err, out)
		}
		says(t, out, words...)
	}
	// Set by an administrator: to be changed at once.
	old := o.person(t, "reset", 20001)
	o.set(t, "reset", "pwdReset", "TRUE")
	fresh := newSecret()
	out, err := sign("reset", old+"x")
	must("a wrong password", out, err, false, saysAuthErr)
	out, err = sign("reset", old, "short77", "short77", fresh, fresh)
	must("a forced change", out, err, true, "You must change your password now.", "quality")
	out, err = sign("reset", fresh)
	must("the new one", out, err, true)
	out, err = sign("reset", old)
	must("the old one", out, err, false, saysAuthErr)
	// By itself.
	out, err = o.v.pamtester(t.Context(), fresh+"\n"+old+"\n"+old+"\n", "alone", "reset", "chauthtok")
	must("one of the history", out, err, false, "history")
	last := newSecret()
	out, err = o.v.pamtester(t.Context(), fresh+"\n"+last+"\n"+last+"\n", "alone", "reset", "chauthtok")
	must("a good one", out, err, true)
	out, err = sign("reset", last)
	must("the good one", out, err, true)
	// About to expire, expired with two grace logins, and then not at all.
	grace := o.person(t, "grace", 20002, "pwdPolicySubentry", "cn=grace,ou=policies,"+outsideBase)
	stamp := func(ago time.Duration) {
		o.set(t, "grace", "pwdChangedTime", time.Now().Add(-ago).UTC().Format("20060102150405Z"))
	}
	stamp(50 * time.Minute)
	out, err = sign("grace", grace)
	must("nine minutes before its end", out, err, true, "Your password expires within a day")
	stamp(2 * time.Hour)
	for _, left := range []string{"you can sign in once more", "this was the last sign-in with it"} {
		out, err = sign("grace", grace)
		must("a grace login", out, err, true, "expired", left)
	}
	out, err = sign("grace", grace)
	must("none left", out, err, false, "your password has expired")
}
