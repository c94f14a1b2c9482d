package broker

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// remembered is a memory of proofs as Config wants it.
type remembered map[string][]RecentProof

func (m remembered) key(u UserName, from netip.Addr) string { return string(u) + " " + from.String() }

func withMemory(s *signIn) remembered {
	m := remembered{}
	s.b.c.Recent = func(u UserName, from netip.Addr) []RecentProof { return m[m.key(u, from)] }
	s.b.c.Remember = func(u UserName, from netip.Addr, p Proof) {
		m[m.key(u, from)] = append(m[m.key(u, from)], RecentProof{Proof: p})
	}
	return m
}

// TestRecentCode: one code serves a rule with an age until then, for the same user
// from the same address only.
func TestRecentCode(t *testing.T) {
	s := newSignIn(t, RuleAttributes{Name: "r", Subject: []string{"user:alice"}, Door: []string{"pam"}, Target: []string{"host:web1"},
		Proof: []string{"password", "otp<12h"}})
	m := withMemory(s)
	home, cafe := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("203.0.113.9")
	signIn := func(from netip.Addr, replies ...string) (Decision, []string) {
		t.Helper()
		s.asked, s.replies = nil, replies
		d, _ := s.b.SignIn(context.Background(), Request{User: "alice", Door: "pam", Target: Target{Host: "web1"}, From: from}, nil, s.ask)
		return d, s.asked
	}
	if d, asked := signIn(home, "right", "wrong"); d.Outcome != Deny || len(asked) != 2 || len(m) != 0 {
		t.Fatalf("a wrong code: %s %s, asked %v, remembered %v", d.Outcome, d.Reason, asked, m)
	}
	if d, asked := signIn(home, "right", "right"); d.Outcome != Allow || !slices.Equal(asked, []string{"Password", "Code"}) {
		t.Fatalf("the first time: %s %s, asked %v", d.Outcome, d.Reason, asked)
	}
	if len(m) != 1 {
		t.Fatalf("remembered: %v", m)
	}
	if d, asked := signIn(home, "right"); d.Outcome != Allow || !slices.Equal(asked, []string{"Password"}) {
		t.Errorf("the second time: %s %s, asked %v", d.Outcome, d.Reason, asked)
	}
	if len(m[m.key("alice", home)]) != 1 {
		t.Errorf("a code that was not shown was remembered: %v", m)
	}
	if d, _ := signIn(netip.MustParseAddr("::ffff:198.51.100.7"), "right"); d.Outcome != Allow {
		t.Errorf("the same address as IPv6 writes it: %s", d.Outcome)
	}
	for _, from := range []netip.Addr{cafe, {}} {
		if d, asked := signIn(from, "right"); d.Outcome != Unknown || d.Reason != ReasonConversation || len(asked) != 2 {
			t.Errorf("from %v: %s %s, asked %v; he should have been asked for a code", from, d.Outcome, d.Reason, asked)
		}
	}
	if d, asked := signIn(netip.Addr{}, "right", "right"); d.Outcome != Allow || len(asked) != 2 || len(m) != 1 {
		t.Errorf("from nowhere: %s, asked %v, remembered %v", d.Outcome, asked, m)
	}
	// What is known is in what was recorded, and in the explanation.
	q := Request{User: "alice", Door: "pam", Target: Target{Host: "web1"}, From: home}
	if d := s.b.Ask(q, []Proof{ProofPassword}); d.Outcome != Allow {
		t.Errorf("Ask: %s", d.Outcome)
	}
	if x := s.b.Explain(q, []Proof{ProofPassword}, time.Time{}); x.Decision.Outcome != Allow {
		t.Errorf("Explain: %s", x.Decision.Outcome)
	}
	// A request that brings its own, such as a session's, is judged by those.
	q.Recent = []RecentProof{{ProofOTP, 13 * time.Hour}}
	if d := s.b.Ask(q, []Proof{ProofPassword}); d.Outcome != NeedProof {
		t.Errorf("a session with an older code: %s", d.Outcome)
	}
}

// TestSessionKeepsItsAge: a session that rests on an older code is judged again with
// the age that the code had when it began.
func TestSessionKeepsItsAge(t *testing.T) {
	s := newSignIn(t, RuleAttributes{Name: "r", Subject: []string{"user:alice"}, Door: []string{"pam"}, Target: []string{"host:web1"},
		Proof: []string{"password", "otp<12h"}})
	withMemory(s)
	age := 11 * time.Hour
	s.b.c.Recent = func(UserName, netip.Addr) []RecentProof { return []RecentProof{{ProofOTP, age}} }
	s.b.Keep("k", func(Ending) {})
	q := Request{User: "alice", Door: "pam", Target: Target{Host: "web1"}, From: netip.MustParseAddr("198.51.100.7")}
	open := func(id SessionID) error {
		return s.b.OpenSession(Session{ID: id, Request: q, Proofs: []Proof{ProofPassword}, Basis: BasisRules, Keeper: "k"})
	}
	if err := open("young"); err != nil {
		t.Fatal(err)
	}
	got, ok := s.b.Session("young")
	if !ok || len(got.Request.Recent) != 1 || got.Request.Recent[0].Age != 11*time.Hour {
		t.Fatalf("the session has %+v", got.Request.Recent)
	}
	age = 13 * time.Hour
	if err := open("old"); err == nil {
		t.Error("a session began on a code that is too old")
	}
	if d := Decide(s.b.View(), got.Request, got.Proofs, s.b.Now()); d.Outcome != Allow {
		t.Errorf("judged again: %s", d.Outcome)
	}
}

// TestRefusedIsNotRemembered: a code counts later only if it let somebody in.
func TestRefusedIsNotRemembered(t *testing.T) {
	s := newSignIn(t, RuleAttributes{Name: "r", Subject: []string{"user:alice"}, Door: []string{"pam"}, Target: []string{"host:web1"},
		Proof: []string{"otp<12h"}})
	m := withMemory(s)
	s.fail, s.replies = context.Canceled, []string{"right", "right"}
	q := Request{User: "alice", Door: "pam", Target: Target{Host: "web1"}, From: netip.MustParseAddr("198.51.100.7")}
	if d, _ := s.b.SignIn(context.Background(), q, nil, s.ask); d.Outcome != Unknown || len(m) != 0 {
		t.Errorf("a grant that could not be recorded: %s, remembered %v", d.Outcome, m)
	}
}

// TestOlderNeverMore: what is decided with older proofs is never more than with
// the same proofs younger, nor more than with them shown now.
func TestOlderNeverMore(t *testing.T) {
	rank := map[Outcome]int{Deny: 0, Unknown: 1, NeedProof: 2, Allow: 3}
	mattered := 0
	for seed := range uint64(4000) {
		r := rand.New(rand.NewPCG(seed, 8))
		v := randomView(r, aged(r, randomDirectory(t, r, 1+r.IntN(5))))
		q, shown := randomRequest(r), randomShown(r)
		q.Recent = []RecentProof{{ProofOTP, time.Minute}}
		young := Decide(v, q, shown, testNow)
		now := Decide(v, q, append(slices.Clone(shown), ProofOTP), testNow)
		q.Recent = []RecentProof{{ProofOTP, 26 * time.Hour}}
		old := Decide(v, q, shown, testNow)
		if old.Reason == ReasonConflict || young.Reason == ReasonConflict || now.Reason == ReasonConflict {
			continue // more rules fit, and force different commands
		}
		if rank[old.Outcome] > rank[young.Outcome] || rank[young.Outcome] > rank[now.Outcome] {
			t.Fatalf("seed %d: old %s %s, young %s %s, now %s %s", seed, old.Outcome, old.Reason, young.Outcome, young.Reason, now.Outcome, now.Reason)
		}
		if old.Outcome != young.Outcome {
			mattered++
		}
	}
	if mattered < 20 {
		t.Errorf("an older code mattered in %d cases only", mattered)
	}
}

// aged lets the rules that want a code take an older one.
func aged(r *rand.Rand, s *Snapshot) *Snapshot {
	e := s.Edit()
	for _, rule := range s.Rules() {
		rule := *rule
		rule.Proofs = append(slices.Clone(rule.Proofs), ProofNeed{{ProofOTP, pick(r, 2*time.Hour, 24*time.Hour)}})
		if r.IntN(3) == 0 {
			rule.Proofs[len(rule.Proofs)-1] = append(rule.Proofs[len(rule.Proofs)-1], ProofChoice{Proof: ProofTicket})
		}
		e.PutRule(rule)
	}
	return e.Commit()
}
