package realm_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/door/kdcotp"
	"github.com/sekisho/sekisho/realm"
)

// codes answers at a realm's socket: a password by the realm, and of the codes each
// one once.
type codes struct {
	t     testing.TB
	r     *realm.Realm
	mu    sync.Mutex // guards good
	good  map[string]bool
	asked atomic.Int32
	mute  atomic.Bool // nothing can be found out
}

func (c *codes) signIn(ctx context.Context, r broker.Request, typed string) broker.Decision {
	c.asked.Add(1)
	if c.mute.Load() {
		return broker.Decision{Outcome: broker.Unknown, Reason: broker.ReasonState}
	}
	if r.Door != "kdc" || len(typed) < 6 {
		return broker.Decision{}
	}
	at := len(typed) - 6
	switch err := c.r.CheckPassword(ctx, string(r.User), typed[:at]); {
	case errors.Is(err, realm.ErrWrongPassword):
		return broker.Decision{}
	case err != nil:
		c.t.Error(err)
		return broker.Decision{Outcome: broker.Unknown}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.good[typed[at:]] {
		return broker.Decision{}
	}
	delete(c.good, typed[at:])
	return broker.Decision{Outcome: broker.Allow}
}

func (c *codes) add(code string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.good[code] = true
	return code
}

// answer starts the door of a realm that runs.
func answer(t testing.TB, r *realm.Realm) *codes {
	t.Helper()
	c := &codes{t: t, r: r, good: map[string]bool{}}
	uid, _ := serviceUser(t)
	s, err := kdcotp.New(kdcotp.Config{SignIn: c.signIn, Host: "dir1", Callers: []uint32{uint32(uid)}, Log: quietLog()})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", r.Info().OTP)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.Info().OTP, 0o666); err != nil { // of this process; sekishod's is the service user's own
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

// setCodes has the KDC ask a user for codes, or not.
func setCodes(t testing.TB, r *realm.Realm, user string, on bool) {
	t.Helper()
	l := admin(t, r)
	req, err := issuer(t, r).SetCodesAtKDC(entryOf(t, l, userOf(r, user)), on)
	if err != nil || req == nil {
		t.Fatalf("%v, %v", req, err)
	}
	if err := l.Modify(req); err != nil {
		t.Fatal(err)
	}
}

// armored signs in by kinit with an armour of nobody, and gives what was said.
func armored(t testing.TB, r *realm.Realm, user, typed string) (string, error) {
	t.Helper()
	armor := filepath.Join(t.TempDir(), "armor")
	return tool(t, r, typed+"\n", "sh", "-c", `kinit -n -c FILE:"$1" && kinit -T FILE:"$1" "$2" && klist -f`, "sh", armor, user)
}

// TestCodesAtKDC: the KDC asks for a code, and gives a ticket for the password with
// the code behind it alone.
func TestCodesAtKDC(t *testing.T) {
	if err := realm.CodesFault(); err != nil {
		t.Fatal(err)
	}
	r := start(t, testConfig(t))
	door := answer(t, r)
	addUser(t, r, "alice", "correct horse", 20001)
	addUser(t, r, "bob", "battery staple", 20002)
	setCodes(t, r, "alice", true)

	out, err := tool(t, r, "", "kadmin.local", "-q", "getstrs alice")
	if err != nil || !strings.Contains(out, `otp: [{"type":"sekisho"}]`) {
		t.Errorf("getstrs: %v\n%s", err, out)
	}
	out, err = tool(t, r, "", "kadmin.local", "-q", "getprinc alice")
	if err != nil || !strings.Contains(out, "Number of keys: 0") || !strings.Contains(out, "REQUIRES_PRE_AUTH") {
		t.Errorf("getprinc: %v\n%s", err, out)
	}

	yes := func(what, typed string) {
		t.Helper()
		out, err := armored(t, r, "alice", typed)
		if err != nil || !strings.Contains(out, "Enter OTP Token Value:") || !strings.Contains(out, "krbtgt/SEKISHO.INTERNAL") {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
	no := func(what, typed string) {
		t.Helper()
		out, err := armored(t, r, "alice", typed)
		if err == nil || !strings.Contains(out, "Preauthentication failed") {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
	yes("password and code", "correct horse"+door.add("123456"))
	no("a used code", "correct horse123456")
	no("a wrong password with a right code", "correct hors"+door.add("222222"))
	no("a code alone", "222222")
	no("a password alone", "correct horse")
	yes("the code that went with a wrong password", "correct horse222222")

	before := door.asked.Load()
	out, err = tool(t, r, "correct horse\n", "kinit", "alice")
	if err == nil || !strings.Contains(out, "preauthentication failure") && !strings.Contains(out, "Pre-authentication failed") {
		t.Errorf("without an armour: %v\n%s", err, out)
	}
	t.Logf("kinit without an armour says: %s", strings.TrimSpace(out))
	if !kinit(t, r, "bob", "battery staple") || door.asked.Load() != before {
		t.Error("bob, who needs no code, is asked for one")
	}
	out, err = armored(t, r, "bob", "battery staple")
	if err != nil || strings.Contains(out, "OTP") {
		t.Errorf("bob with an armour: %v\n%s", err, out)
	}

	// A new password is one for the code to stand behind, not one for the KDC.
	if err := r.ChangePassword(within(t, time.Minute), "alice", "correct horse", "second password"); err != nil {
		t.Fatal(err)
	}
	no("the old password", "correct horse"+door.add("333333"))
	yes("the new password", "second password333333")
	if out, err := tool(t, r, "second password\n", "kinit", "alice"); err == nil {
		t.Errorf("after a change the password alone will do\n%s", out)
	}
	if !ldapBind(t, r, "alice", "second password") {
		t.Error("the bind does not follow the change")
	}

	// kpasswd has a ticket for its armour, and is asked for a code as well.
	out, err = tool(t, r, "second password"+door.add("555555")+"\n"+"second password"+door.add("666666")+"\nthird password\nthird password\n", "sh", "-c",
		`kinit -n -c FILE:"$1" && kinit -T FILE:"$1" alice && kpasswd alice`, "sh", filepath.Join(t.TempDir(), "armor"))
	if err != nil || !strings.Contains(out, "Password changed") || strings.Count(out, "Enter OTP Token Value:") != 2 {
		t.Errorf("kpasswd: %v\n%s", err, out)
	}
	if err := r.CheckPassword(within(t, time.Minute), "alice", "third password"); err != nil {
		t.Error(err)
	}
	if err := r.ChangePassword(within(t, time.Minute), "alice", "third password", "second password"); err != nil {
		t.Fatal(err)
	}

	// A lock counts before any code.
	set(t, r, userOf(r, "alice"), "krbTicketFlags", "192")
	before = door.asked.Load()
	if out, err := armored(t, r, "alice", "second password"+door.add("444444")); err == nil || !strings.Contains(out, "revoked") || door.asked.Load() != before {
		t.Errorf("locked: %v\n%s", err, out)
	}
	set(t, r, userOf(r, "alice"), "krbTicketFlags", "128")
	yes("open again", "second password444444")

	setCodes(t, r, "alice", false)
	if !kinit(t, r, "alice", "second password") || kinit(t, r, "alice", "correct horse") {
		t.Error("without codes the password does not do")
	}
	if out, err := tool(t, r, "", "kadmin.local", "-q", "getstrs alice"); err != nil || strings.Contains(out, "otp:") {
		t.Errorf("getstrs: %v\n%s", err, out)
	}
	if out, err := tool(t, r, "", "kadmin.local", "-q", "getprinc alice"); err != nil || !strings.Contains(out, "Key: vno 4, aes256-cts-hmac-sha384-192\n") {
		t.Errorf("getprinc: %v\n%s", err, out)
	}
}

// TestAnonymousTicket is good for an armour and nothing else, and no certificate
// is a way in.
func TestAnonymousTicket(t *testing.T) {
	c := testConfig(t)
	r := start(t, c)
	addUser(t, r, "alice", "correct horse", 20001)
	out, err := tool(t, r, "", "sh", "-c", "kinit -n && klist && kvno ldap/localhost")
	if err == nil || !strings.Contains(out, "WELLKNOWN/ANONYMOUS@WELLKNOWN:ANONYMOUS") || !strings.Contains(out, "policy") {
		t.Errorf("a ticket of nobody: %v\n%s", err, out)
	}
	// A certificate for alice, by the realm's own CA.
	dir := t.TempDir()
	tls := filepath.Join(c.Dir, "realm/tls")
	script := `cd "$1" && cat >ext <<'E'
[c]
basicConstraints=CA:FALSE
keyUsage=digitalSignature,keyEncipherment,keyAgreement
extendedKeyUsage=1.3.6.1.5.2.3.4
subjectAltName=otherName:1.3.6.1.5.2.2;SEQUENCE:pn
[pn]
realm=EXP:0,GeneralString:SEKISHO.INTERNAL
name=EXP:1,SEQUENCE:ps
[ps]
type=EXP:0,INTEGER:1
string=EXP:1,SEQUENCE:pc
[pc]
c1=GeneralString:alice
E
openssl req -newkey rsa:2048 -nodes -subj /CN=alice -keyout key -out csr 2>/dev/null &&
openssl x509 -req -in csr -CA "$2/ca.crt" -CAkey "$2/ca.key" -CAserial serial -CAcreateserial -days 2 -out crt -extfile ext -extensions c 2>&1 &&
kinit -X X509_user_identity=FILE:crt,key alice </dev/null && klist`
	if out, err := tool(t, r, "", "sh", "-c", script, "sh", dir, tls); err == nil || !strings.Contains(out, "signature ok") || strings.Contains(out, "krbtgt/") ||
		!strings.Contains(out, "name mismatch") {
		t.Errorf("a certificate: %v\n%s", err, out)
	}
}

// TestCodesUnknown: nobody can say whether a code is right, and kinit does not say
// that it is wrong.
func TestCodesUnknown(t *testing.T) {
	r := start(t, testConfig(t))
	addUser(t, r, "alice", "correct horse", 20001)
	setCodes(t, r, "alice", true)
	door := answer(t, r)
	door.mute.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	dir := t.TempDir()
	cmd := exec.CommandContext(ctx, "sh", "-c", "kinit -n -c FILE:$0/a && kinit -T FILE:$0/a alice", dir)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "KRB5_CONFIG=" + r.Info().KRB5Conf, "KRB5CCNAME=FILE:" + filepath.Join(dir, "cc")}
	cmd.Stdin = strings.NewReader("correct horse123456\n")
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Cannot contact any KDC") {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("kinit gave up after %v", time.Since(began).Round(time.Second))
	if n := door.asked.Load(); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	door.mute.Store(false)
	if out, err := armored(t, r, "alice", "correct horse"+door.add("123456")); err != nil {
		t.Errorf("afterwards: %v\n%s", err, out)
	}
}

// TestCodesAtOnce: of several with one code, one gets a ticket; and the KDC, started
// anew, comes back to the socket.
func TestCodesAtOnce(t *testing.T) {
	r := start(t, testConfig(t))
	addUser(t, r, "alice", "correct horse", 20001)
	setCodes(t, r, "alice", true)
	door := answer(t, r)
	for _, code := range []string{"123456", "654321"} {
		door.add(code)
		var all sync.WaitGroup
		var got atomic.Int32
		for range 4 {
			all.Go(func() {
				if out, err := armored(t, r, "alice", "correct horse"+code); err == nil {
					got.Add(1)
				} else if !strings.Contains(out, "Preauthentication failed") {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
		all.Wait()
		if got.Load() != 1 {
			t.Errorf("%d tickets for one code", got.Load())
		}
		pid := r.Status()[1].PID
		if p, err := os.FindProcess(pid); err != nil || p.Kill() != nil {
			t.Fatal(err)
		}
		waitReady(t, r, 1, pid)
	}
}

// TestSetCodes: both ways, twice, against MIT's tools, and at the same time as others.
func TestSetCodes(t *testing.T) {
	r := start(t, testConfig(t))
	is, l := issuer(t, r), admin(t, r)
	addUser(t, r, "alice", "correct horse", 20001)
	addUser(t, r, "carol", "", 20003)
	alice := func() *ldap.Entry { return entryOf(t, l, userOf(r, "alice")) }
	if out, err := tool(t, r, "", "kadmin.local", "-q", "setstr alice session_enctypes aes256-cts"); err != nil {
		t.Fatal(out)
	}
	keys := alice().GetRawAttributeValues("krbPrincipalKey")
	setCodes(t, r, "alice", true)
	if req, err := is.SetCodesAtKDC(alice(), true); req != nil || err != nil {
		t.Errorf("on, and on again: %v, %v", req, err)
	}
	if out, err := tool(t, r, "", "kadmin.local", "-q", "modprinc -maxlife 1hour alice"); err != nil || strings.Contains(out, "rror") {
		t.Fatal(out) // MIT writes the record, and keeps what it does not know
	}
	if on, err := realm.CodesAtKDC(alice()); !on || err != nil {
		t.Error(on, err)
	}
	setCodes(t, r, "alice", false)
	if got := alice().GetRawAttributeValues("krbPrincipalKey"); len(got) != 1 || !bytes.Equal(got[0], keys[0]) {
		t.Error("the keys did not come back")
	}
	if out, err := tool(t, r, "", "kadmin.local", "-q", "getstrs alice"); err != nil || !strings.Contains(out, "session_enctypes: aes256-cts") {
		t.Errorf("somebody else's setting is lost: %v\n%s", err, out)
	}

	// kadmin sets a password: the KDC would take it alone, which is seen and mended.
	setCodes(t, r, "alice", true)
	if out, err := tool(t, r, "", "kadmin.local", "-q", "cpw -pw other-password alice"); err != nil || !strings.Contains(out, "changed") {
		t.Fatal(out)
	}
	if on, err := realm.CodesAtKDC(alice()); !on || err == nil || !strings.Contains(err.Error(), "kadmin") {
		t.Error(on, err)
	}
	if err := r.CheckPassword(within(t, time.Minute), "alice", "other-password"); err != nil {
		t.Error(err)
	}
	setCodes(t, r, "alice", true)
	if on, err := realm.CodesAtKDC(alice()); !on || err != nil {
		t.Error(on, err)
	}

	// A stale modify is refused, whichever way.
	stale := alice()
	if err := r.ChangePassword(within(t, time.Minute), "alice", "correct horse", "third password"); err != nil {
		t.Fatal(err)
	}
	req, err := is.SetCodesAtKDC(stale, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Modify(req); !ldap.IsErrorAnyOf(err, ldap.LDAPResultNoSuchAttribute, ldap.LDAPResultAttributeOrValueExists) {
		t.Errorf("taken: %v", err)
	}
	setCodes(t, r, "alice", false)
	if req, err = is.ChangePassword(stale, "fourth password"); err != nil {
		t.Fatal(err)
	}
	if err := l.Modify(req); !ldap.IsErrorAnyOf(err, ldap.LDAPResultNoSuchAttribute, ldap.LDAPResultAttributeOrValueExists) {
		t.Errorf("taken: %v", err)
	}
	if !kinit(t, r, "alice", "third password") {
		t.Error("the password is not what it was")
	}

	// Somebody without a password has none afterwards.
	setCodes(t, r, "carol", true)
	if err := r.CheckPassword(within(t, time.Minute), "carol", ""); !errors.Is(err, realm.ErrWrongPassword) {
		t.Error(err)
	}
	setCodes(t, r, "carol", false)
	if v := entryOf(t, l, userOf(r, "carol")).GetRawAttributeValues("krbPrincipalKey"); len(v) != 0 {
		t.Error("keys from nowhere")
	}
}

// TestCheckPassword: by the KDC's keys or the kept ones; nobody is as wrong as a
// wrong password and takes as long.
func TestCheckPassword(t *testing.T) {
	r := start(t, testConfig(t))
	ctx := within(t, 5*time.Minute)
	addUser(t, r, "alice", "correct horse", 20001)
	check := func(user, password string) error { return r.CheckPassword(ctx, user, password) }
	for range 2 {
		if err := check("alice", "correct horse"); err != nil {
			t.Error(err)
		}
		for _, u := range []string{"alice", "Alice", "nobody", "", "alice/admin", "uid=alice", "a,b", "WELLKNOWN/ANONYMOUS", strings.Repeat("x", 300)} {
			for _, p := range []string{"", "correct hors", "correct horse\x00", strings.Repeat("x", 5000), "\xff"} {
				if err := check(u, p); err != realm.ErrWrongPassword {
					t.Errorf("%q %.20q: %v", u, p, err)
				}
			}
		}
		if on, _ := realm.CodesAtKDC(entryOf(t, admin(t, r), userOf(r, "alice"))); !on {
			setCodes(t, r, "alice", true)
		}
	}
	for range 20 { // no lock-out: slapd has not seen any of it
		check("alice", "wrong")
	}
	if !ldapBind(t, r, "alice", "correct horse") {
		t.Error("guesses locked the account")
	}
	// The work is this process's; how long it waits for a processor tells nothing.
	took := func(user string) time.Duration {
		var least time.Duration
		for range 5 {
			began := worked(t)
			check(user, "wrong password")
			if d := worked(t) - began; least == 0 || d < least {
				least = d
			}
		}
		return least
	}
	if a, b := took("alice"), took("nobody"); a > 2*b || b > 2*a {
		t.Errorf("alice %v, nobody %v", a, b)
	}
}

// worked is how long this process has had a processor.
func worked(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestOlderRealm: one that was made before there were codes gets what it lacks at
// the next start.
func TestOlderRealm(t *testing.T) {
	c := testConfig(t)
	run(t, c, func(r *realm.Realm) {
		name := "krbPrincipalName=WELLKNOWN/ANONYMOUS@SEKISHO.INTERNAL," + r.Info().Layout.KerberosRealm()
		if err := admin(t, r).Del(ldap.NewDelRequest(name, nil)); err != nil {
			t.Fatal(err)
		}
	})
	for _, f := range []string{"kdc.crt", "kdc.key"} {
		if err := os.Remove(filepath.Join(c.Dir, "realm/tls", f)); err != nil {
			t.Fatal(err)
		}
	}
	for _, what := range []string{"first", "second"} {
		run(t, c, func(r *realm.Realm) {
			if out, err := tool(t, r, "", "kinit", "-n"); err != nil {
				t.Errorf("the %s start: %v\n%s", what, err, out)
			}
		})
		// As after a crash between the principal and the certificate.
		if err := os.Remove(filepath.Join(c.Dir, "realm/tls/kdc.crt")); err != nil {
			t.Fatal(err)
		}
	}
}
