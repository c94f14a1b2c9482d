package pam

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/wire"
)

// Keeper is what this door is called in broker.Session.Keeper.
const Keeper = "pam"

const (
	adoptWait = 2 * time.Second
	endWait   = 10 * time.Second
	endAtOnce = 64 // sessions that are being ended at the same time
)

// Reaper holds the processes of sessions, and ends them. Its methods are safe
// for any number of goroutines.
type Reaper interface {
	// Adopt takes the process that opens a session, and all that it will start.
	Adopt(ctx context.Context, o Opening) error
	// End writes text to the session's terminals, ends all its processes, and
	// returns when the last of them has gone.
	End(ctx context.Context, id, text string) error
	// Forget lets go of a session without ending it.
	Forget(ctx context.Context, id string) error
	// Alive are those of the sessions that have processes.
	Alive(ctx context.Context, ids []string) ([]string, error)
}

// Opening is a session's first process.
type Opening struct {
	ID  string
	PID int32
	// Started is its start time in clock ticks since boot.
	Started uint64
	// Fresh: it came from outside, and is part of no other session.
	Fresh bool
	// Conn is the connection on which it has said so.
	Conn syscall.Conn
}

// session answers the verb: a session that begins or ends. sshd's is judged
// first, for now it is known by what its user came in.
func (s *Server) session(ctx context.Context, p *peer, r wire.Request) wire.Answer {
	switch r.Get("op") {
	case "open":
		return s.open(ctx, p, r)
	case "close":
		s.sessions.leave(broker.SessionID(r.Get("session")), userOf(r))
		return wire.Answer{Outcome: wire.Yes}
	}
	return unknown(wire.ReasonMalformed, "the op is open or close")
}

func (s *Server) open(ctx context.Context, p *peer, r wire.Request) wire.Answer {
	rests := s.rests(p, r)
	if rests.answer.Outcome != wire.Yes {
		return rests.answer
	}
	e := Session{Opened: true, PID: p.PID, UID: p.UID}
	e.Session = broker.Session{ID: broker.SessionID(r.Get("session")), Request: rests.request, Proofs: rests.proofs, Basis: rests.basis,
		Rules: rests.decision.Rules, Until: rests.decision.Until, Generation: rests.decision.Generation,
		Keeper: Keeper, Place: s.c.Host, Service: r.Get("service"), TTY: r.Get("tty"), Since: s.c.Now().UTC()}
	if e.Started = startOf(p.PID); e.Started == 0 { // its pid is not ours to see: it cannot be watched
		e.PID = 0
	}
	log := s.c.Log.WithFields(logrus.Fields{"user": r.Get("user"), "service": e.Service, "tty": e.TTY, "rhost": r.Get("rhost"), "pid": p.PID})
	id, err := s.sessions.open(e)
	if err != nil {
		log.WithError(err).Error("a session could not be noted")
		return unknown("session", "the session could not be noted")
	}
	e.ID = id
	if err := s.hold(ctx, p, &e, r.Has("authinfo")); err != nil && e.Basis != broker.BasisNone {
		log.WithError(err).Error("the processes of a session cannot be held, so it could not be ended: it is refused")
		s.sessions.end(id, "it cannot be held")
		return unknown("session", "the session could not be noted")
	} else if err != nil {
		log.WithError(err).Warn("the processes of a session cannot be held, so it cannot be ended")
	}
	if err := s.c.Broker.OpenSession(e.Session); err != nil {
		s.unhold(ctx, &e)
		s.sessions.end(id, "refused")
		var not *broker.NotOpened
		switch {
		case errors.As(err, &not) && not.Reason == broker.ReasonTooMany:
			return no(not.Reason, "you have as many sessions open as you may")
		case errors.As(err, &not) && not.Outcome != broker.Unknown:
			return no(not.Reason, "")
		case errors.As(err, &not):
			log.WithError(err).Warn("a session was refused")
			return unknown(string(not.Reason), "it could not be found out whether you may enter: try again later")
		}
		log.WithError(err).Error("a session was refused")
		return unknown("session", "the session could not be noted")
	}
	log.WithField("session", string(id)).Info("session opened")
	return wire.Answer{Outcome: wire.Yes, Body: []string{"session " + string(id)}}
}

// errUnseen: what cannot be seen cannot be ended.
var errUnseen = errors.New("the process that opens it cannot be seen: sekishod needs a /proc without hidepid, and sshd in its own pid namespace")

// hold gives a session's processes to the Reaper, if there is one.
func (s *Server) hold(ctx context.Context, p *peer, e *Session, fresh bool) error {
	switch {
	case s.c.Reaper == nil:
		return nil
	case e.PID == 0:
		return errUnseen
	}
	ctx, cancel := context.WithTimeout(ctx, adoptWait)
	defer cancel()
	if err := s.c.Reaper.Adopt(ctx, Opening{string(e.ID), e.PID, e.Started, fresh, p}); err != nil {
		return err
	}
	e.Held = true
	return s.sessions.update(e.ID, func(now *Session) { now.Held = true })
}

func (s *Server) unhold(ctx context.Context, e *Session) {
	if !e.Held {
		return
	}
	if err := s.c.Reaper.Forget(ctx, string(e.ID)); err != nil {
		s.c.Log.WithError(err).Warn("letting go of a session's processes")
	}
}

// footing is what a session rests on.
type footing struct {
	answer   wire.Answer
	request  broker.Request
	proofs   []broker.Proof
	decision broker.Decision
	basis    broker.Basis
}

// rests finds out what a session rests on. sshd's is judged for it; others were
// judged by their account step, or asked for none.
func (s *Server) rests(p *peer, r wire.Request) footing {
	q := s.request(r)
	proved := s.proved(p, r, q.User)
	if r.Has("authinfo") {
		seen, err := readAuthInfo(r.Get("authinfo"))
		if err != nil {
			return footing{answer: unknown(wire.ReasonMalformed, err.Error())}
		}
		return s.admit(q, seen, proved)
	}
	f := footing{answer: wire.Answer{Outcome: wire.Yes}, request: q, proofs: proved}
	v := s.c.Broker.View()
	if v.Snapshot == nil {
		return f
	}
	if d := broker.Decide(v, q, proved, s.c.Broker.Now()); d.Outcome == broker.Allow {
		f.decision, f.basis = d, broker.BasisRules
	} else if u, _ := v.User(q.User); u != nil {
		f.basis = broker.BasisAccount
	}
	return f
}

// leave notes that a user has logged out. Where programs of the session may go
// on, it lasts until Emptied: what can still act with his rights can be ended.
func (s *sessions) leave(id broker.SessionID, user broker.UserName) {
	if e := s.get(id); e != nil && e.account() == user && !e.Held {
		s.gone(id, "closed")
	}
}

// update changes a session that is there.
func (s *sessions) update(id broker.SessionID, f func(*Session)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.all[id]
	if e == nil {
		return nil
	}
	fresh := *e
	f(&fresh)
	return s.replace(&fresh)
}

// Emptied says that the last process of a session has gone.
func (s *Server) Emptied(id string) {
	s.sessions.gone(broker.SessionID(id), "its last process has gone")
}

// End ends a session, in time: it returns at once. It is the keeper's function
// of broker.Broker.Keep.
func (s *Server) End(e broker.Ending) {
	id := e.Session.ID
	log := s.c.Log.WithFields(logrus.Fields{"session": string(id), "user": string(e.Session.Request.User), "reason": string(e.Reason)})
	known := s.sessions.get(id)
	switch {
	case known == nil:
		s.c.Broker.CloseSession(id, e.Reason)
		return
	case s.c.Reaper == nil || !known.Held:
		log.Error("a session must end, and its processes are not held: end it by hand")
		return
	}
	select {
	case <-s.stopped: // the next sekishod takes it up
		return
	default:
	}
	s.ends.Go(func() {
		select {
		case s.ending <- struct{}{}:
			defer func() { <-s.ending }()
		case <-s.stopped:
			return
		}
		if s.sessions.get(id) == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), endWait)
		defer cancel()
		if err := s.c.Reaper.End(ctx, string(id), line(e.Text)); err != nil {
			log.WithError(err).Error("a session could not be ended yet")
			return
		}
		s.c.Broker.CloseSession(id, e.Reason)
		s.sessions.end(id, "ended: "+string(e.Reason))
	})
}

func userOf(r wire.Request) broker.UserName { return broker.UserName(r.Get("user")) }
