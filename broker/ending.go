package broker

import (
	"fmt"
	"strings"
	"time"
)

const (
	firstRetell = time.Second
	lastRetell  = time.Minute
)

// keeper ends sessions. All of it is guarded by live.mu.
type keeper struct {
	end    func(Ending)
	queue  []*tracked            // to be told of
	ending map[*tracked]struct{} // have not ended yet
	busy   bool                  // a goroutine works on the queue
	ready  bool                  // it stands in live.ready
}

// Keep names who ends sessions: end is called, from a goroutine of
// RunSessions, for each session of that keeper which must end. It sets that
// going and comes back at once, for it is called for one session after the
// other; CloseSession is the answer, when all of the session has ended. Without
// one within a second it is called again, then after two seconds, four, and at
// last once a minute: it must take the same session any number of times.
//
// A second Keep of the same name takes the first one's place, and is told of
// all sessions that are ending. A nil end is a keeper that cannot be reached
// now: its sessions wait for the next.
func (b *Broker) Keep(name string, end func(Ending)) {
	l := b.live
	l.mu.Lock()
	defer l.mu.Unlock()
	k := &keeper{end: end, ending: map[*tracked]struct{}{}}
	if old := l.keepers[name]; old != nil { // whose goroutine may be in its end yet
		k.ending, old.end, old.queue, old.ending = old.ending, nil, nil, nil
	}
	l.keepers[name] = k
	now := b.c.Now()
	for t := range k.ending {
		t.queued, t.told = false, 0
		l.toEnd(k, t, now)
	}
}

// end marks a session that must end, once; live.mu is held.
func (b *Broker) end(t *tracked, why Reason, by string, now time.Time) {
	l := b.live
	if t.gone || !t.Ending.IsZero() {
		return
	}
	l.on.settle(t)
	t.Ending, t.Why, t.by = now.Round(0), why, by
	if t.opening {
		return // it has not begun: OpenSession refuses it
	}
	l.toEnd(l.keepers[t.Keeper], t, now)
	b.event(SessionEvent{Kind: SessionEnding, Session: t.Session, Reason: why, By: by})
}

// toEnd has the keeper told to end a session, now and, when it does not, later;
// live.mu is held.
func (l *live) toEnd(k *keeper, t *tracked, now time.Time) {
	k.ending[t] = struct{}{}
	if !t.queued {
		t.queued = true
		k.queue = append(k.queue, t)
	}
	l.on.setDue(t, now.Add(min(firstRetell<<t.told, lastRetell)))
	t.told = min(t.told+1, 10)
	l.makeReady(k)
	l.poke()
}

func (l *live) makeReady(k *keeper) {
	if !k.ready {
		k.ready = true
		l.ready = append(l.ready, k)
	}
}

// tell calls the keeper's end for all in its queue, until on says no.
func (l *live) tell(k *keeper, on func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(k.queue) > 0 && k.end != nil && on() {
		t := k.queue[0]
		k.queue[0], k.queue = nil, k.queue[1:]
		if t.queued = false; t.gone {
			continue
		}
		e, end := t.ended(), k.end
		l.mu.Unlock()
		end(e)
		l.mu.Lock()
	}
	if k.busy = false; len(k.queue) > 0 && k.end != nil {
		l.makeReady(k) // for the next RunSessions
	}
}

// ended is what the keeper is told.
func (t *tracked) ended() Ending {
	s := t.Session
	return Ending{Session: s, Reason: s.Why, Text: fmt.Sprintf("your access to %s has ended: %s", s.place(), sentence(&s))}
}

// place is the host that the person knows, if its name can be shown on a
// terminal.
func (s *Session) place() string {
	for _, n := range []HostName{s.Request.Target.Host, s.Place} {
		if n != "" && len(n) <= 255 && strings.Trim(string(n), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == "" {
			return string(n)
		}
	}
	if a := s.Request.Target.Addr; a.IsValid() {
		return a.WithZone("").String()
	}
	return "this host"
}

// sentence is what the person may know of why a session ends: that he may not,
// and what concerns his own account; not which rule or whose change it was.
func sentence(s *Session) string {
	switch s.Why {
	case ReasonKilled:
		return "an administrator ended this session"
	case ReasonLocked, ReasonPolicyLocked:
		return "your account is locked"
	case ReasonShadowExpired, ReasonKerberosExpired:
		return "your account has expired"
	case ReasonAmbiguousUser, ReasonNologin:
		return "your account is closed"
	case ReasonNoKey:
		return "the key that you came in by is not yours any more"
	case ReasonTime, ReasonRuleExpired:
		if !s.Until.IsZero() && !s.Until.After(s.Ending) {
			return "this access was until " + s.Until.In(s.Ending.Location()).Format("15:04 MST")
		}
		return "you may not be logged in here at this time"
	case ReasonRuleNotYet:
		return "you may not be logged in here at this time"
	case ReasonProof:
		return "more is asked for now than you have shown: log in again"
	case ReasonTooMany:
		return "you have too many sessions"
	}
	// Of an unknown user too: a host is told of those alone who may enter it.
	return "you may no longer log in here"
}
