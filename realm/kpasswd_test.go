package realm_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/client"
	"github.com/sekisho/sekisho/krb/kpasswd"
	"github.com/sekisho/sekisho/realm"
)

// set changes attributes of a user as root: name, value pairs; an empty value
// takes the attribute away.
func set(t testing.TB, r *realm.Realm, dn string, pairs ...string) {
	t.Helper()
	m := ldap.NewModifyRequest(dn, nil)
	for i := 0; i < len(pairs); i += 2 {
		var v []string
		if pairs[i+1] != "" {
			v = []string{pairs[i+1]}
		}
		m.Replace(pairs[i], v)
	}
	if err := admin(t, r).Modify(m); err != nil {
		t.Fatal(err)
	}
}

func userOf(r *realm.Realm, name string) string { return r.Info().Layout.UserDN(name) }

// kpasswdClient is our own client of the realm.
func kpasswdClient(t testing.TB, r *realm.Realm) *kpasswd.Client {
	t.Helper()
	c, err := client.New(client.Config{Realm: r.Info().Layout.Realm, KDCs: r.Info().KDC, Try: 15 * time.Second, Total: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return &kpasswd.Client{KDC: c, Servers: r.Info().Kpasswd}
}

func principal(t testing.TB, name string) krb.Principal {
	t.Helper()
	p, err := krb.NewPrincipal(name, "SEKISHO.INTERNAL")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// follows tells whether Kerberos and the directory know exactly this password.
func follows(t testing.TB, r *realm.Realm, user, password string) {
	t.Helper()
	if !kinit(t, r, user, password) || !ldapBind(t, r, user, password) {
		t.Errorf("%s does not get in with the password that was set", user)
	}
}

// TestStockKpasswd: MIT's kpasswd changes both passwords at once, shows the policy's
// words, and kinit leads out of an expired password.
func TestStockKpasswd(t *testing.T) {
	r := start(t, testConfig(t))
	addUser(t, r, "alice", "first password", 20001)
	typed := func(lines ...string) string { return strings.Join(lines, "\n") + "\n" }
	out, err := tool(t, r, typed("first password", "second password", "second password"), "kpasswd", "alice")
	if err != nil || !strings.Contains(out, "Password changed.") {
		t.Fatalf("kpasswd: %v\n%s", err, out)
	}
	follows(t, r, "alice", "second password")
	if kinit(t, r, "alice", "first password") || ldapBind(t, r, "alice", "first password") {
		t.Error("the old password still opens")
	}
	out, err = tool(t, r, typed("second password", "short", "short"), "kpasswd", "alice")
	if err == nil || !strings.Contains(out, "Password change rejected") || !strings.Contains(out, "write at least 8 characters") {
		t.Errorf("a short one: %v\n%s", err, out)
	}
	out, err = tool(t, r, typed("wrong password", "third password", "third password"), "kpasswd", "alice")
	if err == nil || !strings.Contains(out, "Password incorrect") && !strings.Contains(out, "Preauthentication failed") {
		t.Errorf("a wrong one: %v\n%s", err, out)
	}
	follows(t, r, "alice", "second password")

	set(t, r, userOf(r, "alice"), "krbPasswordExpiration", "20200101000000Z", "pwdReset", "TRUE")
	if out, err := tool(t, r, typed("second password"), "kinit", "alice"); err == nil {
		t.Fatalf("an expired password opened:\n%s", out)
	}
	out, err = tool(t, r, typed("second password", "third password", "third password"), "kinit", "alice")
	if err != nil || !strings.Contains(out, "Password expired") {
		t.Fatalf("kinit with an expired password: %v\n%s", err, out)
	}
	follows(t, r, "alice", "third password")
	e := entryOf(t, admin(t, r), userOf(r, "alice"))
	if got := e.GetAttributeValue("krbPasswordExpiration"); got != "" {
		t.Errorf("the password still expires at %s", got)
	}
	if res, err := admin(t, r).Search(ldap.NewSearchRequest(userOf(r, "alice"), ldap.ScopeBaseObject, 0, 0, 0, false,
		"(pwdReset=TRUE)", []string{"1.1"}, nil)); err != nil || len(res.Entries) != 0 {
		t.Errorf("the password is still to be changed: %v", err)
	}

	// In history, and too young.
	set(t, r, "cn=default,"+r.Info().Layout.Policies(), "pwdInHistory", "3")
	for _, pw := range []string{"fourth password", "fifth password"} {
		old := map[string]string{"fourth password": "third password", "fifth password": "fourth password"}[pw]
		if err := kpasswdClient(t, r).Change(within(t, time.Minute), principal(t, "alice"), old, pw); err != nil {
			t.Fatal(err)
		}
	}
	out, err = tool(t, r, typed("fifth password", "fourth password", "fourth password"), "kpasswd", "alice")
	if err == nil || !strings.Contains(out, "history") {
		t.Errorf("one of before: %v\n%s", err, out)
	}
	set(t, r, "cn=default,"+r.Info().Layout.Policies(), "pwdMinAge", "3600")
	out, err = tool(t, r, typed("fifth password", "sixth password", "sixth password"), "kpasswd", "alice")
	if err == nil || !strings.Contains(out, "too young") {
		t.Errorf("too young: %v\n%s", err, out)
	}
	follows(t, r, "alice", "fifth password")
}

// TestOurKpasswd: our client at our server, and what it makes of refusals.
func TestOurKpasswd(t *testing.T) {
	r := start(t, testConfig(t))
	addUser(t, r, "alice", "first password", 20001)
	c, ctx := kpasswdClient(t, r), within(t, 5*time.Minute)
	alice := principal(t, "alice")
	if err := c.Change(ctx, alice, "first password", "pässwörd 関所"); err != nil {
		t.Fatal(err)
	}
	follows(t, r, "alice", "pässwörd 関所")
	set(t, r, userOf(r, "alice"), "krbPasswordExpiration", "20200101000000Z")
	if err := c.Change(ctx, alice, "pässwörd 関所", "second password"); err != nil {
		t.Fatalf("with an expired one: %v", err)
	}
	follows(t, r, "alice", "second password")

	var refused *kpasswd.Refused
	if err := c.Change(ctx, alice, "second password", "short"); !errors.As(err, &refused) || !strings.Contains(refused.Words, "at least 8") {
		t.Errorf("a short one: %v", err)
	}
	var ce *client.Error
	if err := c.Change(ctx, alice, "wrong password", "third password"); !errors.As(err, &ce) || ce.Kind != client.WrongPassword {
		t.Errorf("a wrong one: %v", err)
	}
	if err := c.Change(ctx, principal(t, "nobody"), "second password", "third password"); !errors.As(err, &ce) || ce.Kind != client.UnknownPrincipal {
		t.Errorf("nobody: %v", err)
	}

	// A lock of any kind is not lifted by a new password.
	cred, err := c.KDC.Login(ctx, alice, "second password", client.LoginOptions{Service: kpasswd.Service(alice.Realm)})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Format("20060102150405Z")
	for _, lock := range [][2]string{{"pwdAccountLockedTime", "000001010000Z"}, {"pwdAccountLockedTime", now}, {"krbTicketFlags", "4288"},
		{"krbPrincipalExpiration", "20200101000000Z"}, {"shadowExpire", "1"}} {
		e := entryOf(t, admin(t, r), userOf(r, "alice"))
		set(t, r, userOf(r, "alice"), lock[0], lock[1])
		var denied *kpasswd.Denied
		if err := c.ChangeWith(ctx, cred, "third password"); !errors.As(err, &denied) || !strings.Contains(denied.Words, "locked") {
			t.Errorf("%s: %v", lock[0], err)
		}
		set(t, r, userOf(r, "alice"), lock[0], e.GetAttributeValue(lock[0]))
		if kinit(t, r, "alice", "third password") {
			t.Errorf("%s: the password was changed", lock[0])
		}
	}
	// A lock-out that is over is none.
	set(t, r, userOf(r, "alice"), "pwdAccountLockedTime", time.Now().Add(-20*time.Minute).UTC().Format("20060102150405Z"))
	if err := c.ChangeWith(ctx, cred, "third password"); err != nil {
		t.Errorf("after a lock-out: %v", err)
	}
	follows(t, r, "alice", "third password")

	// A host has no password.
	attrs, keys, err := issuer(t, r).Host("web1.sekisho.internal")
	if err != nil {
		t.Fatal(err)
	}
	req := ldap.NewAddRequest(r.Info().Layout.HostDN("web1.sekisho.internal"), nil)
	req.Attributes = attrs
	req.Attributes[0].Vals = append(req.Attributes[0].Vals, "device")
	req.Attribute("cn", []string{"web1.sekisho.internal"})
	if err := admin(t, r).Add(req); err != nil {
		t.Fatal(err)
	}
	cred, err = c.KDC.LoginKey(ctx, keys[0].Principal, []krb.Key{keys[0].Key}, client.LoginOptions{Service: kpasswd.Service(alice.Realm)})
	if err != nil {
		t.Fatal(err)
	}
	var denied *kpasswd.Denied
	if err := c.ChangeWith(ctx, cred, "third password"); !errors.As(err, &denied) || !strings.Contains(denied.Words, "rekey") {
		t.Errorf("a host: %v", err)
	}
}

// TestChangesAtOnce: of many changes of one password, made at once, the last one's
// keys and hash are the same password's.
func TestChangesAtOnce(t *testing.T) {
	r := start(t, testConfig(t))
	addUser(t, r, "alice", "first password", 20001)
	c, ctx := kpasswdClient(t, r), within(t, 5*time.Minute)
	var all sync.WaitGroup
	errs := make([]error, 5)
	pw := func(i int) string { return "password number " + string(rune('a'+i)) }
	cred, err := c.KDC.Login(ctx, principal(t, "alice"), "first password", client.LoginOptions{Service: kpasswd.Service("SEKISHO.INTERNAL")})
	if err != nil {
		t.Fatal(err)
	}
	for i := range errs {
		all.Go(func() {
			began := time.Now()
			err := c.ChangeWith(ctx, cred, pw(i))
			if errors.Is(err, kpasswd.ErrFailed) && time.Since(began) >= 10*time.Second { // the server's own limit
				err = kpasswd.ErrUnsure
			}
			errs[i] = err
		})
	}
	all.Wait()
	unsure := 0
	for _, err := range errs {
		if errors.Is(err, kpasswd.ErrUnsure) { // on a slow machine one of them gives up before it is done
			unsure++
		} else if err != nil {
			t.Error(err)
		}
	}
	// Those that nobody waits for any more may still come.
	for end := time.Now().Add(time.Minute); ; {
		var opens []string
		for i := range errs {
			if kinit(t, r, "alice", pw(i)) {
				opens = append(opens, pw(i))
			}
		}
		if len(opens) == 1 && ldapBind(t, r, "alice", opens[0]) { // a wrong bind before would count for the lock-out
			return
		}
		if unsure == 0 || time.Now().After(end) {
			t.Fatalf("these open for Kerberos: %q", opens)
		}
	}
}

// TestOwnService: sekishod has a service of its own in every realm, also in one that
// an earlier release made, and its keytab is the service user's alone.
func TestOwnService(t *testing.T) {
	c := testConfig(t)
	var before []byte
	run(t, c, func(r *realm.Realm) {
		i := r.Info()
		if i.Service.String() != "sekisho/ldap.sekisho.internal@SEKISHO.INTERNAL" {
			t.Errorf("service %s", i.Service)
		}
		st, err := os.Stat(i.Keytab)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", st.Mode(), err)
		}
		if out, err := tool(t, r, "", "kinit", "-k", "-t", i.Keytab, "sekisho/ldap.sekisho.internal"); err != nil {
			t.Errorf("kinit with the keytab: %v\n%s", err, out)
		}
		if before, err = os.ReadFile(i.Keytab); err != nil {
			t.Fatal(err)
		}
	})
	// A keytab that was lost has the same keys again; a principal that was lost, or
	// never was, is made.
	keytab := filepath.Join(c.Dir, "realm", "sekisho.keytab")
	if err := os.Remove(keytab); err != nil {
		t.Fatal(err)
	}
	run(t, c, func(r *realm.Realm) {
		again, err := krb.ReadKeytab(keytab)
		if err != nil {
			t.Fatal(err)
		}
		old := filepath.Join(t.TempDir(), "old")
		if err := os.WriteFile(old, before, 0o600); err != nil {
			t.Fatal(err)
		}
		was, err := krb.ReadKeytab(old)
		if err != nil || len(was) != len(again) {
			t.Fatalf("%d keys, then %d, %v", len(was), len(again), err)
		}
		for i := range was {
			if string(was[i].Key.Value) != string(again[i].Key.Value) || was[i].KVNO != again[i].KVNO {
				t.Errorf("key %d is another one", i)
			}
		}
		if err := admin(t, r).Del(ldap.NewDelRequest(r.Info().Layout.ServicePrincipalDN(r.Info().Service), nil)); err != nil {
			t.Fatal(err)
		}
	})
	if err := os.Remove(keytab); err != nil {
		t.Fatal(err)
	}
	run(t, c, func(r *realm.Realm) {
		if out, err := tool(t, r, "", "kinit", "-k", "-t", keytab, "sekisho/ldap.sekisho.internal"); err != nil {
			t.Errorf("kinit with the new keytab: %v\n%s", err, out)
		}
	})
}

// TestRekey: new keys beside the old ones, which go on to work until they are dropped.
func TestRekey(t *testing.T) {
	r := start(t, testConfig(t))
	is, l := issuer(t, r), admin(t, r)
	addUser(t, r, "alice", "correct horse", 20001)
	req, first, err := is.Service("HTTP/web1.sekisho.internal")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Add(req); err != nil {
		t.Fatal(err)
	}
	versions := func(es []krb.KeytabEntry) (out []int) {
		for _, e := range es {
			out = append(out, e.KVNO)
		}
		return slices.Compact(out)
	}
	entry := func() *ldap.Entry { return entryOf(t, l, req.DN) }
	ticket := func(es []krb.KeytabEntry) bool { // that the KDC gives out opens with these
		keytab := filepath.Join(t.TempDir(), "keytab")
		if err := krb.WriteKeytab(keytab, es); err != nil {
			t.Fatal(err)
		}
		out, err := tool(t, r, "", "sh", "-c", "printf '%s\\n' 'correct horse' | kinit alice >/dev/null && kvno -k "+keytab+" HTTP/web1.sekisho.internal")
		return err == nil && strings.Contains(out, "keytab entry valid")
	}
	if !ticket(first) {
		t.Fatal("the first keys do not open tickets")
	}
	if same, err := is.Keytab(entry()); err != nil || len(same) != 3 || !ticket(same) {
		t.Errorf("the keytab of an entry: %d keys, %v", len(same), err)
	}
	e := entry()
	m, second, err := is.Rekey(e)
	if err != nil {
		t.Fatal(err)
	}
	late, _, err := is.Rekey(e)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Modify(m); err != nil {
		t.Fatal(err)
	}
	if err := l.Modify(late); !ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchAttribute) {
		t.Errorf("two at once: %v", err)
	}
	if got := versions(second); !slices.Equal(got, []int{2, 1}) {
		t.Errorf("versions %v", got)
	}
	if !ticket(second) || ticket(first) {
		t.Error("the KDC does not use the new keys")
	}
	if string(second[3].Key.Value) != string(first[0].Key.Value) {
		t.Error("the old key is another one")
	}
	for _, want := range [][]int{{3, 2}, {4, 3}} {
		m, es, err := is.Rekey(entry())
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Modify(m); err != nil {
			t.Fatal(err)
		}
		if got := versions(es); !slices.Equal(got, want) || !ticket(es) {
			t.Errorf("versions %v", got)
		}
	}
	m, last, err := is.DropOldKeys(entry())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Modify(m); err != nil {
		t.Fatal(err)
	}
	if got := versions(last); !slices.Equal(got, []int{4}) || !ticket(last) {
		t.Errorf("versions %v", got)
	}
	if out, err := tool(t, r, "", "kadmin.local", "-q", "getprinc HTTP/web1.sekisho.internal"); err != nil || !strings.Contains(out, "Number of keys: 3") {
		t.Errorf("getprinc: %v\n%s", err, out)
	}
	if _, _, err := is.Rekey(entryOf(t, l, r.Info().Layout.People())); !errors.Is(err, realm.ErrNoPrincipal) {
		t.Errorf("no principal: %v", err)
	}
}

// TestClockOfSlapd: the broker and service accounts read slapd's clock, and nothing
// else of what it says of itself; nobody else reads that.
func TestClockOfSlapd(t *testing.T) {
	r := start(t, testConfig(t))
	i := r.Info()
	addUser(t, r, "alice", "correct horse", 20001)
	add, password := i.Layout.ServiceAccount("web1", "")
	if err := admin(t, r).Add(add); err != nil {
		t.Fatal(err)
	}
	service, alice := dial(t, r, i.LDAPS[0]), dial(t, r, i.LDAPS[0])
	if err := errors.Join(service.Bind(add.DN, password), alice.Bind(userOf(r, "alice"), "correct horse")); err != nil {
		t.Fatal(err)
	}
	look := func(l *ldap.Conn, base string, scope int) []*ldap.Entry {
		res, err := l.Search(ldap.NewSearchRequest(base, scope, 0, 0, 0, false, "(objectClass=*)", []string{"*", "+"}, nil))
		if err != nil {
			return nil
		}
		return res.Entries
	}
	const clock = "cn=Current,cn=Time,cn=Monitor"
	before := time.Now()
	es := look(service, clock, ldap.ScopeBaseObject)
	after := time.Now()
	if len(es) != 1 {
		t.Fatal("the clock is not to be seen")
	}
	at, err := time.Parse("20060102150405Z", es[0].GetAttributeValue("monitorTimestamp"))
	// It is cut to whole seconds, and slapd looks at its clock once for some requests.
	if err != nil || at.Before(before.Add(-3*time.Second)) || at.After(after.Add(time.Second)) {
		t.Errorf("slapd's clock was %s between %s and %s, %v", at, before, after, err)
	}
	if all := look(service, "cn=Monitor", ldap.ScopeWholeSubtree); len(all) != 1 {
		t.Errorf("a service account sees %d entries", len(all))
	}
	for name, l := range map[string]*ldap.Conn{"alice": alice, "anonymous": dial(t, r, i.LDAPS[0])} {
		if es := look(l, "cn=Monitor", ldap.ScopeWholeSubtree); len(es) != 0 {
			t.Errorf("%s sees %d entries", name, len(es))
		}
		if es := look(l, clock, ldap.ScopeBaseObject); len(es) != 0 {
			t.Errorf("%s sees the clock", name)
		}
	}
}

// TestKpasswdPort: that somebody else has the port is said when the realm starts.
func TestKpasswdPort(t *testing.T) {
	c, other := testConfig(t), testConfig(t)
	other.Kpasswd = c.Kpasswd
	start(t, c)
	r, err := realm.Open(within(t, time.Minute), other)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Run(context.Background()); err == nil || !strings.Contains(err.Error(), c.Kpasswd[0]) {
		t.Errorf("%v", err)
	}
}
