package feed

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// book is a host's own list of sessions, as its broker has it.
type book struct {
	mu sync.Mutex
	m  map[broker.SessionID]broker.Session
	c  *host // to report to; nil while it is not made
}

func (b *book) each(f func(*broker.Session) bool) {
	b.mu.Lock()
	var all []broker.Session
	for _, s := range b.m {
		all = append(all, s)
	}
	b.mu.Unlock()
	for i := range all {
		if !f(&all[i]) {
			return
		}
	}
}

func (b *book) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.m)
}

func (b *book) event(k broker.EventKind, s broker.Session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch k {
	case broker.SessionOpened:
		b.m[s.ID] = s
	case broker.SessionEnding:
		s.Ending, s.Why = time.Now(), broker.ReasonLocked
		b.m[s.ID] = s
	default:
		delete(b.m, s.ID)
	}
	b.c.Session(broker.SessionEvent{Kind: k, Session: s})
}

// told is what the server's callbacks said.
type told struct {
	mu   sync.Mutex
	open map[broker.SessionID]string
	log  []string
}

func (x *told) opened(h broker.HostName, s broker.Session) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.log = append(x.log, fmt.Sprintf("opened %s %s", h, s.ID))
	if x.open[s.ID] != "" {
		x.log = append(x.log, "TWICE")
	}
	x.open[s.ID] = string(h)
}

func (x *told) closed(h broker.HostName, s broker.Session, k broker.EventKind, _ broker.Reason) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.log = append(x.log, fmt.Sprintf("%s %s %s", k, h, s.ID))
	if x.open[s.ID] == "" {
		x.log = append(x.log, "NOT OPEN")
	}
	delete(x.open, s.ID)
}

func (x *told) same(b *book) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := 0
	ok := true
	b.each(func(s *broker.Session) bool {
		n++
		ok = ok && x.open[s.ID] != ""
		return true
	})
	return ok && n == len(x.open)
}

// TestSessions: the server knows which sessions a host has, whatever ends and
// begins on either side, and is told each one's beginning and end once.
func TestSessions(t *testing.T) {
	seen := &told{open: map[broker.SessionID]string{}}
	x := newSite(t, small(t), func(c *ServerConfig) { c.Opened, c.Closed = seen.opened, seen.closed })
	b := &book{m: map[broker.SessionID]broker.Session{}}
	var ended []string
	const name = "host0.example.org"
	h := x.host(name, x.join(name), func(c *ClientConfig) {
		c.Sessions = b.each
		c.End = func(id broker.SessionID, r broker.Reason, text string) bool {
			b.mu.Lock()
			s, known := b.m[id]
			ended = append(ended, string(r)+" "+text)
			b.mu.Unlock()
			if known {
				go func() {
					b.event(broker.SessionEnding, s)
					b.event(broker.SessionClosed, s)
				}()
			}
			return known
		}
	})
	b.c = h
	for i := range 700 { // several frames of them, before it follows or meanwhile
		b.event(broker.SessionOpened, testSession(i, name))
	}
	until(t, "all are known", func() bool { return seen.same(b) })
	for i := range 300 {
		b.event(broker.SessionClosed, testSession(i, name))
	}
	b.event(broker.SessionOpened, testSession(5000, name))
	until(t, "the same", func() bool { return seen.same(b) })

	if err := x.server.End(name, testSession(5000, name).ID, broker.ReasonKilled, "by root"); err != nil {
		t.Fatal(err)
	}
	until(t, "it is ended", func() bool { return seen.same(b) && b.count() == 400 })
	b.mu.Lock()
	if !slices.Contains(ended, "killed by root") {
		t.Errorf("%q", ended)
	}
	b.mu.Unlock()
	if err := x.server.End("host1.example.org", testSession(1, name).ID, broker.ReasonKilled, ""); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}

	// The broker starts anew, with nothing, while sessions come and go; then the
	// host does, and has lost some.
	x.stop()
	seen.mu.Lock()
	seen.open = map[broker.SessionID]string{}
	seen.mu.Unlock()
	for i := 300; i < 400; i++ {
		b.event(broker.SessionClosed, testSession(i, name))
	}
	x.start(x.addr)
	for i := 600; i < 650; i++ {
		b.event(broker.SessionClosed, testSession(i, name))
	}
	until(t, "after the broker's restart", func() bool { return seen.same(b) })
	h.stop()
	b.mu.Lock()
	for i := 400; i < 500; i++ {
		delete(b.m, testSession(i, name).ID)
	}
	b.mu.Unlock()
	h.start()
	until(t, "after the host's restart", func() bool { return seen.same(b) })
	seen.mu.Lock()
	defer seen.mu.Unlock()
	for _, bad := range []string{"TWICE", "NOT OPEN"} {
		if slices.Contains(seen.log, bad) {
			t.Errorf("%s in %d events", bad, len(seen.log))
		}
	}
	if n := len(slices.DeleteFunc(slices.Clone(seen.log), func(s string) bool { return s[:4] != "lost" })); n != 100 {
		t.Errorf("%d sessions were lost, of 100", n)
	}
}

// TestSessionsMeanwhile: sessions come and go while all are listed, over and over.
func TestSessionsMeanwhile(t *testing.T) {
	seen := &told{open: map[broker.SessionID]string{}}
	x := newSite(t, small(t), func(c *ServerConfig) { c.Opened, c.Closed = seen.opened, seen.closed })
	const name = "host0.example.org"
	b := &book{m: map[broker.SessionID]broker.Session{}}
	h := x.host(name, x.join(name), func(c *ClientConfig) { c.Sessions = b.each })
	b.c = h
	end := make(chan struct{})
	var all sync.WaitGroup
	for w := range 2 {
		all.Go(func() {
			for i := 0; ; i++ {
				s := testSession(w*1_000_000+i%500, name)
				select {
				case <-end:
					return
				case <-time.After(200 * time.Microsecond):
				}
				b.mu.Lock()
				_, has := b.m[s.ID]
				b.mu.Unlock()
				if has {
					b.event(broker.SessionEnding, s)
					b.event(broker.SessionClosed, s)
				} else {
					b.event(broker.SessionOpened, s)
				}
			}
		})
	}
	for range 15 {
		time.Sleep(40 * time.Millisecond)
		x.server.mu.Lock()
		for _, s := range x.server.hosts {
			if s.conn != nil {
				s.conn.link.close(errors.New("a test"))
			}
		}
		x.server.mu.Unlock()
	}
	close(end)
	all.Wait()
	until(t, "the same", func() bool { return seen.same(b) })
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if slices.Contains(seen.log, "TWICE") || slices.Contains(seen.log, "NOT OPEN") {
		t.Error("a session began or ended twice")
	}
}

// TestConfirm: a host confirms when it has judged its sessions by the change, and
// what had to end is gone; one that is cut off is named.
func TestConfirm(t *testing.T) {
	x := newSite(t, small(t), nil)
	const name = "host0.example.org"
	b := &book{m: map[broker.SessionID]broker.Session{}}
	h := x.host(name, x.join(name), func(c *ClientConfig) { c.Sessions, c.Judges = b.each, true })
	b.c = h
	x.join("host1.example.org") // and never comes
	s := testSession(1, name)
	b.event(broker.SessionOpened, s)
	until(t, "the session", func() bool {
		n := 0
		x.server.Sessions(func(broker.HostName, bool, *broker.Session) bool { n++; return true })
		return n == 1
	})
	g := x.src.edit(func(e *broker.Edit) { e.RemoveUser(testUser(0).ID) })
	until(t, "the change", func() bool { return h.Status().BrokerGeneration >= g })
	// ask waits so long, or until the host has confirmed: the other one never does.
	ask := func(wait time.Duration) map[broker.HostName]Confirmation {
		out := map[broker.HostName]Confirmation{}
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		x.server.Confirm(ctx, g, func(c Confirmation) {
			if _, twice := out[c.Host]; twice {
				t.Errorf("%s twice", c.Host)
			}
			if out[c.Host] = c; c.OK && c.Host == name {
				cancel()
			}
		})
		return out
	}
	const brief = 50 * time.Millisecond
	says := func(why string) {
		t.Helper()
		until(t, why, func() bool { return ask(brief)[name].Why == why })
	}
	want := func(what string, got map[broker.HostName]Confirmation, ok bool, why string) {
		t.Helper()
		if c := got[name]; c.OK != ok || c.Why != why {
			t.Errorf("%s: %+v", what, c)
		}
		if c := got["host1.example.org"]; c.OK || c.Why != "it has not been connected since this broker began" || len(got) != 2 {
			t.Errorf("%s: %+v", what, got)
		}
	}
	says("it has not judged its sessions")
	want("not judged", ask(brief), false, "it has not judged its sessions")
	b.event(broker.SessionEnding, s)
	h.Judged(h.View().Generation())
	says("1 of its sessions are still ending")
	want("still ending", ask(brief), false, "1 of its sessions are still ending")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		asked := func() bool { x.server.mu.Lock(); defer x.server.mu.Unlock(); return len(x.server.confirms) > 0 }
		for end := time.Now().Add(time.Minute); !asked() && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(brief)
		b.event(broker.SessionClosed, s)
	}()
	began := time.Now()
	got := ask(time.Minute)
	took := time.Since(began)
	<-ended
	want("ended", got, true, "")
	if d := got[name].Took; d < brief || d > took {
		t.Errorf("it took %s of %s", d, took)
	}
	// A generation that is yet to come, and a host that goes.
	g++
	want("to come", ask(brief), false, "it was not sent the change yet")
	g--
	h.stop()
	until(t, "it is gone", func() bool { return !x.server.Hosts()[0].Connected })
	if c := ask(brief)[name]; c.OK {
		t.Errorf("a host that is gone has confirmed: %+v", c)
	}
}

// TestConfirmWhileListing: a host that judges its sessions while it lists them confirms
// after it has said which of them must end, also of one that it had copied before.
func TestConfirmWhileListing(t *testing.T) {
	x := newSite(t, small(t), nil)
	const name = "host0.example.org"
	cert := x.join(name)
	g := x.src.View().Generation()
	said := make(chan Confirmation, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go x.server.Confirm(ctx, g, func(c Confirmation) { said <- c })
	waits := func() bool {
		x.server.mu.Lock()
		defer x.server.mu.Unlock()
		for c := range x.server.confirms {
			return len(c.left) == 1
		}
		return false
	}
	until(t, "it is waited for", waits)
	var h *host
	made := make(chan struct{})
	was := testSession(1, name)
	now := was
	now.Ending, now.Why = time.Now(), broker.ReasonLocked
	h = x.host(name, cert, func(c *ClientConfig) {
		c.Judges = true
		c.Sessions = func(f func(*broker.Session) bool) {
			<-made
			f(&was)
			h.Session(broker.SessionEvent{Kind: broker.SessionEnding, Session: now, Reason: now.Why})
			h.Judged(h.View().Generation())
		}
	})
	close(made)
	until(t, "it is ending, and judged", func() bool {
		ending := false
		x.server.Sessions(func(_ broker.HostName, _ bool, s *broker.Session) bool { ending = !s.Ending.IsZero(); return true })
		return ending && x.server.Hosts()[0].Judged >= g
	})
	if !waits() {
		t.Errorf("confirmed while a session is ending: %+v", <-said)
		return
	}
	h.Session(broker.SessionEvent{Kind: broker.SessionClosed, Session: now, Reason: now.Why})
	if c := <-said; !c.OK {
		t.Errorf("%+v", c)
	}
}

// TestHosts: who follows, how far each is, and who does not.
func TestHosts(t *testing.T) {
	x := newSite(t, small(t), nil)
	const name, never = "host0.example.org", "host1.example.org"
	b := &book{m: map[broker.SessionID]broker.Session{}}
	h := x.host(name, x.join(name), func(c *ClientConfig) { c.Sessions, c.Judges = b.each, true })
	b.c = h
	x.join(never)
	status := func() map[broker.HostName]HostStatus {
		out := map[broker.HostName]HostStatus{}
		for _, s := range x.server.Hosts() {
			if _, twice := out[s.Host]; twice {
				t.Errorf("%s twice", s.Host)
			}
			out[s.Host] = s
		}
		return out
	}
	b.event(broker.SessionOpened, testSession(1, name))
	judge := func(g uint64) {
		t.Helper()
		until(t, "the change", func() bool { return h.Status().BrokerGeneration >= g })
		h.Judged(h.View().Generation())
		until(t, "its word", func() bool { return status()[name].Judged >= g })
	}
	first := x.src.View().Generation()
	judge(first)
	if s := status()[name]; !s.Connected || s.Since.IsZero() || s.From == "" || s.Behind != 0 || s.Sessions != 1 || s.Users == 0 {
		t.Errorf("a host that follows: %+v", s)
	}
	if s := status()[never]; s != (HostStatus{Host: never}) {
		t.Errorf("a host that never came: %+v", s)
	}
	// A change that it has applied, and not judged by.
	second := x.src.edit(func(e *broker.Edit) { e.RemoveUser(testUser(0).ID) })
	until(t, "it is applied", func() bool { return status()[name].Applied >= second })
	before := status()[name]
	if before.Judged != first || before.Behind <= 0 {
		t.Errorf("a host that owes its word: %+v", before)
	}
	until(t, "it owes it for longer", func() bool { return status()[name].Behind > before.Behind })
	judge(second)
	if s := status()[name]; s.Behind != 0 {
		t.Errorf("a host that has given its word: %+v", s)
	}
	x.server.mu.Lock()
	for _, s := range x.server.hosts {
		if n := len(s.conn.changes); n != 1 {
			t.Errorf("%d changes are kept, when all are confirmed", n)
		}
	}
	x.server.mu.Unlock()
	h.stop()
	until(t, "it is gone", func() bool { return !status()[name].Connected })
	if s := status()[name]; s.Judged != second || s.Applied != second || s.Sessions != 1 || s.Behind != 0 || s.From != "" {
		t.Errorf("a host that is gone: %+v", s)
	}
}

// TestEndOfNone: an order for a session that is not there any more closes it.
func TestEndOfNone(t *testing.T) {
	seen := &told{open: map[broker.SessionID]string{}}
	x := newSite(t, small(t), func(c *ServerConfig) { c.Opened, c.Closed = seen.opened, seen.closed })
	const name = "host0.example.org"
	b := &book{m: map[broker.SessionID]broker.Session{}}
	b.c = x.host(name, x.join(name), func(c *ClientConfig) { c.Sessions = b.each })
	b.event(broker.SessionOpened, testSession(1, name))
	until(t, "open", func() bool { return seen.same(b) })
	b.mu.Lock()
	clear(b.m)
	b.mu.Unlock()
	if err := x.server.End(name, testSession(1, name).ID, broker.ReasonKilled, ""); err != nil {
		t.Fatal(err)
	}
	until(t, "closed", func() bool { return seen.same(b) })
}

// TestRenamed: a host that is called otherwise now hears which of its sessions must
// end, by whatever name they began under, and its closes are told of.
func TestRenamed(t *testing.T) {
	seen := &told{open: map[broker.SessionID]string{}}
	x := newSite(t, small(t), func(c *ServerConfig) { c.Opened, c.Closed = seen.opened, seen.closed })
	const name, short = "host0.example.org", "host0"
	b := &book{m: map[broker.SessionID]broker.Session{}}
	ordered := make(chan broker.SessionID, 1)
	h := x.host(name, x.join(name), func(c *ClientConfig) {
		c.Sessions = b.each
		c.End = func(id broker.SessionID, _ broker.Reason, _ string) bool { ordered <- id; return true }
	})
	b.c = h
	s := testSession(1, name)
	b.event(broker.SessionOpened, s)
	until(t, "open", func() bool { return seen.same(b) })
	x.confirmed(x.src.edit(func(e *broker.Edit) {
		n := *e.Snapshot().Host(name)
		n.Names = []broker.HostName{short, name}
		e.PutHost(n)
	}))
	if h := x.server.Hosts()[0]; h.Host != short {
		t.Fatalf("it is still called %s", h.Host)
	}
	if err := x.server.End(name, s.ID, broker.ReasonKilled, ""); err != nil {
		t.Fatal(err)
	}
	select {
	case id := <-ordered:
		if id != s.ID {
			t.Errorf("%s is to end, and not %s", id, s.ID)
		}
	case <-time.After(time.Minute):
		t.Fatal("the host is not told")
	}
	b.event(broker.SessionClosed, s)
	until(t, "closed", func() bool { return seen.same(b) })
}

// TestWeight: each text of a session weighs what it is long, so that none holds more
// memory than is counted.
func TestWeight(t *testing.T) {
	const long = 1000
	text := strings.Repeat("x", long)
	var fields int
	var walk func(name string, v reflect.Value, x *broker.Session)
	walk = func(name string, v reflect.Value, x *broker.Session) {
		switch {
		case v.Type() == reflect.TypeFor[netip.Addr]():
			v.Set(reflect.ValueOf(netip.MustParseAddr("fe80::1%" + text)))
		case v.Kind() == reflect.String:
			v.SetString(text)
		case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]():
			for i := range v.NumField() {
				walk(name+"."+v.Type().Field(i).Name, v.Field(i), x)
			}
			return
		case v.Kind() == reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			walk(name+"[0]", v.Index(0), x)
			return
		default:
			return
		}
		fields++
		if got, least := weight(x), weight(new(broker.Session))+long; got < least {
			t.Errorf("with %s of %d bytes it weighs %d, less than %d", name, long, got, least)
		}
		v.SetZero()
	}
	var x broker.Session
	walk("", reflect.ValueOf(&x).Elem(), &x)
	if fields < 16 {
		t.Errorf("%d texts were tried", fields)
	}
}
