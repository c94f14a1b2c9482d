package broker

import "time"

// GuessCount is what one broker tells the others of one counter. Counts of
// several brokers are added up: nobody writes another's, and none is lost.
type GuessCount struct {
	Kind GuessKind `json:"kind"`
	// Name is the counter's; for GuessKnown the user's.
	Name string `json:"name"`
	// Wrong is what this broker has counted, at the time At. It decays.
	Wrong float64   `json:"wrong,omitempty"`
	At    time.Time `json:"at"`
	// Cleared voids what any broker has counted before that time.
	Cleared time.Time `json:"cleared,omitzero"`
	// Source is a network known good since At, by the word of the host By; for
	// GuessKnown alone.
	Source string `json:"source,omitempty"`
	By     string `json:"by,omitempty"`
}

// Changed are the broker's own counts that have changed since it was last called,
// in no order. What it returns is taken as told; see Again.
func (g *Guesses) Changed() []GuessCount {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]GuessCount, 0, len(g.dirty)+len(g.learned))
	for c := range g.dirty {
		at := c.own.at
		if at.IsZero() {
			at = c.cleared
		}
		out = append(out, GuessCount{Kind: c.kind, Name: c.name, Wrong: c.own.n, At: at, Cleared: c.cleared})
	}
	for k := range g.learned {
		for _, s := range g.known.of[k.user] {
			if s.source == k.source && s.by == k.by {
				out = append(out, GuessCount{Kind: GuessKnown, Name: k.user, Source: k.source, By: k.by, At: s.last})
			}
		}
	}
	clear(g.dirty)
	clear(g.learned)
	return out
}

// Again has Changed tell a count once more: it could not be shared.
func (g *Guesses) Again(n GuessCount) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n.Kind == GuessKnown {
		g.learned[knownKey{n.Name, n.Source, n.By}] = struct{}{}
	} else if c := g.counters[n.Kind][n.Name]; c != nil {
		g.dirty[c] = struct{}{}
	}
}

// maxBrokers bounds the brokers whose counts are added up, in one counter.
const maxBrokers = 64

// Merge takes over what another broker tells. A count that cannot be is left out.
func (g *Guesses) Merge(broker string, n GuessCount) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.c.Now()
	at, cleared := sooner(n.At, now), n.Cleared // its clock may be ahead of ours
	if !cleared.IsZero() {
		cleared = sooner(cleared, now)
	}
	if len(n.Name) > 4*maxName || len(n.Source) > 2*maxName || len(n.By) > 2*maxName {
		return
	}
	if n.Kind == GuessKnown {
		if now.Sub(at) < g.c.KnownGood {
			g.known.put(knownKey{n.Name, n.Source, n.By}, at, g.c.KnownGood)
		}
		return
	}
	all := g.counters[n.Kind]
	if all == nil || !(n.Wrong >= 0 && n.Wrong < 1e9) {
		return
	}
	c := all[n.Name]
	if c == nil {
		if cleared.IsZero() && (share{n.Wrong, at}).value(now, g.half(n.Kind)) < negligible {
			return
		}
		if c = g.add(n.Kind, n.Name, now); c == nil {
			return
		}
	}
	if cleared.After(c.cleared) {
		c.cleared = cleared
		if !c.own.at.After(cleared) {
			c.own = share{}
		}
		for b, s := range c.others {
			if !s.at.After(cleared) {
				delete(c.others, b)
			}
		}
		if !c.last.After(cleared) {
			c.last, c.locked = time.Time{}, false
		}
	}
	if at.After(c.cleared) {
		if _, had := c.others[broker]; had || len(c.others) < maxBrokers {
			if c.others == nil {
				c.others = map[string]share{}
			}
			c.others[broker] = share{n.Wrong, at}
			c.last = later(c.last, at)
		}
	}
	c.wakeAll()
	g.drop(c, now)
}
