package clock

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sekisho/sekisho/broker"
)

const (
	maxAge = time.Hour // of an answer that still counts
	// drift is how fast the bound of an answer grows with its age: two
	// quartz clocks apart, with room.
	drift    = 100e-6
	maxStep  = time.Second // a wall clock that moves by more against the monotonic one was set
	fresh    = time.Second // how old a judgement may be
	maxPeers = 32          // KDCs, and directory servers, that are remembered
)

// Guard watches the clocks. Its methods may be called from any goroutine.
type Guard struct {
	c     Config    // immutable
	start time.Time // of the monotonic clock; immutable
	wake  chan struct{}

	polling sync.Mutex // one look at a time; taken before mu
	last    atomic.Pointer[judgement]

	mu      sync.Mutex    // guards all below
	ahead   time.Duration // of the wall clock before the monotonic one, when the answers came
	epoch   int           // counts the steps of this machine's clock
	stepped string        // the step that nobody has looked at the clocks since
	looks   int
	looked  time.Duration // when the last look began, by the monotonic clock
	servers []*server
	peers   []*peer           // KDCs and directory servers
	names   map[string]string // what an IP:port is called, as AskKDC found
	state   State             // of the last judgement
	culprit Clock
}

// answer is what a clock said.
type answer struct {
	Clock
	offset, bound time.Duration
	at            time.Duration // by the monotonic clock
}

// peer is a KDC or a directory server.
type peer struct {
	answer
	heard bool
	why   string // it was not heard
}

// server is a time server.
type server struct {
	Clock
	addr   string
	heard  bool
	look   int // in which it was heard last
	answer answer
	why    string        // it was not heard in the last look
	denied bool          // for good
	every  time.Duration // after a RATE: the least time between two questions
	due    time.Duration // by the monotonic clock: not asked before
}

// judgement is a Status and when it was made.
type judgement struct {
	Status
	at time.Duration
}

// New makes a guard that knows nothing yet.
func New(c Config) (*Guard, error) {
	c, err := c.validate()
	if err != nil {
		return nil, fmt.Errorf("configuring the clock guard: %w", err)
	}
	g := &Guard{c: c, start: time.Now(), wake: make(chan struct{}, 1), names: map[string]string{}}
	g.ahead = g.lead()
	for _, s := range c.Servers {
		addr, err := serverAddr(s)
		if err != nil {
			return nil, fmt.Errorf("configuring the clock guard: %w", err)
		}
		g.servers = append(g.servers, &server{Clock: Clock{TimeServer, s}, addr: addr, why: "not asked yet"})
	}
	return g, nil
}

// mono is the monotonic clock.
func (g *Guard) mono() time.Duration { return time.Since(g.start) }

// lead is how far the wall clock is ahead of the monotonic one.
func (g *Guard) lead() time.Duration { return g.c.Now().Round(0).Sub(g.start.Round(0)) - g.mono() }

// Observe takes note of a KDC's clock as an answer of its showed it: it was
// offset ahead of this machine's (negative: behind), give or take bound, which
// includes the answer's resolution and the time it may have been on its way.
// source is host, host:port or IP:port; what AskKDC has reached at that address
// is the same KDC.
func (g *Guard) Observe(source string, offset, bound time.Duration) {
	g.observe(KDC, source, offset, bound)
}

// ObserveDirectory is Observe for a directory server.
func (g *Guard) ObserveDirectory(source string, offset, bound time.Duration) {
	g.observe(Directory, source, offset, bound)
}

func (g *Guard) observe(k Kind, source string, offset, bound time.Duration) {
	if bound < 0 || bound > g.maxBound() {
		return // too unsure to tell anything
	}
	g.mu.Lock()
	g.notice()
	now := g.mono()
	p := g.peer(k, source)
	if old := around(p.offset, p.aged(now)); p.heard && now-p.at < maxAge && old.overlaps(around(offset, bound)) {
		// Not moved since: it is where both answers say.
		both := interval{max(old.lo, offset-bound), min(old.hi, offset+bound)}
		offset, bound = both.mid(), both.bound()
	}
	p.heard, p.why, p.answer = true, "", answer{p.Clock, offset, max(bound, minBound), now}
	g.mu.Unlock()
	g.judge()
}

// Missed takes note that a KDC or directory server could not be asked. Its last
// answer counts as long as it is young.
func (g *Guard) Missed(k Kind, source string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.peer(k, source).why = err.Error()
}

// AskKDC asks one KDC (host:port) of the realm the time, and takes note of what
// it says; for Config.Probe. It ends with ctx or after some seconds.
func (g *Guard) AskKDC(ctx context.Context, addr, realm string) error {
	offset, bound, from, err := askKDC(ctx, addr, realm, g.c.Now)
	if err != nil {
		g.Missed(KDC, addr, err)
		return err
	}
	g.mu.Lock()
	if name := shortName(KDC, from); name != shortName(KDC, addr) && len(g.names) < maxPeers {
		g.names[name] = shortName(KDC, addr)
		g.peers = slices.DeleteFunc(g.peers, func(p *peer) bool { return p.Clock == Clock{KDC, name} })
	}
	g.mu.Unlock()
	g.Observe(addr, offset, bound)
	return nil
}

// shortName is a source as it is shown: without the usual port.
func shortName(k Kind, source string) string {
	source = clean(source)
	if k == KDC {
		if host, port, err := net.SplitHostPort(source); err == nil && port == "88" {
			return host
		}
	}
	return source
}

// peer is the peer of that name, made if there is none. With mu held.
func (g *Guard) peer(k Kind, source string) *peer {
	name := shortName(k, source)
	if other, ok := g.names[name]; ok && k == KDC {
		name = other
	}
	if i := slices.IndexFunc(g.peers, func(p *peer) bool { return p.Clock == Clock{k, name} }); i >= 0 {
		return g.peers[i]
	}
	p := &peer{answer: answer{Clock: Clock{k, name}}}
	g.peers = append(g.peers, p)
	g.drop(k)
	return p
}

// drop forgets the oldest peer of a kind when there are too many. With mu held.
func (g *Guard) drop(k Kind) {
	n := 0
	for _, p := range g.peers {
		if p.Kind == k {
			n++
		}
	}
	if n > maxPeers {
		oldest := -1
		for i, p := range g.peers[:len(g.peers)-1] { // the last is new
			if p.Kind == k && (oldest < 0 || p.at < g.peers[oldest].at) {
				oldest = i
			}
		}
		g.peers = slices.Delete(g.peers, oldest, oldest+1)
	}
}

// maxBound is how unsure an answer may be and still count.
func (g *Guard) maxBound() time.Duration { return max(g.c.Skew/10, time.Second) }

// aged is the bound of an answer at a later time.
func (a *answer) aged(now time.Duration) time.Duration {
	return a.bound + time.Duration(float64(now-a.at)*drift)
}

// notice looks whether this machine's clock was set: then all answers are about
// another clock. With mu held.
func (g *Guard) notice() {
	lead := g.lead()
	step := lead - g.ahead
	if step.Abs() <= maxStep {
		return
	}
	g.ahead, g.stepped = lead, ahead(step)
	g.epoch++
	g.peers = nil
	for _, s := range g.servers {
		s.heard, s.why = false, "not asked since this host's clock was moved"
	}
	g.hurry()
}

// hurry has Run look now.
func (g *Guard) hurry() {
	select {
	case g.wake <- struct{}{}:
	default: // it is awake
	}
}

// Status is what is known now.
func (g *Guard) Status() Status {
	s := g.current().Status
	s.Sources = slices.Clone(s.Sources)
	return s
}

// current is the last judgement, or a new one.
func (g *Guard) current() *judgement {
	if j := g.last.Load(); j != nil && g.mono()-j.at < fresh {
		return j
	}
	return g.judge()
}

// judge makes a new judgement, and logs it when it is another than the last.
func (g *Guard) judge() *judgement {
	g.mu.Lock()
	g.notice()
	now := g.mono()
	j := &judgement{judge(g.c.limits(), g.state, g.sources(now)), now}
	if j.State != Unknown {
		g.stepped = ""
	} else if g.stepped != "" {
		j.Text = "this host's clock was just moved (" + g.stepped + " of what it was), and nobody has told this host the time since"
	}
	changed := j.State != g.state || j.Culprit != g.culprit
	g.state, g.culprit = j.State, j.Culprit
	if changed && j.State == Beyond { // one answer may be older than the clock that moved
		g.hurry()
	}
	g.last.Store(j)
	g.mu.Unlock()
	if changed {
		log := g.c.Log.WithField("clock", j.State.String())
		switch {
		case j.State == Beyond:
			log.Error(j.Text)
		case j.State == Good && j.Culprit == Clock{}:
			log.Info(j.Text)
		default:
			log.Warn(j.Text)
		}
	}
	return j
}

// sources are all answers with their bounds of now. With mu held.
func (g *Guard) sources(now time.Duration) []Source {
	var out []Source
	source := func(a *answer) Source {
		return Source{Clock: a.Clock, Offset: a.offset, Bound: a.aged(now), Age: now - a.at}
	}
	for _, s := range g.servers {
		switch {
		case s.denied:
			out = append(out, Source{Clock: s.Clock, Verdict: Denied, Why: s.why})
		case s.heard && now-s.answer.at < maxAge:
			out = append(out, source(&s.answer))
		default:
			out = append(out, Source{Clock: s.Clock, Verdict: Silent, Why: s.why})
		}
	}
	for _, k := range []Kind{KDC, Directory} {
		for _, p := range g.peers {
			switch {
			case p.Kind != k:
			case p.heard && now-p.at < maxAge && p.aged(now) <= g.maxBound():
				out = append(out, source(&p.answer))
			case p.why != "":
				out = append(out, Source{Clock: p.Clock, Verdict: Silent, Why: p.why})
			}
		}
	}
	return out
}

// Check says whether tickets may be issued and accepted: nil if so, and when
// nothing is known. Else it has the sentence that names the wrong clock, and
// has the clocks looked at again soon: somebody waits for the mend.
func (g *Guard) Check() *Refusal {
	j := g.current()
	if j.State != Beyond {
		return nil
	}
	g.mu.Lock()
	if g.mono()-g.looked >= again {
		g.hurry()
	}
	g.mu.Unlock()
	return &Refusal{broker.ReasonClock, j.Text}
}

// Client judges one authenticator whose time stamp is ahead of this machine's
// clock by ahead (negative: behind): nil within the skew.
func (g *Guard) Client(ahead time.Duration) *Refusal {
	if ahead <= g.c.Skew && ahead >= -g.c.Skew {
		return nil
	}
	return &Refusal{broker.ReasonClock, g.ClientText(ahead)}
}

// ClientText is the sentence for an authenticator that is so far ahead: "the
// clock of the client is 10 min 2 s ahead", or this host's if that is to blame.
func (g *Guard) ClientText(ahead time.Duration) string {
	return g.current().client(ahead)
}

func (s *Status) client(d time.Duration) string {
	text := Clock{Kind: Client}.owner() + " is "
	switch {
	case s.State == Unknown || s.Between != Clock{}:
		return text + ahead(d) + " of this host's"
	case s.host == nil:
		return text + ahead(d) + " of this host's and the KDC's"
	case (d + s.host.err).Abs() < s.host.err.Abs():
		return s.host.text()
	}
	return text + ahead(d+s.host.err)
}
