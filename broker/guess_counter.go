package broker

import (
	"math"
	"slices"
	"time"
)

// share is what one broker has counted: n at the time at, decaying since.
// Exponentially, so that shares decay one by one as their sum does.
type share struct {
	n  float64
	at time.Time
}

func (s share) value(now time.Time, half time.Duration) float64 {
	age := now.Sub(s.at)
	if age <= 0 || s.n == 0 {
		return s.n
	}
	return s.n * math.Exp2(-float64(age)/float64(half))
}

// counter counts wrong guesses. Guesses.mu guards it.
type counter struct {
	kind    GuessKind
	name    string
	own     share
	others  map[string]share // by broker; nil for none
	last    time.Time        // of the last wrong one, on any broker
	cleared time.Time        // what was counted before is void, on all brokers
	flying  int              // let through and not settled
	locked  bool             // Note was told so
	waiting []*waiter
}

// waiter waits for a turn at a counter.
type waiter struct {
	c     *counter
	woken chan struct{} // closed under Guesses.mu
}

func (c *counter) wait() *waiter {
	w := &waiter{c, make(chan struct{})}
	c.waiting = append(c.waiting, w)
	return w
}

// wake lets the first of those who wait look again: a unit may be free. Who does
// not take it passes it on.
func (c *counter) wake() {
	if len(c.waiting) > 0 {
		close(c.waiting[0].woken)
		c.waiting[0] = nil
		c.waiting = c.waiting[1:]
	}
}

// wakeAll lets all of them look.
func (c *counter) wakeAll() {
	for len(c.waiting) > 0 {
		c.wake()
	}
}

// pass is for a waiter who was woken and takes no unit of his counter.
func (w *waiter) pass() {
	if w != nil {
		w.c.wake()
	}
}

// leave is for a waiter who gives up.
func (g *Guesses) leave(w *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(w.c.waiting, w); i >= 0 {
		w.c.waiting = slices.Delete(w.c.waiting, i, i+1)
	} else { // woken just now
		w.pass()
	}
	g.drop(w.c, g.c.Now())
}

func (g *Guesses) half(k GuessKind) time.Duration {
	if k == GuessSpray {
		return sprayHalving
	}
	return GuessHalving * g.c.LongestWait
}

// free is how many of a kind may be wrong before anybody waits.
func (g *Guesses) free(k GuessKind) int {
	switch k {
	case GuessSpray:
		return sprayFree
	case GuessSource:
		return g.c.PerSource
	default:
		return g.c.PerUser
	}
}

// value is what c counts now, on all brokers.
func (g *Guesses) value(c *counter, now time.Time) float64 {
	half := g.half(c.kind)
	n := c.own.value(now, half)
	for _, s := range c.others {
		n += s.value(now, half)
	}
	return n
}

type room uint8

const (
	roomNone room = iota
	roomTurn      // when those that fly have landed
	roomYes
)

// room says whether there is any in c now, or when; mu is held.
func (g *Guesses) room(c *counter, now time.Time) (room, time.Time) {
	if c.last.After(now) { // the clock was set back
		c.last = now
	}
	n, free := g.value(c, now), g.free(c.kind)
	over := n - float64(free-1) // above 0: the next one is not free
	if over <= 1e-9 {
		if c.kind == GuessSpray && c.flying >= strangersAtOnce || n+float64(c.flying) > float64(free-1)+1e-9 {
			return roomTurn, now
		}
		return roomYes, now
	}
	var at time.Time
	if c.kind == GuessSpray {
		at = now.Add(time.Duration(math.Log2(n/float64(free-1)) * float64(sprayHalving)))
	} else {
		at = c.last.Add(g.wait(n, free))
	}
	switch {
	case c.kind == GuessSpray, at.After(now):
		return roomNone, at
	case c.flying > 0:
		return roomTurn, now
	}
	return roomYes, now
}

// add makes a counter; nil when there are too many that count for something.
func (g *Guesses) add(kind GuessKind, name string, now time.Time) *counter {
	all := g.counters[kind]
	if len(all) >= maxCounters && !g.evict(all, now) {
		return nil
	}
	c := &counter{kind: kind, name: name}
	all[name] = c
	return c
}

// evict takes out a counter that counts for less than a fresh one will: nobody's
// limit is flushed by filling the memory with others. Of some, the least.
func (g *Guesses) evict(all map[string]*counter, now time.Time) bool {
	const looks = 16
	var least *counter
	low, seen := 0.99, 0
	for _, c := range all {
		if seen++; seen > looks {
			break
		}
		if c.flying > 0 || len(c.waiting) > 0 {
			continue
		}
		if n := g.value(c, now); n < low {
			least, low = c, n
		}
	}
	if least == nil {
		return false
	}
	delete(all, least.name)
	delete(g.dirty, least)
	return true
}

// negligible is what a counter is forgotten at.
const negligible = 0.5

// drop forgets a counter that counts nothing; mu is held.
func (g *Guesses) drop(c *counter, now time.Time) {
	if c.flying > 0 || len(c.waiting) > 0 || g.value(c, now) >= negligible {
		return
	}
	if now.Sub(c.cleared) < clearedKept && !c.cleared.IsZero() {
		return // older counts of other brokers may still arrive
	}
	if g.counters[c.kind][c.name] == c {
		delete(g.counters[c.kind], c.name)
	}
	delete(g.dirty, c)
}

// clearedKept is how long it is remembered that a counter was cleared.
const clearedKept = 10 * time.Second

// count counts a wrong guess; mu is held.
func (g *Guesses) count(c *counter, now time.Time) []LockoutEvent {
	if g.value(c, now) <= float64(g.free(c.kind))/2 {
		c.locked = false
	}
	c.own = share{c.own.value(now, g.half(c.kind)) + 1, now}
	c.last = now
	g.dirty[c] = struct{}{}
	if room, at := g.room(c, now); room == roomNone && !c.locked {
		c.locked = true
		return []LockoutEvent{{Begin: true, Lockout: g.lockout(c, now, at)}}
	}
	return nil
}
