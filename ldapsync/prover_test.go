package ldapsync

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/testenv"
)

const policyOverlay = `dn: olcOverlay={1}ppolicy,olcDatabase={1}mdb,cn=config
objectClass: olcOverlayConfig
objectClass: olcPPolicyConfig
olcOverlay: {1}ppolicy
olcPPolicyDefault: cn=default,ou=policies,dc=example,dc=org
olcPPolicyHashCleartext: TRUE
olcPPolicyUseLockout: TRUE
`

// passwords is a directory with a password policy, over TLS too.
type passwords struct {
	*directory
	ca string // a file
}

func startPasswords(t testing.TB, change func(*testenv.SlapdConfig)) *passwords {
	t.Helper()
	ca, err := testenv.NewCA("Example CA")
	if err != nil {
		t.Fatal(err)
	}
	cfg := testenv.SlapdConfig{CA: ca, Config: policyOverlay,
		Access: []string{"to attrs=userPassword by self =xw by anonymous auth by * none", "to * by * read"}}
	if change != nil {
		change(&cfg)
	}
	d := &passwords{startDirectory(t, cfg), writeFile(t, ca.PEM)}
	d.add("cn=default,ou=policies,"+testBase, "objectClass", "device", "objectClass", "pwdPolicy", "cn", "default", "pwdAttribute", "userPassword",
		"pwdLockout", "TRUE", "pwdMaxFailure", "5", "pwdLockoutDuration", "600", "pwdMinLength", "8", "pwdCheckQuality", "2", "pwdInHistory", "2", "pwdMustChange", "TRUE")
	d.person("alice", "correct horse")
	return d
}

// ssha is a password as {SSHA} of OpenLDAP.
func ssha(password string) string {
	salt := []byte("salt1234")
	sum := sha1.Sum(append([]byte(password), salt...))
	return "{SSHA}" + base64.StdEncoding.EncodeToString(append(sum[:], salt...))
}

var nextUID = 7000

func (d *directory) person(name, password string) {
	d.t.Helper()
	nextUID++
	d.user(name, nextUID, "userPassword", ssha(password))
}

func (d *directory) prover(t testing.TB, change func(*ProverConfig)) *Prover {
	t.Helper()
	l := logrus.New()
	l.SetOutput(io.Discard)
	c := ProverConfig{Provider: Provider{URLs: []string{d.LDAPI}}, BaseDN: testBase, Log: logrus.NewEntry(l)}
	if change != nil {
		change(&c)
	}
	setDefault(&c.Timeout, 20*time.Second)
	setDefault(&c.Total, time.Minute)
	p, err := NewProver(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	})
	return p
}

func claimOf(name string) broker.Claim {
	return broker.Claim{User: broker.UserName(name), DN: broker.DN(userDN(name)), Door: "pam"}
}

// typist answers prompts that want a reply, in order, and notes all texts.
type typist struct {
	replies []string
	seen    []string
}

func (y *typist) ask(_ context.Context, ps ...broker.Prompt) ([]string, error) {
	var out []string
	for _, p := range ps {
		y.seen = append(y.seen, p.Text)
		if !p.Kind.WantsReply() {
			continue
		}
		if len(y.replies) == 0 {
			return nil, broker.ErrConversation
		}
		out = append(out, y.replies[0])
		y.replies = y.replies[1:]
	}
	return out, nil
}

// prove is one sign-in; seen is what was shown but the prompt for the password.
func prove(t testing.TB, p *Prover, c broker.Claim, replies ...string) (out broker.Proven, seen []string) {
	t.Helper()
	y := &typist{replies: replies}
	out = p.Prove(t.Context(), c, y.ask)
	if len(y.seen) == 0 || y.seen[0] != "Password: " {
		t.Errorf("asked %q", y.seen)
	}
	return out, y.seen[min(1, len(y.seen)):]
}

func wants(t testing.TB, what string, got broker.Proven, o broker.Outcome, r broker.Reason) {
	t.Helper()
	if got.Outcome != o || got.Reason != r {
		t.Errorf("%s: %s %q %q, want %s %q", what, got.Outcome, got.Reason, got.Text, o, r)
	}
}

// TestProve: each answer of a directory with its reason.
func TestProve(t *testing.T) {
	d := startPasswords(t, nil)
	p := d.prover(t, nil)
	for range 3 {
		got, seen := prove(t, p, claimOf("alice"), "correct horse")
		wants(t, "right", got, broker.Allow, broker.ReasonNone)
		if len(seen) != 0 {
			t.Errorf("shown %q", seen)
		}
		got, _ = prove(t, p, claimOf("alice"), "wrong horse")
		wants(t, "wrong", got, broker.Deny, broker.ReasonWrongPassword)
	}
	nobody := broker.Claim{User: "nobody"}
	got, _ := prove(t, p, nobody, "correct horse")
	wants(t, "an unknown user", got, broker.Deny, broker.ReasonWrongPassword)
	got, _ = prove(t, p, claimOf("gone"), "correct horse")
	wants(t, "a user who has just gone", got, broker.Deny, broker.ReasonWrongPassword)
	d.user("keyonly", 6999)
	got, _ = prove(t, p, claimOf("keyonly"), "x")
	wants(t, "no password at all", got, broker.Deny, broker.ReasonWrongPassword)

	// What cannot be a password is never sent: an empty one would be a yes.
	before := strings.Count(d.Log(), " BIND dn=")
	for name, pw := range map[string]string{"empty": "", "NUL": "correct horse\x00x", "long": strings.Repeat("x", 4097), "not UTF-8": "\xff"} {
		for _, c := range []broker.Claim{claimOf("alice"), nobody} {
			got, _ := prove(t, p, c, pw)
			wants(t, name, got, broker.Deny, broker.ReasonWrongPassword)
		}
	}
	if after := strings.Count(d.Log(), " BIND dn="); after != before {
		t.Errorf("%d binds were made with what is no password", after-before)
	}
	for i, pw := range []string{"x", "pässwörd 関所", strings.Repeat("y", 4096), " "} {
		name := fmt.Sprintf("user%d", i)
		d.person(name, pw)
		got, _ := prove(t, p, claimOf(name), pw)
		wants(t, name, got, broker.Allow, broker.ReasonNone)
	}
	y := &typist{}
	wants(t, "nobody types", p.Prove(t.Context(), claimOf("alice"), y.ask), broker.Unknown, broker.ReasonConversation)

	d.person("locked", "correct horse")
	for range 5 {
		prove(t, p, claimOf("locked"), "wrong")
	}
	got, _ = prove(t, p, claimOf("locked"), "correct horse")
	wants(t, "too many failures", got, broker.Deny, broker.ReasonLocked)
	d.person("shut", "correct horse")
	d.modify(userDN("shut"), "replace", "pwdAccountLockedTime", "000001010000Z")
	got, _ = prove(t, p, claimOf("shut"), "correct horse")
	wants(t, "locked by an administrator", got, broker.Deny, broker.ReasonLocked)

	policy := "cn=default,ou=policies," + testBase
	d.person("old", "correct horse")
	d.person("warned", "correct horse")
	changed := func(name string, ago time.Duration) {
		r := ldap.NewModifyRequest(userDN(name), []ldap.Control{ldap.NewControlString("1.3.6.1.4.1.4203.666.5.12", true, "")}) // relax
		r.Replace("pwdChangedTime", []string{time.Now().Add(-ago).UTC().Format("20060102150405Z")})
		if err := d.admin.Modify(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	changed("old", 40*24*time.Hour)
	changed("warned", 27*24*time.Hour-time.Hour)
	d.modify(policy, "replace", "pwdMaxAge", "2592000")
	d.modify(policy, "replace", "pwdExpireWarning", "604800")
	got, _ = prove(t, p, claimOf("old"), "correct horse")
	wants(t, "expired", got, broker.Deny, broker.ReasonPasswordExpired)
	if got.Text == "" {
		t.Error("an expired password without a word")
	}
	got, _ = prove(t, p, claimOf("old"), "wrong")
	wants(t, "expired and wrong", got, broker.Deny, broker.ReasonWrongPassword)
	got, seen := prove(t, p, claimOf("warned"), "correct horse")
	wants(t, "about to expire", got, broker.Allow, broker.ReasonNone)
	if len(seen) != 1 || seen[0] != "Your password expires in 4 days." {
		t.Errorf("shown %q", seen)
	}
	d.modify(policy, "replace", "pwdGraceAuthNLimit", "2")
	for _, want := range []string{"once more", "the last sign-in"} {
		got, seen = prove(t, p, claimOf("old"), "correct horse")
		wants(t, "grace", got, broker.Allow, broker.ReasonNone)
		if len(seen) != 1 || !strings.Contains(seen[0], want) {
			t.Errorf("shown %q", seen)
		}
	}
	got, _ = prove(t, p, claimOf("old"), "correct horse")
	wants(t, "no grace left", got, broker.Deny, broker.ReasonPasswordExpired)
}

// TestForcedChange: a password that was reset has to be changed before it counts.
func TestForcedChange(t *testing.T) {
	d := startPasswords(t, nil)
	p := d.prover(t, nil)
	reset := func(name string) {
		d.person(name, "first password")
		d.modify(userDN(name), "replace", "pwdReset", "TRUE")
	}
	reset("bob")
	got, seen := prove(t, p, claimOf("bob"), "wrong")
	wants(t, "wrong", got, broker.Deny, broker.ReasonWrongPassword)
	if len(seen) != 0 {
		t.Errorf("shown %q", seen)
	}
	got, seen = prove(t, p, claimOf("bob"), "first password", "short", "short", "second password", "second passwort", "second password", "second password")
	wants(t, "at the third try", got, broker.Allow, broker.ReasonNone)
	if len(seen) < 8 || !strings.Contains(seen[0], "must change") || !strings.Contains(seen[3], "it is too short") || !strings.Contains(seen[6], "in two ways") {
		t.Errorf("shown %q", seen)
	}
	got, seen = prove(t, p, claimOf("bob"), "second password")
	wants(t, "afterwards", got, broker.Allow, broker.ReasonNone)
	if len(seen) != 0 {
		t.Errorf("shown %q", seen)
	}
	got, _ = prove(t, p, claimOf("bob"), "first password")
	wants(t, "the old one", got, broker.Deny, broker.ReasonWrongPassword)

	reset("carol")
	got, _ = prove(t, p, claimOf("carol"), "first password", "a", "a", "b", "b", "c", "c", "second password", "second password")
	wants(t, "refused three times", got, broker.Deny, broker.ReasonPasswordRefused)
	got, _ = prove(t, p, claimOf("carol"), "first password")
	wants(t, "hanging up", got, broker.Unknown, broker.ReasonConversation)
}

// TestChangePassword: by RFC 3062, and the policy's words.
func TestChangePassword(t *testing.T) {
	d := startPasswords(t, nil)
	p := d.prover(t, nil)
	change := func(old, new string) broker.Proven { return p.ChangePassword(t.Context(), claimOf("alice"), old, new) }
	wants(t, "changed", change("correct horse", "second password"), broker.Allow, broker.ReasonNone)
	got, _ := prove(t, p, claimOf("alice"), "second password")
	wants(t, "the new one", got, broker.Allow, broker.ReasonNone)
	wants(t, "the old one", change("correct horse", "third password"), broker.Deny, broker.ReasonWrongPassword)
	wants(t, "an empty old one", change("", "third password"), broker.Deny, broker.ReasonWrongPassword)
	wants(t, "nobody's", p.ChangePassword(t.Context(), broker.Claim{User: "nobody"}, "x", "third password"), broker.Deny, broker.ReasonWrongPassword)
	for new, words := range map[string]string{"short": "too short", "": "empty", "correct horse": "used before", "nul\x00nul": "NUL"} {
		got := change("second password", new)
		wants(t, new, got, broker.Deny, broker.ReasonPasswordRefused)
		if !strings.Contains(got.Text, words) || new != "" && new != "short" && strings.Contains(got.Text, new) {
			t.Errorf("%q: %q", new, got.Text)
		}
	}
	d.modify("cn=default,ou=policies,"+testBase, "replace", "pwdSafeModify", "TRUE")
	wants(t, "with the old one beside", change("second password", "safer password"), broker.Allow, broker.ReasonNone)
	d.modify("cn=default,ou=policies,"+testBase, "replace", "pwdSafeModify", "FALSE")
	wants(t, "and back", change("safer password", "some other password"), broker.Allow, broker.ReasonNone)
	wants(t, "and back", change("some other password", "one more password"), broker.Allow, broker.ReasonNone)
	wants(t, "and back", change("one more password", "second password"), broker.Allow, broker.ReasonNone)
	d.modify("cn=default,ou=policies,"+testBase, "replace", "pwdMinAge", "3600")
	if got := change("second password", "third password"); got.Reason != broker.ReasonPasswordRefused || !strings.Contains(got.Text, "too short a time ago") {
		t.Errorf("too young: %+v", got)
	}
	d.modify("cn=default,ou=policies,"+testBase, "replace", "pwdAllowUserChange", "FALSE")
	if got := change("second password", "third password"); got.Reason != broker.ReasonPasswordRefused {
		t.Errorf("not allowed: %+v", got)
	}
	got, _ = prove(t, p, claimOf("alice"), "second password")
	wants(t, "still", got, broker.Allow, broker.ReasonNone)
}

// TestProverTLS: over ldaps and StartTLS, and nothing in the clear on a network.
func TestProverTLS(t *testing.T) {
	d := startPasswords(t, nil)
	for _, pr := range []Provider{{URLs: []string{d.TLSURL}, CAFile: d.ca}, {URLs: []string{d.URL}, CAFile: d.ca, StartTLS: true}} {
		p := d.prover(t, func(c *ProverConfig) { c.Provider = pr })
		got, _ := prove(t, p, claimOf("alice"), "correct horse")
		wants(t, pr.URLs[0], got, broker.Allow, broker.ReasonNone)
		got, _ = prove(t, p, claimOf("alice"), "wrong")
		wants(t, pr.URLs[0], got, broker.Deny, broker.ReasonWrongPassword)
	}
	p := d.prover(t, func(c *ProverConfig) { c.Provider = Provider{URLs: []string{d.TLSURL}} })
	got, _ := prove(t, p, claimOf("alice"), "correct horse")
	wants(t, "a certificate of nobody's", got, broker.Unknown, broker.ReasonProver)
	log := logrus.NewEntry(logrus.New())
	for name, c := range map[string]ProverConfig{
		"plain":          {Provider: Provider{URLs: []string{"ldap://203.0.113.9"}}, BaseDN: testBase, Log: log},
		"one of several": {Provider: Provider{URLs: []string{d.LDAPI, "ldap://ldap.example.org"}}, BaseDN: testBase, Log: log},
		"bind DN":        {Provider: Provider{URLs: []string{d.LDAPI}, BindDN: "cn=x", Password: func() ([]byte, error) { return nil, nil }}, BaseDN: testBase, Log: log},
		"external":       {Provider: Provider{URLs: []string{d.LDAPI}, External: true}, BaseDN: testBase, Log: log},
		"no base":        {Provider: Provider{URLs: []string{d.LDAPI}}, Log: log},
		"no log":         {Provider: Provider{URLs: []string{d.LDAPI}}, BaseDN: testBase},
		"nothing":        {},
	} {
		if _, err := NewProver(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestProverFaults: servers that are gone, hang, come back and are many.
func TestProverFaults(t *testing.T) {
	d := startPasswords(t, nil)
	dead := deadEnd(t)
	// Each is ended by one limit alone, the others being far away.
	const far = 2 * time.Minute
	limits := func(timeout, total time.Duration, urls ...string) *Prover {
		return d.prover(t, func(c *ProverConfig) { c.URLs, c.CAFile, c.Timeout, c.Total = urls, d.ca, timeout, total })
	}
	p := limits(5*time.Second, far, "ldaps://"+dead.Addr().String(), d.TLSURL)
	got, _ := prove(t, p, claimOf("alice"), "correct horse")
	wants(t, "the first is mute", got, broker.Allow, broker.ReasonNone)
	wait(t, "the first was tried", func() bool { return dead.taken.Load() == 1 })
	got, _ = prove(t, p, claimOf("alice"), "wrong")
	wants(t, "the second answers", got, broker.Deny, broker.ReasonWrongPassword)
	if n := dead.taken.Load(); n != 1 {
		t.Errorf("the mute one was tried %d times", n)
	}
	one, patient := limits(far, 5*time.Second, d.LDAPI), limits(far, far, d.LDAPI)
	for range 3 {
		for _, p := range []*Prover{one, patient} {
			got, _ = prove(t, p, claimOf("alice"), "correct horse")
			wants(t, "before", got, broker.Allow, broker.ReasonNone)
		}
	}
	if err := d.Hang(); err != nil {
		t.Fatal(err)
	}
	defer d.Resume()
	began := time.Now()
	got, _ = prove(t, one, claimOf("alice"), "correct horse")
	wants(t, "hanging", got, broker.Unknown, broker.ReasonUnreachable)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	wants(t, "a caller who does not wait", patient.Prove(ctx, claimOf("alice"), (&typist{replies: []string{"correct horse"}}).ask), broker.Unknown, broker.ReasonUnreachable)
	cancel()
	if took := time.Since(began); took > time.Minute {
		t.Errorf("went on for %s", took)
	}
	if err := d.Resume(); err != nil {
		t.Fatal(err)
	}
	got, _ = prove(t, one, claimOf("alice"), "wrong")
	wants(t, "resumed, wrong", got, broker.Deny, broker.ReasonWrongPassword)
	got, _ = prove(t, one, claimOf("alice"), "correct horse")
	wants(t, "resumed", got, broker.Allow, broker.ReasonNone)

	if err := d.Restart(context.Background()); err != nil {
		t.Fatal(err)
	}
	d.connect()
	got, _ = prove(t, one, claimOf("alice"), "correct horse")
	wants(t, "restarted", got, broker.Allow, broker.ReasonNone)
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	got, _ = prove(t, one, claimOf("alice"), "correct horse")
	wants(t, "stopped", got, broker.Unknown, broker.ReasonUnreachable)
	p.Close()
	got, _ = prove(t, p, claimOf("alice"), "correct horse")
	wants(t, "closed", got, broker.Unknown, broker.ReasonProver)
}

// TestProverMany: connections are bounded and kept, and nobody gets another's answer.
func TestProverMany(t *testing.T) {
	d := startPasswords(t, nil)
	leak := goleak.IgnoreCurrent()
	for i := range 8 {
		d.person(fmt.Sprintf("p%d", i), fmt.Sprintf("password %d", i))
	}
	p := d.prover(t, func(c *ProverConfig) { c.MaxConns = 4 })
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			who, pw := i%8, i%8
			if i%3 == 0 {
				pw = (pw + 1) % 8
			}
			// Seven failures in 200 tries stay below the limit, as a success clears them.
			got, _ := prove(t, p, claimOf(fmt.Sprintf("p%d", who)), fmt.Sprintf("password %d", pw))
			if want := map[bool]broker.Outcome{true: broker.Allow, false: broker.Deny}[who == pw]; got.Outcome != want && got.Reason != broker.ReasonLocked {
				t.Errorf("p%d with password %d: %+v", who, pw, got)
			}
		})
	}
	all.Wait()
	p.pool.mu.Lock()
	n := len(p.pool.idle)
	p.pool.mu.Unlock()
	if n == 0 || n > 4 {
		t.Errorf("%d connections are kept", n)
	}
	p.Close()
	wait(t, "no goroutine is left", func() bool {
		err := goleak.Find(leak)
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
}

// TestUnknownTakesAsLong: a name that is nobody's is not told by the time.
func TestUnknownTakesAsLong(t *testing.T) {
	d := startPasswords(t, nil)
	// A hash that takes some tenths of a second.
	const crypt = "{CRYPT}$6$rounds=150000$saltsalt$" + "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000."
	d.user("slow", 6998, "userPassword", crypt)
	p := d.prover(t, nil)
	took := func(c broker.Claim) time.Duration {
		began := time.Now()
		got, _ := prove(t, p, c, "some password")
		if got.Outcome != broker.Deny {
			t.Fatalf("%+v", got)
		}
		return time.Since(began)
	}
	for range 4 {
		most := took(claimOf("slow"))
		if last := p.wrong[len(p.wrong)-1]; last > most || last < 20*time.Millisecond {
			t.Errorf("%s is noted of a wrong password that took %s", last, most)
		}
		if least := took(broker.Claim{User: "nobody"}); least < slices.Min(p.wrong) {
			t.Errorf("unknown %s, known %v", least, p.wrong)
		}
	}
	if len(p.wrong) != 4 {
		t.Errorf("noted %v", p.wrong)
	}

	// And no longer, by a clock that no other program moves.
	synctest.Test(t, func(t *testing.T) {
		wrong := answer{verdict: verdict{code: ldap.LDAPResultInvalidCredentials}}
		p := &Prover{}
		even := func(c broker.Claim, took time.Duration) time.Duration {
			began := time.Now()
			p.even(t.Context(), c, wrong, took)
			return time.Since(began)
		}
		nobody := broker.Claim{User: "nobody"}
		for _, c := range []struct {
			who        broker.Claim
			took, more time.Duration
		}{
			{nobody, time.Millisecond, 0}, // nothing is known yet
			{claimOf("slow"), 150 * time.Millisecond, 0},
			{nobody, time.Millisecond, 149 * time.Millisecond},
			{nobody, 150 * time.Millisecond, 0},
			{nobody, time.Second, 0},
		} {
			if got := even(c.who, c.took); got != c.more {
				t.Errorf("%q after %s: %s more, want %s", c.who.User, c.took, got, c.more)
			}
		}
	})
}

// mute takes connections, counts them and says nothing.
type mute struct {
	net.Listener
	taken atomic.Int32
}

func deadEnd(t testing.TB) *mute {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mute{Listener: l}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			m.taken.Add(1)
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return m
}

// response is a BindResponse with controls.
func response(code int, words string, controls ...[]byte) message {
	b := request(1, tlv(opBindResponse, integer(tagEnumerated, code), text(""), text(words)), controls...)
	m, err := parseMessage(b)
	if err != nil {
		panic(err)
	}
	return m
}

// TestVerdicts: what other servers than OpenLDAP answer, by their documents.
func TestVerdicts(t *testing.T) {
	ad := func(word string) string {
		return "80090308: LdapErr: DSID-0C090439, comment: AcceptSecurityContext error, data " + word + ", v4563\x00"
	}
	control := func(oid string, value string) []byte { return tlv(tagSequence, text(oid), text(value)) }
	policy := func(v ...[]byte) []byte { return control(oidPasswordPolicy, string(tlv(tagSequence, v...))) }
	for name, c := range map[string]struct {
		m       message
		outcome broker.Outcome
		reason  broker.Reason
		must    bool
		says    string
	}{
		"AD wrong":               {response(49, ad("52e")), broker.Deny, broker.ReasonWrongPassword, false, ""},
		"AD unknown":             {response(49, ad("525")), broker.Deny, broker.ReasonWrongPassword, false, ""},
		"AD expired":             {response(49, ad("532")), broker.Deny, broker.ReasonPasswordExpired, false, ""},
		"AD must change":         {response(49, ad("773")), broker.Deny, broker.ReasonPasswordExpired, false, ""},
		"AD disabled":            {response(49, ad("533")), broker.Deny, broker.ReasonLocked, false, ""},
		"AD locked out":          {response(49, ad("775")), broker.Deny, broker.ReasonLocked, false, ""},
		"AD account expired":     {response(49, ad("701")), broker.Deny, broker.ReasonKerberosExpired, false, ""},
		"AD outside its hours":   {response(49, ad("530")), broker.Deny, broker.ReasonWrongPassword, false, ""},
		"389 inactive":           {response(53, "Account inactivated. Contact system administrator."), broker.Deny, broker.ReasonLocked, false, ""},
		"389 too many":           {response(19, "Exceed password retry limit. Please try later."), broker.Deny, broker.ReasonLocked, false, ""},
		"389 expired":            {response(49, "password expired!", control(oidPasswordExpired, "0")), broker.Deny, broker.ReasonPasswordExpired, false, ""},
		"389 must change":        {response(0, "", control(oidPasswordExpired, "0")), broker.Deny, broker.ReasonPasswordExpired, true, ""},
		"389 warning":            {response(0, "", control(oidPasswordExpiring, "86401")), broker.Allow, "", false, "expires in 2 days"},
		"389 odd warning":        {response(0, "", control(oidPasswordExpiring, "soon")), broker.Allow, "", false, ""},
		"a day":                  {response(0, "", policy(tlv(0xa0, integer(0x80, 86400)))), broker.Allow, "", false, "within a day"},
		"no second":              {response(0, "", policy(tlv(0xa0, integer(0x80, 0)))), broker.Allow, "", false, "within a day"},
		"three":                  {response(0, "", policy(tlv(0xa0, integer(0x81, 3)))), broker.Allow, "", false, "3 more times"},
		"must change":            {response(0, "", policy(integer(0x81, 2))), broker.Deny, broker.ReasonPasswordExpired, true, ""},
		"locked":                 {response(49, "", policy(integer(0x81, 1))), broker.Deny, broker.ReasonLocked, false, ""},
		"locked, says success":   {response(0, "", policy(integer(0x81, 1))), broker.Deny, broker.ReasonLocked, false, ""},
		"expired":                {response(49, "", policy(integer(0x81, 0))), broker.Deny, broker.ReasonPasswordExpired, false, ""},
		"an error of tomorrow":   {response(49, "", policy(integer(0x81, 99))), broker.Deny, broker.ReasonWrongPassword, false, ""},
		"referral":               {response(10, ""), broker.Unknown, broker.ReasonProver, false, ""},
		"confidential":           {response(13, "TLS confidentiality required"), broker.Unknown, broker.ReasonProver, false, ""},
		"SASL goes on":           {response(14, ""), broker.Unknown, broker.ReasonProver, false, ""},
		"something of its own":   {response(4711, ""), broker.Unknown, broker.ReasonProver, false, ""},
		"another control beside": {response(0, "", control("1.2.3", "x"), policy(integer(0x81, 2))), broker.Deny, broker.ReasonPasswordExpired, true, ""},
	} {
		v, err := readVerdict(c.m)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, must := v.judgeBind()
		wants(t, name, got, c.outcome, c.reason)
		var says string
		for _, w := range v.warnings() {
			says += w.Text
		}
		if must != c.must || !strings.Contains(says, c.says) || c.says == "" && says != "" {
			t.Errorf("%s: must change %v, %q", name, must, says)
		}
	}
	for name, m := range map[string]message{
		"negative time":  response(0, "", policy(tlv(0xa0, tlv(0x80, []byte{0xff})))),
		"no sequence":    response(0, "", control(oidPasswordPolicy, "x")),
		"cut":            response(0, "", control(oidPasswordPolicy, string(tlv(tagSequence, tlv(0xa0, []byte{0x80, 4, 1}))))),
		"no value":       response(0, "", tlv(tagSequence, text(oidPasswordPolicy))),
		"no result":      {op: opBindResponse},
		"broken control": {op: opBindResponse, body: ber(slices.Concat(integer(tagEnumerated, 0), text(""), text(""))), controls: ber{0x30, 9}},
	} {
		if v, err := readVerdict(m); err == nil {
			t.Errorf("%s: %+v", name, v)
		}
	}
	for name, c := range map[string]struct {
		m       message
		outcome broker.Outcome
		text    string
	}{
		"changed": {response(0, ""), broker.Allow, ""},
		"words":   {response(19, "Password fails quality checking policy"), broker.Deny, "the new password is refused: Password fails quality checking policy"},
		"number":  {response(19, "", policy(integer(0x81, 8))), broker.Deny, "the new password is refused: it was used before"},
		"both":    {response(19, "no", policy(integer(0x81, 6))), broker.Deny, "the new password is refused: it is too short (no)"},
		"neither": {response(19, ""), broker.Deny, "the new password is refused: the policy does not allow it"},
		"AD":      {response(53, "0000052D: Constraint violation"), broker.Deny, "the new password is refused: 0000052D: Constraint violation"},
		"busy":    {response(51, ""), broker.Unknown, ""},
		"codes":   {response(19, "a\x1b[2Jb"), broker.Deny, "the new password is refused: a?[2Jb"},
	} {
		v, err := readVerdict(c.m)
		if err != nil {
			t.Fatal(err)
		}
		if got := v.judgeChange(); got.Outcome != c.outcome || got.Text != c.text {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// FuzzVerdict: no answer of a server makes the parsers fail, and a yes is one of
// code 0 alone.
func FuzzVerdict(f *testing.F) {
	for _, m := range [][]byte{
		request(1, tlv(opBindResponse, integer(tagEnumerated, 0), text(""), text(""))),
		request(1, tlv(opBindResponse, integer(tagEnumerated, 49), text(""), text("no")),
			tlv(tagSequence, text(oidPasswordPolicy), tlv(tagOctetString, tlv(tagSequence, tlv(0xa0, integer(0x81, 3)), integer(0x81, 1))))),
		request(1, tlv(opExtendedResponse, integer(tagEnumerated, 0), text(""), text("")), tlv(tagSequence, text(oidPasswordExpiring), text("7"))),
	} {
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		v, err := readVerdict(m)
		if err != nil {
			return
		}
		if got, must := v.judgeBind(); got.Outcome == broker.Allow && (must || v.code != 0) || must && v.code != 0 {
			t.Fatalf("%+v: %+v", v, got)
		}
		if got := v.judgeChange(); got.Outcome == broker.Allow && v.code != 0 {
			t.Fatalf("%+v: %+v", v, got)
		}
		for _, w := range v.warnings() {
			if bytes.ContainsAny([]byte(w.Text), "\n\x1b") {
				t.Fatalf("shown %q", w.Text)
			}
		}
	})
}

// TestServerTime: slapd's clock with `database monitor`, and a clear word without.
func TestServerTime(t *testing.T) {
	monitor := func(c *testenv.SlapdConfig) {
		c.Config += "\ndn: olcDatabase={2}monitor,cn=config\nobjectClass: olcDatabaseConfig\nobjectClass: olcMonitorConfig\n" +
			"olcDatabase: {2}monitor\nolcAccess: to * by * read\n"
	}
	d := startPasswords(t, monitor)
	s, err := d.admin.Time(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if off, bound := s.Offset(); off < -bound || off > bound || bound < 500*time.Millisecond || bound > time.Second+s.RoundTrip {
		t.Errorf("%+v: %s ± %s", s, off, bound)
	}
	if s.Resolution != time.Second || s.RoundTrip <= 0 {
		t.Errorf("%+v", s)
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	plain := startPasswords(t, nil)
	if _, err := plain.admin.Time(t.Context()); !errors.Is(err, ErrNoTime) {
		t.Errorf("without monitor: %v", err)
	}
	if err := plain.Hang(); err != nil {
		t.Fatal(err)
	}
	defer plain.Resume()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := plain.admin.Time(ctx); err == nil || errors.Is(err, ErrNoTime) {
		t.Errorf("hanging: %v", err)
	}
}

// BenchmarkBinds: sign-ins by Prove against bare binds on kept connections, each with
// as many connections as there are goroutines; compare the two of one run.
func BenchmarkBinds(b *testing.B) {
	d := startPasswords(b, func(c *testenv.SlapdConfig) { c.Debug, c.NoSync = "0", true })
	b.Run("prove", func(b *testing.B) {
		p := d.prover(b, nil)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if got := p.Prove(b.Context(), claimOf("alice"), (&typist{replies: []string{"correct horse"}}).ask); got.Outcome != broker.Allow {
					b.Fatalf("%+v", got)
				}
			}
		})
	})
	b.Run("bare", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			c, err := Dial(b.Context(), ClientConfig{Provider: Provider{URLs: []string{d.LDAPI}}})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			for pb.Next() {
				if err := c.conn.Bind(userDN("alice"), "correct horse"); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}
