package broker

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Lockout is a counter whose free guesses are used up.
type Lockout struct {
	Kind GuessKind `json:"kind"`
	// Name is the user, the network as Attempt.Source gives it, or both with a
	// blank between, the network first; empty for a spray.
	Name string `json:"name"`
	// Wrong is how many were wrong, half of them forgotten every now and then.
	Wrong float64 `json:"wrong"`
	// Last is when the last one was, and Until when the next may be tried.
	Last  time.Time `json:"last"`
	Until time.Time `json:"until"`
}

// String is for people: "user alice", "source 203.0.113.0/24", "spray".
func (l Lockout) String() string { return strings.TrimSpace(string(l.Kind) + " " + l.Name) }

// LockoutEvent is the beginning or the end of a lockout. One that ends by time
// alone has no end of its own: Until says it.
type LockoutEvent struct {
	Begin bool
	// By is who cleared it: a name, or empty for the user himself, who has
	// signed in.
	By string
	Lockout
}

// Parts are the user and the network that a lockout is about; one of them may be
// empty.
func (l Lockout) Parts() (user UserName, source string) {
	switch l.Kind {
	case GuessUser:
		return UserName(l.Name), ""
	case GuessSource:
		return "", l.Name
	case GuessPair:
		s, u := splitPair(l.Name)
		return UserName(u), s
	}
	return "", ""
}

func (g *Guesses) lockout(c *counter, now, until time.Time) Lockout {
	return Lockout{c.kind, c.name, g.value(c, now), c.last, until}
}

// Lockouts lists up to most of the counters whose free guesses are used up,
// those with the longest waits first.
func (g *Guesses) Lockouts(most int) []Lockout {
	g.mu.Lock()
	now := g.c.Now()
	g.expire(now)
	var out []Lockout
	for _, all := range g.counters {
		for _, c := range all {
			_, at := g.room(c, now)
			if g.value(c, now)-float64(g.free(c.kind)-1) > 1e-9 {
				out = append(out, g.lockout(c, now, at))
			}
		}
	}
	g.mu.Unlock()
	slices.SortFunc(out, func(a, b Lockout) int {
		return cmp.Or(b.Until.Compare(a.Until), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return out[:min(len(out), most)]
}

// GuessClear says which counters are cleared. The zero value clears none.
type GuessClear struct {
	// User clears what is counted for a user, from wherever.
	User UserName
	// Source clears what is counted for a network, for whomever; as
	// Attempt.Source gives it.
	Source string
	// All clears everything.
	All bool
	// By is the administrator.
	By string
}

// Clear forgets wrong guesses, and says how many counters it has cleared. What
// is known good stays so.
func (g *Guesses) Clear(what GuessClear) int {
	user := bounded(string(what.User))
	g.mu.Lock()
	now := g.c.Now()
	n := 0
	var notes []LockoutEvent
	for kind, all := range g.counters {
		for name, c := range all {
			fits := what.All
			switch kind {
			case GuessUser:
				fits = fits || what.User != "" && name == user
			case GuessSource:
				fits = fits || what.Source != "" && name == what.Source
			case GuessPair:
				s, u := splitPair(name)
				fits = fits || what.User != "" && u == user || what.Source != "" && s == what.Source
			}
			if fits && g.value(c, now) > 0 {
				n++
				notes = append(notes, g.clear(c, now, what.By)...)
			}
		}
	}
	g.mu.Unlock()
	g.note(notes)
	return n
}

// splitPair is the other way round of flightKey.pair. A source has one blank at
// most, after "on" or "to".
func splitPair(name string) (source, user string) {
	skip := 0
	if len(name) > 3 && (name[:3] == "on " || name[:3] == "to ") {
		skip = 3
	}
	for i := skip; i < len(name); i++ {
		if name[i] == ' ' {
			return name[:i], name[i+1:]
		}
	}
	return name, ""
}

// clear forgets what a counter has counted, here and on other brokers; mu is held.
func (g *Guesses) clear(c *counter, now time.Time, by string) []LockoutEvent {
	var notes []LockoutEvent
	if c.locked {
		notes = append(notes, LockoutEvent{By: by, Lockout: g.lockout(c, now, now)})
	}
	c.own, c.others, c.last, c.locked, c.cleared = share{}, nil, time.Time{}, false, now
	g.dirty[c] = struct{}{}
	c.wakeAll()
	return notes
}
