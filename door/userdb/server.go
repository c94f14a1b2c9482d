package userdb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/door/gate"
)

// Service is our name among the user database services of a machine. It is
// also the base name of the socket: libnss-systemd puts one for the other.
const Service = "io.sekisho.Directory"

// SocketPath is where libnss-systemd looks for us.
const SocketPath = "/run/systemd/userdb/" + Service

// Config is what a Server is made of.
type Config struct {
	// View gives the newest view of the directory, from memory. Needed.
	View func() broker.View
	// Now reads the clock. Needed.
	Now func() time.Time
	// Min and Max bound the uids and gids that are answered; 0 is 1000 and
	// 2147483647.
	Min, Max uint32
	// Etc is the directory of the machine's own passwd and group files; empty
	// is /etc.
	Etc string
	// Members is the greatest number of member values, nested groups included,
	// that a group may have to be listed member by member. A larger one is
	// given without any; that is what 0 does with all. Who is in which groups
	// is always known from the user's side, which is what logins use.
	Members int
	// Keys puts sshAuthorizedKeys in the privileged section. See the package's
	// doc for why not.
	Keys bool
	// MaxConns is how many connections may be open at once; 0 is 4096. Those
	// of users other than root get half of it together, and a quarter each.
	MaxConns int
	// Idle is how long a connection may stay without a call; 0 is 30 seconds.
	Idle time.Duration
	// Request is how long a call may take to arrive from its first byte on,
	// and each part of an answer to be taken; 0 is 10 seconds: what is cut off there
	// is a list of groups that lacks some, and nss-systemd waits 45.
	Request time.Duration
	// Log gets what an operator must know. Needed.
	Log *logrus.Entry
}

func (c *Config) validate() error {
	if c.View == nil || c.Now == nil || c.Log == nil {
		return errors.New("users door: View, Now and Log must be set")
	}
	if c.Min == 0 {
		c.Min = 1000
	}
	if c.Max == 0 {
		c.Max = 1<<31 - 1
	}
	if c.Min > c.Max {
		return fmt.Errorf("users door: the lowest uid %d is above the highest %d", c.Min, c.Max)
	}
	if c.Etc == "" {
		c.Etc = "/etc"
	}
	if !filepath.IsAbs(c.Etc) {
		return fmt.Errorf("users door: %q is not an absolute path", c.Etc)
	}
	if c.MaxConns == 0 {
		c.MaxConns = 4096
	}
	if c.Idle == 0 {
		c.Idle = 30 * time.Second
	}
	if c.Request == 0 {
		c.Request = 10 * time.Second
	}
	if c.Members < 0 {
		return errors.New("users door: Members is below zero")
	}
	return nil
}

// Server answers on listening sockets. It is safe for any number of
// goroutines.
type Server struct {
	c     Config // immutable after New
	local *localFiles
	gate  *gate.Gate
	noted notes

	calls, malformed atomic.Uint64
}

// Stats counts since New.
type Stats struct {
	Open      int    // connections now
	Calls     uint64 // answered, errors included
	Malformed uint64 // connections closed over something that is no call
	Busy      uint64 // connections turned away
}

// New makes a Server; the error names what is wrong in c.
func New(c Config) (*Server, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	g, err := gate.New(gate.Config{Max: c.MaxConns, PerUID: c.MaxConns / 4, Idle: c.Idle, Request: c.Request,
		Busy: appendReply(nil, reply{Error: errUnavailable}), Log: c.Log})
	if err != nil {
		return nil, fmt.Errorf("users door: %w", err)
	}
	return &Server{c: c, local: newLocalFiles(c.Etc), gate: g}, nil
}

// Stats reads the counters.
func (s *Server) Stats() Stats {
	g := s.gate.Stats()
	return Stats{g.Open, s.calls.Load(), s.malformed.Load(), g.Busy}
}

// Serve answers on l, a unix stream listener such as Listen makes, until ctx
// ends, and closes l. It returns when the last of its connections has: nil
// when ctx ended, or what made the listener fail.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.gate.Serve(ctx, l, s.talk)
}

// notes remembers which entries' faults were logged, so that a lookup that is
// made a thousand times a second logs once.
type notes struct {
	mu   sync.Mutex
	seen map[string]struct{} // guarded by mu
}

const maxNotes = 10_000

// once reports whether text is new.
func (n *notes) once(text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, seen := n.seen[text]; seen {
		return false
	}
	if n.seen == nil || len(n.seen) >= maxNotes {
		n.seen = map[string]struct{}{}
	}
	n.seen[text] = struct{}{}
	return true
}
