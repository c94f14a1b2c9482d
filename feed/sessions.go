package feed

import (
	"fmt"
	"slices"

	"github.com/sekisho/sekisho/broker"
)

// own reports whether a session may be reported by this host: it runs there, and
// no other host has one of that ID.
func (s *Server) own(h *hostState, x *broker.Session) error {
	if !slices.Contains(h.names, x.Place) {
		return fmt.Errorf("%w: a session on %.80q", errLied, x.Place)
	}
	if o := s.owners[x.ID]; o != nil && o != h {
		return fmt.Errorf("%w: the session %s of %s", errLied, x.ID, o.name)
	}
	return nil
}

// meanSession is what a session may have on average, in bytes: one may be long, and
// all that a host reports together is not.
const meanSession = 2 << 10

// weight is how many bytes a session is kept in, nearly; 0 for none.
func weight(x *broker.Session) int {
	if x == nil {
		return 0
	}
	q := &x.Request
	n := 768 + len(x.ID) + len(q.User) + len(q.Login) + len(q.Door) + len(q.Target.Host) + len(q.Target.Addr.Zone()) +
		len(q.From.Zone()) + len(q.Key) + len(x.Keeper) + len(x.Place) + len(x.Service) + len(x.TTY) + len(x.Why)
	for _, p := range x.Proofs {
		n += 16 + len(p)
	}
	for _, r := range x.Rules {
		n += 16 + len(r)
	}
	for _, r := range q.Recent {
		n += 24 + len(r.Proof)
	}
	return n
}

// reports are sessions by their ID, with the weight of all.
type reports struct {
	all   map[broker.SessionID]*broker.Session
	bytes int
}

func newReports() *reports { return &reports{all: map[broker.SessionID]*broker.Session{}} }

func (r *reports) put(x *broker.Session) {
	r.bytes += weight(x) - weight(r.all[x.ID])
	r.all[x.ID] = x
}

func (r *reports) drop(x broker.SessionID) {
	r.bytes -= weight(r.all[x])
	delete(r.all, x)
}

// room says what is too much when one more session is kept, or another in the place
// of the one with its ID.
func (s *Server) room(r *reports, x *broker.Session) error {
	old := r.all[x.ID]
	switch most := s.c.MaxSessions * meanSession; {
	case old == nil && len(r.all) >= s.c.MaxSessions:
		return nonsense("more than %d sessions", s.c.MaxSessions)
	case r.bytes+weight(x)-weight(old) > most:
		return nonsense("more than %d bytes of sessions", most)
	}
	return nil
}

// drop forgets a session.
func (s *Server) drop(h *hostState, x broker.SessionID) {
	h.sessions.drop(x)
	delete(s.owners, x)
	if h.fresh != nil {
		h.fresh.drop(x)
	}
}

// put keeps a session.
func (s *Server) put(h *hostState, x *broker.Session) {
	h.sessions.put(x)
	s.owners[x.ID] = h
	if h.fresh != nil {
		h.fresh.put(x)
	}
}

// event is something to be told once the lock is off.
type event struct {
	kind   broker.EventKind
	s      broker.Session
	reason broker.Reason
}

func (s *Server) tellAll(h broker.HostName, events []event) {
	for _, e := range events {
		switch e.kind {
		case broker.SessionOpened:
			s.c.Opened(h, e.s)
		case broker.SessionEnding:
			s.c.Ending(h, e.s)
		default:
			s.c.Closed(h, e.s, e.kind, e.reason)
		}
	}
}

// reported takes a part of the list of all sessions of a host.
func (s *Server) reported(k *conn, m *sessionList) error {
	s.mu.Lock()
	h := k.state
	events, err := s.reportedLocked(k, h, m)
	name := h.name
	s.mu.Unlock()
	s.tellAll(name, events)
	s.checkConfirms(h)
	return err
}

func (s *Server) reportedLocked(k *conn, h *hostState, m *sessionList) (events []event, err error) {
	if h.conn != k {
		return nil, nil // another connection has taken its place
	}
	if m.First {
		h.fresh = newReports()
	} else if h.fresh == nil {
		return nil, nonsense("a list of sessions that was not begun")
	}
	for i := range m.Sessions {
		x := &m.Sessions[i]
		if err := s.own(h, x); err != nil {
			return nil, err
		}
		if err := s.room(h.fresh, x); err != nil {
			return nil, err
		}
		h.fresh.put(x)
	}
	if !m.Last {
		return nil, nil
	}
	for _, x := range h.fresh.all { // another may have listed it since it came
		if err := s.own(h, x); err != nil {
			return nil, err
		}
	}
	for x, old := range h.sessions.all {
		if h.fresh.all[x] == nil {
			events = append(events, event{broker.SessionLost, *old, broker.ReasonNone})
		}
	}
	for x, now := range h.fresh.all {
		old := h.sessions.all[x]
		if old == nil {
			events = append(events, event{broker.SessionOpened, *now, broker.ReasonNone})
		}
		if !now.Ending.IsZero() && (old == nil || old.Ending.IsZero()) {
			events = append(events, event{broker.SessionEnding, *now, now.Why})
		}
	}
	for x := range h.sessions.all {
		delete(s.owners, x)
	}
	for x := range h.fresh.all {
		s.owners[x] = h
	}
	h.sessions, h.fresh, h.listed = h.fresh, nil, true
	return events, nil
}

// happened takes one event. One that is known already is none.
func (s *Server) happened(k *conn, m *sessionEvent) error {
	s.mu.Lock()
	h := k.state
	if h.conn != k {
		s.mu.Unlock()
		return nil
	}
	if err := s.own(h, &m.Session); err != nil {
		s.mu.Unlock()
		return err
	}
	x := m.Session.ID
	old := h.sessions.all[x]
	err := s.room(h.sessions, &m.Session)
	var tell bool
	switch m.Kind {
	case broker.SessionEnding:
		// One that is not known was closed already: what was reported out of turn
		// must not bring it back.
		if old == nil {
			s.mu.Unlock()
			return nil
		}
		if err != nil {
			s.mu.Unlock()
			return err
		}
		tell = old.Ending.IsZero()
		s.put(h, &m.Session)
	case broker.SessionOpened:
		if err != nil {
			s.mu.Unlock()
			return err
		}
		tell = old == nil
		s.put(h, &m.Session)
	default:
		tell = old != nil
		s.drop(h, x)
	}
	name := h.name
	s.mu.Unlock()
	if tell {
		s.tellAll(name, []event{{m.Kind, m.Session, m.Reason}})
	}
	s.checkConfirms(h)
	return nil
}

// Sessions calls f for every session that hosts have reported, with the host's
// name, until f returns false. Of hosts that are not connected it is what they
// last said; connected tells. f must not call the Server.
func (s *Server) Sessions(f func(host broker.HostName, connected bool, x *broker.Session) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		for _, x := range h.sessions.all {
			if !f(h.name, h.conn != nil, x) {
				return
			}
		}
	}
}

// Lists reports whether it is known now which sessions a host has, since it is
// connected and has listed them, and whether this is one of them.
func (s *Server) Lists(host broker.HostName, x broker.SessionID) (known, has bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.owners[x]; h != nil {
		return h.conn != nil && h.listed && h.fresh == nil, h.name == host || slices.Contains(h.names, host)
	}
	for _, h := range s.hosts {
		if h.conn != nil && h.listed && h.fresh == nil && slices.Contains(h.names, host) {
			return true, false
		}
	}
	return false, false
}
