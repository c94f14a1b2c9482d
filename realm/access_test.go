package realm_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/go-ldap/ldap/v3"
	"github.com/sekisho/sekisho/realm"
)

// world is a realm with one of everything, and a connection of everybody.
func accessWorld(t *testing.T) (*realm.Realm, map[string]*ldap.Conn) {
	t.Helper()
	r := start(t, testConfig(t))
	lay, root := r.Info().Layout, admin(t, r)
	addUser(t, r, "alice", "alice's password", 20001)
	addUser(t, r, "bob", "bob's password", 20002)
	add := func(dn string, attrs map[string][]string) {
		t.Helper()
		req := ldap.NewAddRequest(dn, nil)
		for k, v := range attrs {
			req.Attribute(k, v)
		}
		if err := root.Add(req); err != nil {
			t.Fatalf("%s: %v", dn, err)
		}
	}
	add(lay.GroupDN("dev"), map[string][]string{"objectClass": {"groupOfNames", "posixGroup"}, "cn": {"dev"},
		"gidNumber": {"30000"}, "member": {lay.UserDN("alice")}})
	add(lay.RuleDN("dev"), map[string][]string{"objectClass": {"sekishoRule"}, "cn": {"dev"}, "sekishoSubject": {"group:dev"},
		"sekishoDoor": {"*"}, "sekishoTarget": {"host:web*"}, "sekishoExpires": {"20300101000000Z"}, "sekishoEnabled": {"TRUE"}})
	account, accountPassword := lay.ServiceAccount("web1", "the broker of web1")
	if err := root.Add(account); err != nil {
		t.Fatal(err)
	}
	add("cn=tok,"+lay.OTP(), map[string][]string{"objectClass": {"organizationalRole", "oathTOTPToken"}, "cn": {"tok"},
		"oathTOTPParams": {"cn=p," + lay.OTP()}, "oathSecret": {"12345678901234567890"}})
	state := ldap.NewModifyRequest(lay.UserDN("alice"), nil)
	state.Replace("pwdReset", []string{"FALSE"})
	if err := root.Modify(state); err != nil {
		t.Fatal(err)
	}
	// bob has failed and been locked.
	for range 51 {
		ldapBind(t, r, "bob", "wrong")
	}
	as := func(dn, password string) *ldap.Conn {
		t.Helper()
		l := dial(t, r, r.Info().LDAPS[0])
		if dn != "" {
			if err := l.Bind(dn, password); err != nil {
				t.Fatalf("%s: %v", dn, err)
			}
		}
		return l
	}
	secret, err := os.ReadFile(filepath.Join(filepath.Dir(r.Info().Stash), "passwd.secret"))
	if err != nil {
		t.Fatal(err)
	}
	return r, map[string]*ldap.Conn{
		"root":      root,
		"anonymous": as("", ""),
		"alice":     as(lay.UserDN("alice"), "alice's password"),
		"service":   as(lay.ServiceDN("web1"), accountPassword),
		"passwd":    as(lay.ServiceDN("passwd"), string(secret)),
		"kdc":       as(lay.ServiceDN("kdc"), kdcSecret(t, r)),
	}
}

func kdcSecret(t *testing.T, r *realm.Realm) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(filepath.Dir(r.Info().Stash), "kdc.secret"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(strings.TrimSpace(string(b)), "#{HEX}")
	var out []byte
	if n, err := fmt.Sscanf(text, "%x", &out); !ok || n != 1 || err != nil {
		t.Fatal("bad secret file", err)
	}
	return string(out)
}

// sees says whether a connection is shown an attribute of an entry, and by a search
// for its value whether it can find out about it.
func sees(l *ldap.Conn, dn, attribute string) bool {
	for _, filter := range []string{"(objectClass=*)", "(" + attribute + "=*)"} {
		for _, base := range []struct {
			dn    string
			scope int
		}{{dn, ldap.ScopeBaseObject}, {dn[strings.Index(dn, ",")+1:], ldap.ScopeWholeSubtree}} {
			res, err := l.Search(ldap.NewSearchRequest(base.dn, base.scope, 0, 0, 0, false, filter, []string{attribute}, nil))
			if err != nil {
				continue
			}
			for _, e := range res.Entries {
				if e.DN == dn && (len(e.Attributes) > 0 || filter != "(objectClass=*)") {
					return true
				}
			}
		}
	}
	ok, err := l.Compare(dn, attribute, "x")
	return ok || err == nil
}

func TestReadRights(t *testing.T) {
	r, conns := accessWorld(t)
	lay := r.Info().Layout
	alice, bob := lay.UserDN("alice"), lay.UserDN("bob")
	ticket := "krbPrincipalName=krbtgt/" + lay.Realm + "@" + lay.Realm + "," + lay.KerberosRealm()
	all := "root kdc passwd service alice"
	for _, c := range []struct{ dn, attribute, who string }{
		// Secrets.
		{alice, "userPassword", "root"},
		{bob, "userPassword", "root"},
		{lay.ServiceDN("web1"), "userPassword", "root"},
		{lay.ServiceDN("kdc"), "userPassword", "root"},
		{alice, "krbPrincipalKey", "root kdc passwd"},
		{bob, "krbPrincipalKey", "root kdc passwd"},
		{alice, "krbExtraData", "root kdc passwd"},
		{ticket, "krbPrincipalKey", "root kdc"},
		{"cn=tok," + lay.OTP(), "oathSecret", "root"}, // and codes: TestCodesRights
		{"cn=tok," + lay.OTP(), "cn", "root"},
		{bob, "pwdFailureTime", "root"},
		// The state of accounts: for those who must refuse, and for oneself.
		{bob, "pwdAccountLockedTime", "root kdc passwd service"},
		{alice, "pwdReset", "root kdc passwd service alice"},
		{bob, "krbLastPwdChange", "root kdc passwd service"},
		{alice, "krbLastPwdChange", "root kdc passwd service alice"},
		// The rest.
		{bob, "sshPublicKey", all},
		{bob, "uidNumber", all},
		{alice, "memberOf", all},
		{alice, "entryUUID", all},
		{lay.GroupDN("dev"), "member", all},
		{lay.RuleDN("dev"), "sekishoSubject", all},
		{lay.Base, "contextCSN", all},
		{ticket, "krbPrincipalName", "root kdc"},
		{lay.ServiceDN("kdc"), "cn", "root kdc"},
		{lay.ServiceDN("web1"), "cn", "root service"},
	} {
		for who, l := range conns {
			want := strings.Contains(" "+c.who+" ", " "+who+" ")
			if got := sees(l, c.dn, c.attribute); got != want {
				t.Errorf("%s sees %s of %s: %v, want %v", who, c.attribute, c.dn, got, want)
			}
		}
	}
	// The root DSE is all that anonymous callers see.
	for who, l := range conns {
		res, err := l.Search(ldap.NewSearchRequest("", ldap.ScopeBaseObject, 0, 0, 0, false, "(objectClass=*)", []string{"namingContexts"}, nil))
		if err != nil || len(res.Entries) != 1 {
			t.Errorf("%s: root DSE: %v", who, err)
		}
		res, err = l.Search(ldap.NewSearchRequest(lay.Base, ldap.ScopeWholeSubtree, 0, 0, 0, false, "(objectClass=*)", []string{"1.1"}, nil))
		if who == "anonymous" && (err == nil || len(res.Entries) > 0) {
			t.Errorf("anonymous: %d entries, %v", len(res.Entries), err)
		}
		_, err = l.Search(ldap.NewSearchRequest("cn=config", ldap.ScopeWholeSubtree, 0, 0, 0, false, "(objectClass=*)", []string{"1.1"}, nil))
		if (err == nil) != (who == "root") {
			t.Errorf("%s reads cn=config: %v", who, err)
		}
	}
}

func TestWriteRights(t *testing.T) {
	r, conns := accessWorld(t)
	lay := r.Info().Layout
	alice, bob := lay.UserDN("alice"), lay.UserDN("bob")
	mod := func(dn string, change func(*ldap.ModifyRequest)) func(*ldap.Conn) error {
		return func(l *ldap.Conn) error {
			m := ldap.NewModifyRequest(dn, nil)
			change(m)
			return l.Modify(m)
		}
	}
	key2 := strings.Replace(aliceKey, "laptop", "desktop", 1)
	n := 0
	for _, c := range []struct {
		what string
		who  string
		do   func(*ldap.Conn) error
	}{
		{"own key: add", "alice root", func(l *ldap.Conn) error {
			n++
			return mod(alice, func(m *ldap.ModifyRequest) { m.Add("sshPublicKey", []string{fmt.Sprint(key2, n)}) })(l)
		}},
		{"own key: remove one", "alice root", func(l *ldap.Conn) error {
			mod(alice, func(m *ldap.ModifyRequest) { m.Add("sshPublicKey", []string{key2}) })(conns["root"])
			return mod(alice, func(m *ldap.ModifyRequest) { m.Delete("sshPublicKey", []string{key2}) })(l)
		}},
		{"another's key", "root", mod(bob, func(m *ldap.ModifyRequest) { m.Replace("sshPublicKey", []string{key2}) })},
		{"own uid number", "root", mod(alice, func(m *ldap.ModifyRequest) { m.Replace("uidNumber", []string{"0"}) })},
		{"own shell", "root", mod(alice, func(m *ldap.ModifyRequest) { m.Replace("loginShell", []string{"/bin/sh"}) })},
		{"own expiry", "root", mod(alice, func(m *ldap.ModifyRequest) { m.Replace("shadowExpire", []string{"99999"}) })},
		{"own Kerberos expiry", "root", mod(alice, func(m *ldap.ModifyRequest) { m.Replace("krbPrincipalExpiration", []string{"20380101000000Z"}) })},
		{"own ticket flags", "root", mod(alice, func(m *ldap.ModifyRequest) { m.Replace("krbTicketFlags", []string{"128"}) })},
		{"own classes", "root", mod(alice, func(m *ldap.ModifyRequest) { m.Add("objectClass", []string{"uidObject"}) })},
		{"join a group", "root", mod(lay.GroupDN("dev"), func(m *ldap.ModifyRequest) { m.Replace("member", []string{alice, bob}) })},
		{"change a rule", "root", mod(lay.RuleDN("dev"), func(m *ldap.ModifyRequest) { m.Replace("sekishoSubject", []string{"*"}) })},
		{"people's userPassword", "passwd root", mod(alice, func(m *ldap.ModifyRequest) { m.Replace("userPassword", []string{"a long new password"}) })},
		{"people's Kerberos keys", "passwd root", mod(bob, func(m *ldap.ModifyRequest) {
			m.Replace("krbPrincipalKey", []string{string(entryOf(t, conns["root"], bob).GetRawAttributeValue("krbPrincipalKey"))})
		})},
		{"a service's userPassword", "root", mod(lay.ServiceDN("web1"), func(m *ldap.ModifyRequest) { m.Replace("userPassword", []string{"a long new password"}) })},
		{"unlock bob", "root", mod(bob, func(m *ldap.ModifyRequest) { m.Replace("pwdAccountLockedTime", nil) })},
		{"add an entry", "root", func(l *ldap.Conn) error {
			req := ldap.NewAddRequest(lay.RuleDN("all"), nil)
			req.Attribute("objectClass", []string{"sekishoRule"})
			req.Attribute("cn", []string{"all"})
			req.Attribute("sekishoSubject", []string{"*"})
			req.Attribute("sekishoDoor", []string{"*"})
			req.Attribute("sekishoTarget", []string{"*"})
			return l.Add(req)
		}},
		{"delete an entry", "root", func(l *ldap.Conn) error { return l.Del(ldap.NewDelRequest(lay.RuleDN("all"), nil)) }},
		{"rename an entry", "root", func(l *ldap.Conn) error {
			return l.ModifyDN(ldap.NewModifyDNRequest(lay.GroupDN("dev"), "cn=ops", true, ""))
		}},
		{"password exop", "passwd root", func(l *ldap.Conn) error {
			_, err := l.PasswordModify(ldap.NewPasswordModifyRequest(alice, "", "a long new password"))
			return err
		}},
		{"cn=config", "", mod("cn=config", func(m *ldap.ModifyRequest) { m.Replace("olcIdleTimeout", []string{"1"}) })},
	} {
		for _, who := range []string{"anonymous", "service", "kdc", "alice", "passwd", "root"} {
			want := strings.Contains(" "+c.who+" ", " "+who+" ")
			err := c.do(conns[who])
			if (err == nil) != want {
				t.Errorf("%s by %s: %v, want allowed: %v", c.what, who, err, want)
			}
			var le *ldap.Error
			if err != nil && (!asLDAP(err, &le) || le.ResultCode >= ldap.ErrorNetwork) {
				t.Errorf("%s by %s: not a refusal: %v", c.what, who, err)
			}
		}
	}
	// Of the keys, alice may write what is hers alone: value for value.
	if err := mod(alice, func(m *ldap.ModifyRequest) {
		m.Add("sshPublicKey", []string{key2 + "x"})
		m.Replace("loginShell", []string{"/bin/bash"})
	})(conns["alice"]); !ldap.IsErrorWithCode(err, ldap.LDAPResultInsufficientAccessRights) {
		t.Errorf("a modify that is allowed by half: %v", err)
	}
}

func asLDAP(err error, le **ldap.Error) bool {
	e, ok := err.(*ldap.Error)
	*le = e
	return ok
}

// TestWhoOverLDAPI: the kernel names the caller.
func TestWhoOverLDAPI(t *testing.T) {
	c := testConfig(t)
	c.AdminUIDs = []int{4242}
	r := start(t, c)
	lay := r.Info().Layout
	for uid, want := range map[int]string{
		0: lay.Admin(), 4242: lay.Admin(), c.UID: lay.Sekishod(),
		4243: "gidNumber=4243+uidNumber=4243,cn=peercred,cn=external,cn=auth"} {
		out, err := toolAs(t, r, uid, "ldapwhoami", "-Q", "-Y", "EXTERNAL", "-H", r.Info().LDAPI)
		if err != nil || strings.TrimSpace(out) != "dn:"+want {
			t.Errorf("uid %d is %q, %v; want %s", uid, out, err, want)
		}
	}
	addUser(t, r, "alice", "alice's password", 20001)
	search := []string{"ldapsearch", "-LLL", "-Q", "-Y", "EXTERNAL", "-H", r.Info().LDAPI, "-b", lay.Base, "(uid=alice)", "*", "+"}
	out, err := toolAs(t, r, c.UID, search...)
	if err != nil || !strings.Contains(out, "sshPublicKey:") || !strings.Contains(out, "entryCSN:") {
		t.Errorf("sekishod: %v\n%s", err, out)
	}
	for _, secret := range []string{"userPassword", "krbPrincipalKey", "krbExtraData", "pwdHistory", "oathSecret"} {
		if strings.Contains(out, secret) {
			t.Errorf("sekishod reads %s", secret)
		}
	}
	if out, _ := toolAs(t, r, 4243, search...); strings.Contains(out, "uid:") {
		t.Errorf("a local user without an entry reads:\n%s", out)
	}
	// Written by sekishod: nothing.
	modify := fmt.Sprintf("printf 'dn: %s\\nchangetype: modify\\nreplace: loginShell\\nloginShell: /bin/sh\\n' | ldapmodify -Q -Y EXTERNAL -H %s", lay.UserDN("alice"), r.Info().LDAPI)
	if out, err := toolAs(t, r, c.UID, "sh", "-c", modify); err == nil || !strings.Contains(out, "Insufficient access (50)") {
		t.Errorf("sekishod writes: %v\n%s", err, out)
	}
	for _, f := range []string{"stash", "passwd.secret", "kdc.secret", "tls/ca.key", "tls/server.key", "ldap.keytab", "db/data.mdb", "slapd.d"} {
		path := filepath.Join(filepath.Dir(r.Info().Stash), f)
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		if out, err := toolAs(t, r, 4243, "cat", path); err == nil || !strings.Contains(out, "Permission denied") {
			t.Errorf("another user reads %s: %v", f, err)
		}
	}
}

func toolAs(t *testing.T, r *realm.Realm, uid int, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(within(t, 60e9), args[0], args[1:]...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestClearText: nobody can send a password in the clear.
func TestClearText(t *testing.T) {
	r := start(t, testConfig(t))
	addUser(t, r, "alice", "alice's password", 20001)
	l, err := ldap.DialURL(r.Info().LDAP[0])
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Bind(r.Info().Layout.UserDN("alice"), "alice's password"); !ldap.IsErrorWithCode(err, ldap.LDAPResultConfidentialityRequired) {
		t.Errorf("bind in the clear: %v", err)
	}
}

// TestUnique: no two people with one uid number, and no two entries with one
// principal.
func TestUnique(t *testing.T) {
	r := start(t, testConfig(t))
	is, l := issuer(t, r), admin(t, r)
	addUser(t, r, "alice", "alice's password", 20001)
	if err := l.Add(userAdd(t, is, "bob", "bob's password", 20001)); !ldap.IsErrorWithCode(err, ldap.LDAPResultConstraintViolation) {
		t.Errorf("the same uid number: %v", err)
	}
	twin := userAdd(t, is, "alice", "another password", 20002)
	twin.DN = is.Layout.UserDN("eve")
	for i, a := range twin.Attributes {
		if a.Type == "uid" {
			twin.Attributes[i].Vals = []string{"eve"}
		}
	}
	if err := l.Add(twin); !ldap.IsErrorWithCode(err, ldap.LDAPResultConstraintViolation) {
		t.Errorf("the same principal: %v", err)
	}
}

// TestLastMember: deleting the only member of a group neither fails nor leaves a
// stale name behind.
func TestLastMember(t *testing.T) {
	r := start(t, testConfig(t))
	l, lay := admin(t, r), r.Info().Layout
	addUser(t, r, "alice", "alice's password", 20001)
	req := ldap.NewAddRequest(lay.GroupDN("dev"), nil)
	req.Attribute("objectClass", []string{"groupOfNames"})
	req.Attribute("cn", []string{"dev"})
	req.Attribute("member", []string{lay.UserDN("alice")})
	if err := l.Add(req); err != nil {
		t.Fatal(err)
	}
	if err := l.ModifyDN(ldap.NewModifyDNRequest(lay.UserDN("alice"), "uid=alicia", true, "")); err != nil {
		t.Fatal(err)
	}
	if got := entryOf(t, l, lay.GroupDN("dev")).GetAttributeValues("member"); len(got) != 1 || got[0] != lay.UserDN("alicia") {
		t.Errorf("after a rename: %v", got)
	}
	if err := l.Del(ldap.NewDelRequest(lay.UserDN("alicia"), nil)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 1200 { // refint works behind the answer
		got = entryOf(t, l, lay.GroupDN("dev")).GetAttributeValues("member")
		if len(got) == 1 && got[0] == "cn=nobody,"+lay.Base {
			return
		}
		<-within(t, 50e6).Done()
	}
	t.Errorf("after a deletion: %v", got)
}

// TestServicesCannotBeLockedOut: wrong passwords lock a person's account, but nobody
// can stop the KDC or another service by them.
func TestServicesCannotBeLockedOut(t *testing.T) {
	r := start(t, testConfig(t))
	lay := r.Info().Layout
	addUser(t, r, "alice", "alice's password", 20001)
	account, password := lay.ServiceAccount("web1", "")
	if err := admin(t, r).Add(account); err != nil {
		t.Fatal(err)
	}
	bind := func(dn, password string) error { return dial(t, r, r.Info().LDAPS[0]).Bind(dn, password) }
	for _, dn := range []string{lay.ServiceDN("kdc"), lay.ServiceDN("passwd"), lay.ServiceDN("web1"), lay.ServiceDN("sekishod"), lay.UserDN("alice")} {
		for range realm.MaxFailures + 2 {
			if err := bind(dn, "wrong"); !ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials) {
				t.Fatalf("%s: %v", dn, err)
			}
		}
	}
	if err := bind(lay.ServiceDN("web1"), password); err != nil {
		t.Errorf("web1: %v", err)
	}
	if err := bind(lay.ServiceDN("kdc"), kdcSecret(t, r)); err != nil {
		t.Errorf("kdc: %v", err)
	}
	if err := bind(lay.UserDN("alice"), "alice's password"); !ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials) {
		t.Errorf("alice is not locked: %v", err)
	}
	// A locked account and one that does not exist get the same answer.
	locked, unknown := bind(lay.UserDN("alice"), "wrong"), bind(lay.UserDN("nobody"), "wrong")
	if locked.Error() != unknown.Error() {
		t.Errorf("locked: %v; unknown: %v", locked, unknown)
	}
	if err := bind(lay.UserDN("alice"), ""); err == nil {
		t.Error("a bind with an empty password was accepted")
	}
}
