package realm_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sekisho/sekisho/realm"
)

const codesSeed = "12345678901234567890" // of RFC 6238

// addToken enrols a user by hand.
func addToken(t testing.TB, r *realm.Realm, user string) (token string) {
	t.Helper()
	lay, root := r.Info().Layout, admin(t, r)
	params, token := "cn=params,"+lay.OTP(), "cn="+user+","+lay.OTP()
	for dn, attrs := range map[string]map[string][]string{
		params: {"objectClass": {"device", "oathTOTPParams"}, "cn": {"params"}, "oathOTPLength": {"6"},
			"oathHMACAlgorithm": {"1.2.840.113549.2.7"}, "oathTOTPTimeStepPeriod": {"30"}, "oathTOTPTimeStepWindow": {"1"}},
		token: {"objectClass": {"device", "oathTOTPToken", "sekishoRecovery"}, "cn": {user}, "oathSecret": {codesSeed},
			"oathTOTPParams": {params}, "oathTOTPLastTimeStep": {"100"}, "sekishoRecoveryCode": {"one", "two"}},
	} {
		req := ldap.NewAddRequest(dn, nil)
		for k, v := range attrs {
			req.Attribute(k, v)
		}
		if err := root.Add(req); err != nil {
			t.Fatal(err)
		}
	}
	m := ldap.NewModifyRequest(lay.UserDN(user), nil)
	m.Add("objectClass", []string{"oathTOTPUser"})
	m.Add("oathTOTPToken", []string{token})
	if err := root.Modify(m); err != nil {
		t.Fatal(err)
	}
	return token
}

// codeNow is oathtool's code.
func codeNow(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("oathtool", "--totp", "-d6", "3132333435363738393031323334353637383930").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// codesConn is a connection of the identity that checks codes.
func codesConn(t testing.TB, r *realm.Realm) *ldap.Conn {
	t.Helper()
	secret, err := r.CodesPassword()
	if err != nil {
		t.Fatal(err)
	}
	l := dial(t, r, r.Info().LDAPI)
	if err := l.Bind(r.Info().Layout.Codes(), string(secret)); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestCodesRights(t *testing.T) {
	r, conns := accessWorld(t)
	token, alice := addToken(t, r, "alice"), r.Info().Layout.UserDN("alice")
	codes := codesConn(t, r)
	conns["codes"] = codes
	for _, c := range []struct{ dn, attribute, who string }{
		{token, "oathSecret", "root codes"},
		{token, "oathTOTPLastTimeStep", "root codes"},
		{token, "oathTOTPParams", "root codes"},
		{token, "sekishoRecoveryCode", "root codes"},
		{"cn=params," + r.Info().Layout.OTP(), "oathOTPLength", "root codes"},
		{alice, "oathTOTPToken", "root codes"},
		{alice, "userPassword", "root"},
		{alice, "krbPrincipalKey", "root kdc passwd"},
		{r.Info().Layout.ServiceDN("kdc"), "cn", "root kdc"},
	} {
		for who, l := range conns {
			want := strings.Contains(" "+c.who+" ", " "+who+" ")
			if got := sees(l, c.dn, c.attribute); got != want {
				t.Errorf("%s sees %s of %s: %v, want %v", who, c.attribute, c.dn, got, want)
			}
		}
	}
	change := func(l *ldap.Conn, dn string, f func(*ldap.ModifyRequest)) error {
		m := ldap.NewModifyRequest(dn, nil)
		f(m)
		return l.Modify(m)
	}
	for what, f := range map[string]func(*ldap.ModifyRequest){
		"a recovery code more": func(m *ldap.ModifyRequest) { m.Add("sekishoRecoveryCode", []string{"three"}) },
		"other recovery codes": func(m *ldap.ModifyRequest) { m.Replace("sekishoRecoveryCode", []string{"three"}) },
		"another secret":       func(m *ldap.ModifyRequest) { m.Replace("oathSecret", []string{"09876543210987654321"}) },
		"other parameters":     func(m *ldap.ModifyRequest) { m.Replace("oathTOTPParams", []string{token}) },
	} {
		if err := change(codes, token, f); !ldap.IsErrorWithCode(err, ldap.LDAPResultInsufficientAccessRights) {
			t.Errorf("codes writes %s: %v", what, err)
		}
	}
	if err := change(codes, alice, func(m *ldap.ModifyRequest) { m.Delete("oathTOTPToken", nil) }); !ldap.IsErrorWithCode(err, ldap.LDAPResultInsufficientAccessRights) {
		t.Errorf("codes takes a token away: %v", err)
	}
	for who, l := range conns {
		err := change(l, token, func(m *ldap.ModifyRequest) {
			m.Delete("oathTOTPLastTimeStep", []string{"100"})
			m.Add("oathTOTPLastTimeStep", []string{"100"})
		})
		if (err == nil) != (who == "root" || who == "codes") {
			t.Errorf("%s raises the last step: %v", who, err)
		}
	}
	gone := func(m *ldap.ModifyRequest) { m.Delete("sekishoRecoveryCode", []string{"one"}) }
	for _, who := range []string{"anonymous", "alice", "service", "passwd", "kdc"} {
		if change(conns[who], token, gone) == nil {
			t.Errorf("%s takes a recovery code away", who)
		}
	}
	if err := change(codes, token, gone); err != nil {
		t.Errorf("codes takes a recovery code away: %v", err)
	}
	if err := change(codes, token, gone); !ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchAttribute) {
		t.Errorf("and once more: %v", err)
	}
}

// TestEnrolledBinds: who has a token binds with password and code, and wrong codes
// lock him out as wrong passwords do.
func TestEnrolledBinds(t *testing.T) {
	r := start(t, testConfig(t))
	addUser(t, r, "alice", "alice's password", 20001)
	addUser(t, r, "bob", "bob's password", 20002)
	if !ldapBind(t, r, "alice", "alice's password") {
		t.Fatal("without a token the password alone must do")
	}
	addToken(t, r, "alice")
	if ldapBind(t, r, "alice", "alice's password") {
		t.Fatal("the password alone binds somebody with a token")
	}
	for time.Now().Unix()%30 > 25 { // so that the code is still one when it arrives
		time.Sleep(time.Second)
	}
	code := codeNow(t)
	if !ldapBind(t, r, "alice", "alice's password"+code) {
		t.Fatal("password and code do not bind")
	}
	if ldapBind(t, r, "alice", "alice's password"+code) {
		t.Error("a used code binds")
	}
	// A password is changed without a code: it is no sign-in.
	for _, c := range []struct {
		old  string
		want error
	}{{"alice's passwort", realm.ErrWrongPassword}, {"alice's password" + codeNow(t), realm.ErrWrongPassword}, {"alice's password", nil}} {
		if err := r.ChangePassword(within(t, time.Minute), "alice", c.old, "alice's next one"); !errors.Is(err, c.want) {
			t.Errorf("changing the password with %q: %v", c.old, err)
		}
	}
	if !ldapBind(t, r, "bob", "bob's password") {
		t.Error("somebody without a token needs more than his password")
	}
	for range 51 {
		ldapBind(t, r, "alice", "alice's next one") // as right as a wrong code behind it
	}
	res, err := admin(t, r).Search(ldap.NewSearchRequest(r.Info().Layout.UserDN("alice"), ldap.ScopeBaseObject, 0, 0, 0, false,
		"(objectClass=*)", []string{"pwdAccountLockedTime"}, nil))
	if err != nil || len(res.Entries) != 1 || res.Entries[0].GetAttributeValue("pwdAccountLockedTime") == "" {
		t.Errorf("fifty missing codes lock nobody out: %v", err)
	}
}

// TestCodesIdentityIsMade: a realm of before has none, and a crash may leave any
// part of it.
func TestCodesIdentityIsMade(t *testing.T) {
	c := testConfig(t)
	c.Log = quietLog()
	r := start(t, c)
	secret := filepath.Join(filepath.Dir(r.Info().Stash), "codes.secret")
	drop := func() {
		t.Helper()
		if err := admin(t, r).Del(ldap.NewDelRequest(r.Info().Layout.Codes(), nil)); err != nil {
			t.Fatal(err)
		}
	}
	restart := func() {
		t.Helper()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		r = start(t, c)
		codesConn(t, r)
		if st, err := os.Lstat(secret); err != nil || st.Mode() != 0o600 {
			t.Fatal(st, err)
		}
		if _, err := os.Lstat(secret + ".new"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal("a half-made one is left", err)
		}
	}
	old, err := r.CodesPassword()
	if err != nil {
		t.Fatal(err)
	}
	restart() // nothing to do
	if now, err := r.CodesPassword(); err != nil || string(now) != string(old) {
		t.Fatal("the password changes with each start", err)
	}
	drop()
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	restart() // neither is there
	drop()
	if err := os.Rename(secret, secret+".new"); err != nil {
		t.Fatal(err)
	}
	restart() // written down, not yet added
	if err := os.Rename(secret, secret+".new"); err != nil {
		t.Fatal(err)
	}
	restart() // added, not yet in its place
}
