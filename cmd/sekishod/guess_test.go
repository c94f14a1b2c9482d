package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/audit"
	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/config"
	"github.com/sekisho/sekisho/state"
)

func testGuesses(t *testing.T) *guesses {
	t.Helper()
	log := logrus.New()
	log.SetOutput(t.Output())
	d := &daemon{cfg: config.Default(), log: logrus.NewEntry(log), now: time.Now}
	if err := d.buildGuesses(); err != nil {
		t.Fatal(err)
	}
	return d.guesses
}

func tried(user broker.UserName, addr string) broker.Attempt {
	return broker.Attempt{User: user, From: netip.MustParseAddr(addr), Remote: true, Host: "web1", Door: "pam", Proof: broker.ProofPassword}
}

// passed is how many of n are let through.
func (g *guesses) passed(t *testing.T, n int, a broker.Attempt, o broker.Outcome) (passed int) {
	t.Helper()
	for range n {
		al := g.take(t.Context(), a)
		if al.Unknown {
			t.Fatal("it could not be found out")
		}
		if al.OK {
			passed++
			g.settle(t.Context(), a, o)
		}
	}
	return passed
}

func openStore(t *testing.T, dir string) state.Store {
	t.Helper()
	log := logrus.New()
	log.SetOutput(t.Output())
	s, err := state.Open(t.Context(), state.Config{Dir: filepath.Join(dir, "state"), Log: logrus.NewEntry(log), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// sharing starts to share, and returns what stops it.
func (g *guesses) shared(t *testing.T, s state.Store) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- g.share(ctx, s, sharing{every: 10 * time.Millisecond, counters: time.Hour, known: time.Hour})
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("sharing ended with %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Errorf("it does not come to be: %s", what)
}

// wrong is what a process counts against a user or a network.
func (g *guesses) wrong(name string) float64 {
	for _, l := range g.own.Lockouts(1000) {
		if l.Name == name {
			return l.Wrong
		}
	}
	return 0
}

func TestCountersAreSharedThroughTheStore(t *testing.T) {
	s := openStore(t, t.TempDir())
	a, b := testGuesses(t), testGuesses(t)
	stopA := a.shared(t, s)
	b.shared(t, s)
	home, away := tried("alice", "203.0.113.7"), tried("alice", "198.51.100.7")
	a.passed(t, 1, home, broker.Allow)
	if n := a.passed(t, 100, away, broker.Deny); n != 5 {
		t.Fatalf("%d of 100 were let through", n)
	}
	eventually(t, "another broker counts them too", func() bool { return b.wrong("alice") > 4.9 })
	if n := b.passed(t, 100, away, broker.Deny); n != 0 {
		t.Errorf("at another broker %d are let through", n)
	}
	eventually(t, "it knows her home too", func() bool {
		al := b.take(t.Context(), home)
		if al.OK {
			b.settle(t.Context(), home, broker.Unknown)
		}
		return al.OK
	})
	// A broker that begins anew learns what it has forgotten, from its own past too.
	stopA()
	again := testGuesses(t)
	again.shared(t, s)
	eventually(t, "a broker begins anew", func() bool { return again.wrong("alice") > 4.9 })
	// Cleared at one, cleared at all.
	if n := b.own.Clear(broker.GuessClear{User: "alice", By: "root"}); n == 0 {
		t.Error("nothing was cleared")
	}
	eventually(t, "it is cleared everywhere", func() bool { return again.wrong("alice") == 0 })
}

// failing is a store that does not answer for a while.
type failing struct {
	state.Store
	down atomic.Bool
	puts atomic.Int64
}

func (f *failing) Put(ctx context.Context, bucket, key string, value []byte, ttl time.Duration) error {
	f.puts.Add(1)
	if f.down.Load() {
		return fmt.Errorf("putting: %w", state.ErrUnavailable)
	}
	return f.Store.Put(ctx, bucket, key, value, ttl)
}

func TestCountingGoesOnWithoutTheStore(t *testing.T) {
	s := &failing{Store: openStore(t, t.TempDir())}
	s.down.Store(true)
	a, b := testGuesses(t), testGuesses(t)
	stop := a.shared(t, s)
	b.shared(t, s)
	away := tried("alice", "198.51.100.7")
	if n := a.passed(t, 100, away, broker.Deny); n != 5 {
		t.Errorf("without the store %d of 100 are let through", n)
	}
	eventually(t, "it tries", func() bool { return s.puts.Load() > 2 })
	if b.wrong("alice") != 0 {
		t.Error("it was shared all the same")
	}
	s.down.Store(false)
	eventually(t, "it is shared when the store is back", func() bool { return b.wrong("alice") > 4.9 })
	a.passed(t, 20, tried("bob", "198.51.100.8"), broker.Deny)
	stop() // the last word of a process
	eventually(t, "what was counted last is shared", func() bool { return b.wrong("bob") > 4.9 })
}

// What is in the store but was not put there by a broker is passed by.
func TestNonsenseInTheStore(t *testing.T) {
	s := openStore(t, t.TempDir())
	value, err := json.Marshal(broker.GuessCount{Kind: broker.GuessUser, Name: "alice", Wrong: 50, At: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	for key, v := range map[string][]byte{"x": value, "x/user/bob": value, "x/source/alice": value, "y/user/alice": []byte("{"), "/": nil} {
		if err := s.Put(t.Context(), state.BucketCounters, key, v, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put(t.Context(), state.BucketProofs, "alice", []byte("2"), time.Hour); err != nil {
		t.Fatal(err)
	}
	g := testGuesses(t)
	g.shared(t, s)
	if err := s.Put(t.Context(), state.BucketCounters, "x/user/carol", []byte(strings.ReplaceAll(string(value), "alice", "carol")), time.Hour); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a good one is taken", func() bool { return g.wrong("carol") > 40 })
	if n := len(g.own.Lockouts(10)); n != 1 {
		t.Errorf("%d are locked out", n)
	}
}

// following is a host's budgets on a broker's, over JSON as the feed carries it.
func following(t *testing.T, upstream *guesses, name broker.HostName, down *atomic.Bool) *guesses {
	t.Helper()
	g := testGuesses(t)
	g.call = func(ctx context.Context, kind string, request, answer any) error {
		if down.Load() {
			return errors.New("the broker cannot be asked")
		}
		raw, err := json.Marshal(request)
		if err != nil {
			return err
		}
		do := map[string]func(context.Context, broker.HostName, json.RawMessage) (any, error){
			callTake: upstream.answerTake, callSettle: upstream.answerSettle}[kind]
		out, err := do(ctx, name, raw)
		if err != nil {
			return err
		}
		if raw, err = json.Marshal(out); err != nil || answer == nil {
			return err
		}
		return json.Unmarshal(raw, answer)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); g.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return g
}

func TestHostsAskTheirBroker(t *testing.T) {
	var down atomic.Bool
	up := testGuesses(t)
	web1, web2 := following(t, up, "web1", &down), following(t, up, "web2", &down)
	away := tried("alice", "198.51.100.7")
	if n := web1.passed(t, 3, away, broker.Deny); n != 3 {
		t.Fatalf("%d were let through", n)
	}
	if n := web2.passed(t, 100, away, broker.Deny); n != 2 {
		t.Errorf("after 3 at one host %d are let through at another", n)
	}
	eventually(t, "the broker counts all", func() bool { return up.wrong("alice") > 4.9 })
	// Home is home on all hosts.
	home := tried("bob", "203.0.113.7")
	web1.passed(t, 1, home, broker.Allow)
	eventually(t, "the broker knows bob's home", func() bool {
		for _, n := range up.own.Changed() {
			if n.Kind == broker.GuessKnown && n.Name == "bob" && n.By == "web1" {
				return true
			}
		}
		return false
	})
	web1.passed(t, 100, tried("bob", "198.51.100.9"), broker.Deny)
	if n := web2.passed(t, 1, home, broker.Allow); n != 1 {
		t.Error("at home bob is locked out")
	}
	// Without the broker each host counts alone, and what it counted itself stays.
	down.Store(true)
	carol := tried("carol", "192.0.2.7")
	if n := web1.passed(t, 100, carol, broker.Deny); n != 5 {
		t.Errorf("without the broker %d are let through", n)
	}
	if n := web2.passed(t, 100, carol, broker.Deny); n != 5 {
		t.Errorf("without the broker %d are let through at the other host", n)
	}
}

// A host speaks for itself: what it says of its own place is about it alone, and
// what is no attempt is refused.
func TestAHostsCalls(t *testing.T) {
	up := testGuesses(t)
	for range 30 {
		if _, err := up.answerTake(t.Context(), "web1", json.RawMessage(`{"user":"alice","door":"pam","proof":"password"}`)); err != nil {
			t.Fatal(err)
		}
		if _, err := up.answerSettle(t.Context(), "web1", json.RawMessage(`{"user":"alice","door":"pam","proof":"password","outcome":"deny"}`)); err != nil {
			t.Fatal(err)
		}
	}
	found := up.own.Lockouts(10)
	if len(found) != 1 || found[0].String() != "user alice" {
		t.Errorf("locked out are %v", found)
	}
	for _, bad := range []string{``, `{`, `[]`, `{"user":1}`, `{"user":"a","from":"nowhere"}`} {
		if out, err := up.answerTake(t.Context(), "web1", json.RawMessage(bad)); err == nil || out != nil {
			t.Errorf("%q is answered %v", bad, out)
		}
		if _, err := up.answerSettle(t.Context(), "web1", json.RawMessage(bad)); err == nil {
			t.Errorf("%q is settled", bad)
		}
	}
	if _, err := up.answerSettle(t.Context(), "web1", json.RawMessage(`{"user":"alice","outcome":"perhaps"}`)); err == nil {
		t.Error("an outcome that there is not is taken")
	}
}

func TestLockoutsAreRecorded(t *testing.T) {
	g := testGuesses(t)
	var got []string
	g.note = func(e audit.Event) error {
		got = append(got, fmt.Sprintf("%s %q %q %s", e.Kind, e.Actor, e.Subject, e.Text))
		return nil
	}
	g.passed(t, 50, tried("alice", "198.51.100.7"), broker.Deny)
	g.own.Clear(broker.GuessClear{User: "alice", By: "root"})
	want := "lockout \"\" \"user alice\" 5.0 wrong; unlock \"root\" \"user alice\" cleared"
	if s := strings.Join(got, "; "); s != want {
		t.Errorf("recorded was %s, not %s", s, want)
	}
}

func TestSourceNamed(t *testing.T) {
	for in, want := range map[string]string{
		"203.0.113.7": "203.0.113.0/24", "203.0.113.0/24": "203.0.113.0/24", "::ffff:203.0.113.7": "203.0.113.0/24",
		"2001:db8::5": "2001:db8::/64", "2001:db8::/64": "2001:db8::/64", "on web1": "on web1",
		"": "", "web1": "", "203.0.113.0/16": "", "203.0.113.7/24": "203.0.113.0/24", "on ": "", "2001:db8::/32": "",
	} {
		if got, ok := sourceNamed(in); got != want || ok != (want != "") {
			t.Errorf("%q is %q, %v", in, got, ok)
		}
	}
}

// A host cannot take back what the broker counts against it: a code that it has
// the broker check stays counted whatever it settles.
func TestAHostSettlesNothingOfTheBrokers(t *testing.T) {
	up := testGuesses(t)
	a := attemptCall{User: "alice", Door: "codes", Proof: broker.ProofOTP}.attempt("web1")
	a.Door = "codes"
	if al := up.take(t.Context(), a); !al.OK {
		t.Fatal("refused")
	}
	for _, door := range []string{"codes", "feed", "pam"} {
		if _, err := up.answerSettle(t.Context(), "web1", json.RawMessage(`{"user":"alice","door":"`+door+`","proof":"otp","outcome":"unknown"}`)); err != nil {
			t.Fatal(err)
		}
	}
	up.settle(t.Context(), a, broker.Deny)
	for range 4 {
		al := up.take(t.Context(), a)
		if !al.OK {
			t.Fatal("refused before its time")
		}
		up.settle(t.Context(), a, broker.Deny)
	}
	if al := up.take(t.Context(), a); al.OK {
		t.Error("the first one was not counted")
	}
}

// A host's word is no eraser: by saying that alice is in, and that she came from a
// network, it washes away no wrong guess of hers there, its own or another host's.
func TestAHostWashesNoCounter(t *testing.T) {
	const home = `{"user":"alice","from":"203.0.113.7","remote":true,"door":"pam","proof":"otp"`
	say := func(up *guesses, host broker.HostName, outcome string) {
		t.Helper()
		if _, err := up.answerSettle(t.Context(), host, json.RawMessage(home+`,"outcome":"`+outcome+`"}`)); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("codes that it has checked", func(t *testing.T) {
		up, tries := testGuesses(t), 0
		for range 100 {
			say(up, "web1", "allow")
			a := attemptCall{User: "alice", From: netip.MustParseAddr("203.0.113.7"), Remote: true, Proof: broker.ProofOTP}.attempt("web1")
			a.Door = "codes"
			if al := up.take(t.Context(), a); al.OK {
				tries++
				up.settle(t.Context(), a, broker.Deny)
			}
		}
		if tries > 5 {
			t.Errorf("%d of 100 wrong codes were tried", tries)
		}
	})
	for _, outcome := range []string{"allow", "unknown", "need-proof"} {
		t.Run("attempts at another host, "+outcome, func(t *testing.T) {
			up, tries := testGuesses(t), 0
			for range 100 {
				out, err := up.answerTake(t.Context(), "web2", json.RawMessage(home+"}"))
				if err != nil {
					t.Fatal(err)
				}
				say(up, "web1", outcome)
				if out.(takeAnswer).OK {
					tries++
					say(up, "web2", "deny")
				}
			}
			if tries > 10 { // five before the network is known for alice, five after
				t.Errorf("%d of 100 were tried", tries)
			}
		})
	}
}

// A host vouches for those alone who can enter it: else it could name a million
// users, and drive out of the memory what others know.
func TestAHostVouchesForItsOwn(t *testing.T) {
	up := testGuesses(t)
	up.enters = func(_ context.Context, host broker.HostName, u broker.UserName) bool {
		return host == "web1" && u == "alice"
	}
	for _, u := range []string{"alice", "bob"} {
		if _, err := up.answerSettle(t.Context(), "web1", json.RawMessage(`{"user":"`+u+`","from":"203.0.113.7","remote":true,"outcome":"allow"}`)); err != nil {
			t.Fatal(err)
		}
	}
	known := map[string]int{}
	for _, n := range up.own.Changed() {
		known[n.Name]++
	}
	if known["alice"] != 2 || known["bob"] != 0 {
		t.Errorf("known are %v", known)
	}
}
