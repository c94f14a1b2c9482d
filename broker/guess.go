package broker

import (
	"container/list"
	"context"
	"errors"
	"math"
	"sync"
	"time"
)

// GuessKind is what a counter of wrong guesses counts for.
type GuessKind string

const (
	// GuessUser counts the wrong ones for one user, from all networks that are
	// not known good for him.
	GuessUser GuessKind = "user"
	// GuessSource counts those from one network, for all users for whom it is
	// not known good.
	GuessSource GuessKind = "source"
	// GuessPair counts those for one user from one network that is known good for
	// him, and these are counted nowhere else.
	GuessPair GuessKind = "pair"
	// GuessSpray counts those from all networks that are not known good together,
	// and, with the name elsewhere, those from nobody knows where.
	GuessSpray GuessKind = "spray"
	// GuessKnown is no counter but, in a GuessCount, a network known to be good.
	GuessKnown GuessKind = "known"
)

// The constants of guessing; docs/guessing.md says what they come to.
const (
	// firstWait is the wait after the first wrong guess that is not free. Each
	// further one doubles it.
	firstWait = 2 * time.Second
	// GuessHalving is after how many times LongestWait a counter has lost half of
	// what it counted.
	GuessHalving = 8
	// sprayFree is how many wrong guesses may come from anywhere unknown at
	// once, and sprayHalving how long the counter of them takes to lose half: the
	// trickle that is left is sprayFree·ln 2/sprayHalving, 1.4 a second. In the
	// first minute that makes 400, of a spray of 50,000 less than 1 in 100; and
	// 300 people who sign in at once for the first time do not wait.
	sprayFree    = 300
	sprayHalving = 150 * time.Second

	// strangersAtOnce is how many attempts from networks that are not known for
	// their users may be under way: making a key of a password costs a KDC's
	// client 30 ms of a processor, and whoever is known must not queue behind a spray.
	strangersAtOnce = 16
	// turnWait is how long an attempt waits for others to be settled, when they,
	// if wrong, use up what is left.
	turnWait = 5 * time.Second
	// flightTime is how long an attempt may remain unsettled: it counts as wrong
	// then. Provers take 8 seconds at most.
	flightTime = 30 * time.Second
	// maxCounters bounds the counters of each kind.
	maxCounters = 1 << 15
	sweepEvery  = time.Minute
	sweepKnown  = time.Hour
)

// GuessConfig is what Guesses are made of.
type GuessConfig struct {
	// PerUser is how many guesses may be wrong for one user before the next has
	// to wait, and PerSource the same for one network. Both at least 1.
	PerUser, PerSource int
	// LongestWait bounds the waiting; at least a second.
	LongestWait time.Duration
	// KnownGood is how long a network from which a user has signed in stays known
	// good; 0: none is ever.
	KnownGood time.Duration
	// Now reads the clock.
	Now func() time.Time
	// Note hears when somebody has to wait and when that was ended by an
	// administrator or by a sign-in; nil: nobody does. It is called outside all
	// locks, by whoever called Settle or Clear.
	Note func(LockoutEvent)
}

func (c GuessConfig) validate() error {
	switch {
	case c.Now == nil:
		return errors.New("guesses: Now must be set")
	case c.PerUser < 1 || c.PerSource < 1:
		return errors.New("guesses: PerUser and PerSource must be at least 1")
	case c.LongestWait < time.Second || c.KnownGood < 0:
		return errors.New("guesses: LongestWait must be at least a second, and KnownGood not negative")
	}
	return nil
}

// Guesses limits wrong passwords and codes, before the directory is asked. It
// keeps all in memory, bounded, whatever is tried; see GuessCount for what brokers
// tell each other. Its methods may be called from any goroutine.
//
// An attempt from a network from which the same user has signed in before is
// counted for this pair alone. Every other one is counted three times, for the
// user, for the network and for all such together, and all three must have room.
// Users whom the directory does not have are counted like all others: Guesses
// knows no directory.
type Guesses struct {
	c GuessConfig // immutable after NewGuesses

	mu         sync.Mutex // guards all below
	counters   map[GuessKind]map[string]*counter
	known      knownGood
	flights    *list.List                    // of *flight, the oldest first
	flying     map[flightKey][]*list.Element // those of flights by whose they are
	dirty      map[*counter]struct{}         // to be shared
	learned    map[knownKey]struct{}         // to be shared
	swept      time.Time
	knownSwept time.Time
}

// NewGuesses makes Guesses that have counted nothing; the error names what is
// wrong in c.
func NewGuesses(c GuessConfig) (*Guesses, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	return &Guesses{c: c, counters: map[GuessKind]map[string]*counter{GuessUser: {}, GuessSource: {}, GuessPair: {}, GuessSpray: {}},
		known: knownGood{of: map[string][]knownSource{}}, flights: list.New(), flying: map[flightKey][]*list.Element{},
		dirty: map[*counter]struct{}{}, learned: map[knownKey]struct{}{}}, nil
}

// Take says whether an attempt may be made, and has taken a unit of every budget
// that it is counted in when it may: 200 at once do not all pass. Whoever got a
// yes calls Settle.
//
// When there is no room only because of others that are not settled, it waits
// for them, five seconds at most or until ctx ends; then, Unknown.
func (g *Guesses) Take(ctx context.Context, a Attempt) Allowance {
	k := keyOf(a)
	var late <-chan time.Time
	var turn *waiter
	for {
		var al Allowance
		if al, turn = g.take(k, turn); turn == nil {
			return al
		}
		if late == nil {
			t := time.NewTimer(turnWait)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-turn.woken:
			continue
		case <-late:
		case <-ctx.Done():
		}
		g.leave(turn)
		return Allowance{Unknown: true, Until: g.c.Now()}
	}
}

// take is one look at the budgets; turn is who was woken for it, or nil. What it
// returns is whom to wait as.
func (g *Guesses) take(k flightKey, turn *waiter) (Allowance, *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.c.Now()
	g.expire(now)
	known := g.known.has(k.user, k.source, now, g.c.KnownGood)
	var until time.Time
	var full *counter
	for _, b := range g.budgets(k, known) {
		c := g.counters[b.kind][b.name]
		if c == nil {
			continue // nothing was counted
		}
		switch room, at := g.room(c, now); room {
		case roomNone:
			until = later(until, at)
		case roomTurn:
			full = c
		}
	}
	if until.IsZero() && full == nil && !g.fly(k, known, now) { // no memory for it
		until = now.Add(g.c.LongestWait)
	}
	switch {
	case !until.IsZero():
		turn.pass()
		return Allowance{Until: until}, nil
	case full != nil:
		if turn != nil && turn.c != full {
			turn.pass()
		}
		return Allowance{}, full.wait()
	}
	return Allowance{OK: true}, nil
}

// fly has an attempt counted as one that is let through; only now do counters
// come to be. False: there are too many. mu is held.
func (g *Guesses) fly(k flightKey, known bool, now time.Time) bool {
	var all []*counter
	for _, b := range g.budgets(k, known) {
		c := g.counters[b.kind][b.name]
		if c == nil {
			c = g.add(b.kind, b.name, now)
		}
		if c == nil {
			for _, c := range all {
				c.flying--
				g.drop(c, now)
			}
			return false
		}
		c.flying++ // it is not dropped from here on
		all = append(all, c)
	}
	g.flying[k] = append(g.flying[k], g.flights.PushBack(&flight{key: k, known: known, at: now}))
	return true
}

// Settle says how an attempt came out that Take has let through. Allow: the
// caller is in; the network is known good for the user from now on, and so is the
// host itself, and what was wrong for the pair is forgotten. It needs no Take: by a
// key or a ticket he is in as well. NeedProof: it was right, and more is to come.
// Unknown: it could not be found out; like NeedProof it gives the unit back.
// Deny keeps it.
func (g *Guesses) Settle(_ context.Context, a Attempt, o Outcome) {
	k := keyOf(a)
	g.mu.Lock()
	now := g.c.Now()
	g.expire(now)
	var notes []LockoutEvent
	if es := g.flying[k]; len(es) > 0 {
		notes = g.land(es[0], now, o == Deny)
	}
	if o == Allow {
		notes = append(notes, g.welcome(k, a.Host, now)...)
	}
	g.mu.Unlock()
	g.note(notes)
}

// Vouch is Settle with Allow, on the word of a host that others may have taken over:
// the unit is given back and the network is known good, but no wrong guess is
// forgotten by it, for else whoever holds that host could guess without end.
func (g *Guesses) Vouch(ctx context.Context, a Attempt) {
	g.Settle(ctx, a, NeedProof)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.know(keyOf(a), a.Host, g.c.Now())
}

func (g *Guesses) note(all []LockoutEvent) {
	if g.c.Note == nil {
		return
	}
	for _, e := range all {
		g.c.Note(e)
	}
}

// wait is how long the next guess waits after one that made a counter count n,
// of which free are free.
func (g *Guesses) wait(n float64, free int) time.Duration {
	w := float64(firstWait) * math.Exp2(n-float64(free))
	return time.Duration(min(w, float64(g.c.LongestWait)))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
