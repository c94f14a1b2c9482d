package feed

import (
	"context"
	"fmt"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// confirm is a call of Confirm under way. Guarded by Server.mu.
type confirm struct {
	generation uint64
	began      time.Time
	left       map[broker.EntryID]broker.HostName
	begun      bool // left was filled
	found      []Confirmation
	more       chan struct{} // holds one when found has grown
}

// Confirm finds out which hosts have come to the broker's generation: each has
// applied it, judged its sessions by it, and those that it had to end are gone.
// It calls report once for each host of the directory that may follow, as soon
// as that is known; at the end of ctx, for all others, with what is missing.
func (s *Server) Confirm(ctx context.Context, generation uint64, report func(Confirmation)) {
	c := &confirm{generation: generation, began: time.Now(), left: map[broker.EntryID]broker.HostName{}, more: make(chan struct{}, 1)}
	s.mu.Lock()
	s.confirms[c] = struct{}{}
	s.lookLocked(c, nil)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.confirms, c)
		s.mu.Unlock()
	}()
	for {
		s.mu.Lock()
		found, over := c.found, c.begun && len(c.left) == 0
		c.found = nil
		s.mu.Unlock()
		for _, f := range found {
			report(f)
		}
		if over {
			return
		}
		select {
		case <-c.more:
		case <-ctx.Done():
			s.mu.Lock()
			found = c.found
			if !c.begun {
				s.fillLocked(c)
			}
			for x, name := range c.left {
				found = append(found, Confirmation{Host: name, Why: s.missingLocked(c, x)})
			}
			s.mu.Unlock()
			for _, f := range found {
				report(f)
			}
			return
		case <-s.ctx.Done():
			ctx = cancelled
		}
	}
}

var cancelled = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// checkConfirms looks at who waits for a host; nil: for any.
func (s *Server) checkConfirms(h *hostState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.confirms {
		s.lookLocked(c, h)
	}
}

// fillLocked says of whom a confirmation is wanted.
func (s *Server) fillLocked(c *confirm) {
	c.begun = true
	s.enrolledLocked(func(h *broker.Host) { c.left[h.ID] = h.Names[0] })
	for x, h := range s.hosts {
		c.left[x] = h.name
	}
}

func (s *Server) lookLocked(c *confirm, h *hostState) {
	if s.generation < c.generation {
		return // not even sent
	}
	if !c.begun {
		s.fillLocked(c)
		h = nil
	}
	one := func(x broker.EntryID) {
		name, waits := c.left[x]
		if !waits || s.missingLocked(c, x) != "" {
			return
		}
		delete(c.left, x)
		c.found = append(c.found, Confirmation{Host: name, OK: true, Took: time.Since(c.began)})
		select {
		case c.more <- struct{}{}:
		default:
		}
	}
	if h != nil {
		one(h.id)
		return
	}
	for x := range c.left {
		if s.snap == nil || s.snap.HostByID(x) == nil && s.hosts[x] == nil {
			delete(c.left, x) // removed: there is nobody to confirm
			continue
		}
		one(x)
	}
	if len(c.left) == 0 {
		select {
		case c.more <- struct{}{}:
		default:
		}
	}
}

// missingLocked says what a host has not done yet, or "".
func (s *Server) missingLocked(c *confirm, x broker.EntryID) string {
	h := s.hosts[x]
	switch {
	case h == nil:
		return "it has not been connected since this broker began"
	case h.conn == nil:
		return "it is not connected, since " + h.since.UTC().Format(time.RFC3339)
	case s.generation < c.generation:
		return "it was not sent the change yet"
	case h.conn.applied < h.conn.sent:
		return "it has not applied the change"
	case h.conn.judged < h.conn.sent:
		return "it has not judged its sessions"
	case h.fresh != nil || !h.listed:
		return "it has not said which sessions it has"
	}
	n := 0
	for _, y := range h.sessions.all {
		if !y.Ending.IsZero() {
			n++
		}
	}
	if n > 0 {
		return fmt.Sprintf("%d of its sessions are still ending", n)
	}
	return ""
}
