package broker

import "time"

// knownGood are the networks from which users have signed in.
type knownGood struct {
	of   map[string][]knownSource // by user
	size int                      // of all together
}

type knownSource struct {
	source string
	by     string // the host that was entered, which vouches for it
	last   time.Time
}

type knownKey struct{ user, source, by string }

// Limits of what is known good. A host that lies about sign-ins can make so many
// networks a day good for a user, and drives out none that another host knows.
const (
	knownPerHost = 8
	knownPerUser = 256
	maxKnown     = 1 << 18
	knownFresh   = 24 * time.Hour
)

func (k *knownGood) has(user, source string, now time.Time, keep time.Duration) bool {
	for _, s := range k.of[user] {
		if s.source == source && now.Sub(s.last) < keep {
			return true
		}
	}
	return false
}

// put notes a sign-in and says whether something was learned that others should
// know: nothing, when it is one more of the same hour.
func (k *knownGood) put(key knownKey, at time.Time, keep time.Duration) bool {
	if keep == 0 {
		return false
	}
	all := k.of[key.user]
	mine, oldest := 0, -1
	for i := range all {
		s := &all[i]
		if s.by != key.by {
			continue
		}
		if s.source == key.source {
			if at.Sub(s.last) < time.Hour {
				return false
			}
			s.last = at
			return true
		}
		if mine++; oldest < 0 || s.last.Before(all[oldest].last) {
			oldest = i
		}
	}
	fresh := knownSource{key.source, key.by, at}
	if mine >= knownPerHost {
		if at.Sub(all[oldest].last) < knownFresh {
			return false
		}
		all[oldest] = fresh
		return true
	}
	if len(all) >= knownPerUser || k.size >= maxKnown && !k.evict(key.user) {
		return false
	}
	k.of[key.user] = append(k.of[key.user], fresh)
	k.size++
	return true
}

// evict takes the longest unused network out of those of some users, not of
// except.
func (k *knownGood) evict(except string) bool {
	const looks = 32
	seen, user, at := 0, "", -1
	var oldest time.Time
	for u, all := range k.of {
		if seen++; seen > looks {
			break
		}
		if u == except {
			continue
		}
		for i, s := range all {
			if at < 0 || s.last.Before(oldest) {
				user, at, oldest = u, i, s.last
			}
		}
	}
	if at < 0 {
		return false
	}
	k.remove(user, func(s knownSource) bool { return s == k.of[user][at] })
	return true
}

// remove takes those of a user out that out says.
func (k *knownGood) remove(user string, out func(knownSource) bool) {
	all := k.of[user]
	var kept []knownSource
	for _, s := range all {
		if !out(s) {
			kept = append(kept, s)
		}
	}
	k.size -= len(all) - len(kept)
	if len(kept) == 0 {
		delete(k.of, user)
		return
	}
	k.of[user] = kept
}

// sweep forgets what is too old.
func (k *knownGood) sweep(now time.Time, keep time.Duration) {
	for u, all := range k.of {
		for _, s := range all {
			if now.Sub(s.last) >= keep {
				k.remove(u, func(s knownSource) bool { return now.Sub(s.last) >= keep })
				break
			}
		}
	}
}

// welcome notes that a user is in; mu is held.
func (g *Guesses) welcome(k flightKey, by HostName, now time.Time) []LockoutEvent {
	var notes []LockoutEvent
	if c := g.counters[GuessPair][k.pair()]; c != nil {
		notes = g.clear(c, now, "")
	}
	g.know(k, by, now)
	return notes
}

// know notes where a user was when he came in; mu is held.
func (g *Guesses) know(k flightKey, by HostName, now time.Time) {
	if k.elsewhere() {
		return // that is no network that could be good
	}
	// Whoever has entered a host is known on it: sudo there has a budget of its own.
	host := bounded(string(by))
	for _, source := range []string{k.source, "on " + host} {
		key := knownKey{k.user, source, host}
		if g.known.put(key, now, g.c.KnownGood) {
			g.learned[key] = struct{}{}
		}
	}
}
