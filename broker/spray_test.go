package broker

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A spray of 50,000 wrong passwords from 1,000 networks, at all users, while alice
// signs in from where she always comes: she is let in each time, without delay,
// and hardly any of them reach the directory.
func TestSpray(t *testing.T) {
	const sources, each, users = 1000, 50, 5000
	const work = 30 * time.Millisecond // of the directory
	synctest.Test(t, func(t *testing.T) {
		g, err := NewGuesses(GuessConfig{PerUser: 5, PerSource: 20, LongestWait: 15 * time.Minute, KnownGood: 24 * time.Hour, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		e := new(Snapshot).Edit()
		e.PutUser(User{ID: EntryID{1}, DN: "uid=alice", Name: "alice", UID: 2001, Shell: "/bin/sh"})
		e.PutHost(Host{ID: EntryID{3}, DN: "cn=web1", Names: []HostName{"web1"}})
		r, err := ParseRule(RuleAttributes{Name: "r", Subject: []string{"user:alice"}, Door: []string{"pam"}, Target: []string{"*"}})
		if err != nil {
			t.Fatal(err)
		}
		r.ID, r.DN = EntryID{4}, "cn=r"
		e.PutRule(r)
		view := View{Snapshot: e.Commit(), AsOf: time.Now(), MaxAge: 24 * time.Hour}
		var wrong, right atomic.Int64 // that have reached the directory
		b, err := New(Config{
			Directory: func() View { return view }, Now: time.Now, Record: func(Request, Decision) error { return nil },
			Take: g.Take, Settle: g.Settle, Pause: func(_ context.Context, d time.Duration) { time.Sleep(d) },
			Provers: map[Proof]Prover{ProofPassword: func(ctx context.Context, _ Claim, ask Asker) Proven {
				typed, err := ask(ctx, Prompt{PromptPassword, "Password"})
				if err != nil {
					return Proven{Outcome: Unknown, Reason: ReasonConversation}
				}
				time.Sleep(work)
				if typed[0] != "right" {
					wrong.Add(1)
					return Proven{Reason: ReasonWrongPassword}
				}
				right.Add(1)
				return Proven{Outcome: Allow}
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		try := func(user UserName, from netip.Addr, password string) Decision {
			d, _ := b.SignIn(t.Context(), Request{User: user, Door: "pam", From: from, Remote: true, Target: Target{Host: "web1"}}, nil,
				func(context.Context, ...Prompt) ([]string, error) { return []string{password}, nil })
			return d
		}
		home := netip.MustParseAddr("203.0.113.7")
		if d := try("alice", home, "right"); d.Outcome != Allow {
			t.Fatalf("on a quiet day alice is told %s, %s", d.Outcome, d.Reason)
		}
		began := time.Now()
		var spray sync.WaitGroup
		for s := range sources {
			from := netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, byte(s >> 8), byte(s), 15: 1})
			spray.Go(func() {
				time.Sleep(time.Duration(s) * time.Millisecond)
				for i := range each {
					user := UserName(fmt.Sprint("user", (s*each+i)%users))
					if i%10 == 0 {
						user = "alice"
					}
					if d := try(user, from, "wrong"); d.Outcome == Allow {
						t.Error("a wrong password lets in")
					}
				}
			})
		}
		over := make(chan struct{})
		go func() { spray.Wait(); close(over) }()
		ins := 0
		for going := true; going; {
			select {
			case <-over:
				going = false
			case <-time.After(500 * time.Millisecond):
			}
			at := time.Now()
			if d := try("alice", home, "right"); d.Outcome != Allow {
				t.Fatalf("after %v of the spray alice is told %s, %s", at.Sub(began), d.Outcome, d.Reason)
			}
			if took := time.Since(at); took != work {
				t.Fatalf("after %v of the spray alice waits %v", at.Sub(began), took)
			}
			ins++
		}
		took := time.Since(began)
		if share := float64(wrong.Load()) / (sources * each); share > 0.02 || wrong.Load() < sprayFree {
			t.Errorf("%d of %d wrong ones, %.2f in 100, reach the directory", wrong.Load(), sources*each, 100*share)
		}
		if took > 2*time.Minute || ins < 100 {
			t.Errorf("the spray took %v, alice signed in %d times", took, ins)
		}
		t.Logf("%d wrong ones in %v: %d reach the directory; alice signed in %d times", sources*each, took, wrong.Load(), ins)
		// On the next quiet day a newcomer's first mistake is checked like ever.
		time.Sleep(20 * time.Minute)
		was := wrong.Load()
		if d := try("newcomer", netip.MustParseAddr("192.0.2.9"), "wrong"); d.Outcome != Deny || wrong.Load() != was+1 {
			t.Errorf("twenty minutes later a newcomer is told %s, %s, and %d were checked", d.Outcome, d.Reason, wrong.Load()-was)
		}
	})
}
