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
	hash     [32]byte
}

// over says that a login counts no longer; one that ends later than any can has
// been made before the clock was set back.
func (l *login) over(now time.Time) bool {
	left := l.until.Sub(now)
	return left <= 0 || left > loginTTL
}

// logins remembers sign-ins for a while, by a hash of their tokens, so that a
// look-up's time tells nothing. When there are too many the oldest is forgotten: a
// session mostly begins at once, and whoever it is that signs in so often must not
// keep the others out.
type logins struct {
	now func() time.Time

	mu    sync.Mutex // guards all below
	all   map[[32]byte]*login
	queue []*login       // those of all, the oldest first
	of    map[uint32]int // how many of them an unprivileged caller has
}

func newLogins(now func() time.Time) *logins {
	return &logins{now: now, all: map[[32]byte]*login{}, of: map[uint32]int{}}
}

// add remembers l and returns its token, or "" when its caller, who is not root,
// has too many.
func (s *logins) add(l login) string {
	var raw [32]byte
	rand.Read(raw[:])
	token := base64.RawURLEncoding.EncodeToString(raw[:])
	l.hash = sha256.Sum256([]byte(token))
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for len(s.queue) > 0 && s.queue[0].over(now) {
		s.forget()
	}
	if l.uid != 0 && s.of[l.uid] >= maxLoginsPerUID {
		return ""
	}
	if len(s.queue) >= maxLogins {
		s.forget()
	}
	l.until = now.Add(loginTTL)
	s.all[l.hash] = &l
	s.queue = append(s.queue, &l)
	if l.uid != 0 {
		s.of[l.uid]++
	}
	return token
}

// forget takes the oldest out.
func (s *logins) forget() {
	l := s.queue[0]
	s.queue[0] = nil
	s.queue = s.queue[1:]
	delete(s.all, l.hash)
	if l.uid == 0 {
		return
	}
	if s.of[l.uid]--; s.of[l.uid] == 0 {
		delete(s.of, l.uid)
	}
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
	if l == nil || l.user != user || uid != 0 && uid != l.uid || l.over(s.now()) {
		return nil
	}
	return l
}
