package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/client"
	"github.com/sirupsen/logrus"
)

// conversation answers prompts by kind, and keeps what was asked.
type conversation struct {
	password string
	new      [][2]string // one pair for each time that a new one is asked for
	leave    int         // the caller is gone at this question; 0: never
	asked    []broker.Prompt
	rounds   int
	typed    int // new passwords so far
}

func (c *conversation) ask(_ context.Context, ps ...broker.Prompt) ([]string, error) {
	if c.rounds++; c.rounds == c.leave {
		return nil, broker.ErrConversation
	}
	var out []string
	for _, p := range ps {
		c.asked = append(c.asked, p)
		switch p.Kind {
		case broker.PromptPassword:
			out = append(out, c.password)
		case broker.PromptNewPassword:
			if c.typed/2 >= len(c.new) {
				return nil, broker.ErrConversation
			}
			out = append(out, c.new[c.typed/2][c.typed%2])
			c.typed++
		}
	}
	return out, nil
}

// told is what the caller was shown besides questions.
func (c *conversation) told() string {
	var out []string
	for _, p := range c.asked {
		if !p.Kind.WantsReply() {
			out = append(out, p.Text)
		}
	}
	return strings.Join(out, "|")
}

// logged is a log kept for the test.
func logged() (*logrus.Entry, *bytes.Buffer) {
	var b bytes.Buffer
	l := logrus.New()
	l.SetOutput(&b)
	l.SetLevel(logrus.DebugLevel)
	return logrus.NewEntry(l), &b
}

// proverOf makes a prover at a KDC, with the keytab of another if need be.
func proverOf(t testing.TB, kdcs []string, keytab *kdc, change func(*client.ProverConfig)) (broker.Prover, *bytes.Buffer) {
	t.Helper()
	log, text := logged()
	cfg := client.ProverConfig{
		Client: newClient(t, quick, kdcs...), Service: principal(t, "sekisho/web1.example.org"), Log: log, Host: "web1",
		Keys:   func() ([]krb.KeytabEntry, error) { return krb.ReadKeytab(keytab.dir + "/keytab") },
		Ticket: client.LoginOptions{Life: time.Hour, Renew: 24 * time.Hour, Forwardable: true},
		Pack:   func(c krb.Credential) ([]byte, error) { return []byte(c.String()), nil },
	}
	if change != nil {
		change(&cfg)
	}
	p, err := client.NewProver(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p, text
}

func prove(t testing.TB, p broker.Prover, user string, c *conversation) broker.Proven {
	t.Helper()
	return p(within(t, far), broker.Claim{User: broker.UserName(user), Door: "pam"}, c.ask)
}

// TestProver: each answer of a KDC by its reason.
func TestProver(t *testing.T) {
	leaks(t)
	k := shared(t)
	p, log := proverOf(t, []string{k.addr}, k, nil)
	for _, x := range []struct {
		user, password string
		want           broker.Outcome
		reason         broker.Reason
	}{
		{"alice", "right", broker.Allow, ""},
		{"open", "right", broker.Allow, ""},
		{"old", "right", broker.Allow, ""},
		{"carol", "pässwörd-関所", broker.Allow, ""},
		{"alice", "secret-typo", broker.Deny, broker.ReasonWrongPassword},
		{"open", "secret-typo", broker.Deny, broker.ReasonWrongPassword},
		{"nobody", "secret-typo", broker.Deny, broker.ReasonWrongPassword},
		{"", "secret-typo", broker.Deny, broker.ReasonWrongPassword},
		{"alice/admin", "right", broker.Deny, broker.ReasonWrongPassword},
		{"alice@EXAMPLE.ORG", "right", broker.Deny, broker.ReasonWrongPassword},
		{"host/web1.example.org", "right", broker.Deny, broker.ReasonWrongPassword},
		{"alice", "", broker.Deny, broker.ReasonWrongPassword},
		{"alice", "secret\x00typo", broker.Deny, broker.ReasonWrongPassword},
		{"alice", strings.Repeat("secret-typo", 400), broker.Deny, broker.ReasonWrongPassword},
		{"locked", "right", broker.Deny, broker.ReasonLocked},
		{"gone", "right", broker.Deny, broker.ReasonKerberosExpired},
		{"stale", "right", broker.Deny, broker.ReasonPasswordExpired}, // nothing to change it with
		{"stale", "secret-typo", broker.Deny, broker.ReasonWrongPassword},
		{"token", "right", broker.Unknown, broker.ReasonProver},
	} {
		c := &conversation{password: x.password}
		got := prove(t, p, x.user, c)
		if got.Outcome != x.want || got.Reason != x.reason {
			t.Errorf("%s with %.20q: %v %q", x.user, x.password, got.Outcome, got.Reason)
		}
		if got.Outcome == broker.Allow {
			want := "ticket of " + x.user + "@EXAMPLE.ORG for krbtgt/EXAMPLE.ORG@EXAMPLE.ORG until "
			if !strings.HasPrefix(string(got.Tickets), want) || got.TicketsEnd.Before(time.Now().Add(50*time.Minute)) {
				t.Errorf("%s: %s, ends %s", x.user, got.Tickets, got.TicketsEnd)
			}
		} else if got.Tickets != nil {
			t.Errorf("%s: tickets beside a no", x.user)
		}
		if len(c.asked) != 1 || c.asked[0].Kind != broker.PromptPassword {
			t.Errorf("%s was asked %v", x.user, c.asked)
		}
	}
	if strings.Contains(log.String(), "typo") {
		t.Errorf("a password is in the log:\n%s", log)
	}
	if got := prove(t, p, "alice", &conversation{password: "right", leave: 1}); got.Outcome != broker.Unknown || got.Reason != broker.ReasonConversation {
		t.Errorf("one who leaves: %v", got)
	}
}

// TestProverCannotTell: what is neither a yes nor a no.
func TestProverCannotTell(t *testing.T) {
	leaks(t)
	k := shared(t)
	behind := own(t, kdcOptions{kdcOf: k, ahead: -432 * time.Second})
	hung := own(t, kdcOptions{kdcOf: k})
	hung.signal(t, syscall.SIGSTOP)
	garbage := newFake(t, "both", func(n string, _ []byte, send func([]byte)) { send(framed(n, []byte("garbage"))) })
	busy := newFake(t, "both", func(n string, _ []byte, send func([]byte)) {
		send(framed(n, krbError(t, func(e *messages.KRBError) { e.ErrorCode = 29 })))
	})
	for name, x := range map[string]struct {
		kdc    string
		change func(*client.ProverConfig)
		reason broker.Reason
		text   string
	}{
		"dead": {freePort(), nil, broker.ReasonUnreachable, ""},
		"hung": {hung.addr, func(c *client.ProverConfig) { c.Client = newClient(t, short, hung.addr) },
			broker.ReasonUnreachable, ""},
		"busy":    {busy.addr, nil, broker.ReasonUnreachable, ""},
		"garbage": {garbage.addr, nil, broker.ReasonProver, ""},
		"clock":   {behind.addr, nil, broker.ReasonClock, "the clock of web1 is 7 min 12 s ahead of that of the Kerberos server"},
		"guard": {k.addr, func(c *client.ProverConfig) { c.Clock = func() string { return "this clock is wrong" } },
			broker.ReasonClock, "this clock is wrong"},
		"no keytab": {k.addr, func(c *client.ProverConfig) {
			c.Keys = func() ([]krb.KeytabEntry, error) { return nil, errors.New("no such file") }
		}, broker.ReasonProver, ""},
		"keytab of another": {k.addr, func(c *client.ProverConfig) {
			c.Keys = func() ([]krb.KeytabEntry, error) { return krb.ReadKeytab(k.dir + "/host.keytab") }
		}, broker.ReasonProver, ""},
		"unknown service": {k.addr, func(c *client.ProverConfig) {
			c.Service = principal(t, "sekisho/nowhere")
			c.Keys = func() ([]krb.KeytabEntry, error) {
				keys := k.keytab(t, "keytab")
				for i := range keys {
					keys[i].Principal = c.Service
				}
				return keys, nil
			}
		}, broker.ReasonFalseKDC, ""},
		"no cache": {k.addr, func(c *client.ProverConfig) {
			c.Pack = func(krb.Credential) ([]byte, error) { return nil, errors.New("full") }
		}, broker.ReasonProver, ""},
	} {
		p, log := proverOf(t, []string{x.kdc}, k, x.change)
		began := time.Now()
		got := prove(t, p, "alice", &conversation{password: "right"})
		if got.Outcome != broker.Unknown || got.Reason != x.reason || got.Tickets != nil || time.Since(began) > far {
			t.Errorf("%s: %v %q after %s\n%s", name, got.Outcome, got.Reason, time.Since(began), log)
		}
		if name == "clock" { // whole seconds are all that libfaketime and the AS-REP know
			for _, s := range []string{"11", "13"} {
				got.Text = strings.Replace(got.Text, " "+s+" s", " 12 s", 1)
			}
		}
		if got.Text != x.text {
			t.Errorf("%s: it says %q", name, got.Text)
		}
	}
	hung.signal(t, syscall.SIGCONT)
}

// TestFalseKDC: a real KDC of the same realm and user, with other keys, which takes
// the very password that is typed.
func TestFalseKDC(t *testing.T) {
	leaks(t)
	k := shared(t)
	liar := own(t, kdcOptions{})
	for _, q := range []string{"addprinc -pw theirs +requires_preauth alice", "addprinc -randkey sekisho/web1.example.org"} {
		liar.kadmin(t, q)
	}
	ctx := within(t, time.Minute)
	if _, err := newClient(t, nil, liar.addr).Login(ctx, principal(t, "alice"), "theirs", client.LoginOptions{}); err != nil {
		t.Fatalf("it gives no ticket, and the test shows nothing: %v", err)
	}
	p, log := proverOf(t, []string{liar.addr}, k, nil)
	got := prove(t, p, "alice", &conversation{password: "theirs"})
	if got.Outcome != broker.Unknown || got.Reason != broker.ReasonFalseKDC || got.Tickets != nil {
		t.Errorf("%v %q", got.Outcome, got.Reason)
	}
	if !strings.Contains(log.String(), "not the realm's KDC") {
		t.Errorf("the log does not say it:\n%s", log)
	}
	// One that hands on a ticket of the true KDC that it heard on the wire: it is
	// about alice and sealed with our key, but of another sign-in, or its session key
	// is another one.
	c := newClient(t, nil, k.addr)
	tgt, err := c.Login(ctx, principal(t, "alice"), "right", client.LoginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	heard, err := c.Service(ctx, tgt, principal(t, "sekisho/web1.example.org"))
	if err != nil {
		t.Fatal(err)
	}
	var swap messages.Ticket
	if err := swap.Unmarshal(heard.Ticket); err != nil {
		t.Fatal(err)
	}
	swapped := 0
	thief := relay(t, liar.addr, func(_, reply []byte) []byte {
		var r messages.TGSRep
		if !isReply(reply, tgsRep) {
			return reply
		}
		if err := r.Unmarshal(reply); err != nil {
			t.Error(err)
		}
		r.Ticket = swap
		b, err := r.Marshal()
		if err != nil {
			t.Error(err)
		}
		swapped++
		return b
	})
	p, _ = proverOf(t, []string{thief.addr}, k, nil)
	if got := prove(t, p, "alice", &conversation{password: "theirs"}); got.Outcome != broker.Unknown || got.Reason != broker.ReasonFalseKDC || swapped != 1 {
		t.Errorf("with a ticket from the wire: %v %q, swapped %d", got.Outcome, got.Reason, swapped)
	}
	// The true one still is.
	p, _ = proverOf(t, []string{k.addr}, k, nil)
	if got := prove(t, p, "alice", &conversation{password: "right"}); got.Outcome != broker.Allow {
		t.Errorf("the true KDC: %v %q", got.Outcome, got.Reason)
	}
}

// TestOldTicketIsNoProof: somebody who kept a service ticket, with its session key,
// from when he was let in.
func TestOldTicketIsNoProof(t *testing.T) {
	k := shared(t)
	ctx := within(t, time.Minute)
	var now time.Time
	c := newClient(t, func(c *client.Config) { quick(c); c.Now = func() time.Time { return now } }, k.addr)
	var keys []krb.Key
	for _, e := range k.keytab(t, "keytab") {
		keys = append(keys, e.Key)
	}
	now = time.Now()
	tgt, err := c.Login(ctx, principal(t, "alice"), "right", client.LoginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	service := principal(t, "sekisho/web1.example.org")
	if err := c.Verify(ctx, tgt, service, keys); err != nil {
		t.Fatal(err)
	}
	real := now
	for _, later := range []time.Duration{6 * time.Minute, -6 * time.Minute} {
		now = real.Add(later)
		if err := c.Verify(ctx, tgt, service, keys); err == nil {
			t.Errorf("a sign-in of %s ago is a proof", later)
		}
	}
	// Another sign-in's ticket-granting ticket does not go with it.
	now = real
	other := tgt
	other.AuthTime = tgt.AuthTime.Add(-time.Second)
	if err := c.Verify(ctx, other, service, keys); err == nil {
		t.Error("a ticket of another sign-in is a proof")
	}
}

// TestKeytabRollover: new keys in the keytab count without a restart, and old
// tickets' keys go on to.
func TestKeytabRollover(t *testing.T) {
	leaks(t)
	k := own(t, kdcOptions{})
	for _, q := range []string{"addprinc -pw right +requires_preauth alice", "addprinc -randkey sekisho/web1.example.org",
		"ktadd -k " + k.dir + "/keytab sekisho/web1.example.org"} {
		k.kadmin(t, q)
	}
	p, _ := proverOf(t, []string{k.addr}, k, nil)
	check := func(when string, want broker.Reason) {
		t.Helper()
		if got := prove(t, p, "alice", &conversation{password: "right"}); got.Reason != want || (got.Outcome == broker.Allow) != (want == "") {
			t.Errorf("%s: %v %q", when, got.Outcome, got.Reason)
		}
	}
	check("at first", "")
	k.kadmin(t, "cpw -randkey sekisho/web1.example.org")
	check("the keytab is old", broker.ReasonFalseKDC)
	k.kadmin(t, "ktadd -k "+k.dir+"/keytab sekisho/web1.example.org")
	check("the keytab is new", "")
}

// TestExpiredPassword: it is checked, changed and used, in one conversation.
func TestExpiredPassword(t *testing.T) {
	leaks(t)
	k := own(t, kdcOptions{})
	for _, q := range []string{"addprinc -randkey sekisho/web1.example.org", "ktadd -k " + k.dir + "/keytab sekisho/web1.example.org"} {
		k.kadmin(t, q)
	}
	var mu sync.Mutex
	var changes []string
	change := func(_ context.Context, c broker.Claim, old, new string) broker.Proven {
		mu.Lock()
		defer mu.Unlock()
		changes = append(changes, fmt.Sprintf("%s %s %s", c.User, old, new))
		switch new {
		case "short":
			return broker.Proven{Reason: broker.ReasonPasswordRefused, Text: "it is too short"}
		case "down":
			return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonUnreachable}
		case "lie":
			return broker.Proven{Outcome: broker.Allow}
		}
		k.kadmin(t, "cpw -pw "+new+" "+string(c.User))
		k.kadmin(t, `modprinc -pwexpire never `+string(c.User))
		return broker.Proven{Outcome: broker.Allow}
	}
	p, log := proverOf(t, []string{k.addr}, k, func(c *client.ProverConfig) { c.Change = change })
	const note = "Your password has expired: choose a new one."
	for i, x := range []struct {
		password string
		new      [][2]string
		want     broker.Outcome
		reason   broker.Reason
		changes  []string
		told     string
	}{
		{"right", [][2]string{{"better", "better"}}, broker.Allow, "", []string{"better"}, note},
		{"wrong", nil, broker.Deny, broker.ReasonWrongPassword, nil, ""},
		{"right", [][2]string{{"a", "b"}, {"short", "short"}, {"better", "better"}}, broker.Allow, "", []string{"short", "better"},
			note + "|the new password was typed in two ways: nothing was changed|it is too short"},
		{"right", [][2]string{{"short", "short"}, {"short", "short"}, {"short", "short"}, {"better", "better"}}, broker.Deny, broker.ReasonPasswordRefused,
			[]string{"short", "short", "short"}, note + "|it is too short|it is too short"},
		{"right", [][2]string{{"down", "down"}}, broker.Unknown, broker.ReasonUnreachable, []string{"down"}, note},
		{"right", [][2]string{{"lie", "lie"}}, broker.Deny, broker.ReasonPasswordExpired, []string{"lie"}, note},
		{"right", nil, broker.Unknown, broker.ReasonConversation, nil, note},
	} {
		user := fmt.Sprint("user", i)
		k.kadmin(t, `addprinc -pw right -pwexpire "2 days ago" +requires_preauth `+user)
		changes = nil
		c := &conversation{password: x.password, new: x.new}
		got := prove(t, p, user, c)
		var want []string
		for _, n := range x.changes {
			want = append(want, user+" right "+n)
		}
		if got.Outcome != x.want || got.Reason != x.reason || !slices.Equal(changes, want) || c.told() != x.told {
			t.Errorf("%d: %v %q, changes %q, told %q\n%s", i, got.Outcome, got.Reason, changes, c.told(), log)
		}
		if (got.Tickets != nil) != (got.Outcome == broker.Allow) {
			t.Errorf("%d: tickets %q", i, got.Tickets)
		}
	}
	if strings.Contains(log.String(), "better") || strings.Contains(log.String(), "right") {
		t.Errorf("a password is in the log:\n%s", log)
	}
}

func TestProverConfig(t *testing.T) {
	log, _ := logged()
	good := client.ProverConfig{Client: newClient(t, nil, "kdc"), Service: principal(t, "sekisho/web1"), Log: log,
		Keys: func() ([]krb.KeytabEntry, error) { return nil, nil }}
	if _, err := client.NewProver(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*client.ProverConfig){
		"no client":   func(c *client.ProverConfig) { c.Client = nil },
		"no keys":     func(c *client.ProverConfig) { c.Keys = nil },
		"no log":      func(c *client.ProverConfig) { c.Log = nil },
		"no service":  func(c *client.ProverConfig) { c.Service = krb.Principal{} },
		"other realm": func(c *client.ProverConfig) { c.Service.Realm = "ELSEWHERE.ORG" },
	} {
		c := good
		change(&c)
		if _, err := client.NewProver(c); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}
