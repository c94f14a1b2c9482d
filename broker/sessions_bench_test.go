package broker

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// trackMany is a broker with n sessions, each of a user of his own, on a
// thousand hosts; every user is in a team of a hundred, a department of a
// thousand and all.
func trackMany(tb testing.TB, n int) (b *Broker, view *View) {
	e := benchDirectory(n).Edit()
	all := Group{ID: entryID("group", "all"), DN: "cn=all", Name: "all"}
	for i := range n / 1000 {
		all.Members = append(all.Members, DN(fmt.Sprintf("cn=dept%d,ou=groups,dc=sekisho,dc=internal", i)))
	}
	e.PutGroup(all)
	for i := range 1000 {
		name := fmt.Sprintf("host%04d.sekisho.internal", i)
		e.PutHost(Host{ID: EntryID{0xfe, byte(i >> 8), byte(i)}, DN: DN("cn=" + name), Names: []HostName{HostName(name)},
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})}})
	}
	for i := range 10 {
		a := RuleAttributes{Name: fmt.Sprintf("rule%d", i), Subject: []string{fmt.Sprintf("group:dept%d", i)}, Door: []string{"pam"}, Target: []string{"host:db*"}}
		switch i {
		case 0:
			a.Name, a.Subject, a.Target = "everybody", []string{"group:all"}, []string{"host:host*"}
		case 1:
			a.Name, a.Subject, a.Target = "office", []string{"*"}, []string{"*"}
			a.Proof = []string{"password|ticket"}
		}
		r, err := ParseRule(a)
		if err != nil {
			tb.Fatal(err)
		}
		r.ID = entryID("rule", a.Name)
		e.PutRule(r)
	}
	view = &View{Snapshot: e.Commit(), AsOf: testNow, MaxAge: time.Hour}
	b, err := New(Config{Directory: func() View { return *view }, Record: func(Request, Decision) error { return nil }, Now: func() time.Time { return testNow }})
	if err != nil {
		tb.Fatal(err)
	}
	b.Keep("pam", func(Ending) {})
	for i := range n {
		if err := b.OpenSession(manySession(i)); err != nil {
			tb.Fatal(err)
		}
	}
	b.judgeTouched(func() {})
	return b, view
}

// manySession is one as a door makes it: no two share a string in memory.
func manySession(i int) Session {
	name := fmt.Sprintf("user%07d", i)
	host := fmt.Sprintf("host%04d.sekisho.internal", i%1000)
	return Session{ID: SessionID(fmt.Sprintf("%022d", i)), Basis: BasisRules, Keeper: fmt.Sprint("p", "am"), Place: HostName(host),
		Service: fmt.Sprint("ss", "hd"), TTY: fmt.Sprintf("/dev/pts/%d", i%50), Since: testNow,
		Proofs: []Proof{Proof(fmt.Sprint("pass", "word"))},
		Request: Request{User: UserName(name), Login: Login(fmt.Sprint(name)), Door: Door(fmt.Sprint("p", "am")), Target: Target{Host: HostName(fmt.Sprint(host))},
			From: netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), Recent: []RecentProof{{Proof(fmt.Sprint("o", "tp")), time.Hour}}}}
}

// department takes dept7, a thousand users, out of all, or puts it back.
func department(s *Snapshot, in bool) *Snapshot {
	g := *s.GroupByID(entryID("group", "all"))
	dn := DN("cn=dept7,ou=groups,dc=sekisho,dc=internal")
	g.Members = slices.DeleteFunc(slices.Clone(g.Members), func(d DN) bool { return d == dn })
	if in {
		g.Members = append(g.Members, dn)
	}
	e := s.Edit()
	e.PutGroup(g)
	return e.Commit()
}

// BenchmarkJudge: one group's change that touches 1,000 of 50,000 sessions, each
// of which may stay by another rule, against judging all without an index.
func BenchmarkJudge(b *testing.B) {
	const n = 50_000
	k, view := trackMany(b, n)
	out := department(view.Snapshot, false)
	states := []*Snapshot{out, department(out, true)}
	b.Run("touched-1000", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			view.Snapshot = states[i%2]
			k.judgeTouched(func() {})
			if st := k.SessionStats(); st.Judged != 1000 || st.Open != n || st.Ending != 0 {
				b.Fatalf("%+v", st)
			}
		}
	})
	b.Run("touched-1", func(b *testing.B) {
		lock := func(s *Snapshot) *Snapshot {
			u, _ := s.User("user0000123")
			c := *u
			e := s.Edit()
			e.PutUser(c)
			return e.Commit()
		}
		states := []*Snapshot{lock(states[0]), lock(lock(states[0]))}
		view.Snapshot = states[0]
		k.judgeTouched(func() {})
		b.ReportAllocs()
		for i := 1; b.Loop(); i++ {
			view.Snapshot = states[i%2]
			k.judgeTouched(func() {})
			if st := k.SessionStats(); st.Judged != 1 {
				b.Fatalf("%+v", st)
			}
		}
	})
	b.Run("all-50000", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			view.Snapshot = states[i%2]
			ended := 0
			for _, t := range k.live.all {
				if w := judgeSession(*view, &t.Session, testNow); w.outcome != Allow {
					ended++
				}
			}
			if ended != 0 {
				b.Fatal(ended)
			}
		}
	})
}

// BenchmarkOpen: one session opened and closed beside 50,000 others.
func BenchmarkOpen(b *testing.B) {
	k, _ := trackMany(b, 50_000)
	b.ReportAllocs()
	for i := 50_000; b.Loop(); i++ {
		s := manySession(i % 50_000)
		s.ID = SessionID(fmt.Sprint(i))
		if err := k.OpenSession(s); err != nil {
			b.Fatal(err)
		}
		k.CloseSession(s.ID, ReasonNone)
	}
}
