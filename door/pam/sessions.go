package pam

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/wire"
)

const (
	maxSessions   = 1 << 16
	maxOpenPerUID = 64               // of an unprivileged caller
	sweepEvery    = 5 * time.Second  // how soon an end without a word is seen
	openWithin    = 5 * time.Minute  // from the tickets to the session
	renewTry      = 30 * time.Second // one renewal
	renewAgain    = time.Minute      // after one that failed
)

// Session is a login that PAM has opened, or one whose tickets wait for that.
type Session struct {
	ID      string          `json:"id"`
	User    broker.UserName `json:"user"`
	Service string          `json:"service,omitempty"`
	TTY     string          `json:"tty,omitempty"`
	RHost   string          `json:"rhost,omitempty"`
	// Opened is false while only its tickets have been stored.
	Opened bool `json:"opened"`
	// PID is the process that opened it and lives as long: sshd's monitor,
	// login, su. Started is its start time in clock ticks since boot (proc(5)),
	// since pids come again. 0: we cannot see it, and wait to be told of its end.
	PID     int32     `json:"pid,omitempty"`
	Started uint64    `json:"started,omitempty"`
	UID     uint32    `json:"uid"` // who opened it
	Since   time.Time `json:"since"`
	// TicketsSince is when the tickets came, and TicketsEnd when they end; zero:
	// it has none that we renew.
	TicketsSince time.Time `json:"tickets_since,omitzero"`
	TicketsEnd   time.Time `json:"tickets_end,omitzero"`
}

// sessions remembers the open ones, each in a file of its own.
type sessions struct {
	c Config // immutable

	mu    sync.Mutex
	all   map[string]*Session  // guarded by mu
	tried map[string]time.Time // guarded by mu; when renewing last failed
}

// openSessions reads what was open. A file that cannot be read is said and left.
func openSessions(c Config) (*sessions, error) {
	s := &sessions{c: c, all: map[string]*Session{}, tried: map[string]time.Time{}}
	if err := os.MkdirAll(c.Sessions, 0o700); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Tickets, 0o711); err != nil {
		return nil, err
	}
	if err := os.Chmod(c.Tickets, 0o711); err != nil { // users pass through, and see no names
		return nil, err
	}
	files, err := os.ReadDir(c.Sessions)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		path := filepath.Join(c.Sessions, f.Name())
		if strings.HasPrefix(f.Name(), ".") { // a write that was cut short
			os.Remove(path)
			continue
		}
		b, err := os.ReadFile(path)
		var e Session
		if err == nil {
			err = json.Unmarshal(b, &e)
		}
		if err == nil && (e.ID != f.Name() || !nameForm.MatchString(e.ID)) {
			err = errors.New("it is another session's")
		}
		if err != nil {
			c.Log.WithError(err).WithField("file", path).Error("a session cannot be read: it is not looked after")
			continue
		}
		s.all[e.ID] = &e
	}
	return s, nil
}

// keep notes tickets that are about to be stored, and returns their session:
// the one with this id, if it is the user's and open, or a new one.
func (s *sessions) keep(id string, user broker.UserName, uid uint32, end time.Time) (string, error) {
	now := s.c.Now().UTC()
	s.mu.Lock()
	if e := s.all[id]; e != nil && e.User == user && e.UID == uid && e.TicketsEnd.IsZero() {
		fresh := *e
		fresh.TicketsSince, fresh.TicketsEnd = now, end.UTC()
		err := s.save(&fresh)
		if err == nil {
			s.all[id] = &fresh
		}
		s.mu.Unlock()
		return id, err
	}
	s.mu.Unlock()
	e := &Session{ID: newID(), User: user, UID: uid, Since: now, TicketsSince: now, TicketsEnd: end.UTC()}
	return e.ID, s.add(e)
}

func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// add remembers a session, on disk first.
func (s *sessions) add(e *Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := 0
	for _, o := range s.all {
		if o.UID == e.UID {
			mine++
		}
	}
	if len(s.all) >= maxSessions || e.UID != 0 && mine >= maxOpenPerUID {
		return errors.New("too many sessions are open")
	}
	if err := s.save(e); err != nil {
		return err
	}
	s.all[e.ID] = e
	return nil
}

// save writes a session's file whole or not at all.
func (s *sessions) save(e *Session) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	fresh := filepath.Join(s.c.Sessions, "."+e.ID)
	if err := os.WriteFile(fresh, b, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, filepath.Join(s.c.Sessions, e.ID))
}

// open notes that a session has begun: the one that has its tickets already, or
// a new one.
func (s *sessions) open(e Session) (string, error) {
	s.mu.Lock()
	known := s.all[e.ID]
	if known != nil && known.User == e.User && known.UID == e.UID && !known.Opened {
		e.TicketsSince, e.TicketsEnd = known.TicketsSince, known.TicketsEnd
		err := s.save(&e)
		if err == nil {
			s.all[e.ID] = &e
		}
		s.mu.Unlock()
		return e.ID, err
	}
	s.mu.Unlock()
	e.ID = newID()
	return e.ID, s.add(&e)
}

// end forgets a session of a user and destroys its tickets. One that is not
// known is fine: it was ended before.
func (s *sessions) end(id string, user broker.UserName, why string) {
	s.mu.Lock()
	e := s.all[id]
	if e == nil || e.User != user {
		s.mu.Unlock()
		return
	}
	delete(s.all, id)
	delete(s.tried, id)
	s.mu.Unlock()
	log := s.c.Log.WithFields(logrus.Fields{"session": id, "user": string(user), "service": e.Service, "why": why})
	if err := removeTickets(s.c.Tickets, id); err != nil {
		log.WithError(err).Warn("the tickets of a session could not be removed")
	}
	if err := os.Remove(filepath.Join(s.c.Sessions, id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		log.WithError(err).Warn("forgetting a session")
	}
	if e.Opened {
		log.Info("session closed")
	}
}

func (s *sessions) opened() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.all {
		if e.Opened {
			n++
		}
	}
	return n
}

func (s *sessions) list() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Session, 0, len(s.all))
	for _, e := range s.all {
		out = append(out, *e)
	}
	slices.SortFunc(out, func(a, b Session) int {
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.ID, b.ID))
	})
	return out
}

// run sweeps until ctx ends.
func (s *sessions) run(ctx context.Context) {
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

// removeStray destroys tickets that no session has: a crash came between.
func (s *sessions) removeStray() {
	dirs, err := os.ReadDir(s.c.Tickets)
	if err != nil {
		s.c.Log.WithError(err).Error("reading the folder of tickets")
		return
	}
	for _, d := range dirs {
		s.mu.Lock()
		known := s.all[d.Name()] != nil
		s.mu.Unlock()
		if known || !nameForm.MatchString(d.Name()) {
			continue
		}
		if err := removeTickets(s.c.Tickets, d.Name()); err != nil {
			s.c.Log.WithError(err).Warn("tickets that belong to no session")
		}
	}
}

// sweep ends the sessions whose process has gone, and renews tickets.
func (s *sessions) sweep(ctx context.Context) {
	for _, e := range s.list() {
		switch {
		case !e.Opened && s.c.Now().Sub(e.Since) > openWithin:
			s.end(e.ID, e.User, "never opened")
		case e.PID != 0 && startOf(e.PID) != e.Started:
			s.end(e.ID, e.User, "its process has gone")
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
	err := rewriteTickets(s.c.Tickets, e.ID, func(old []byte) (fresh []byte, err error) {
		fresh, end, err = s.c.Renew(ctx, old)
		return fresh, err
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.all[e.ID]
	if now == nil {
		return
	}
	log := s.c.Log.WithFields(logrus.Fields{"session": e.ID, "user": string(e.User)})
	switch {
	case errors.Is(err, errNotOurs):
		now.TicketsEnd = time.Time{}
		err = s.save(now)
		log.Info("the user has made the session's ticket cache his own: it is not renewed any more")
	case err != nil:
		s.tried[e.ID] = s.c.Now()
		log.WithError(err).Warn("the tickets of a session could not be renewed yet")
		return
	case !end.After(now.TicketsEnd): // renewed to its last end: it cannot live longer
		s.tried[e.ID] = s.c.Now().Add(24 * time.Hour)
	default:
		now.TicketsSince, now.TicketsEnd = s.c.Now().UTC(), end.UTC()
		err = s.save(now)
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

// session answers the verb: a session that begins or ends. sshd's is judged
// first, for now it is known by what its user came in.
func (s *Server) session(_ context.Context, p *peer, r wire.Request) wire.Answer {
	if r.Get("op") == "open" && r.Has("authinfo") {
		seen, err := readAuthInfo(r.Get("authinfo"))
		if err != nil {
			return unknown(wire.ReasonMalformed, err.Error())
		}
		q := s.request(r)
		if a := s.admit(q, seen, s.proved(p, r, q.User)); a.Outcome != wire.Yes {
			return a
		}
	}
	e := Session{ID: r.Get("session"), User: userOf(r), Service: r.Get("service"), TTY: r.Get("tty"), RHost: r.Get("rhost"),
		Opened: true, PID: p.PID, UID: p.UID, Since: s.c.Now().UTC()}
	switch r.Get("op") {
	case "open":
		if e.Started = startOf(p.PID); e.Started == 0 { // its pid is not ours to see: it cannot be watched
			e.PID = 0
		}
		id, err := s.sessions.open(e)
		if err != nil {
			s.c.Log.WithError(err).Error("a session could not be noted")
			return unknown("session", "the session could not be noted")
		}
		s.c.Log.WithFields(logrus.Fields{"session": id, "user": string(e.User), "service": e.Service, "tty": e.TTY,
			"rhost": e.RHost, "pid": p.PID}).Info("session opened")
		return wire.Answer{Outcome: wire.Yes, Body: []string{"session " + id}}
	case "close":
		s.sessions.end(e.ID, e.User, "closed")
		return wire.Answer{Outcome: wire.Yes}
	}
	return unknown(wire.ReasonMalformed, "the op is open or close")
}

func userOf(r wire.Request) broker.UserName { return broker.UserName(r.Get("user")) }
