package feed

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// Session reports one event of a session to the broker; it never waits. While
// no broker is followed it does nothing, for all sessions are listed when one
// is.
func (c *Client) Session(e broker.SessionEvent) {
	f := eventFrame(e)
	if f == nil {
		c.c.Log.WithField("session", string(e.Session.ID)).Error("a session cannot be reported: it holds what the protocol does not take")
		return
	}
	c.mu.Lock()
	u := c.up
	send := u != nil
	if send && u.listing {
		send = false
		if len(u.late) < maxLate {
			u.late = append(u.late, f)
		} else {
			u.again = true
		}
	}
	if send {
		// Under the lock, so that events go out in the order of the calls; it does
		// not wait. A full queue ends the connection, and the next one lists all.
		u.link.send(f)
	}
	c.mu.Unlock()
}

// maxLate is how many events are kept while all sessions are listed.
const maxLate = 4096

func eventFrame(e broker.SessionEvent) []byte {
	m := sessionEvent{e.Kind, e.Session, e.Reason}
	if m.check() != nil {
		return nil
	}
	return newFrame(kindEvent, m)
}

// list reports all sessions. Events that come meanwhile go out after it, so that
// what they say holds.
func (u *uplink) list() {
	c := u.c
	for {
		c.mu.Lock()
		u.listing, u.again, u.late = true, false, nil
		c.mu.Unlock()
		part := sessionList{First: true, Sessions: []broker.Session{}}
		flush := func(last bool) {
			part.Last = last
			u.link.send(newFrame(kindSessions, part))
			part = sessionList{Sessions: []broker.Session{}}
		}
		size := 0
		c.c.Sessions(func(s *broker.Session) bool {
			if checkSession(s) != nil {
				c.c.Log.WithField("session", string(s.ID)).Error("a session cannot be reported: it holds what the protocol does not take")
				return true
			}
			b, err := json.Marshal(s)
			if err != nil || len(b) > maxFrame/4 {
				return true
			}
			if size += len(b); len(part.Sessions) == maxSessions || size > maxFrame/2 {
				flush(false)
				size = len(b)
			}
			part.Sessions = append(part.Sessions, *s)
			return true
		})
		flush(true)
		c.mu.Lock()
		again := u.again
		if !again {
			for _, f := range u.late {
				u.link.send(f)
			}
			u.listing, u.late = false, nil
			u.link.send(u.ackLocked())
		}
		c.mu.Unlock()
		if !again {
			return
		}
	}
}

// maxCalls is how many calls may wait for their answers.
const maxCalls = 256

// Call asks the broker: the request goes out as JSON, and the answer is read
// into answer, unless that is nil. The error is ErrUnavailable when it could not be
// found out, also when the call may have had its effect; a *CallError is what the
// broker's handler says.
func (c *Client) Call(ctx context.Context, kind string, request, into any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("asking the broker: %w", err)
	}
	wait := maxCallTime
	if t, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(t))
	}
	if wait < time.Millisecond {
		return fmt.Errorf("%w: there is no time", ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	c.mu.Lock()
	u := c.up
	if u == nil {
		c.mu.Unlock()
		return fmt.Errorf("%w: none is followed", ErrUnavailable)
	}
	if len(u.calls) >= maxCalls {
		c.mu.Unlock()
		return fmt.Errorf("%w: %d calls wait already", ErrUnavailable, maxCalls)
	}
	u.lastCall++
	m := call{u.lastCall, kind, uint32(wait / time.Millisecond), body}
	ch := make(chan *answer, 1)
	u.calls[m.ID] = ch
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(u.calls, m.ID)
		c.mu.Unlock()
	}()
	f := newFrame(kindCall, m)
	if f == nil || m.check() != nil {
		return fmt.Errorf("asking the broker: the request is too long")
	}
	if !u.link.send(f) {
		return fmt.Errorf("%w: the connection has ended", ErrUnavailable)
	}
	select {
	case a := <-ch:
		switch {
		case a == nil:
			return fmt.Errorf("%w: the connection has ended", ErrUnavailable)
		case a.Busy:
			return fmt.Errorf("%w: it has too much to do", ErrUnavailable)
		case a.Error != "":
			return &CallError{a.Error}
		case into == nil:
			return nil
		}
		if err := json.Unmarshal(a.Body, into); err != nil {
			return fmt.Errorf("%w: its answer is none: %w", ErrUnavailable, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}

// answered takes an answer in. One that nobody waits for any more is dropped.
func (u *uplink) answered(m *answer) error {
	u.c.mu.Lock()
	defer u.c.mu.Unlock()
	if m.ID == 0 || m.ID > u.lastCall {
		return nonsense("an answer to a call that was not made")
	}
	if ch := u.calls[m.ID]; ch != nil {
		delete(u.calls, m.ID)
		a := *m
		a.Body = append([]byte(nil), m.Body...)
		ch <- &a
	}
	return nil
}
