package pam

import (
	"context"
	"os"
	"testing"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/wire"
)

// Which place a wrong password is counted for.
func TestWhereACallerIs(t *testing.T) {
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{c: Config{Host: "web1.example.org"}}
	for rhost, want := range map[string]string{
		"": "on web1.example.org", "127.0.0.1": "on web1.example.org", "::1": "on web1.example.org",
		"web1.example.org": "on web1.example.org", "WEB1": "on web1.example.org", own: "on web1.example.org", // sudo
		"203.0.113.7": "203.0.113.0/24", "::ffff:203.0.113.7": "203.0.113.0/24", "2001:db8::7%eth0": "2001:db8::/64",
		"laptop.example.net": "to web1.example.org", "web1.example.net": "to web1.example.org", "web1.": "to web1.example.org",
	} {
		q := s.request(wire.Request{Fields: []wire.Field{{Name: "user", Value: "alice"}, {Name: "rhost", Value: rhost}}})
		a := broker.Attempt{User: q.User, From: q.From, Remote: q.Remote, Host: q.Target.Host}
		if got := a.Source(); got != want {
			t.Errorf("%q is %q, not %q", rhost, got, want)
		}
	}
}

// Whatever the budgets say, the prover sees nothing that they have not allowed,
// and whom they refuse hears what everybody hears.
func TestBudgetsAtTheDoor(t *testing.T) {
	var al broker.Allowance
	var asked int
	w := newWorld(t, func(c *Config) {
		b, err := broker.New(broker.Config{Directory: c.Broker.View, Now: c.Now, Record: func(broker.Request, broker.Decision) error { return nil },
			Take: func(context.Context, broker.Attempt) broker.Allowance { return al },
			Provers: map[broker.Proof]broker.Prover{broker.ProofPassword: func(ctx context.Context, _ broker.Claim, ask broker.Asker) broker.Proven {
				got, err := ask(ctx, broker.Prompt{Kind: broker.PromptPassword, Text: "Password: "})
				if err != nil {
					return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonConversation}
				}
				if asked++; got[0] == "right" {
					return broker.Proven{Outcome: broker.Allow}
				}
				return broker.Proven{Reason: broker.ReasonWrongPassword}
			}}})
		if err != nil {
			t.Fatal(err)
		}
		c.Broker = b
	})
	for _, c := range []struct {
		al       broker.Allowance
		user, as string
		want     string
		asked    int
	}{
		{broker.Allowance{OK: true}, "alice", "wrong", "no wrong-password", 1},
		{broker.Allowance{}, "alice", "right", "no throttled", 0},
		{broker.Allowance{Unknown: true}, "alice", "right", "unknown state " + broker.TextUnknown, 0},
		{broker.Allowance{OK: true}, "mallory", "wrong", "no unknown-user", 1},
		{broker.Allowance{}, "mallory", "wrong", "no unknown-user", 0},
		{broker.Allowance{Unknown: true}, "mallory", "wrong", "no unknown-user " + broker.TextUnknown, 0},
	} {
		asked, al = 0, c.al
		conn := w.dial()
		if got := show(w.on(conn, "auth user="+c.user+" service=sshd rhost=203.0.113.7")); got != "no prompt [password Password: ]" {
			t.Fatalf("%s: it asks %s", c.user, got)
		}
		if got := show(w.on(conn, "answer a1="+c.as)); got != c.want || asked != c.asked {
			t.Errorf("%v: %s is told %q, not %q; the prover was asked %d times", c.al, c.user, got, c.want, asked)
		}
	}
}
