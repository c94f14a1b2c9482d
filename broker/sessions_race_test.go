package broker

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSessionsRace opens, closes, kills and revokes from many sides at once. In
// the end nobody is in who may not be, no session is lost or ended twice, and
// each one's events are in their order.
func TestSessionsRace(t *testing.T) {
	const users, workers = 12, 8
	var failed, many atomic.Int64
	var s *site
	s = newSite(t, Config{RecordSession: func(e SessionEvent) error {
		if e.Kind == SessionOpened && rand.IntN(20) == 0 {
			failed.Add(1)
			return errors.New("disk full")
		}
		if rand.IntN(10) == 0 {
			time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
		}
		return s.record(e)
	}})
	user := func(i int) UserName { return UserName(fmt.Sprint("u", i)) }
	s.edit(func(e *Edit) {
		for i := range users {
			e.PutUser(User{ID: entryID("user", string(user(i))), DN: dnOf("user:" + string(user(i))), Name: user(i), UID: uint32(3000 + i), Shell: "/bin/sh"})
		}
		s.putRule(e, RuleAttributes{Name: "r", Subject: []string{"group:g"}, Door: []string{"*"}, Target: []string{"*"}})
		e.PutGroup(Group{ID: EntryID{9}, DN: "g", Name: "g"})
	})
	member := func(i int, in bool) {
		s.edit(func(e *Edit) {
			g := *e.Snapshot().GroupByID(EntryID{9})
			dn := dnOf("user:" + string(user(i)))
			if g.Members = slices.DeleteFunc(slices.Clone(g.Members), func(d DN) bool { return d == dn }); in {
				g.Members = append(g.Members, dn)
			}
			e.PutGroup(g)
		})
	}
	var told, ended, opened, refused sync.Map
	for k := range 3 {
		s.b.Keep(fmt.Sprint("k", k), func(e Ending) {
			n, _ := told.LoadOrStore(e.Session.ID, new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
			switch rand.IntN(5) {
			case 0: // it forgets, and is told again
			case 1:
				ended.Store(e.Session.ID, true)
				time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, func() { s.b.CloseSession(e.Session.ID, ReasonNone) })
			default:
				ended.Store(e.Session.ID, true)
				s.b.CloseSession(e.Session.ID, ReasonNone)
			}
		})
	}
	stop := s.run()
	for i := range users {
		member(i, true)
	}
	stopAll := make(chan struct{})
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			var mine []SessionID
			for n := 0; ; n++ {
				select {
				case <-stopAll:
					return
				default:
				}
				id := SessionID(fmt.Sprintf("%d-%d", w, n))
				x := siteSession(string(id), user(rand.IntN(users)), fmt.Sprint("k", rand.IntN(3)))
				if err := s.b.OpenSession(x); err == nil {
					opened.Store(id, true)
					many.Add(1)
					mine = append(mine, id)
				} else {
					refused.Store(id, err)
				}
				if len(mine) > 20 {
					at := rand.IntN(len(mine))
					ended.Store(mine[at], true)
					s.b.CloseSession(mine[at], ReasonNone)
					mine = slices.Delete(mine, at, at+1)
				}
				if n%64 == 63 {
					s.b.Kill(func(x *Session) bool { return rand.IntN(100) == 0 }, "root")
				}
				if n%16 == 0 {
					time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond)
				}
			}
		})
	}
	wg.Go(func() {
		for {
			select {
			case <-stopAll:
				return
			default:
			}
			member(rand.IntN(users), rand.IntN(3) > 0)
			s.b.Sessions(func(x *Session) bool { return x.ID != "" })
			s.b.SessionStats()
			time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
		}
	})
	long := 3 * time.Second
	if testing.Short() {
		long = time.Second
	}
	time.Sleep(long)
	for end := time.Now().Add(time.Minute); (many.Load() < 500 || failed.Load() == 0) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond) // a slow machine
	}
	close(stopAll)
	wg.Wait()

	// Half of them are put out, and all that must end does.
	for i := range users / 2 {
		member(i, false)
	}
	deadline := time.Now().Add(time.Minute)
	for s.settled() != nil && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if err := s.settled(); err != nil {
		t.Fatal(err)
	}
	stop()

	open, all := map[SessionID]bool{}, 0
	s.b.Sessions(func(x *Session) bool {
		open[x.ID] = true
		if d := Decide(s.view, x.Request, x.Proofs, time.Now()); d.Outcome != Allow {
			t.Errorf("%s of %s is still in: %s", x.ID, x.Request.User, d.Reason)
		}
		return true
	})
	opened.Range(func(id, _ any) bool {
		all++
		if _, is := ended.Load(id); !is != open[id.(SessionID)] {
			t.Errorf("%s: ended %v, open %v", id, is, open[id.(SessionID)])
		}
		return true
	})
	s.checkEvents(&opened, &refused, open)
	retold := 0
	told.Range(func(_, n any) bool { retold += min(1, int(n.(*atomic.Int64).Load())-1); return true })
	t.Logf("%d sessions, %d of them open at the end, %d beginnings failed, %d told again", all, len(open), failed.Load(), retold)
	if all < 500 || failed.Load() == 0 {
		t.Error("too little has happened")
	}
	s.b.Sessions(func(x *Session) bool { s.b.CloseSession(x.ID, ReasonNone); return true })
	if err := (&world{b: s.b}).empty(); err != nil {
		t.Error(err)
	}
}

// settled says what is still ending, or open and may not be.
func (s *site) settled() error {
	if st := s.b.SessionStats(); st.Ending > 0 {
		return fmt.Errorf("%d sessions are ending", st.Ending)
	}
	s.b.live.mu.Lock()
	defer s.b.live.mu.Unlock()
	if s.b.live.view.Snapshot != s.b.c.Directory().Snapshot {
		return errors.New("the newest snapshot has not been judged on")
	}
	return nil
}

// checkEvents: opened, then at most one ending, then closed, once each; closed
// without being open for a beginning that came to nothing.
func (s *site) checkEvents(opened, refused *sync.Map, open map[SessionID]bool) {
	of := map[SessionID][]EventKind{}
	for _, e := range s.events {
		of[e.Session.ID] = append(of[e.Session.ID], e.Kind)
	}
	kinds := map[string]int{}
	for id, ks := range of {
		_, was := opened.Load(id)
		_, not := refused.Load(id)
		what := fmt.Sprint(ks)
		kinds[what]++
		switch {
		case was && open[id] && what == "[opened]":
		case was && !open[id] && (what == "[opened closed]" || what == "[opened ending closed]"):
		case not && what == "[opened closed]":
		default:
			s.t.Errorf("%s: opened %v, refused %v, open now %v, recorded %s", id, was, not, open[id], what)
		}
	}
	opened.Range(func(id, _ any) bool {
		if of[id.(SessionID)] == nil {
			s.t.Errorf("%s was opened, and is in no record", id)
		}
		return true
	})
	s.t.Log(slices.Sorted(maps.Keys(kinds)), kinds)
}

// TestLimitRace: of many who come at once, as many get in as may.
func TestLimitRace(t *testing.T) {
	for _, c := range []struct {
		what  string
		max   int
		rule  string
		users int
		want  int
	}{
		{"by the configuration", 5, "pty", 2, 10},
		{"by the rule", 0, "sessions:3", 2, 6},
		{"by both", 2, "sessions:3", 2, 4},
		{"by none", 0, "pty", 2, 80},
	} {
		s := newSite(t, Config{MaxSessions: c.max})
		s.edit(func(e *Edit) {
			s.putRule(e, RuleAttributes{Name: "r", Subject: []string{"*"}, Door: []string{"*"}, Target: []string{"*"}, Permit: []string{c.rule}})
		})
		s.b.Keep("a", func(Ending) {})
		var wg sync.WaitGroup
		var in atomic.Int64
		for i := range 80 {
			wg.Go(func() {
				err := s.b.OpenSession(siteSession(fmt.Sprint(i), []UserName{"alice", "bob"}[i%c.users], "a"))
				var no *NotOpened
				switch {
				case err == nil:
					in.Add(1)
				case !errors.As(err, &no) || no.Outcome != Deny || no.Reason != ReasonTooMany:
					t.Errorf("%s: %v", c.what, err)
				}
			})
		}
		wg.Wait()
		if in.Load() != int64(c.want) {
			t.Errorf("%s: %d are in, want %d", c.what, in.Load(), c.want)
		}
	}
}
