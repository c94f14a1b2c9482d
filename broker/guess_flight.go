package broker

import (
	"container/list"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
	"unicode/utf8"
)

// flightKey is whose guess an attempt is. The door keeps apart those that different
// callers of Take settle: nobody settles another's.
type flightKey struct {
	user, source string
	door         Door
}

// flight is an attempt that was let through and is not settled.
type flight struct {
	key   flightKey
	known bool // it is counted for the pair
	at    time.Time
}

// maxName bounds a name that counters are kept by, in bytes; a longer one, or one
// that is no UTF-8, is kept as its beginning and a hash.
const maxName = 64

func bounded(name string) string {
	if len(name) <= maxName && utf8.ValidString(name) {
		return name
	}
	h := sha256.Sum256([]byte(name))
	start := name[:min(len(name), maxName/2)]
	return strings.ToValidUTF8(start, "?") + "…" + hex.EncodeToString(h[:16])
}

func keyOf(a Attempt) flightKey {
	return flightKey{bounded(string(a.User)), a.Source(), a.Door}
}

// Source is the network that an attempt comes from: an IPv4 /24, an IPv6 /64,
// or, for whoever is on the host itself, "on HOST". "to HOST" is somebody
// elsewhere of unknown address.
func (a Attempt) Source() string {
	host := bounded(string(a.Host))
	ip := a.From.Unmap().WithZone("")
	switch {
	case !ip.IsValid() && a.Remote:
		return "to " + host
	case !ip.IsValid(), ip.IsLoopback():
		return "on " + host
	}
	bits := 24
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return "to " + host
	}
	return p.String()
}

type budget struct {
	kind GuessKind
	name string
}

// budgets are those that an attempt is counted in.
func (g *Guesses) budgets(k flightKey, known bool) []budget {
	if known {
		return []budget{{GuessPair, k.pair()}}
	}
	if k.elsewhere() { // that is no network: one guesser there would keep all others waiting
		return []budget{{GuessUser, k.user}, {GuessSpray, "elsewhere"}}
	}
	return []budget{{GuessUser, k.user}, {GuessSource, k.source}, {GuessSpray, ""}}
}

// elsewhere is somewhere on the network, nobody knows where.
func (k flightKey) elsewhere() bool { return strings.HasPrefix(k.source, "to ") }

// pair names the counter of a user and a network that is known good.
func (k flightKey) pair() string { return k.source + " " + k.user }

// land settles a flight; mu is held.
func (g *Guesses) land(e *list.Element, now time.Time, wrong bool) []LockoutEvent {
	f := g.flights.Remove(e).(*flight)
	rest := g.flying[f.key]
	for i := range rest {
		if rest[i] == e {
			rest = append(rest[:i:i], rest[i+1:]...)
			break
		}
	}
	if len(rest) == 0 {
		delete(g.flying, f.key)
	} else {
		g.flying[f.key] = rest
	}
	var notes []LockoutEvent
	for _, b := range g.budgets(f.key, f.known) {
		c := g.counters[b.kind][b.name]
		if c == nil {
			continue
		}
		c.flying--
		if wrong {
			notes = append(notes, g.count(c, now)...)
		}
		if room, _ := g.room(c, now); room == roomNone {
			c.wakeAll()
		} else {
			c.wake()
		}
		g.drop(c, now)
	}
	return notes
}

// expire counts as wrong what nobody has settled in time, and forgets counters
// that count nothing any more; mu is held.
func (g *Guesses) expire(now time.Time) {
	for e := g.flights.Front(); e != nil; e = g.flights.Front() {
		f := e.Value.(*flight)
		age := now.Sub(f.at)
		if age < 0 { // the clock was set back
			f.at = now
		}
		if age < flightTime {
			break
		}
		g.land(e, now, true)
	}
	if age := now.Sub(g.swept); age >= 0 && age < sweepEvery {
		return
	}
	g.swept = now
	for _, all := range g.counters {
		for _, c := range all {
			g.drop(c, now)
		}
	}
	if age := now.Sub(g.knownSwept); age < 0 || age >= sweepKnown {
		g.knownSwept = now
		g.known.sweep(now, g.c.KnownGood)
	}
}
