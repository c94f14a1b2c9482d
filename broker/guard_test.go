package broker

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// guarded is a sign-in with budgets that allow what the test says, and a clock
// that the prover moves.
type guarded struct {
	*signIn
	allow   Allowance
	events  []string // take, prove, settle, pause, in their order
	now     time.Time
	work    time.Duration // what the prover takes
	oneGone bool          // he has left when the prover shows him something
}

func newGuarded(t *testing.T, rules ...RuleAttributes) *guarded {
	g := &guarded{signIn: newSignIn(t, rules...), allow: Allowance{OK: true}, now: time.Unix(1e9, 0)}
	c := &g.b.c
	c.Now = func() time.Time { return g.now }
	c.Take = func(_ context.Context, a Attempt) Allowance {
		g.events = append(g.events, fmt.Sprintf("take %s %s %s %s", a.User, a.Host, a.Door, a.Proof))
		return g.allow
	}
	c.Settle = func(_ context.Context, a Attempt, o Outcome) {
		g.events = append(g.events, fmt.Sprintf("settle %s %s", a.Proof, o))
	}
	c.Pause = func(_ context.Context, d time.Duration) {
		g.events = append(g.events, fmt.Sprint("pause ", d))
		g.now = g.now.Add(d)
	}
	for kind, prove := range c.Provers {
		c.Provers[kind] = func(ctx context.Context, cl Claim, ask Asker) Proven {
			return prove(ctx, cl, func(ctx context.Context, ps ...Prompt) ([]string, error) {
				got, err := ask(ctx, ps...)
				if err == nil {
					g.events = append(g.events, "ask the directory")
					g.now = g.now.Add(g.work)
				}
				if err == nil && g.oneGone {
					g.replies = nil
					_, err = ask(ctx, Prompt{PromptNewPassword, "New"})
				}
				return got, err
			})
		}
	}
	c.Change = func(_ context.Context, _ Claim, old, _ string) Proven {
		g.events = append(g.events, "ask the directory")
		if old != "right" {
			return Proven{Reason: ReasonWrongPassword}
		}
		return Proven{Outcome: Allow}
	}
	return g
}

func TestBudgetsOfASignIn(t *testing.T) {
	rule := func(proofs ...string) RuleAttributes {
		return RuleAttributes{Name: "r", Subject: []string{"user:alice", "user:bob"}, Door: []string{"pam"}, Target: []string{"host:web1"}, Proof: proofs}
	}
	const ask, take, takeCode = "ask the directory", "take alice web1 pam password", "take alice web1 pam otp"
	for _, c := range []struct {
		name    string
		rule    RuleAttributes
		user    UserName
		replies string
		allow   Allowance
		gone    bool
		outcome Outcome
		reason  Reason
		text    string
		events  []string
	}{
		{"right", rule(), "alice", "right", Allowance{OK: true}, false, Allow, ReasonRule, "", []string{take, ask, "settle password allow"}},
		{"wrong", rule(), "alice", "wrong", Allowance{OK: true}, false, Deny, ReasonWrongPassword, "", []string{take, ask, "settle password deny", "pause 1.5s"}},
		{"he must wait", rule(), "alice", "right", Allowance{}, false, Deny, ReasonThrottled, "", []string{take, "pause 1.5s"}},
		{"nobody knows whether he must", rule(), "alice", "right", Allowance{Unknown: true}, false, Unknown, ReasonState, "", []string{take, "pause 1.5s"}},
		{"no answer", rule(), "alice", "dead", Allowance{OK: true}, false, Unknown, ReasonUnreachable, "", []string{take, ask, "settle password unknown", "pause 1.5s"}},
		{"he leaves after his guess", rule(), "alice", "right", Allowance{OK: true}, true, Unknown, ReasonConversation, "", []string{take, ask, "settle password deny"}},
		{"he leaves before", rule(), "alice", "", Allowance{OK: true}, false, Unknown, ReasonConversation, "", nil},
		{"unknown, wrong", rule(), "mallory", "wrong", Allowance{OK: true}, false, Deny, ReasonUnknownUser, "",
			[]string{"take mallory web1 pam password", ask, "settle password deny", "pause 1.5s"}},
		{"unknown, and must wait", rule(), "mallory", "wrong", Allowance{}, false, Deny, ReasonUnknownUser, "",
			[]string{"take mallory web1 pam password", "pause 1.5s"}},
		{"unknown, and nobody knows whether he must wait", rule(), "mallory", "wrong", Allowance{Unknown: true}, false, Deny, ReasonUnknownUser, TextUnknown,
			[]string{"take mallory web1 pam password", "pause 1.5s"}},
		{"unknown, no answer", rule(), "mallory", "dead", Allowance{OK: true}, false, Deny, ReasonUnknownUser, TextUnknown,
			[]string{"take mallory web1 pam password", ask, "settle password unknown", "pause 1.5s"}},
		{"locked, right: it counts, for else it would show", rule(), "bob", "right", Allowance{OK: true}, false, Deny, ReasonLocked, "",
			[]string{"take bob web1 pam password", ask, "settle password deny", "pause 1.5s"}},
		{"a code too", rule("password", "otp"), "alice", "right right", Allowance{OK: true}, false, Allow, ReasonRule, "",
			[]string{take, ask, "settle password need-proof", takeCode, ask, "settle otp allow"}},
		{"a wrong code", rule("password", "otp"), "alice", "right wrong", Allowance{OK: true}, false, Deny, ReasonWrongPassword, "",
			[]string{take, ask, "settle password need-proof", takeCode, ask, "settle otp deny", "pause 1.5s"}},
		{"right, and more is needed than can be had", rule("password", "ticket"), "alice", "right", Allowance{OK: true}, false, NeedProof, ReasonProof, "",
			[]string{take, ask, "settle password deny", "pause 1.5s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuarded(t, c.rule)
			g.replies, g.allow, g.oneGone = strings.Fields(c.replies), c.allow, c.gone
			d, _ := g.b.SignIn(t.Context(), Request{User: c.user, Door: "pam", Target: Target{Host: "web1"}}, nil, g.ask)
			if d.Outcome != c.outcome || d.Reason != c.reason || d.Text != c.text {
				t.Errorf("it says %s, %s, %q, not %s, %s, %q", d.Outcome, d.Reason, d.Text, c.outcome, c.reason, c.text)
			}
			if got, want := strings.Join(g.events, "; "), strings.Join(c.events, "; "); got != want {
				t.Errorf("it went\n%s, not\n%s", got, want)
			}
			if len(g.records) != 1 || g.records[0].Reason != c.reason {
				t.Errorf("recorded was %v", g.records)
			}
		})
	}
}

func TestAnUnrecordedGrantMakesNothingKnown(t *testing.T) {
	g := newGuarded(t, RuleAttributes{Name: "r", Subject: []string{"*"}, Door: []string{"pam"}, Target: []string{"*"}})
	g.replies, g.fail = []string{"right"}, context.DeadlineExceeded
	g.b.SignIn(t.Context(), Request{User: "alice", Door: "pam", Target: Target{Host: "web1"}}, nil, g.ask)
	if got := strings.Join(g.events[2:], "; "); got != "settle password unknown; pause 1.5s" {
		t.Errorf("it went %s", got)
	}
}

// A refusal comes at the same time after the reply however long finding out took.
func TestRefusalsTakeTheirTime(t *testing.T) {
	for _, c := range []struct{ work, want time.Duration }{
		{0, RefusalTime}, {time.Millisecond, RefusalTime}, {RefusalTime - 1, RefusalTime}, {RefusalTime + 1, 2 * RefusalTime},
		{5 * time.Second, 4 * RefusalTime},
	} {
		g := newGuarded(t)
		g.replies, g.work = []string{"wrong"}, c.work
		began := g.now
		g.b.SignIn(t.Context(), Request{User: "alice", Door: "pam"}, nil, g.ask)
		if got := g.now.Sub(began); got != c.want {
			t.Errorf("with %v of work it takes %v, not %v", c.work, got, c.want)
		}
	}
}

func TestBudgetsOfAPasswordChange(t *testing.T) {
	for _, c := range []struct {
		replies string
		allow   Allowance
		reason  Reason
		events  string
	}{
		{"right new new", Allowance{OK: true}, ReasonNone, "take alice web1 pam password; ask the directory; settle password need-proof"},
		{"wrong new new", Allowance{OK: true}, ReasonWrongPassword, "take alice web1 pam password; ask the directory; settle password deny; pause 1.5s"},
		{"right new new", Allowance{}, ReasonThrottled, "take alice web1 pam password; pause 1.5s"},
		{"right new new", Allowance{Unknown: true}, ReasonState, "take alice web1 pam password; pause 1.5s"},
		{"right new other", Allowance{OK: true}, ReasonPasswordRefused, ""},
	} {
		g := newGuarded(t)
		g.replies, g.allow = strings.Fields(c.replies), c.allow
		p := g.b.ChangePassword(t.Context(), Request{User: "alice", Door: "pam", Target: Target{Host: "web1"}}, g.ask)
		if got := strings.Join(g.events, "; "); p.Reason != c.reason || got != c.events {
			t.Errorf("%s: %s, %s", c.replies, p.Reason, got)
		}
	}
}

// A prover that goes on although it was stopped is not believed.
func TestAStoppedProverIsNotBelieved(t *testing.T) {
	g := newGuarded(t, RuleAttributes{Name: "r", Subject: []string{"*"}, Door: []string{"pam"}, Target: []string{"*"}})
	g.b.c.Provers[ProofPassword] = func(ctx context.Context, _ Claim, ask Asker) Proven {
		ask(ctx, Prompt{PromptSecret, "Password"})
		if _, err := ask(ctx, Prompt{PromptSecret, "Again"}); err == nil {
			t.Error("it may ask again")
		}
		return Proven{Outcome: Allow}
	}
	g.replies, g.allow = []string{"right", "right"}, Allowance{}
	d, _ := g.b.SignIn(t.Context(), Request{User: "alice", Door: "pam", Target: Target{Host: "web1"}}, nil, g.ask)
	if d.Outcome != Deny || d.Reason != ReasonThrottled {
		t.Errorf("it says %s, %s", d.Outcome, d.Reason)
	}
}

// Whatever is asked for, also with echo, may be a guess; a new password is none.
func TestEveryReplyIsCounted(t *testing.T) {
	for kind, want := range map[PromptKind]int{PromptPassword: 1, PromptSecret: 1, PromptVisible: 1, PromptNewPassword: 0, PromptInfo: 0, PromptError: 0} {
		g := newGuarded(t)
		g.b.c.Provers[ProofPassword] = func(ctx context.Context, _ Claim, ask Asker) Proven {
			ask(ctx, Prompt{kind, "?"})
			ask(ctx, Prompt{kind, "?"})
			return Proven{Reason: ReasonWrongPassword}
		}
		g.replies = []string{"a", "b"}
		g.b.SignIn(t.Context(), Request{User: "alice", Door: "pam"}, nil, g.ask)
		if got := strings.Count(strings.Join(g.events, "; "), "take"); got != want {
			t.Errorf("%d: %d attempts are counted, not %d", kind, got, want)
		}
	}
}

// Who enters by a key from home is known there: his password has a budget of its
// own. What only may become a sign-in makes nothing known.
func TestAKeyMakesAPlaceKnown(t *testing.T) {
	home := netip.MustParseAddr("203.0.113.7")
	in := Request{User: "alice", Door: "keys", Target: Target{Host: "web1"}, From: home, Remote: true}
	for _, c := range []struct {
		name   string
		change func(*Request)
		shown  []Proof
		want   string
	}{
		{"a key", func(*Request) {}, []Proof{ProofKey}, "settle key allow"},
		{"a ticket", func(*Request) {}, []Proof{ProofTicket}, "settle ticket allow"},
		{"a password, which SignIn has settled", func(*Request) {}, []Proof{ProofPassword}, ""},
		{"nothing", func(*Request) {}, nil, ""},
		{"from nobody knows where", func(r *Request) { r.From = netip.Addr{} }, []Proof{ProofKey}, ""},
		{"refused", func(r *Request) { r.User = "bob" }, []Proof{ProofKey}, ""},
		{"more proofs are asked for elsewhere", func(r *Request) { r.Target.Host = "web1"; r.Login = "deploy"; r.ProofsDeferred = true }, []Proof{ProofKey}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuarded(t, RuleAttributes{Name: "r", Subject: []string{"*"}, Door: []string{"keys"}, Target: []string{"*"}},
				RuleAttributes{Name: "d", Subject: []string{"*"}, Door: []string{"keys"}, Target: []string{"*"}, Login: []string{"deploy"}, Proof: []string{"key", "otp"}})
			r := in
			c.change(&r)
			g.b.Ask(r, c.shown)
			if got := strings.Join(g.events, "; "); got != c.want {
				t.Errorf("it went %q, not %q", got, c.want)
			}
		})
	}
}
