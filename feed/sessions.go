package feed

import (
	"fmt"
	"slices"

	"github.com/sekisho/sekisho/broker"
)

// own reports whether a session may be reported by this host: it runs there.
func (h *hostState) own(x *broker.Session) error {
	if !slices.Contains(h.names, x.Place) {
		return fmt.Errorf("%w: a session on %.80q", errLied, x.Place)
	}
	return nil
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
		if err := h.own(&m.Sessions[i]); err != nil {
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
	if err := h.own(&m.Session); err != nil {
		s.mu.Unlock()
		return err
	}
	x := m.Session.ID
	old := h.sessions[x]
	var tell bool
	switch m.Kind {
	case broker.SessionOpened, broker.SessionEnding:
		tell = old == nil || m.Kind == broker.SessionEnding && old.Ending.IsZero()
		if old == nil && len(h.sessions) >= s.c.MaxSessions {
			s.mu.Unlock()
			return nonsense("more than %d sessions", s.c.MaxSessions)
		}
		h.sessions[x] = &m.Session
		if h.fresh != nil {
			h.fresh[x] = &m.Session
		}
	default:
		tell = old != nil
		delete(h.sessions, x)
		if h.fresh != nil {
			delete(h.fresh, x)
		}
	}
	name := h.name
	s.mu.Unlock()
	if tell {
		if old == nil && m.Kind == broker.SessionEnding {
			s.c.Opened(name, m.Session)
		}
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
