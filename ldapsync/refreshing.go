package ldapsync

import (
	"time"

	"github.com/sekisho/sekisho/broker"
)

// refresh is the refresh stage (RFC 4533 §3.3.1, §3.4.1).
type refresh struct {
	full    bool
	began   time.Time
	asOf    time.Time
	pos     position
	seen    map[broker.EntryID]struct{} // entries that are there; nil: need not be known
	present int                         // how many were said to be there, unchanged
	entries int
	gone    bool // the present phase has ended: whatever was not seen is gone
	opened  bool // a segment was begun
}

// touch notes that there is something to publish, and keeps a refresh's
// records from piling up.
func (n *session) touch() {
	if n.refresh == nil {
		if n.pending.IsZero() {
			n.pending = time.Now()
		}
	} else if len(n.s.batch) > flushRecords {
		n.flush()
	}
}

// flush hands a refresh's records on to an unfinished segment.
func (n *session) flush() {
	n.openSegment()
	n.s.store.do(op{kind: opData, data: n.s.batch, after: n.s.seq})
	n.s.batch = n.s.store.buffer()
}

func (n *session) openSegment() {
	if r := n.refresh; !r.opened {
		r.opened = true
		after := n.s.seq
		if r.full {
			after = 0
		}
		n.s.store.do(op{kind: opBegin, full: r.full, after: after})
	}
}

// begin starts the refresh stage.
func (n *session) begin(full bool) {
	s := n.s
	s.setState(Refreshing, n.c.e.url)
	r := &refresh{full: full, began: time.Now(), asOf: s.c.Now()}
	if !full {
		r.pos = s.pos.clone()
	}
	if !s.m.empty() {
		r.seen = map[broker.EntryID]struct{}{}
	}
	n.refresh = r
	gatherOf(n.c.net).bulk.Store(true)
	s.batch = nil
	s.m.begin()
	s.m.deferGroup = full
	if full {
		n.openSegment()
	}
}

// abort undoes a refresh that was broken off.
func (n *session) abort() {
	s := n.s
	s.m.rollback()
	for id := range s.m.gone {
		if s.m.cur != nil && s.m.cur.UserByID(id) != nil {
			delete(s.m.gone, id)
		}
	}
	s.batch = nil
	if n.refresh.opened {
		s.store.do(op{kind: opAbort})
	}
	n.refresh = nil
}

// finish ends the refresh stage: what was not seen is gone, and the whole is
// published.
func (n *session) finish() {
	s, r := n.s, n.refresh
	if (r.full || r.gone) && r.seen != nil {
		var gone []broker.EntryID
		s.m.known(func(id broker.EntryID) {
			if _, ok := r.seen[id]; !ok {
				gone = append(gone, id)
			}
		})
		for _, id := range gone {
			s.m.remove(id)
			if !r.full {
				s.recordDelete(id)
			}
		}
	}
	s.m.flushDeferred(false)
	if len(s.batch) > 0 {
		n.flush()
	}
	n.refresh = nil
	gatherOf(n.c.net).bulk.Store(false)
	s.pos = r.pos
	if r.full {
		s.full, s.dueFull = false, s.nextFull()
	}
	s.refreshTook = time.Since(r.began)
	s.settle(r.asOf)
	n.live, n.nextProbe = true, time.Time{}
	users, groups, hosts, rules := s.m.cur.Size()
	s.c.Log.Infof("refreshed from %s in %s (%d entries changed or new): %d users, %d groups, %d hosts, %d rules", n.c.e.url,
		s.refreshTook.Round(time.Millisecond), r.entries, users, groups, hosts, rules)
	s.setState(Live, n.c.e.url)
	if r.entries > 20_000 {
		s.tidy(users)
	}
}
