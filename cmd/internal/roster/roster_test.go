package roster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick is usual with less patience, but for the life of an entry: nothing of a broker
// that is alive ends because the machine stalls. brief is for a broker that dies.
var quick = timing{ttl: time.Minute, renew: 20 * time.Second, takeOver: 100 * time.Millisecond, pass: 50 * time.Millisecond, pace: time.Millisecond,
	batch: time.Millisecond, beat: 200 * time.Millisecond, silent: 3 * time.Second, fresh: 20 * time.Millisecond, order: time.Minute}

var brief = func(t timing) timing { t.ttl, t.renew = 10*time.Second, 4*time.Second; return t }(quick)

func testLog(t testing.TB) *logrus.Entry {
	l := logrus.New()
	l.SetOutput(t.Output())
	return logrus.NewEntry(l)
}

// inMemory is a folder that no disk holds up.
func inMemory(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "roster-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func openStore(t testing.TB) state.Store {
	s, err := state.Open(t.Context(), state.Config{Dir: filepath.Join(inMemory(t), "state"), Log: testLog(t), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// faulty is a store that can be away.
type faulty struct {
	state.Store
	away atomic.Bool
}

func (f *faulty) no() error {
	if f.away.Load() {
		return state.ErrUnavailable
	}
	return nil
}

func (f *faulty) Create(ctx context.Context, b, k string, v []byte, ttl time.Duration) error {
	if err := f.no(); err != nil {
		return err
	}
	return f.Store.Create(ctx, b, k, v, ttl)
}

func (f *faulty) Put(ctx context.Context, b, k string, v []byte, ttl time.Duration) error {
	if err := f.no(); err != nil {
		return err
	}
	return f.Store.Put(ctx, b, k, v, ttl)
}

func (f *faulty) Delete(ctx context.Context, b, k string) error {
	if err := f.no(); err != nil {
		return err
	}
	return f.Store.Delete(ctx, b, k)
}

// node is one broker with its roster.
type node struct {
	*Roster
	t      testing.TB
	name   string
	broker *broker.Broker
	stop   func()

	mu     sync.Mutex
	hosts  map[broker.HostName]map[broker.SessionID]bool // which are connected, with their lists
	stuck  bool                                          // sessions do not end when they are told to
	events []broker.SessionEvent
}

func newNode(t testing.TB, name string, s state.Store) *node { return timedNode(t, name, s, quick) }

func timedNode(t testing.TB, name string, s state.Store, timing timing) *node {
	n := &node{t: t, name: name, hosts: map[broker.HostName]map[broker.SessionID]bool{}}
	view := broker.View{Snapshot: (*broker.Snapshot)(nil).Edit().Commit(), AsOf: time.Now(), MaxAge: time.Hour}
	var err error
	n.broker, err = broker.New(broker.Config{Directory: func() broker.View { return view }, Now: time.Now,
		Record: func(broker.Request, broker.Decision) error { return nil },
		RecordSession: func(e broker.SessionEvent) error {
			n.mu.Lock()
			n.events = append(n.events, e)
			n.mu.Unlock()
			n.Tell(e)
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	n.broker.Keep("host", func(e broker.Ending) {
		n.mu.Lock()
		stuck := n.stuck || n.hosts[e.Session.Place] == nil
		if !stuck {
			delete(n.hosts[e.Session.Place], e.Session.ID)
		}
		n.mu.Unlock()
		if !stuck {
			n.broker.CloseSession(e.Session.ID, broker.ReasonNone)
		}
	})
	n.Roster = newRoster(Config{Store: s, Broker: n.broker, Name: name, Now: time.Now, Log: testLog(t), Vouch: n.vouch,
		Report: func(s broker.Session) report.Session {
			out := report.Session{ID: string(s.ID), User: string(s.Request.User), Login: string(s.Request.Login), Door: "pam", Host: string(s.Place),
				Since: s.Since.UTC().Format(time.RFC3339), Basis: "account", Why: string(s.Why)}
			if !s.Ending.IsZero() {
				out.Ending = s.Ending.UTC().Format(time.RFC3339)
			}
			return out
		}}, timing)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var all sync.WaitGroup
	all.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	all.Go(func() {
		if err := n.broker.RunSessions(ctx, func(ctx context.Context, after uint64) (broker.View, error) {
			if after == 0 {
				return view, nil
			}
			<-ctx.Done()
			return broker.View{}, ctx.Err()
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	n.stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	t.Cleanup(n.stop)
	return n
}

func (n *node) vouch(h broker.HostName, id broker.SessionID) (known, has bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list, known := n.hosts[h]
	return known, list[id]
}

// joins has a host follow this broker, with the sessions that it has.
func (n *node) joins(host broker.HostName, ids ...broker.SessionID) {
	n.t.Helper()
	list := map[broker.SessionID]bool{}
	for _, id := range ids {
		list[id] = true
	}
	n.mu.Lock()
	n.hosts[host] = list
	n.mu.Unlock()
	for _, id := range ids {
		n.opened(host, id)
	}
}

func (n *node) opened(host broker.HostName, id broker.SessionID) {
	n.t.Helper()
	n.mu.Lock()
	n.hosts[host][id] = true
	n.mu.Unlock()
	err := n.broker.ResumeSession(broker.Session{ID: id, Request: broker.Request{User: "alice", Login: "alice"}, Keeper: "host", Place: host, Since: time.Now()})
	if err != nil {
		n.t.Fatal(err)
	}
	n.Touch(id)
}

func (n *node) leaves(host broker.HostName) {
	n.mu.Lock()
	delete(n.hosts, host)
	n.mu.Unlock()
}

func all(*Theirs) bool { return true }

// sees is what is known of other brokers' sessions, as ID@broker; or the error.
func (n *node) sees() string {
	all, err := n.Find(n.t.Context(), all)
	if err != nil {
		return "error"
	}
	var out []string
	for _, t := range all {
		out = append(out, strings.TrimRight(t.ID, "0")+"@"+t.Broker)
	}
	return strings.Join(out, " ")
}

func sid(name string) broker.SessionID {
	return broker.SessionID(name + strings.Repeat("0", 22-len(name)))
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("it does not come to be: %s", what)
}

// endAll orders the ends of all that other brokers have.
func (n *node) endAll(t testing.TB, want int) {
	t.Helper()
	all, err := n.Find(t.Context(), all)
	if err != nil || len(all) != want {
		t.Fatalf("found %v, %v", all, err)
	}
	if done, err := n.Order(t.Context(), all, "root", broker.ReasonKilled); err != nil || done != want {
		t.Fatalf("ordered %d, %v", done, err)
	}
}

func TestSessionsAreSeenAndEndedElsewhere(t *testing.T) {
	s := openStore(t)
	a, b := newNode(t, "a.example.org", s), newNode(t, "b.example.org", s)
	a.joins("web1", sid("x"), sid("y"))
	b.joins("web2", sid("z"))
	eventually(t, "b sees those of a", func() bool { return b.sees() == "x@a.example.org y@a.example.org" })
	eventually(t, "a sees that of b", func() bool { return a.sees() == "z@b.example.org" })
	all, err := b.Sessions(t.Context(), func(t *Theirs) bool { return t.ID == string(sid("x")) })
	if err != nil || len(all) != 1 || all[0].Host != "web1" || all[0].User != "alice" || all[0].Confirmed == "" || all[0].Broker != "a.example.org" {
		t.Fatalf("shown is %+v, %v", all, err)
	}
	// One ends by itself.
	a.mu.Lock()
	delete(a.hosts["web1"], sid("y"))
	a.mu.Unlock()
	a.broker.CloseSession(sid("y"), broker.ReasonNone)
	eventually(t, "its end is seen", func() bool { return b.sees() == "x@a.example.org" })
	// One is ended from the other broker, with a record of who wanted it.
	b.endAll(t, 1)
	eventually(t, "it is confirmed", func() bool { return !b.Pending(string(sid("x"))) })
	if _, open := a.broker.Session(sid("x")); open {
		t.Error("confirmed, and open")
	}
	eventually(t, "it is gone", func() bool { return b.sees() == "" })
	if e, err := s.List(t.Context(), state.BucketEnds); err != nil || len(e) != 0 {
		t.Errorf("orders are left: %v, %v", e, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		if e.Kind == broker.SessionEnding && (e.Session.ID != sid("x") || e.Reason != broker.ReasonKilled || e.By != "root by broker b.example.org") {
			t.Errorf("recorded is %+v", e)
		}
	}
	if n := len(a.events); n != 3 { // y closed; x ending, closed
		t.Errorf("%d events", n)
	}
}

// What has not ended is not said to have: neither when it cannot, nor when its
// broker is dead and its entry has grown too old.
func TestNoEndWithoutAWord(t *testing.T) {
	s := openStore(t)
	a, b := timedNode(t, "a.example.org", s, brief), timedNode(t, "b.example.org", s, brief)
	a.joins("web1", sid("x"))
	a.mu.Lock()
	a.stuck = true
	a.mu.Unlock()
	eventually(t, "b sees it", func() bool { return b.sees() == "x@a.example.org" })
	b.endAll(t, 1)
	eventually(t, "it is ending", func() bool {
		all, err := b.Sessions(t.Context(), all)
		return err == nil && len(all) == 1 && all[0].Why == string(broker.ReasonKilled)
	})
	a.stop()
	eventually(t, "the dead broker's entry has ended", func() bool { return b.sees() == "" })
	if m := b.Missing(); len(m) != 1 || m[0].Broker != "a.example.org" {
		t.Errorf("missing are %v", m)
	}
	if !b.Pending(string(sid("x"))) {
		t.Error("it is confirmed by nobody, and taken as ended")
	}
	if all, err := b.Sessions(t.Context(), all); err != nil || len(all) != 1 {
		t.Errorf("shown are %+v, %v", all, err)
	}
	// The broker begins anew. Before the session's host is back, it says nothing of it.
	again := timedNode(t, "a.example.org", s, brief)
	time.Sleep(500 * time.Millisecond)
	if !b.Pending(string(sid("x"))) {
		t.Error("a broker that does not know it yet has said that it has ended")
	}
	again.joins("web1", sid("x"))
	eventually(t, "the order is obeyed", func() bool { return !b.Pending(string(sid("x"))) })
	if _, open := again.broker.Session(sid("x")); open {
		t.Error("confirmed, and open")
	}
}

func TestLeftoversOfARestart(t *testing.T) {
	s := openStore(t)
	a, b := newNode(t, "a.example.org", s), newNode(t, "b.example.org", s)
	a.joins("web1", sid("x"), sid("y"))
	eventually(t, "b sees both", func() bool { return b.sees() == "x@a.example.org y@a.example.org" })
	a.stop()
	again := newNode(t, "a.example.org", s)
	time.Sleep(300 * time.Millisecond)
	if got := b.sees(); got != "x@a.example.org y@a.example.org" {
		t.Errorf("before its hosts are back it has removed some: %q", got)
	}
	again.joins("web1", sid("y"))
	eventually(t, "what it does not know any more is gone", func() bool { return b.sees() == "y@a.example.org" })
}

// A host goes over to another broker: the session is that one's, and what the first
// remembers of it is not shown.
func TestAHostGoesOver(t *testing.T) {
	s := openStore(t)
	a, b, c := newNode(t, "a.example.org", s), newNode(t, "b.example.org", s), newNode(t, "c.example.org", s)
	a.joins("web1", sid("x"))
	eventually(t, "c sees it at a", func() bool { return c.sees() == "x@a.example.org" })
	a.leaves("web1")
	b.joins("web1", sid("x"))
	eventually(t, "c sees it at b", func() bool { return c.sees() == "x@b.example.org" })
	eventually(t, "a knows that it is elsewhere", func() bool { return a.Elsewhere(sid("x")) })
	c.endAll(t, 1)
	eventually(t, "it is confirmed", func() bool { return !c.Pending(string(sid("x"))) })
	if _, open := b.broker.Session(sid("x")); open {
		t.Error("confirmed, and open")
	}
	time.Sleep(300 * time.Millisecond) // some passes
	if got := c.sees(); got != "" {
		t.Errorf("the first broker brings it back: %q", got)
	}
	if !a.Elsewhere(sid("x")) {
		t.Error("it is a's again")
	}
}

func TestStoreAway(t *testing.T) {
	f := &faulty{Store: openStore(t)}
	a, b := newNode(t, "a.example.org", f.Store), newNode(t, "b.example.org", f)
	a.joins("web1", sid("x"))
	b.joins("web2", sid("z"))
	eventually(t, "they see each other", func() bool { return a.sees() == "z@b.example.org" && b.sees() == "x@a.example.org" })
	found, err := b.Find(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	f.away.Store(true)
	eventually(t, "b says that it cannot tell", func() bool { return b.sees() == "error" })
	if n, err := b.Order(t.Context(), found, "root", broker.ReasonKilled); n != 0 || !errors.Is(err, state.ErrUnavailable) {
		t.Errorf("an order that was not written: %d, %v", n, err)
	}
	if b.Pending(string(sid("x"))) {
		t.Error("it is waited for")
	}
	// What happens meanwhile is made good.
	b.opened("web2", sid("w"))
	b.mu.Lock()
	delete(b.hosts["web2"], sid("z"))
	b.mu.Unlock()
	b.broker.CloseSession(sid("z"), broker.ReasonNone)
	time.Sleep(200 * time.Millisecond)
	if got := a.sees(); got != "z@b.example.org" {
		t.Errorf("a sees %q", got)
	}
	f.away.Store(false)
	eventually(t, "it has caught up", func() bool { return a.sees() == "w@b.example.org" && b.sees() == "x@a.example.org" })
}

// What no broker has written does nothing, and an entry of a session makes nobody's
// session of it.
func TestNonsenseInTheStore(t *testing.T) {
	s := openStore(t)
	a := newNode(t, "a.example.org", s)
	a.joins("web1", sid("x"))
	good := report.Session{ID: string(sid("n")), User: "alice", Login: "alice", Door: "pam", Host: "web1", Since: "2026-01-02T03:04:05Z", Basis: "rules", Broker: "b.example.org"}
	put := func(bucket, key string, value []byte) {
		t.Helper()
		if err := s.Put(t.Context(), bucket, key, value, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	text, err := encode(good)
	if err != nil {
		t.Fatal(err)
	}
	order, err := encode(order{Session: string(sid("x")), Host: "web1", To: "a.example.org", By: "root", Broker: "b.example.org", Reason: broker.ReasonKilled})
	if err != nil {
		t.Fatal(err)
	}
	for i, bad := range [][2]string{
		{`"id":`, `"Id":`}, {`"rules"`, `"any"`}, {`"broker":"`, `"broker":"\u001b`}, {`{"id"`, `{"id":"","id"`}, {`"door":`, `"x":1,"door":`},
		{`"user":"alice"`, `"user":"` + strings.Repeat("a", 2000) + `"`}, {`2026-01-02T03:04:05Z`, `yesterday`}, {`}`, `} `}, {`}`, `}}`}, {`}`, `,"confirmed":"2026-01-02T03:04:05Z"}`},
	} {
		value := strings.Replace(string(text), bad[0], bad[1], 1)
		if value == string(text) {
			t.Fatalf("case %d changes nothing", i)
		}
		put(state.BucketSessions, string(sid("n")), []byte(value))
		put(state.BucketSessions, "other", text)
		if got := a.sees(); got != "" {
			t.Errorf("%s is shown: %q", value, got)
		}
	}
	for i, bad := range [][2]string{
		{`"killed"`, `"rule"`}, {`"by":"root"`, `"by":""`}, {`"by":"root"`, `"by":"root\n"`}, {`"to":"a`, `"to":"-a`}, {`}`, `,"grant":true}`}, {string(sid("x")), string(sid("n"))},
	} {
		value := strings.Replace(string(order), bad[0], bad[1], 1)
		if value == string(order) {
			t.Fatalf("case %d changes nothing", i)
		}
		put(state.BucketEnds, string(sid("x")), []byte(value))
	}
	// What is there already keeps nobody from saying what is so.
	put(state.BucketSessions, string(sid("v")), []byte("{}"))
	a.opened("web1", sid("v"))
	b := newNode(t, "b.example.org", s)
	eventually(t, "it is published all the same", func() bool { return b.sees() == "v@a.example.org x@a.example.org" })
	b.stop()
	put(state.BucketSessions, string(sid("n")), text) // a good lie
	eventually(t, "it is shown", func() bool { return a.sees() == "n@b.example.org" })
	time.Sleep(200 * time.Millisecond)
	if x, open := a.broker.Session(sid("x")); !open || !x.Ending.IsZero() {
		t.Error("an order that nobody wrote has ended it")
	}
	if _, tracked := a.broker.Session(sid("n")); tracked {
		t.Error("a broker has taken over what the store says")
	}
	put(state.BucketEnds, string(sid("x")), order)
	eventually(t, "a good one ends it", func() bool { _, open := a.broker.Session(sid("x")); return !open })
}

// The same order twice: both who want it are told.
func TestTwoWantTheSame(t *testing.T) {
	s := openStore(t)
	a, b, c := newNode(t, "a.example.org", s), newNode(t, "b.example.org", s), newNode(t, "c.example.org", s)
	a.joins("web1", sid("x"))
	eventually(t, "they see it", func() bool { return b.sees() == "x@a.example.org" && c.sees() == "x@a.example.org" })
	a.mu.Lock()
	a.stuck = true
	a.mu.Unlock()
	b.endAll(t, 1)
	c.endAll(t, 1)
	if !b.Pending(string(sid("x"))) || !c.Pending(string(sid("x"))) {
		t.Error("it has ended already")
	}
	a.mu.Lock()
	delete(a.hosts["web1"], sid("x"))
	a.mu.Unlock()
	a.broker.CloseSession(sid("x"), broker.ReasonNone)
	eventually(t, "both are told", func() bool { return !b.Pending(string(sid("x"))) && !c.Pending(string(sid("x"))) })
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"id":"x000000000000000000000","user":"alice","login":"alice","door":"pam","host":"web1","since":"2026-01-02T03:04:05Z","basis":"rules","broker":"b"}`))
	f.Add([]byte(`{"session":"x000000000000000000000","host":"web1","to":"a","by":"root","broker":"b","reason":"killed"}`))
	f.Add([]byte(`{"broker":"b","run":"r","n":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		same := func(doc any) {
			if again, err := encode(doc); err != nil || string(again) != string(b) {
				t.Errorf("%q was read, and is written %q, %v", b, again, err)
			}
		}
		if s, err := parseSession(string(sid("x")), b); err == nil {
			same(s)
		}
		if o, err := parseOrder(string(sid("x")), b); err == nil {
			same(o)
		}
		if x, err := parseBeat("broker/b", b); err == nil {
			same(x)
		}
	})
}
