package ldapsync

import (
	"fmt"
	"slices"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// maxHeldNames bounds Held.First.
const maxHeldNames = 20

// Accept publishes the change that is held back; ErrNothingHeld when none is.
func (s *Sync) Accept() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		return ErrNothingHeld
	}
	s.c.Log.Warnf("the change that was held back is accepted: %d of %d users go", s.held.Users, s.held.Of)
	s.held, s.accepted = nil, true
	s.publishLocked(s.candidate, s.pub.Load().asOf)
	s.candidate = nil
	s.nudge()
	return nil
}

// takeAccept does the loop's part of Accept, outside a refresh: what is
// published becomes good on disk too.
func (s *Sync) takeAccept() {
	if s.wasAccepted() {
		s.store.do(op{kind: opSeal})
	}
}

// wasAccepted takes note of Accept, and forgets the users who went with it.
func (s *Sync) wasAccepted() bool {
	s.mu.Lock()
	accepted := s.accepted
	s.accepted = false
	s.mu.Unlock()
	if accepted {
		pub := s.pub.Load().snap
		for id := range s.m.gone {
			if pub.UserByID(id) == nil {
				delete(s.m.gone, id)
			}
		}
	}
	return accepted
}

// settle commits what was taken in, and publishes it unless it must be held
// back. asOf is when the refresh was asked for that has just ended, or zero.
func (s *Sync) settle(asOf time.Time) {
	refresh := !asOf.IsZero()
	seal := s.wasAccepted() || refresh
	changed := s.m.commit()
	if s.m.cur == nil {
		return
	}
	wasHeld := s.isHeld()
	held := s.judgeHold(refresh)
	if held && !wasHeld && !refresh {
		s.store.do(op{kind: opBegin, after: s.seq})
	}
	p := s.pub.Load()
	switch {
	case held:
		asOf = p.asOf
	case p == nil || p.snap != s.m.cur:
		if p != nil && !refresh {
			asOf = p.asOf
		}
		s.publish(s.m.cur, asOf)
	case refresh:
		s.proven(asOf)
	}
	if changed || refresh || s.moved || len(s.batch) > 0 {
		s.writeCommit()
	}
	if !held && (seal || wasHeld) {
		s.store.do(op{kind: opSeal})
	}
	s.reportSkips()
}

// reportSkips tells Status what cannot be used; that may have changed where the
// snapshot has not.
func (s *Sync) reportSkips() {
	if !s.m.skips.changed {
		return
	}
	s.m.skips.changed = false
	list := s.m.skips.list()
	s.mu.Lock()
	s.st.SkippedEntries, s.st.SkippedValues, s.st.Skipped = s.m.skips.whole, s.m.skips.values, list
	s.mu.Unlock()
}

func (s *Sync) isHeld() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held != nil
}

// writeCommit closes the batch of records.
func (s *Sync) writeCommit() {
	after := s.seq
	s.seq++
	s.batch = commit{s.seq, s.m.cur.Generation(), s.pub.Load().asOf, s.pos.cookie()}.append(s.batch)
	s.store.do(op{kind: opData, data: s.batch, after: after})
	s.batch, s.moved, s.committed = nil, false, s.c.Now()
}

// judgeHold decides whether the current state may be published.
func (s *Sync) judgeHold(refresh bool) bool {
	pub := s.pub.Load()
	if pub == nil || pub.snap == s.m.cur {
		return s.isHeld()
	}
	wasHeld := s.isHeld()
	why := ""
	users, _, _, _ := s.m.cur.Size()
	if s.m.empty() && (refresh || wasHeld) {
		why = "the directory shows not one entry; perhaps a restore is under way, or we lost the right to read"
	} else if s.tooMany(users, wasHeld) {
		why = fmt.Sprintf("more than %.3g %% of the users would go at once", 100*s.c.HoldShare)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if why == "" {
		if s.held != nil {
			s.c.Log.Warn("the change that was held back is published: the directory shows the users again")
		}
		s.held, s.candidate = nil, nil
		return false
	}
	h := Held{Since: s.c.Now(), Why: why}
	if s.held != nil {
		h.Since = s.held.Since
	}
	h.Of, _, _, _ = pub.snap.Size()
	for id, g := range s.m.gone {
		if pub.snap.UserByID(id) != nil {
			h.Users++
			h.First = append(h.First, g.name)
		}
	}
	slices.Sort(h.First)
	h.First = slices.Clone(h.First[:min(len(h.First), maxHeldNames)])
	if s.held == nil {
		s.c.Log.WithField("first", h.First).Errorf("a change is held back: %s: %d of %d; the snapshot before it stays in force and grows old; "+
			"look into the directory, then run: sekisho sync accept", why, h.Users, h.Of)
	}
	s.held, s.candidate = &h, s.m.cur
	return true
}

// tooMany applies the share to those who went lately. Whoever is there again
// under another entryUUID has not gone.
func (s *Sync) tooMany(users int, wasHeld bool) bool {
	gone := s.m.gone
	over := func(n int) bool {
		return n >= s.c.HoldMin && float64(n) > s.c.HoldShare*float64(users+n)
	}
	if !over(len(gone)) {
		return false
	}
	now := s.c.Now()
	n := 0
	for id, g := range gone {
		if !wasHeld && now.Sub(g.at) > s.c.HoldWindow {
			delete(gone, id)
		} else if u, _ := s.m.cur.User(g.name); u == nil {
			n++
		}
	}
	return over(n)
}

// forgetGone drops who went longer ago than the window, now and then.
func (s *Sync) forgetGone() {
	if len(s.m.gone) == 0 || s.isHeld() {
		return
	}
	now := s.c.Now()
	for id, g := range s.m.gone {
		if now.Sub(g.at) > s.c.HoldWindow {
			delete(s.m.gone, id)
		}
	}
}

// recordPut and recordDelete add to the batch that the next commit closes.
func (s *Sync) recordPut(e *entry) { s.batch = appendPut(s.batch, e) }

func (s *Sync) recordDelete(id broker.EntryID) { s.batch = appendDelete(s.batch, id) }
