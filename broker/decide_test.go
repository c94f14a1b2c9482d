package broker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

var testNow = time.Date(2026, 3, 4, 10, 0, 0, 0, time.UTC)

// pick returns one of xs.
func pick[T any](r *rand.Rand, xs ...T) T { return xs[r.IntN(len(xs))] }

// some returns up to max of xs.
func some[T any](r *rand.Rand, max int, xs ...T) []T {
	var out []T
	for range r.IntN(max + 1) {
		out = append(out, pick(r, xs...))
	}
	return out
}

var testNets = []string{"198.51.100.0/24", "198.51.100.16/28", "198.51.100.16", "198.51.0.0/16", "0.0.0.0/0", "203.0.113.0/24",
	"2001:db8::/32", "2001:db8:a::/48", "2001:db8:a::1", "::/0"}

// randomRule makes a rule's attributes out of what the random directory holds.
func randomRule(r *rand.Rand, i int) RuleAttributes {
	must := func(max int, xs ...string) []string { return append(some(r, max-1, xs...), pick(r, xs...)) }
	a := RuleAttributes{
		Name:    fmt.Sprintf("rule%d", i),
		Subject: must(2, "user:alice", "user:bob", "group:staff", "group:ops", "group:two", "*"),
		Door:    must(2, "keys", "pam", "*", "k*"),
		Target:  must(2, "host:web1", "host:*", "hostgroup:web", "net:203.0.113.0/24", "*"),
		Login:   some(r, 2, "self", "deploy", "root", "*", "d*"),
		From:    some(r, 2, testNets...),
		Proof:   some(r, 1, "key", "otp", "password|ticket"),
		Permit:  some(r, 3, "pty", "port-forwarding", "permitopen:db:1", "environment:A=1", "environment:B=2", "tunnel:3", "none"),
	}
	if r.IntN(4) == 0 {
		a.Time = []string{pick(r, "08:00-12:00 UTC", "Sat,Sun 00:00-24:00 UTC", "Wed 09:00-10:30 Europe/Berlin")}
	}
	if r.IntN(5) == 0 {
		a.Permit = append(a.Permit, pick(r, "command:/bin/a", "command:/bin/b"))
	}
	if r.IntN(6) == 0 {
		a.Expires = pick(r, "20260101000000Z", "20270101000000Z")
	}
	if r.IntN(6) == 0 {
		a.NotBefore = pick(r, "20260101000000Z", "20270101000000Z")
	}
	if r.IntN(6) == 0 {
		a.MaxAge = pick(r, "1h", "12h")
	}
	slices.Sort(a.Permit)
	a.Permit = slices.Compact(a.Permit)
	a.Enabled = pick(r, "", "", "", "TRUE", "FALSE")
	return a
}

// randomDirectory has alice in ops in staff, bob in staff, and eve and mal who
// share a uid number.
func randomDirectory(t testing.TB, r *rand.Rand, nrules int) *Snapshot {
	e := (*Snapshot)(nil).Edit()
	for i, n := range []string{"alice", "bob", "eve", "mal"} {
		e.PutUser(User{ID: entryID("user", n), DN: dnOf("user:" + n), Name: UserName(n), UID: uint32(2000 + min(i, 2)), Shell: "/bin/sh",
			State: AccountState{ShadowExpires: pick(r, 0, 0, testNow.Unix()+3600)}})
	}
	e.PutGroup(Group{ID: EntryID{1}, DN: dnOf("group:staff"), Name: "staff", Members: []DN{dnOf("group:ops"), dnOf("user:bob")}})
	e.PutGroup(Group{ID: EntryID{2}, DN: dnOf("group:ops"), Name: "ops", Members: []DN{dnOf("user:alice"), dnOf("group:staff")}})
	for i := range byte(2) {
		e.PutGroup(Group{ID: EntryID{3 + i}, DN: dnOf("group:two"), Name: "two", Members: []DN{dnOf("user:alice")}})
	}
	e.PutGroup(Group{ID: EntryID{5}, DN: dnOf("group:web"), Name: "web", MemberHosts: []HostName{"web1"}})
	e.PutHost(Host{ID: EntryID{6}, DN: dnOf("host:web1"), Names: []HostName{"web1"}, Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.10")}})
	e.PutHost(Host{ID: EntryID{7}, DN: dnOf("host:db1"), Names: []HostName{"db1"}})
	for i := range nrules {
		rule, err := ParseRule(randomRule(r, i))
		if err != nil {
			t.Fatal(err)
		}
		rule.ID, rule.DN = entryID("rule", string(rule.Name)), dnOf("rule:"+string(rule.Name))
		e.PutRule(rule)
	}
	return e.Commit()
}

func randomRequest(r *rand.Rand) Request {
	q := Request{User: pick[UserName](r, "alice", "alice", "bob", "eve", "nobody", ""), Login: pick[Login](r, "", "", "deploy", "root", "alice"),
		Door: pick[Door](r, "keys", "keys", "pam", ""), Target: Target{Host: pick[HostName](r, "web1", "web1", "db1", "web9", "")},
		SourceDeferred: r.IntN(2) == 0}
	if r.IntN(3) == 0 {
		q.Target = Target{Addr: netip.MustParseAddr(pick(r, "203.0.113.10", "203.0.113.99", "2001:db8::5"))}
	}
	if r.IntN(2) == 0 {
		q.From = randomAddr(r)
	}
	return q
}

func randomAddr(r *rand.Rand) netip.Addr {
	return netip.MustParseAddr(pick(r, "198.51.100.16", "198.51.100.17", "198.51.100.99", "198.51.7.7", "203.0.113.7", "192.0.2.1",
		"2001:db8:a::1", "2001:db8:a::2", "2001:db8:b::1", "fe80::1", "::ffff:198.51.100.17", "fe80::1%eth0"))
}

func randomView(r *rand.Rand, s *Snapshot) View {
	return View{s, testNow.Add(-pick(r, 0, time.Minute, 2*time.Hour, 13*time.Hour)), pick(r, 24*time.Hour, 24*time.Hour, time.Hour)}
}

func randomShown(r *rand.Rand) []Proof {
	return some(r, 3, ProofKey, ProofOTP, ProofPassword, ProofTicket)
}

// TestFewerRulesNeverAllow: rules only allow, so taking one away never makes a
// yes of a no. The one exception is a no because rules force different
// commands, which says so.
func TestFewerRulesNeverAllow(t *testing.T) {
	refused := 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 4))
		s := randomDirectory(t, r, 1+r.IntN(6))
		v, q, shown := randomView(r, s), randomRequest(r), randomShown(r)
		d := Decide(v, q, shown, testNow)
		for _, rule := range s.Rules() {
			e := s.Edit()
			e.RemoveRule(rule.ID)
			less := v
			less.Snapshot = e.Commit()
			got := Decide(less, q, shown, testNow)
			if got.Outcome == Allow && d.Outcome != Allow && d.Reason != ReasonConflict {
				t.Fatalf("seed %d: without %s it allows %+v; with it %s %s", seed, rule.Name, got, d.Outcome, d.Reason)
			}
			if got.Outcome == Allow && d.Outcome == Allow && !slices.Contains(d.Rules, rule.Name) && !reflect.DeepEqual(got.Grants, d.Grants) {
				t.Fatalf("seed %d: %s has no part in the grant and changes it", seed, rule.Name)
			}
		}
		if d.Outcome != Allow {
			refused++
		}
	}
	if refused < 500 || refused > 2900 {
		t.Errorf("%d of 3000 refused: the random directory tests one side only", refused)
	}
}

// TestDeferredIsKnown: the first grant whose network contains the caller is
// the one that a known source would have got.
func TestDeferredIsKnown(t *testing.T) {
	allowed, several := 0, 0
	for seed := range uint64(6000) {
		r := rand.New(rand.NewPCG(seed, 5))
		s := randomDirectory(t, r, 1+r.IntN(8))
		v, q, shown := randomView(r, s), randomRequest(r), randomShown(r)
		if r.IntN(2) == 0 {
			q = Request{User: "alice", Door: "keys", Target: Target{Host: "web1"}}
		}
		q.From, q.SourceDeferred = netip.Addr{}, true
		d := Decide(v, q, shown, testNow)
		for range 8 {
			known := q
			known.From = randomAddr(r)
			want := Decide(v, known, shown, testNow)
			from := known.From.Unmap().WithZone("")
			i := slices.IndexFunc(d.Grants, func(g Grant) bool { return !g.From.IsValid() || g.From.Contains(from) })
			switch {
			case want.Outcome == Allow && i < 0:
				if d.Reason != ReasonConflict { // for another network, and then for none
					t.Fatalf("seed %d: from %s allowed, deferred %s %s", seed, from, d.Outcome, d.Reason)
				}
			case want.Outcome != Allow && i >= 0:
				t.Fatalf("seed %d: from %s %s %s, deferred grants %+v", seed, from, want.Outcome, want.Reason, d.Grants[i])
			case i >= 0:
				got := d.Grants[i]
				got.From = netip.Prefix{}
				if !reflect.DeepEqual(got, want.Grants[0]) {
					t.Fatalf("seed %d from %s: deferred\n%+v\nknown\n%+v", seed, from, got, want.Grants[0])
				}
				allowed++
			}
		}
		if len(d.Grants) > 1 {
			several++
		}
	}
	if allowed < 1000 || several < 300 {
		t.Errorf("%d allowed, %d with several grants: too few to show anything", allowed, several)
	}
}

// TestManySources: beyond maxSources the widest networks stay, and a caller in
// one that was dropped gets less, never more.
func TestManySources(t *testing.T) {
	rule := func(name string, permit ...string) RuleAttributes {
		return RuleAttributes{Name: name, Subject: []string{"*"}, Door: []string{"keys"}, Target: []string{"*"}, Permit: permit}
	}
	narrow, wide := rule("narrow", "agent-forwarding", "command:/bin/a"), rule("wide", "pty", "command:/bin/a")
	for i := range 100 {
		narrow.From = append(narrow.From, fmt.Sprintf("198.18.%d.0/24", i))
	}
	wide.From = []string{"198.18.0.0/15"}
	decide := func(as ...RuleAttributes) Decision {
		e := (*Snapshot)(nil).Edit()
		e.PutUser(User{ID: EntryID{1}, DN: "u", Name: "alice", UID: 2000})
		for _, a := range as {
			r, err := ParseRule(a)
			if err != nil {
				t.Fatal(err)
			}
			r.ID = entryID("rule", a.Name)
			e.PutRule(r)
		}
		return Decide(View{e.Commit(), testNow, 0}, Request{User: "alice", Door: "keys", SourceDeferred: true}, nil, testNow)
	}
	d := decide(narrow, wide)
	if d.Outcome != Allow || len(d.Grants) != maxSources-1 { // the place for "anywhere" is empty
		t.Fatalf("%s with %d grants", d.Outcome, len(d.Grants))
	}
	if last := d.Grants[len(d.Grants)-1]; last.From.Bits() != 15 || last.Permit.AgentForwarding {
		t.Errorf("the widest grant is %+v", last)
	}
	wide.Permit = []string{"pty", "command:/bin/b"}
	if d := decide(narrow, wide); d.Outcome != Deny || d.Reason != ReasonConflict {
		t.Errorf("different commands: %s %s", d.Outcome, d.Reason)
	}
}

// TestExplainAgrees: Explain's decision is Decide's, and says what to change
// exactly when it is no yes.
func TestExplainAgrees(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 6))
		s := randomDirectory(t, r, r.IntN(6))
		v, q, shown := randomView(r, s), randomRequest(r), randomShown(r)
		x := Explain(v, q, shown, testNow)
		if d := Decide(v, q, shown, testNow); !reflect.DeepEqual(x.Decision, d) {
			t.Fatalf("seed %d: %+v, Decide says %+v", seed, x.Decision, d)
		}
		if (x.Decision.Outcome == Allow) != (len(x.Change) == 0) {
			t.Fatalf("seed %d: %s %s, to change %q", seed, x.Decision.Outcome, x.Decision.Reason, x.Change)
		}
		for _, f := range x.Rules {
			if f.Matched != (f.Miss == "") {
				t.Fatalf("seed %d: %+v", seed, f)
			}
		}
	}
}

// TestUntilHolds: no decision changes before its Until.
func TestUntilHolds(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 7))
		v := randomView(r, randomDirectory(t, r, 1+r.IntN(5)))
		v.MaxAge = 20000 * time.Hour
		q, shown := randomRequest(r), randomShown(r)
		d := Decide(v, q, shown, testNow)
		end := d.Until
		if end.IsZero() {
			end = testNow.Add(500 * time.Hour)
		}
		for range 6 {
			at := testNow.Add(time.Duration(r.Int64N(int64(end.Sub(testNow)))))
			got := Decide(v, q, shown, at)
			if got.Outcome != d.Outcome || got.Reason != d.Reason || !slices.Equal(got.Rules, d.Rules) {
				t.Fatalf("seed %d: %s %s %v until %s, but at %s %s %s %v", seed, d.Outcome, d.Reason, d.Rules, d.Until, at, got.Outcome, got.Reason, got.Rules)
			}
		}
	}
}

// TestZeroValuesDeny: nothing that somebody forgot to fill in opens a door.
func TestZeroValuesDeny(t *testing.T) {
	if o := (Decision{}).Outcome; o != Deny || o.String() != "deny" || Outcome(99).String() != "deny" {
		t.Error("the zero Decision does not deny")
	}
	good := Request{User: "alice", Door: "keys", Target: Target{Host: "web1"}}
	if d := Decide(View{}, good, nil, testNow); d.Outcome != Unknown || len(d.Grants) != 0 {
		t.Errorf("no snapshot: %+v", d)
	}
	if d := Decide(View{Snapshot: new(Snapshot), AsOf: testNow}, good, nil, testNow); d.Outcome != Deny || d.Reason != ReasonUnknownUser {
		t.Errorf("zero snapshot: %+v", d)
	}
	if d := Decide(View{Snapshot: new(Snapshot), MaxAge: time.Hour}, good, nil, testNow); d.Outcome != Unknown {
		t.Errorf("a view without a time: %+v", d)
	}
	e := new(Snapshot).Edit()
	e.PutUser(User{})
	e.PutUser(User{ID: EntryID{1}, Name: "alice", UID: 1})
	e.PutHost(Host{Names: []HostName{"web1"}})
	e.PutGroup(Group{})
	any := Rule{Subjects: []Subject{{Anyone: true}}, Doors: []string{"*"}, Targets: []RuleTarget{{Anywhere: true}}, Logins: []string{"*", "self"}}
	for i, r := range []Rule{
		{}, {Subjects: any.Subjects}, {Subjects: any.Subjects, Doors: any.Doors}, {Subjects: any.Subjects, Doors: any.Doors, Targets: any.Targets},
		{Doors: any.Doors, Targets: any.Targets, Logins: any.Logins},
		{Subjects: []Subject{{}}, Doors: any.Doors, Targets: any.Targets, Logins: any.Logins},
		{Subjects: any.Subjects, Doors: any.Doors, Targets: []RuleTarget{{}}, Logins: any.Logins},
		{Subjects: any.Subjects, Doors: []string{""}, Targets: any.Targets, Logins: any.Logins},
		{Subjects: any.Subjects, Doors: any.Doors, Targets: any.Targets, Logins: any.Logins, Times: []Window{{}}},
		{Subjects: any.Subjects, Doors: any.Doors, Targets: any.Targets, Logins: any.Logins, From: []netip.Prefix{{}}},
		{Subjects: any.Subjects, Doors: any.Doors, Targets: any.Targets, Logins: any.Logins, Proofs: []ProofNeed{{}}},
	} {
		r.ID = EntryID{byte(i)}
		e.PutRule(r)
	}
	s := e.Commit()
	for _, q := range []Request{good, {}, {User: "alice"}, {User: "alice", Door: "keys"}, {Door: "keys", Target: good.Target}} {
		if d := Decide(View{s, testNow, time.Hour}, q, []Proof{ProofKey, ""}, testNow); d.Outcome == Allow || len(d.Grants) != 0 {
			t.Errorf("%+v: %+v", q, d)
		}
	}
	// And with the rule whole, it opens: the list above fails for what is missing.
	e = s.Edit()
	any.ID = EntryID{99}
	e.PutRule(any)
	if d := Decide(View{e.Commit(), testNow, time.Hour}, good, nil, testNow); d.Outcome != Allow {
		t.Errorf("the whole rule: %+v", d)
	}
}

// TestBroker: what the shell around Decide adds.
func TestBroker(t *testing.T) {
	e := (*Snapshot)(nil).Edit()
	e.PutUser(User{ID: EntryID{1}, DN: "u", Name: "alice", UID: 2000, State: AccountState{ShadowExpires: testNow.Add(time.Hour).Unix()}})
	r, err := ParseRule(RuleAttributes{Name: "r", Subject: []string{"*"}, Door: []string{"keys"}, Target: []string{"*"}})
	if err != nil {
		t.Fatal(err)
	}
	e.PutRule(r)
	s := e.Commit()
	var recorded []Decision
	var fail error
	c := Config{
		Directory: func() View { return View{s, testNow.Add(-time.Minute), time.Hour} },
		Record:    func(_ Request, d Decision) error { recorded = append(recorded, d); return fail },
		Now:       func() time.Time { return testNow },
	}
	for _, bad := range []Config{{}, {Directory: c.Directory, Now: c.Now}, {Record: c.Record, Now: c.Now}, {Directory: c.Directory, Record: c.Record}} {
		if b, err := New(bad); err == nil || b != nil {
			t.Errorf("New took %+v", bad)
		}
	}
	b, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	q := Request{User: "alice", Door: "keys"}
	if d := b.Ask(q, nil); d.Outcome != Allow || len(recorded) != 1 || d.Age != time.Minute {
		t.Errorf("%+v, recorded %d", d, len(recorded))
	}
	fail = errors.New("disk full")
	if d := b.Ask(q, nil); d.Outcome != Unknown || d.Reason != ReasonRecorder || len(d.Grants) != 0 {
		t.Errorf("unrecorded grant: %+v", d)
	}
	if d := b.Ask(Request{User: "bob", Door: "keys"}, nil); d.Outcome != Deny || d.Reason != ReasonUnknownUser {
		t.Errorf("unrecorded refusal: %+v", d)
	}
	if x := b.Explain(q, nil, time.Time{}); x.Decision.Outcome != Allow || len(recorded) != 3 {
		t.Errorf("%+v, recorded %d", x, len(recorded))
	}
	if x := b.Explain(q, nil, testNow.Add(100*time.Hour)); x.Decision.Reason != ReasonShadowExpired || x.Decision.Age != time.Minute {
		t.Errorf("later: %+v", x)
	}
}
