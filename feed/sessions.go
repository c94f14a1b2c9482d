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

// drop forgets a session.
func (s *Server) drop(h *hostState, x broker.SessionID) {
	delete(h.sessions, x)
	delete(s.owners, x)
	if h.fresh != nil {
		delete(h.fresh, x)
	}
}

// put keeps a session.
func (s *Server) put(h *hostState, x *broker.Session) {
	h.sessions[x.ID], s.owners[x.ID] = x, h
	if h.fresh != nil {
		h.fresh[x.ID] = x
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
		h.fresh = map[broker.SessionID]*broker.Session{}
	} else if h.fresh == nil {
		return nil, nonsense("a list of sessions that was not begun")
	}
	if len(h.fresh)+len(m.Sessions) > s.c.MaxSessions {
		return nil, nonsense("more than %d sessions", s.c.MaxSessions)
	}
	for i := range m.Sessions {
		if err := s.own(h, &m.Sessions[i]); err != nil {
			return nil, err
		}
		h.fresh[m.Sessions[i].ID] = &m.Sessions[i]
	}
	if !m.Last {
		return nil, nil
	}
	for x, old := range h.sessions {
		if h.fresh[x] == nil {
			events = append(events, event{broker.SessionLost, *old, broker.ReasonNone})
		}
	}
	for x, now := range h.fresh {
		old := h.sessions[x]
		if old == nil {
			events = append(events, event{broker.SessionOpened, *now, broker.ReasonNone})
		}
		if !now.Ending.IsZero() && (old == nil || old.Ending.IsZero()) {
			events = append(events, event{broker.SessionEnding, *now, now.Why})
		}
	}
	for x := range h.sessions {
		delete(s.owners, x)
	}
	for x := range h.fresh {
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
	old := h.sessions[x]
	var tell bool
	switch m.Kind {
	case broker.SessionEnding:
		// One that is not known was closed already: what was reported out of turn
		// must not bring it back.
		if old == nil {
			s.mu.Unlock()
			return nil
		}
		tell = old.Ending.IsZero()
		s.put(h, &m.Session)
	case broker.SessionOpened:
		tell = old == nil
		if old == nil && len(h.sessions) >= s.c.MaxSessions {
			s.mu.Unlock()
			return nonsense("more than %d sessions", s.c.MaxSessions)
		}
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
		for _, x := range h.sessions {
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
