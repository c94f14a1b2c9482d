package clock

import (
	"fmt"
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
				o := source(&p.answer)
				o.own = p.own
				out = append(out, o)
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
