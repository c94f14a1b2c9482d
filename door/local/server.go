package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/door/gate"
	"github.com/sekisho/sekisho/wire"
)

// Config is what a Server is made of.
type Config struct {
	// Broker decides. Needed.
	Broker *broker.Broker
	// Host is this machine's name in the directory, the target of keys. Needed.
	Host broker.HostName
	// KeysCallers are the uids that may use the verb keys about anybody.
	KeysCallers []uint32
	// ProofsDeferred reports whether PAM judges each session of an account again,
	// so that a rule may want more than the key. Nil: none.
	ProofsDeferred func(broker.Login) bool
	// Verbs are the verbs beside keys, by name.
	Verbs map[string]Verb
	// MaxConns is how many connections may be open at once; 0 is 4096. Those
	// of users other than root and KeysCallers get half of it together, and
	// 64 for each uid.
	MaxConns int
	// Idle is how long a connection may stay without a request; 0 is 5 minutes.
	Idle time.Duration
	// Request is how long a request may take to arrive from its first byte on,
	// and an answer to be taken; 0 is 5 seconds.
	Request time.Duration
	// Answer is how long a verb may take, by its context; 0 is 10 seconds.
	Answer time.Duration
	// Log gets what an operator must know. Needed.
	Log *logrus.Entry
}

const perUID = 64 // connections of one unprivileged user

func (c *Config) validate() error {
	if c.Broker == nil || c.Log == nil {
		return errors.New("local door: Broker and Log must be set")
	}
	if c.Host == "" {
		return errors.New("local door: Host must be set: this machine's name in the directory")
	}
	if c.Answer < 0 {
		return errors.New("local door: Answer is below zero")
	}
	for name, v := range c.Verbs {
		if name == wire.VerbKeys {
			return errors.New("local door: the verb keys is this package's own")
		}
		if _, err := wire.AppendRequest(nil, wire.Request{Verb: name}); err != nil || v.Do == nil || v.May > Anyone {
			return fmt.Errorf("local door: verb %q: a good name, May and Do must be set", name)
		}
	}
	return nil
}

// Access says who may use a verb. The zero value is root alone.
type Access uint8

const (
	RootOnly Access = iota
	Self            // root; anybody else when the user field is his own name
	Anyone          // the verb itself decides what the caller is told
)

// Verb is one verb of the protocol.
type Verb struct {
	May Access
	// Fields are the names of all fields that the verb knows; a request with
	// another is refused.
	Fields []string
	// Do answers. It must heed ctx, which ends after Config.Answer.
	Do func(ctx context.Context, c Caller, r wire.Request) wire.Answer
}

// Caller is who asks, as the kernel says.
type Caller struct {
	gate.Peer
	// User is the directory's user with this uid; empty when there is none,
	// or more than one.
	User broker.UserName
}

// Root reports whether the caller is root.
func (c Caller) Root() bool { return c.UID == 0 }

// Server answers on listening sockets. It is safe for any number of
// goroutines.
type Server struct {
	c     Config // immutable after New
	verbs map[string]Verb
	gate  *gate.Gate

	requests, denied, malformed atomic.Uint64
}

// Stats counts since New.
type Stats struct {
	Open      int    // connections now
	Requests  uint64 // answered by a verb
	Denied    uint64 // not for this caller
	Malformed uint64 // unreadable, of another version, or of no known verb
	Busy      uint64 // connections turned away
}

// New makes a Server; the error names what is wrong in c.
func New(c Config) (*Server, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	for _, d := range []struct {
		v  *time.Duration
		or time.Duration
	}{{&c.Idle, 5 * time.Minute}, {&c.Request, 5 * time.Second}, {&c.Answer, 10 * time.Second}} {
		if *d.v == 0 {
			*d.v = d.or
		}
	}
	if c.MaxConns == 0 {
		c.MaxConns = 4096
	}
	busy, err := wire.AppendAnswer(nil, refusal(wire.ReasonBusy, "too many connections at once: try again later"))
	if err != nil {
		return nil, fmt.Errorf("local door: %w", err)
	}
	g, err := gate.New(gate.Config{Max: c.MaxConns, PerUID: perUID, Privileged: c.KeysCallers,
		Idle: c.Idle, Request: c.Request, Busy: busy, Log: c.Log})
	if err != nil {
		return nil, fmt.Errorf("local door: %w", err)
	}
	return &Server{c: c, verbs: maps.Clone(c.Verbs), gate: g}, nil
}

// Stats reads the counters.
func (s *Server) Stats() Stats {
	g := s.gate.Stats()
	return Stats{g.Open, s.requests.Load(), s.denied.Load(), s.malformed.Load(), g.Busy}
}

// Serve answers on l, a unix stream listener, until ctx ends, and closes l. It
// returns when the last of its connections has: nil when ctx ended, or what
// made the listener fail. It may run for several listeners at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.gate.Serve(ctx, l, s.talk)
}
