package pam

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
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
// Its account is Request.Login.
type Session struct {
	broker.Session
	// Opened is false while only its tickets have been stored.
	Opened bool
	// PID is the process that opened it and lives as long: sshd's monitor,
	// login, su. Started is its start time in clock ticks since boot (proc(5)),
	// since pids come again. 0: we cannot see it, and wait to be told of its end.
	PID     int32
	Started uint64
	UID     uint32 // who opened it
	// Boot is the kernel's boot_id (random(4)): after another one it is gone.
	Boot string
	// Held says that a Reaper has its processes.
	Held bool
	// TicketsSince is when the tickets came, and TicketsEnd when they end; zero:
	// it has none that we renew.
	TicketsSince time.Time
	TicketsEnd   time.Time
}

// sessions remembers the open ones, each in a file of its own.
type sessions struct {
	c    Config // immutable
	boot string // immutable

	found chan struct{} // closed when recover has ended

	mu    sync.Mutex
	all   map[broker.SessionID]*Session  // guarded by mu; a Session in it is not changed but replaced
	of    map[uint32]int                 // guarded by mu; how many an unprivileged caller has
	tried map[broker.SessionID]time.Time // guarded by mu; when renewing last failed
	// inherited are the last sekishod's that recover has not come to, true for those
	// that have ended meanwhile; guarded by mu.
	inherited map[broker.SessionID]bool
}

// openSessions reads what was open. A file that cannot be read is said and left.
func openSessions(c Config) (*sessions, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	s := &sessions{c: c, boot: strings.TrimSpace(string(boot)), all: map[broker.SessionID]*Session{},
		of: map[uint32]int{}, tried: map[broker.SessionID]time.Time{}, inherited: map[broker.SessionID]bool{}, found: make(chan struct{})}
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
		if err == nil && (string(e.ID) != f.Name() || !nameForm.MatchString(f.Name())) {
			err = errors.New("it is another session's")
		}
		if err != nil {
			c.Log.WithError(err).WithField("file", path).Error("a session cannot be read: it is not looked after")
			continue
		}
		s.put(&e)
		s.inherited[e.ID] = false
	}
	return s, nil
}

// put remembers e; s.mu is held, or not needed yet.
func (s *sessions) put(e *Session) {
	if s.all[e.ID] == nil {
		s.of[e.UID]++
	}
	s.all[e.ID] = e
}

// drop forgets a session; s.mu is held.
func (s *sessions) drop(e *Session) {
	delete(s.all, e.ID)
	delete(s.tried, e.ID)
	if s.of[e.UID]--; s.of[e.UID] <= 0 {
		delete(s.of, e.UID)
	}
}

// account is the user of PAM.
func (e *Session) account() broker.UserName { return broker.UserName(e.Request.Login) }

// keep notes tickets that are about to be stored, and returns their session:
// the one with this id, if it is the user's and open, or a new one.
func (s *sessions) keep(id broker.SessionID, user broker.UserName, uid uint32, end time.Time) (broker.SessionID, error) {
	now := s.c.Now().UTC()
	s.mu.Lock()
	if e := s.all[id]; e != nil && e.account() == user && e.UID == uid && e.TicketsEnd.IsZero() {
		fresh := *e
		fresh.TicketsSince, fresh.TicketsEnd = now, end.UTC()
		err := s.replace(&fresh)
		s.mu.Unlock()
		return id, err
	}
	s.mu.Unlock()
	e := &Session{UID: uid, Boot: s.boot, TicketsSince: now, TicketsEnd: end.UTC()}
	e.ID, e.Request.Login, e.Since = newID(), broker.Login(user), now
	return e.ID, s.add(e)
}

func newID() broker.SessionID {
	var b [16]byte
	rand.Read(b[:])
	return broker.SessionID(base64.RawURLEncoding.EncodeToString(b[:]))
}

// add remembers a session, on disk first.
func (s *sessions) add(e *Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) >= maxSessions || e.UID != 0 && s.of[e.UID] >= maxOpenPerUID {
		return errors.New("too many sessions are open")
	}
	return s.replace(e)
}

// replace writes a session's file whole or not at all, and remembers it; s.mu is
// held.
func (s *sessions) replace(e *Session) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	fresh := filepath.Join(s.c.Sessions, "."+string(e.ID))
	if err := os.WriteFile(fresh, b, 0o600); err != nil {
		return err
	}
	if err := os.Rename(fresh, filepath.Join(s.c.Sessions, string(e.ID))); err != nil {
		return err
	}
	s.put(e)
	return nil
}

// get returns a session; nil: there is none.
func (s *sessions) get(id broker.SessionID) *Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[id]
}

// open notes that a session has begun: the one that has its tickets already, or
// a new one.
func (s *sessions) open(e Session) (broker.SessionID, error) {
	e.Boot = s.boot
	s.mu.Lock()
	known := s.all[e.ID]
	if known != nil && known.account() == e.account() && known.UID == e.UID && !known.Opened {
		e.TicketsSince, e.TicketsEnd = known.TicketsSince, known.TicketsEnd
		delete(s.inherited, e.ID)
		err := s.replace(&e)
		s.mu.Unlock()
		return e.ID, err
	}
	s.mu.Unlock()
	e.ID = newID()
	return e.ID, s.add(&e)
}

// end forgets a session and destroys its tickets. One that is not known is fine:
// it was ended before.
func (s *sessions) end(id broker.SessionID, why string) {
	s.mu.Lock()
	e := s.all[id]
	if e == nil {
		s.mu.Unlock()
		return
	}
	s.drop(e)
	s.mu.Unlock()
	log := s.c.Log.WithFields(logrus.Fields{"session": string(id), "user": string(e.account()), "service": e.Service, "why": why})
	if err := removeTickets(s.c.Tickets, string(id)); err != nil {
		log.WithError(err).Warn("the tickets of a session could not be removed")
	}
	if err := os.Remove(filepath.Join(s.c.Sessions, string(id))); err != nil && !errors.Is(err, os.ErrNotExist) {
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
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(string(a.ID), string(b.ID)))
	})
	return out
}
