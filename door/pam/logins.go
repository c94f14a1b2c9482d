package pam

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// loginTTL is how long after a sign-in its session may begin; sshd's
// LoginGraceTime is 2 minutes.
const loginTTL = 5 * time.Minute

// Limits of what is remembered.
const (
	maxLogins       = 8192
	maxLoginsPerUID = 32 // of an unprivileged caller
)

// login is what a caller has proved.
type login struct {
	uid      uint32 // who asked
	user     broker.UserName
	evidence broker.Evidence
	until    time.Time
	given    bool // its tickets went to a session
}

// logins remembers sign-ins for a while, by a hash of their tokens, so that a
// look-up's time tells nothing.
type logins struct {
	now func() time.Time

	mu  sync.Mutex
	all map[[32]byte]*login // guarded by mu
}

func newLogins(now func() time.Time) *logins {
	return &logins{now: now, all: map[[32]byte]*login{}}
}

// add remembers l and returns its token, or "" when there is no room.
func (s *logins) add(l login) string {
	var raw [32]byte
	rand.Read(raw[:])
	token := base64.RawURLEncoding.EncodeToString(raw[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	now, mine := s.now(), 0
	for k, o := range s.all {
		if d := o.until.Sub(now); d <= 0 || d > loginTTL { // over, or the clock was set back
			delete(s.all, k)
		} else if o.uid == l.uid {
			mine++
		}
	}
	if len(s.all) >= maxLogins || l.uid != 0 && mine >= maxLoginsPerUID {
		return ""
	}
	l.until = now.Add(loginTTL)
	s.all[sha256.Sum256([]byte(token))] = &l
	return token
}

// get finds what a caller has proved as user; nothing for a token that is
// unknown, over, another user's or another caller's.
func (s *logins) get(token string, uid uint32, user broker.UserName) (login, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.find(token, uid, user)
	if l == nil {
		return login{}, false
	}
	return *l, true
}

// take is get, and takes the tickets out, which are given to one session only.
func (s *logins) take(token string, uid uint32, user broker.UserName) (login, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.find(token, uid, user)
	if l == nil || l.given {
		return login{}, false
	}
	out := *l
	l.given, l.evidence.Tickets = true, nil
	return out, true
}

func (s *logins) find(token string, uid uint32, user broker.UserName) *login {
	if token == "" {
		return nil
	}
	l := s.all[sha256.Sum256([]byte(token))]
	if l == nil || l.user != user || uid != 0 && uid != l.uid || !s.now().Before(l.until) {
		return nil
	}
	return l
}
