package broker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// signIn is a sign-in at a directory of alice (may, by the rules), locked bob,
// and provers that take the replies "right".
type signIn struct {
	t       *testing.T
	b       *Broker
	asked   []string // texts of the prompts, in order
	replies []string // to give
	records []Decision
	fail    error // of the recorder
	clock   string
}

func newSignIn(t *testing.T, rules ...RuleAttributes) *signIn {
	s := &signIn{t: t}
	e := new(Snapshot).Edit()
	e.PutUser(User{ID: EntryID{1}, DN: "uid=alice", Name: "alice", UID: 2001, Shell: "/bin/sh"})
	e.PutUser(User{ID: EntryID{2}, DN: "uid=bob", Name: "bob", UID: 2002, Shell: "/bin/sh", State: AccountState{Locked: true}})
	e.PutHost(Host{ID: EntryID{3}, DN: "cn=web1", Names: []HostName{"web1"}})
	for i, a := range rules {
		r, err := ParseRule(a)
		if err != nil {
			t.Fatal(err)
		}
		r.ID, r.DN = EntryID{4, byte(i)}, DN(a.Name)
		e.PutRule(r)
	}
	v := View{Snapshot: e.Commit(), AsOf: time.Unix(1e9, 0), MaxAge: time.Hour}
	prover := func(kind PromptKind, text string, p Proven) Prover {
		return func(ctx context.Context, c Claim, ask Asker) Proven {
			got, err := ask(ctx, Prompt{kind, text})
			switch {
			case err != nil:
				return Proven{Outcome: Unknown, Reason: ReasonConversation}
			case got[0] == "dead":
				return Proven{Outcome: Unknown, Reason: ReasonUnreachable}
			case got[0] != "right":
				return Proven{Reason: ReasonWrongPassword}
			}
			return p
		}
	}
	var err error
	s.b, err = New(Config{
		Directory: func() View { return v },
		Now:       func() time.Time { return v.AsOf },
		Record:    func(_ Request, d Decision) error { s.records = append(s.records, d); return s.fail },
		Clock:     func() string { return s.clock },
		Provers: map[Proof]Prover{
			ProofPassword: prover(PromptPassword, "Password", Proven{Outcome: Allow, Tickets: []byte("tgt")}),
			ProofOTP:      prover(PromptSecret, "Code", Proven{Outcome: Allow}),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *signIn) ask(_ context.Context, ps ...Prompt) ([]string, error) {
	var out []string
	for _, p := range ps {
		s.asked = append(s.asked, p.Text)
		if p.Kind.WantsReply() {
			if len(s.replies) == 0 {
				return nil, ErrConversation
			}
			out, s.replies = append(out, s.replies[0]), s.replies[1:]
		}
	}
	return out, nil
}

func TestSignIn(t *testing.T) {
	rule := func(proofs ...string) RuleAttributes {
		return RuleAttributes{Name: "r", Subject: []string{"user:alice", "user:bob"}, Door: []string{"pam", "keys"}, Target: []string{"host:web1"}, Proof: proofs}
	}
	for _, c := range []struct {
		name    string
		rule    RuleAttributes
		user    UserName
		door    Door
		shown   []Proof
		replies string
		asked   string
		outcome Outcome
		reason  Reason
		proofs  []Proof
	}{
		{"a password", rule(), "alice", "pam", nil, "right", "Password", Allow, ReasonRule, []Proof{ProofPassword}},
		{"a wrong one", rule(), "alice", "pam", nil, "wrong", "Password", Deny, ReasonWrongPassword, nil},
		{"nobody to tell", rule(), "alice", "pam", nil, "dead", "Password", Unknown, ReasonUnreachable, nil},
		{"he hangs up", rule(), "alice", "pam", nil, "", "Password", Unknown, ReasonConversation, nil},
		{"password and code", rule("password", "otp"), "alice", "pam", nil, "right right", "Password Code", Allow, ReasonRule, []Proof{ProofPassword, ProofOTP}},
		{"password and a wrong code", rule("password", "otp"), "alice", "pam", nil, "right wrong", "Password Code", Deny, ReasonWrongPassword, nil},
		{"a code alone is not asked for alone", rule("otp"), "alice", "pam", nil, "right right", "Password Code", Allow, ReasonRule, []Proof{ProofPassword, ProofOTP}},
		{"after a key, the code only", rule("key", "otp"), "alice", "keys", []Proof{ProofKey}, "right", "Code", Allow, ReasonRule, []Proof{ProofKey, ProofOTP}},
		{"a key that would do: still something is proved here", rule("key"), "alice", "keys", []Proof{ProofKey}, "right", "Password", Allow, ReasonRule, []Proof{ProofKey, ProofPassword}},
		{"a proof that nobody can ask for", rule("ticket"), "alice", "pam", nil, "right", "Password", NeedProof, ReasonProof, nil},
		{"either, the one that can be had", rule("ticket|otp"), "alice", "pam", nil, "right right", "Password Code", Allow, ReasonRule, []Proof{ProofPassword, ProofOTP}},
		{"no such user is asked too", rule(), "mallory", "pam", nil, "right", "Password", Deny, ReasonUnknownUser, nil},
		{"and is no such user whatever he says", rule(), "mallory", "pam", nil, "wrong", "Password", Deny, ReasonUnknownUser, nil},
		{"nor is it unknown", rule(), "mallory", "pam", nil, "dead", "Password", Deny, ReasonUnknownUser, nil},
		{"a locked user is asked too", rule(), "bob", "pam", nil, "right", "Password", Deny, ReasonLocked, nil},
		{"no rule for the door", rule(), "alice", "vpn", nil, "right", "Password", Deny, ReasonNoRule, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSignIn(t, c.rule)
			s.replies = strings.Fields(c.replies)
			d, e := s.b.SignIn(t.Context(), Request{User: c.user, Door: c.door, Target: Target{Host: "web1"}}, c.shown, s.ask)
			if d.Outcome != c.outcome || d.Reason != c.reason {
				t.Errorf("it says %s, %s, not %s, %s", d.Outcome, d.Reason, c.outcome, c.reason)
			}
			if got := strings.Join(s.asked, " "); got != c.asked {
				t.Errorf("it asked %q, not %q", got, c.asked)
			}
			if !slices.Equal(e.Proofs, c.proofs) {
				t.Errorf("it took %v for proved, not %v", e.Proofs, c.proofs)
			}
			if slices.Contains(c.proofs, ProofPassword) != (string(e.Tickets) == "tgt") {
				t.Errorf("its tickets are %q", e.Tickets)
			}
			if len(s.records) != 1 || s.records[0].Outcome != c.outcome || s.records[0].Reason != c.reason {
				t.Errorf("recorded were %v", s.records)
			}
		})
	}
}

func TestSignInIsRecordedOrRefused(t *testing.T) {
	s := newSignIn(t, RuleAttributes{Name: "r", Subject: []string{"*"}, Door: []string{"pam"}, Target: []string{"*"}})
	s.replies, s.fail = []string{"right"}, errors.New("disk full")
	d, e := s.b.SignIn(t.Context(), Request{User: "alice", Door: "pam", Target: Target{Host: "web1"}}, nil, s.ask)
	if d.Outcome != Unknown || d.Reason != ReasonRecorder || e.Tickets != nil || e.Proofs != nil {
		t.Errorf("without a record it says %s, %s with %v", d.Outcome, d.Reason, e)
	}
}

func TestTicketsWhileAClockIsWrong(t *testing.T) {
	s := newSignIn(t, RuleAttributes{Name: "r", Subject: []string{"user:alice"}, Door: []string{"pam"}, Target: []string{"host:web1"}})
	q := Request{User: "alice", Door: "pam", Target: Target{Host: "web1"}}
	if d := s.b.Ask(q, []Proof{ProofTicket}); d.Outcome != Allow {
		t.Fatalf("a ticket is %s, %s", d.Outcome, d.Reason)
	}
	s.clock = "this host's clock is 7 min behind"
	if d := s.b.Ask(q, []Proof{ProofTicket}); d.Outcome != Unknown || d.Reason != ReasonClock || d.Text != s.clock {
		t.Errorf("with a wrong clock a ticket is %s, %s, %q", d.Outcome, d.Reason, d.Text)
	}
	if d := s.b.Ask(q, []Proof{ProofKey, ProofTicket}); d.Outcome != Allow {
		t.Errorf("with a wrong clock a key and a ticket are %s, %s", d.Outcome, d.Reason)
	}
	s = newSignIn(t, RuleAttributes{Name: "r", Subject: []string{"user:alice"}, Door: []string{"pam"}, Target: []string{"host:web1"}, Proof: []string{"ticket"}})
	s.clock = "this host's clock is 7 min behind"
	if d := s.b.Ask(q, []Proof{ProofKey, ProofTicket}); d.Outcome != NeedProof {
		t.Errorf("with a wrong clock a rule that wants a ticket is %s, %s", d.Outcome, d.Reason)
	}
}

func TestChangePassword(t *testing.T) {
	for _, c := range []struct {
		name, replies string
		user          UserName
		outcome       Outcome
		reason        Reason
		changed       string
	}{
		{"changed", "old new new", "alice", Allow, ReasonNone, "uid=alice old new"},
		{"typed in two ways", "old new other", "alice", Deny, ReasonPasswordRefused, ""},
		{"he hangs up", "old new", "alice", Unknown, ReasonConversation, ""},
		{"no such user", "", "mallory", Deny, ReasonUnknownUser, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSignIn(t)
			var changed string
			s.b.c.Change = func(_ context.Context, c Claim, old, new string) Proven {
				changed = string(c.DN) + " " + old + " " + new
				return Proven{Outcome: Allow}
			}
			s.replies = strings.Fields(c.replies)
			p := s.b.ChangePassword(t.Context(), Request{User: c.user}, s.ask)
			if p.Outcome != c.outcome || p.Reason != c.reason || changed != c.changed {
				t.Errorf("it says %s, %s and changed %q", p.Outcome, p.Reason, changed)
			}
		})
	}
	s := newSignIn(t)
	if p := s.b.MayChange("alice"); p.Outcome != Unknown {
		t.Errorf("without a changer a change is %s", p.Outcome)
	}
}

func TestStanding(t *testing.T) {
	s := newSignIn(t)
	for user, want := range map[UserName]Reason{"alice": ReasonDeferred, "bob": ReasonLocked, "mallory": ReasonUnknownUser, "": ReasonUnknownUser} {
		s.records = nil
		d := s.b.Standing(Request{User: user, Door: "pam"})
		if d.Reason != want || (d.Outcome == Allow) != (want == ReasonDeferred) || d.Grants != nil || len(s.records) != 1 {
			t.Errorf("%q: %s, %s, grants %v, %d records", user, d.Outcome, d.Reason, d.Grants, len(s.records))
		}
	}
	s.fail = errors.New("disk full")
	if d := s.b.Standing(Request{User: "alice"}); d.Outcome != Unknown {
		t.Errorf("without a record it is %s", d.Outcome)
	}
	s.b.c.Directory = func() View { return View{} }
	if d := s.b.Standing(Request{User: "alice"}); d.Outcome != Unknown || d.Reason != ReasonNoSnapshot {
		t.Errorf("without a snapshot it is %s, %s", d.Outcome, d.Reason)
	}
}
