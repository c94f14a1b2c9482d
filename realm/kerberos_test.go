package realm_test

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/realm"
)

// TestUserIsOneAdd: after one LDAP add kinit, the LDAP bind and MIT's own tools all
// know the user.
func TestUserIsOneAdd(t *testing.T) {
	r := start(t, testConfig(t))
	for name, password := range map[string]string{
		"alice": "correct horse", "bob": "pässwörd 関所", "carol": strings.Repeat("long ", 200) + "x"} {
		addUser(t, r, name, password, 20000+len(password))
		if !ldapBind(t, r, name, password) || ldapBind(t, r, name, password+"x") {
			t.Errorf("%s: the LDAP bind does not follow the password", name)
		}
		if !kinit(t, r, name, password) || kinit(t, r, name, password+"x") {
			t.Errorf("%s: kinit does not follow the password", name)
		}
	}
	out, err := tool(t, r, "", "kadmin.local", "-q", "getprinc alice")
	for _, want := range []string{
		"Principal: alice@SEKISHO.INTERNAL", "Number of keys: 3", "MKey: vno 1", "(sekisho@SEKISHO.INTERNAL)",
		"Key: vno 1, aes256-cts-hmac-sha384-192\n", "Key: vno 1, aes256-cts-hmac-sha1-96\n", "Key: vno 1, aes128-cts-hmac-sha1-96\n",
		"REQUIRES_PRE_AUTH", "DISALLOW_SVR"} {
		if !strings.Contains(out, want) {
			t.Errorf("getprinc lacks %q: %v\n%s", want, err, out)
		}
	}
	out, err = tool(t, r, "", "kadmin.local", "-q", "listprincs")
	for _, want := range []string{"K/M@", "krbtgt/SEKISHO.INTERNAL@", "kadmin/admin@", "kadmin/changepw@", "kadmin/history@",
		"ldap/localhost@", "ldap/ldap.sekisho.internal@", "alice@"} {
		if !strings.Contains(out, want+"SEKISHO.INTERNAL") {
			t.Errorf("listprincs lacks %s: %v\n%s", want, err, out)
		}
	}
	if out, err := tool(t, r, "", "kadmin.local", "-q", "getprinc K/M"); err != nil || !strings.Contains(out, "Key: vno 1, aes256-cts-hmac-sha1-96\n") {
		t.Errorf("getprinc K/M: %v\n%s", err, out)
	}
}

// TestMITWritesWeRead: kadmin.local changes what we wrote, we open what it wrote with
// the stash file, and change it again.
func TestMITWritesWeRead(t *testing.T) {
	r := start(t, testConfig(t))
	is, l := issuer(t, r), admin(t, r)
	addUser(t, r, "alice", "first password", 20001)
	if out, err := tool(t, r, "", "kadmin.local", "-q", "cpw -pw second-password alice"); err != nil || !strings.Contains(out, "changed") {
		t.Fatalf("cpw: %v\n%s", err, out)
	}
	if !kinit(t, r, "alice", "second-password") || kinit(t, r, "alice", "first password") {
		t.Error("kinit does not follow cpw")
	}
	e := entryOf(t, l, is.Layout.UserDN("alice"))
	values := e.GetRawAttributeValues("krbPrincipalKey")
	if len(values) != 1 {
		t.Fatalf("%d values", len(values))
	}
	keys, kvno, err := is.Master.Open(values[0])
	if err != nil || kvno != 2 || len(keys) != 3 {
		t.Fatalf("MIT's record: kvno %d, %d keys, %v", kvno, len(keys), err)
	}
	p, err := krb.ParsePrincipal("alice@SEKISHO.INTERNAL")
	if err != nil {
		t.Fatal(err)
	}
	ours, err := krb.NewKeys(p, "second-password", 2, is.Master)
	if err != nil {
		t.Fatal(err)
	}
	same, _, err := is.Master.Open(ours)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		found := false
		for _, o := range same {
			found = found || o.EType == k.EType && hex.EncodeToString(o.Value) == hex.EncodeToString(k.Value)
		}
		if !found {
			t.Errorf("%s: MIT derived another key than we", k)
		}
	}
	req, err := is.ChangePassword(e, "third password")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Modify(req); err != nil {
		t.Fatal(err)
	}
	if !kinit(t, r, "alice", "third password") || kinit(t, r, "alice", "second-password") || !ldapBind(t, r, "alice", "third password") {
		t.Error("our change after MIT's does not hold")
	}
	if out, err := tool(t, r, "", "kadmin.local", "-q", "getprinc alice"); err != nil || !strings.Contains(out, "Key: vno 3, aes256-cts-hmac-sha384-192\n") {
		t.Errorf("getprinc: %v\n%s", err, out)
	}
	if err := l.Modify(req); err == nil {
		t.Error("the same change was taken twice: the guard does not hold")
	} else if kinit(t, r, "alice", "third password") == false {
		t.Errorf("a refused change (%v) did something", err)
	}
}

func entryOf(t testing.TB, l *ldap.Conn, dn string) *ldap.Entry {
	t.Helper()
	res, err := l.Search(ldap.NewSearchRequest(dn, ldap.ScopeBaseObject, 0, 0, 0, false, "(objectClass=*)",
		append([]string{"*"}, realm.KeyAttributes...), nil))
	if err != nil || len(res.Entries) != 1 {
		t.Fatalf("%s: %v", dn, err)
	}
	return res.Entries[0]
}

// TestOwnPassword: the change that sekishod makes for a user.
func TestOwnPassword(t *testing.T) {
	r := start(t, testConfig(t))
	ctx := within(t, 5*time.Minute)
	addUser(t, r, "alice", "first password", 20001)
	expire := ldap.NewModifyRequest(r.Info().Layout.UserDN("alice"), nil)
	expire.Replace("krbPasswordExpiration", []string{"20300101000000Z"})
	if err := admin(t, r).Modify(expire); err != nil {
		t.Fatal(err)
	}
	if err := r.ChangePassword(ctx, "alice", "first password", "second password"); err != nil {
		t.Fatal(err)
	}
	if !kinit(t, r, "alice", "second password") || kinit(t, r, "alice", "first password") {
		t.Error("kinit does not follow the change")
	}
	if !ldapBind(t, r, "alice", "second password") || ldapBind(t, r, "alice", "first password") {
		t.Error("the LDAP bind does not follow the change")
	}
	if got := entryOf(t, admin(t, r), r.Info().Layout.UserDN("alice")).GetAttributeValue("krbPasswordExpiration"); got != "" {
		t.Errorf("the password still expires at %s", got)
	}
	for _, c := range []struct{ user, old string }{
		{"alice", "wrong"}, {"alice", ""}, {"nobody", "second password"}, {"", "x"}, {"alice,ou=people", "x"}, {"a/b", "x"},
		{"alice", "first password"}} {
		if err := r.ChangePassword(ctx, c.user, c.old, "third password"); !errors.Is(err, realm.ErrWrongPassword) {
			t.Errorf("%q with %q: %v", c.user, c.old, err)
		}
	}
	var refused *realm.PasswordRefused
	for _, new := range []string{"", "short", "nul\x00nul nul", strings.Repeat("x", 4097)} {
		if err := r.ChangePassword(ctx, "alice", "second password", new); !errors.As(err, &refused) {
			t.Errorf("new password %.12q: %v", new, err)
		} else if new != "" && strings.Contains(err.Error(), new) {
			t.Errorf("the error tells the password: %v", err)
		}
	}
	if !kinit(t, r, "alice", "second password") || !ldapBind(t, r, "alice", "second password") {
		t.Error("a refused change did something")
	}
	// Fifty failures lock the account, for this door too.
	for range 50 {
		r.ChangePassword(ctx, "alice", "wrong", "third password")
	}
	if err := r.ChangePassword(ctx, "alice", "second password", "third password"); !errors.Is(err, realm.ErrWrongPassword) {
		t.Errorf("locked: %v", err)
	}
	if got := entryOf(t, admin(t, r), r.Info().Layout.UserDN("alice")).DN; got == "" {
		t.Error("no entry")
	}
}

// TestTicketOpensLDAP: a user's ticket is his sign-in at slapd, and a host's keytab
// is one at the KDC.
func TestTicketOpensLDAP(t *testing.T) {
	r := start(t, testConfig(t))
	addUser(t, r, "alice", "correct horse", 20001)
	dir := t.TempDir()
	for _, url := range []string{r.Info().LDAPI, strings.Replace(r.Info().LDAP[0], "127.0.0.1", "localhost", 1)} {
		tls := ""
		if strings.HasPrefix(url, "ldap://") {
			tls = " -ZZ"
		}
		script := "printf '%s\\n' 'correct horse' | kinit alice >/dev/null && ldapwhoami -Q -Y GSSAPI -N" + tls + " -H " + url
		out, err := tool(t, r, "", "sh", "-c", script)
		if err != nil || !strings.Contains(out, "dn:uid=alice,ou=people,dc=sekisho,dc=internal") {
			t.Errorf("%s: %v\n%s", url, err, out)
		}
	}
	attrs, keys, err := issuer(t, r).Host("web1.sekisho.internal")
	if err != nil {
		t.Fatal(err)
	}
	req := ldap.NewAddRequest(r.Info().Layout.HostDN("web1.sekisho.internal"), nil)
	req.Attributes = attrs
	req.Attributes[0].Vals = append(req.Attributes[0].Vals, "device", "ipHost")
	req.Attribute("cn", []string{"web1.sekisho.internal"})
	req.Attribute("ipHostNumber", []string{"203.0.113.10"})
	if err := admin(t, r).Add(req); err != nil {
		t.Fatal(err)
	}
	keytab := filepath.Join(dir, "web1.keytab")
	if err := krb.WriteKeytab(keytab, keys); err != nil {
		t.Fatal(err)
	}
	if out, err := tool(t, r, "", "klist", "-k", "-e", keytab); err != nil || strings.Count(out, "host/web1.sekisho.internal@SEKISHO.INTERNAL") != 3 {
		t.Errorf("klist: %v\n%s", err, out)
	}
	if out, err := tool(t, r, "", "kinit", "-k", "-t", keytab, "host/web1.sekisho.internal"); err != nil {
		t.Errorf("kinit with the keytab: %v\n%s", err, out)
	}
	out, err := tool(t, r, "", "sh", "-c", "printf '%s\\n' 'correct horse' | kinit alice >/dev/null && kvno -k "+keytab+" host/web1.sekisho.internal")
	if err != nil || !strings.Contains(out, "keytab entry valid") {
		t.Errorf("kvno: %v\n%s", err, out)
	}
	// Nobody gets a ticket to guess a user's password from.
	addUser(t, r, "bob", "another one", 20002)
	out, err = tool(t, r, "", "sh", "-c", "printf '%s\\n' 'correct horse' | kinit alice >/dev/null && kvno bob")
	if err == nil {
		t.Errorf("a service ticket for bob was given out:\n%s", out)
	}
	if _, err := os.Stat("/etc/krb5.keytab"); err == nil {
		t.Error("a keytab was made outside")
	}
}
