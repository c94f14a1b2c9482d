package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sekisho/sekisho/keys"
)

// site is a small directory that is published as ldapsync does it.
type site struct {
	t  *testing.T
	b  *Broker
	mu sync.Mutex
	// view, news and events are guarded by mu.
	view   View
	news   chan struct{}
	events []SessionEvent
	shift  time.Duration // of the clock
}

func newSite(t *testing.T, c Config) *site {
	s := &site{t: t, news: make(chan struct{})}
	e := (*Snapshot)(nil).Edit()
	for i, n := range []string{"alice", "bob"} {
		e.PutUser(User{ID: entryID("user", n), DN: dnOf("user:" + n), Name: UserName(n), UID: uint32(2000 + i), Shell: "/bin/sh"})
	}
	e.PutHost(Host{ID: EntryID{1}, DN: dnOf("host:web1"), Names: []HostName{"web1"}})
	s.putRule(e, RuleAttributes{Name: "r", Subject: []string{"*"}, Door: []string{"*"}, Target: []string{"*"}})
	c.Now = func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return time.Now().Add(s.shift) }
	s.view = View{Snapshot: e.Commit(), AsOf: time.Now(), MaxAge: 100 * 24 * time.Hour}
	c.Directory = func() View { s.mu.Lock(); defer s.mu.Unlock(); return s.view }
	c.Record = func(Request, Decision) error { return nil }
	if c.RecordSession == nil {
		c.RecordSession = s.record
	}
	var err error
	if s.b, err = New(c); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) record(e SessionEvent) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
	return nil
}

func (s *site) putRule(e *Edit, a RuleAttributes) {
	r, err := ParseRule(a)
	if err != nil {
		s.t.Fatal(err)
	}
	r.ID = entryID("rule", string(r.Name))
	e.PutRule(r)
}

func (s *site) edit(f func(*Edit)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.view.Edit()
	f(e)
	s.view.Snapshot, s.view.AsOf = e.Commit(), time.Now()
	close(s.news)
	s.news = make(chan struct{})
}

func (s *site) lock(user UserName, locked bool) {
	s.edit(func(e *Edit) {
		u, _ := e.Snapshot().User(user)
		c := *u
		c.State.Locked = locked
		e.PutUser(c)
	})
}

func (s *site) wait(ctx context.Context, after uint64) (View, error) {
	for {
		s.mu.Lock()
		v, news := s.view, s.news
		s.mu.Unlock()
		if v.Generation() > after {
			return v, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return View{}, ctx.Err()
		}
	}
}

// run starts RunSessions, and returns what stops it.
func (s *site) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.b.RunSessions(ctx, s.wait) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("RunSessions: %v", err)
		}
	}
}

func siteSession(id string, user UserName, keeper string) Session {
	return Session{ID: SessionID(id), Request: Request{User: user, Door: "pam", Target: Target{Host: "web1"}}, Basis: BasisRules, Keeper: keeper, Place: "web1"}
}

func (s *site) open(ss ...Session) {
	s.t.Helper()
	for _, x := range ss {
		if err := s.b.OpenSession(x); err != nil {
			s.t.Fatalf("open %s: %v", x.ID, err)
		}
	}
}

// keeper notes when it was told of what.
type notes struct {
	mu    sync.Mutex
	began time.Time
	told  []string
}

func (n *notes) end(e Ending) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = append(n.told, fmt.Sprintf("%s %s", e.Session.ID, time.Since(n.began)))
}

func (n *notes) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	told := n.told
	n.told = nil
	slices.Sort(told)
	return told
}

func (n *notes) want(t *testing.T, what string, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := n.take(); !slices.Equal(got, want) {
		t.Errorf("%s: told %q, want %q", what, got, want)
	}
}

// TestRunSessions: a change is judged at once, a time at its instant; a keeper
// that says nothing is told again, ever more seldom.
func TestRunSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := newSite(t, Config{}), &notes{began: time.Now()}
		s.b.Keep("a", n.end)
		defer s.run()()
		synctest.Wait()
		end := time.Now().Add(90*time.Minute + 30*time.Second).UTC().Format("20060102150405Z")
		s.edit(func(e *Edit) {
			s.putRule(e, RuleAttributes{Name: "r", Subject: []string{"user:alice"}, Door: []string{"*"}, Target: []string{"*"}})
			s.putRule(e, RuleAttributes{Name: "b", Subject: []string{"user:bob"}, Door: []string{"*"}, Target: []string{"*"}, Expires: end})
		})
		synctest.Wait()
		s.open(siteSession("a1", "alice", "a"), siteSession("a2", "alice", "a"), siteSession("b1", "bob", "a"))
		n.want(t, "nothing has happened")
		time.Sleep(10 * time.Second)
		s.lock("alice", true)
		n.want(t, "alice is locked", "a1 10s", "a2 10s")
		s.b.CloseSession("a1", ReasonNone)
		time.Sleep(5 * time.Minute)
		n.want(t, "a2 does not end", "a2 11s", "a2 13s", "a2 17s", "a2 1m13s", "a2 25s", "a2 2m13s", "a2 3m13s", "a2 41s", "a2 4m13s")
		s.b.CloseSession("a2", ReasonNone)
		time.Sleep(90*time.Minute + 30*time.Second - 10*time.Second - 5*time.Minute - time.Millisecond)
		n.want(t, "just before the rule ends")
		time.Sleep(time.Millisecond)
		n.want(t, "the rule has ended", "b1 1h30m30s")
		s.b.CloseSession("b1", ReasonNone)
		time.Sleep(10 * time.Minute)
		n.want(t, "all is over")
		if st := s.b.SessionStats(); st.Open != 0 || st.Ending != 0 || st.JudgedAll != 3 {
			t.Errorf("stats %+v", st)
		}
	})
}

// TestKeyTakenAway: the sessions that came in by a key end with it, and no others.
func TestKeyTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := newSite(t, Config{}), &notes{began: time.Now()}
		s.b.Keep("a", n.end)
		defer s.run()()
		has := func(user UserName, lines ...keys.Line) {
			s.edit(func(e *Edit) {
				u, _ := e.Snapshot().User(user)
				c := *u
				c.Keys = lines
				e.PutUser(c)
			})
		}
		by := func(id string, user UserName, key keys.Key) Session {
			x := siteSession(id, user, "a")
			x.Request.Key = key.Fingerprint()
			return x
		}
		one, two := edKey(1), edKey(2)
		has("alice", keys.Line{Key: one}, keys.Line{Key: two, Comment: "laptop"})
		has("bob", keys.Line{Key: one})
		synctest.Wait()
		s.open(by("a1", "alice", one), by("a2", "alice", two), siteSession("a3", "alice", "a"), by("b1", "bob", one))
		var not *NotOpened
		if err := s.b.OpenSession(by("b2", "bob", two)); !errors.As(err, &not) || not.Outcome != Deny || not.Reason != ReasonNoKey {
			t.Errorf("by a key that is not his: %v", err)
		}
		has("alice", keys.Line{Key: two, Comment: "desk", Options: &keys.Options{Command: "/bin/true"}}, keys.Line{Key: one, Comment: "new"})
		n.want(t, "comment, options and order have changed")
		has("alice", keys.Line{Key: two})
		n.want(t, "her first key has gone", "a1 0s")
		x, _ := s.b.Session("a1")
		if x.Why != ReasonNoKey || sentence(&x) != "the key that you came in by is not yours any more" {
			t.Errorf("it ends for %q: %s", x.Why, sentence(&x))
		}
		s.b.CloseSession("a1", ReasonNone)
		has("alice", keys.Line{Key: two, Options: &keys.Options{CertAuthority: true}})
		n.want(t, "her second signs certificates", "a2 0s")
		s.b.CloseSession("a2", ReasonNone)
		has("alice")
		n.want(t, "she has none")
		for _, id := range []SessionID{"a3", "b1"} {
			s.b.CloseSession(id, ReasonNone)
		}
	})
}

// TestClockIsSet: no timer feels that the clock is set forward; it is noticed
// within a minute.
func TestClockIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := newSite(t, Config{}), &notes{began: time.Now()}
		s.b.Keep("a", n.end)
		defer s.run()()
		s.edit(func(e *Edit) {
			s.putRule(e, RuleAttributes{Name: "r", Subject: []string{"*"}, Door: []string{"*"}, Target: []string{"*"},
				Expires: time.Now().Add(time.Hour).UTC().Format("20060102150405Z")})
		})
		s.open(siteSession("a1", "alice", "a"))
		synctest.Wait()
		s.mu.Lock()
		s.shift = 2 * time.Hour
		s.mu.Unlock()
		time.Sleep(time.Minute)
		n.want(t, "the clock was set", "a1 1m0s")
		s.b.CloseSession("a1", ReasonNone)
	})
}

// TestKeepers: one that hangs holds up nobody else's; one that comes back hears
// of all that must end.
func TestKeepers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, b := newSite(t, Config{}), &notes{began: time.Now()}, &notes{began: time.Now()}
		hang, hung := make(chan struct{}), 0
		s.b.Keep("a", a.end)
		s.b.Keep("hangs", func(Ending) { hung++; <-hang })
		s.b.Keep("away", nil)
		stop := s.run()
		s.open(siteSession("h1", "alice", "hangs"), siteSession("a1", "alice", "a"), siteSession("h2", "alice", "hangs"), siteSession("w1", "alice", "away"))
		if err := s.b.OpenSession(siteSession("x", "alice", "nobody")); !errors.Is(err, ErrNoKeeper) {
			t.Errorf("a keeper that nobody knows: %v", err)
		}
		s.lock("alice", true)
		a.want(t, "beside the one that hangs", "a1 0s")
		if hung != 1 {
			t.Errorf("the one that hangs was called %d times", hung)
		}
		s.b.CloseSession("a1", ReasonNone)
		time.Sleep(10 * time.Second)
		// Its successor does not wait for it.
		s.b.Keep("hangs", b.end)
		s.b.Keep("away", a.end)
		b.want(t, "another in its place", "h1 10s", "h2 10s")
		a.want(t, "back again", "w1 10s")
		if st := s.b.SessionStats(); st.Open != 0 || st.Ending != 3 {
			t.Errorf("stats %+v", st)
		}
		for _, id := range []SessionID{"h1", "h2", "w1"} {
			if x, ok := s.b.Session(id); !ok || x.Ending.IsZero() || x.Why != ReasonLocked {
				t.Errorf("%s: %+v", id, x)
			}
			s.b.CloseSession(id, ReasonNone)
		}
		close(hang)
		stop()
		if hung != 1 {
			t.Errorf("the one that hangs was called %d times", hung)
		}
		var got []string
		for _, e := range s.events {
			got = append(got, fmt.Sprintf("%s %s %s", e.Session.ID, e.Kind, e.Reason))
		}
		slices.Sort(got)
		want := "a1 closed locked,a1 ending locked,a1 opened ,h1 closed locked,h1 ending locked,h1 opened ,h2 closed locked,h2 ending locked,h2 opened ,w1 closed locked,w1 ending locked,w1 opened "
		if strings.Join(got, ",") != want {
			t.Errorf("recorded %q", got)
		}
	})
}

// TestRunEnds: RunSessions returns what wait returns, runs once, and a second
// run takes up what the first has left.
func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := newSite(t, Config{}), &notes{began: time.Now()}
		s.b.Keep("a", n.end)
		gone := errors.New("gone")
		if err := s.b.RunSessions(t.Context(), func(context.Context, uint64) (View, error) { return View{}, gone }); !errors.Is(err, gone) {
			t.Errorf("wait's error: %v", err)
		}
		if err := s.b.RunSessions(t.Context(), func(context.Context, uint64) (View, error) { return View{}, nil }); err == nil {
			t.Error("a view of nothing is no error")
		}
		s.open(siteSession("a1", "alice", "a"), siteSession("b1", "bob", "a"))
		if k := s.b.Kill(func(x *Session) bool { return x.ID == "a1" }, "root"); k != 1 {
			t.Errorf("killed %d", k)
		}
		s.lock("bob", true)
		n.want(t, "nobody runs")
		stop := s.run()
		n.want(t, "somebody runs", "a1 0s", "b1 0s")
		if err := s.b.RunSessions(t.Context(), s.wait); err == nil {
			t.Error("it runs twice")
		}
		stop()
		stop = s.run()
		time.Sleep(time.Second)
		n.want(t, "again", "a1 1s", "b1 1s")
		stop()
	})
}

// TestOpenWhileRecording: a change, a kill and an end that come while the
// beginning is being written are not missed.
func TestOpenWhileRecording(t *testing.T) {
	for _, c := range []struct {
		what string
		do   func(*site)
		want string
		then []EventKind
	}{
		{"locked", func(s *site) { s.lock("alice", true) }, "opening a session: deny: locked", []EventKind{SessionOpened, SessionClosed}},
		{"killed", func(s *site) {
			if n := s.b.Kill(func(*Session) bool { return true }, "root"); n != 1 {
				s.t.Errorf("killed %d", n)
			}
		}, "opening a session: deny: killed", []EventKind{SessionOpened, SessionClosed}},
		{"closed", func(s *site) { s.b.CloseSession("a1", ReasonNone) }, ErrSessionClosed.Error(), []EventKind{SessionOpened, SessionClosed}},
		{"changed for another", func(s *site) { s.lock("bob", true) }, "", []EventKind{SessionOpened}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var s *site
			writing, written := make(chan struct{}), make(chan struct{})
			s = newSite(t, Config{RecordSession: func(e SessionEvent) error {
				if e.Kind == SessionOpened {
					close(writing)
					<-written
				}
				return s.record(e)
			}})
			n := &notes{began: time.Now()}
			s.b.Keep("a", n.end)
			stop := s.run()
			opened := make(chan error)
			go func() { opened <- s.b.OpenSession(siteSession("a1", "alice", "a")) }()
			<-writing
			s.b.Sessions(func(x *Session) bool { t.Errorf("%s: %s is shown before it is open", c.what, x.ID); return true })
			c.do(s)
			synctest.Wait()
			close(written)
			if err := <-opened; fmt.Sprint(err) != c.want && (err != nil || c.want != "") {
				t.Errorf("%s: %v, want %s", c.what, err, c.want)
			}
			stop()
			n.want(t, c.what)
			var kinds []EventKind
			for _, e := range s.events {
				kinds = append(kinds, e.Kind)
			}
			if !slices.Equal(kinds, c.then) {
				t.Errorf("%s: recorded %v, want %v", c.what, kinds, c.then)
			}
			if _, open := s.b.Session("a1"); open != (c.want == "") {
				t.Errorf("%s: open %v", c.what, open)
			}
		})
	}
}

// TestBadSessions: what cannot be tracked is refused.
func TestBadSessions(t *testing.T) {
	s := newSite(t, Config{})
	s.b.Keep("a", func(Ending) {})
	for what, f := range map[string]func(*Session){
		"no ID":              func(x *Session) { x.ID = "" },
		"a long ID":          func(x *Session) { x.ID = SessionID(strings.Repeat("x", 129)) },
		"an ID of two lines": func(x *Session) { x.ID = "a\nb" },
		"a basis":            func(x *Session) { x.Basis = 3 },
		"a terminal":         func(x *Session) { x.TTY = "\x1b[2J" },
		"a long service":     func(x *Session) { x.Service = strings.Repeat("x", 64<<10) },
		"a rule":             func(x *Session) { x.Rules = []RuleName{"a\nb"} },
		"proofs":             func(x *Session) { x.Proofs = make([]Proof, 65) },
	} {
		x := siteSession("a1", "alice", "a")
		f(&x)
		for _, open := range []func(Session) error{s.b.OpenSession, s.b.ResumeSession} {
			if err := open(x); err == nil || len(err.Error()) > 400 {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if st := s.b.SessionStats(); st.Open != 0 || len(s.b.live.on.words) != 0 {
		t.Errorf("something is left: %+v", st)
	}
}

// TestEndSession: one that somebody else has judged ends for his reason.
func TestEndSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Config{})
		var told []Ending
		s.b.Keep("a", func(e Ending) { told = append(told, e) })
		stop := s.run()
		s.open(siteSession("a1", "alice", "a"), siteSession("a2", "alice", "a"))
		if s.b.EndSession("a3", ReasonNoRule, "broker1") || !s.b.EndSession("a1", ReasonNoRule, "broker1") || !s.b.EndSession("a1", ReasonLocked, "broker2") {
			t.Error("which are tracked is told wrongly")
		}
		synctest.Wait()
		stop()
		if len(told) == 0 || told[0].Session.ID != "a1" || told[0].Reason != ReasonNoRule ||
			told[0].Text != "your access to web1 has ended: you may no longer log in here" {
			t.Errorf("told %+v", told)
		}
		if e := s.events[len(s.events)-1]; len(s.events) != 3 || e.Kind != SessionEnding || e.By != "broker1" || e.Reason != ReasonNoRule {
			t.Errorf("recorded %+v", s.events)
		}
	})
}
