package pam

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
)

// run sweeps until ctx ends.
func (s *sessions) run(ctx context.Context) {
	s.recover(ctx)
	close(s.found)
	s.removeStray()
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		s.sweep(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// recover takes the sessions of the last sekishod up again, and says of those
// that ended meanwhile that they are lost. The door is open by now: what begins is
// the broker's already.
func (s *sessions) recover(ctx context.Context) {
	alive := map[string]bool{}
	all := slices.DeleteFunc(s.list(), func(e Session) bool { return !s.isInherited(e.ID) })
	if s.c.Reaper != nil {
		var ids []string
		for _, e := range all {
			if e.Held && e.Boot == s.boot {
				ids = append(ids, string(e.ID))
			}
		}
		ctx, cancel := context.WithTimeout(ctx, endWait)
		living, err := s.c.Reaper.Alive(ctx, ids)
		cancel()
		if err != nil { // they may live: they are kept
			s.c.Log.WithError(err).Error("which sessions are still open is not known")
			living = ids
		}
		for _, id := range living {
			alive[id] = true
		}
	}
	for _, e := range all {
		if e.Opened {
			if err := s.c.Broker.ResumeSession(e.Session); err != nil {
				s.c.Log.WithError(err).WithField("session", string(e.ID)).Error("a session could not be taken up again")
			}
		}
		s.mu.Lock()
		live := e.Boot == s.boot && !s.inherited[e.ID]
		delete(s.inherited, e.ID)
		s.mu.Unlock()
		switch {
		case !e.Opened:
			if !live {
				s.end(e.ID, "the machine was restarted")
			}
			continue
		case e.Held && s.c.Reaper != nil:
			live = live && alive[string(e.ID)]
		case e.PID != 0:
			live = live && startOf(e.PID) == e.Started
		}
		if !live {
			s.c.Broker.LoseSession(e.ID)
			s.end(e.ID, "it ended while sekishod was away")
		}
	}
}

func (s *sessions) isInherited(id broker.SessionID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, is := s.inherited[id]
	return is
}

// gone ends a session that has no process any more. One that the broker does not
// know yet is recover's to end, so that it is recorded.
func (s *sessions) gone(id broker.SessionID, why string) {
	s.mu.Lock()
	_, later := s.inherited[id]
	if later {
		s.inherited[id] = true
	}
	s.mu.Unlock()
	if later {
		return
	}
	if e := s.get(id); e != nil && e.Opened {
		s.c.Broker.CloseSession(id, broker.ReasonNone)
		s.end(id, why)
	}
}

// removeStray destroys tickets that no session has: a crash came between.
func (s *sessions) removeStray() {
	dirs, err := os.ReadDir(s.c.Tickets)
	if err != nil {
		s.c.Log.WithError(err).Error("reading the folder of tickets")
		return
	}
	for _, d := range dirs {
		s.mu.Lock()
		known := s.all[broker.SessionID(d.Name())] != nil
		s.mu.Unlock()
		if known || !nameForm.MatchString(d.Name()) {
			continue
		}
		if err := removeTickets(s.c.Tickets, d.Name()); err != nil {
			s.c.Log.WithError(err).Warn("tickets that belong to no session")
		}
	}
}

// sweep ends the sessions whose process has gone, and renews tickets. What a
// Reaper holds is told by Emptied instead.
func (s *sessions) sweep(ctx context.Context) {
	for _, e := range s.list() {
		switch {
		case !e.Opened && s.c.Now().Sub(e.Since) > openWithin:
			s.end(e.ID, "never opened")
		case !e.Held && e.PID != 0 && startOf(e.PID) != e.Started:
			s.gone(e.ID, "its process has gone")
		case s.dueForRenewal(e):
			s.renew(ctx, e)
		}
	}
}

// dueForRenewal: less than half of what the tickets had is left.
func (s *sessions) dueForRenewal(e Session) bool {
	if s.c.Renew == nil || e.TicketsEnd.IsZero() {
		return false
	}
	now := s.c.Now()
	s.mu.Lock()
	failed := s.tried[e.ID]
	s.mu.Unlock()
	return now.Before(e.TicketsEnd) && e.TicketsEnd.Sub(now) < now.Sub(e.TicketsSince) && now.Sub(failed) >= renewAgain
}

func (s *sessions) renew(ctx context.Context, e Session) {
	ctx, cancel := context.WithTimeout(ctx, renewTry)
	defer cancel()
	var end time.Time
	err := rewriteTickets(s.c.Tickets, string(e.ID), func(old []byte) (fresh []byte, err error) {
		fresh, end, err = s.c.Renew(ctx, old)
		return fresh, err
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[e.ID] == nil {
		return
	}
	now := *s.all[e.ID]
	log := s.c.Log.WithFields(logrus.Fields{"session": string(e.ID), "user": string(e.account())})
	switch {
	case errors.Is(err, errNotOurs):
		now.TicketsEnd = time.Time{}
		err = s.replace(&now)
		log.Info("the user has made the session's ticket cache his own: it is not renewed any more")
	case err != nil:
		s.tried[e.ID] = s.c.Now()
		log.WithError(err).Warn("the tickets of a session could not be renewed yet")
		return
	case !end.After(now.TicketsEnd): // renewed to its last end: it cannot live longer
		s.tried[e.ID] = s.c.Now().Add(24 * time.Hour)
	default:
		now.TicketsSince, now.TicketsEnd = s.c.Now().UTC(), end.UTC()
		err = s.replace(&now)
		log.WithField("until", end.UTC()).Debug("tickets renewed")
	}
	if err != nil {
		log.WithError(err).Warn("remembering a session")
	}
}

// startOf is a process's start time in clock ticks since boot; 0 when there is
// no such process.
func startOf(pid int32) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything; field 22 is the 20th after it.
	_, rest, ok := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), " ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return 0
	}
	n, _ := strconv.ParseUint(f[19], 10, 64)
	return n
}
