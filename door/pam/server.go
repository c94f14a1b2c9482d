package pam

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/door/gate"
	"github.com/sekisho/sekisho/wire"
)

// Config is what a Server is made of.
type Config struct {
	// Broker decides, and has the provers. Needed.
	Broker *broker.Broker
	// Host is this machine's name in the directory, the target. Needed.
	Host broker.HostName
	// Realm is the Kerberos realm whose users are the directory's: a ticket
	// that sshd has accepted counts when its client is of it. Empty: none does.
	Realm string
	// Tickets is the folder for tickets, and Sessions the one where sessions
	// are remembered across a restart, also of the machine; both are this door's
	// alone. Needed.
	Tickets, Sessions string
	// Reaper ends sessions. Nil: they are noted, and cannot be ended.
	Reaper Reaper
	// Renew renews the tickets of a credential cache and says when they end.
	// Nil: tickets are not renewed.
	Renew func(ctx context.Context, cache []byte) ([]byte, time.Time, error)
	// Now reads the clock; nil is time.Now.
	Now func() time.Time
	// MaxConns is how many connections may be open at once; 0 is 4096.
	MaxConns int
	// Idle is how long a person may take for a reply; 0 is 2 minutes.
	Idle time.Duration
	// Step is how long the broker may work between two prompts, and for the
	// answer; 0 is 10 seconds. The module waits longer, a prover less.
	Step time.Duration
	// Log gets what an operator must know. Needed.
	Log *logrus.Entry
}

const perUID = 16 // connections of one unprivileged user

func (c *Config) validate() error {
	switch {
	case c.Broker == nil || c.Log == nil:
		return errors.New("pam door: Broker and Log must be set")
	case c.Host == "":
		return errors.New("pam door: Host must be set: this machine's name in the directory")
	case c.Tickets == "" || c.Sessions == "":
		return errors.New("pam door: Tickets and Sessions must be set")
	case c.MaxConns < 0 || c.Idle < 0 || c.Step < 0:
		return errors.New("pam door: a limit is below zero")
	}
	return nil
}

// Server answers on listening sockets. It is safe for any number of
// goroutines.
type Server struct {
	c        Config // immutable after New
	gate     *gate.Gate
	logins   *logins
	sessions *sessions

	ending  chan struct{} // one for each session that is being ended
	stopped chan struct{} // closed when Run ends
	ends    sync.WaitGroup
}

// New makes a Server, and reads which sessions were open when the last one
// ended; the error names what is wrong.
func New(c Config) (*Server, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MaxConns == 0 {
		c.MaxConns = 4096
	}
	if c.Idle == 0 {
		c.Idle = 2 * time.Minute
	}
	if c.Step == 0 {
		c.Step = 10 * time.Second
	}
	busy, err := wire.AppendAnswer(nil, unknown(wire.ReasonBusy, "too many sign-ins at once: try again later"))
	if err != nil {
		return nil, fmt.Errorf("pam door: %w", err)
	}
	g, err := gate.New(gate.Config{Max: c.MaxConns, PerUID: perUID, Idle: c.Idle, Request: 5 * time.Second, Busy: busy, Log: c.Log})
	if err != nil {
		return nil, fmt.Errorf("pam door: %w", err)
	}
	ss, err := openSessions(c)
	if err != nil {
		return nil, fmt.Errorf("pam door: %w", err)
	}
	return &Server{c: c, gate: g, logins: newLogins(c.Now), sessions: ss,
		ending: make(chan struct{}, endAtOnce), stopped: make(chan struct{})}, nil
}

// Serve answers on l, a unix stream listener, until ctx ends, and closes l. It
// returns when the last of its connections has: nil when ctx ended, or what
// made the listener fail.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.gate.Serve(ctx, l, s.talk)
}

// Run looks after the sessions until ctx ends: takes those up that were open,
// renews their tickets, and finds those that ended without a word. It is called
// once.
func (s *Server) Run(ctx context.Context) error {
	s.sessions.run(ctx)
	close(s.stopped)
	s.ends.Wait()
	return nil
}

// Found is closed when Run has taken up the sessions of the last sekishod.
func (s *Server) Found() <-chan struct{} { return s.sessions.found }

// Opened is how many sessions are open.
func (s *Server) Opened() int { return s.sessions.opened() }

// Has reports whether a session is remembered: it is open, or nobody has looked yet
// whether it is.
func (s *Server) Has(id broker.SessionID) bool { return s.sessions.get(id) != nil }

// Sessions are the open sessions that were reported, in the order of their
// beginning.
func (s *Server) Sessions() []Session { return s.sessions.list() }

func unknown(reason, text string) wire.Answer {
	return wire.Answer{Outcome: wire.Unknown, Reason: reason, Text: text}
}

func no(reason broker.Reason, text string) wire.Answer {
	return wire.Answer{Outcome: wire.No, Reason: string(reason), Text: text}
}
