package feed

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
)

// Version is that of the protocol; both sides must have the same. 2: a session's
// request names its key.
const Version = 2

// Protocol is the ALPN name.
const Protocol = "sekisho-feed/1"

// Note is something that belongs into the audit record.
type Note struct {
	// Kind is what happened: refused, cut, lied, gone or back.
	Kind NoteKind
	// Host is the host's canonical name; of a refused one, what it calls itself.
	Host broker.HostName
	// From is its address.
	From string
	// Text says why, in one line.
	Text string
}

// NoteKind is what happened to a host.
type NoteKind string

// The kinds of notes.
const (
	HostRefused NoteKind = "host-refused" // not let in
	HostCut     NoteKind = "host-cut"     // its entry or its key is gone, or it is too slow
	HostLied    NoteKind = "host-lied"    // it broke the protocol, or spoke for others
	HostGone    NoteKind = "host-gone"
	HostBack    NoteKind = "host-back"
)

// ServerConfig is what a Server is made of. View, Wait, Certificate, CAs, Log
// and Now must be set.
type ServerConfig struct {
	// View gives the newest view, at once; Wait returns it once its generation
	// is greater than after.
	View func() broker.View
	Wait func(ctx context.Context, after uint64) (broker.View, error)
	// Certificate is the server's; it is asked for at each handshake.
	Certificate func() (*tls.Certificate, error)
	// CAs signs the hosts' certificates; it is asked for at each handshake.
	CAs func() (CAs, error)
	// Unpinned lets in hosts whose entry lists no key at all, by their
	// certificate alone.
	Unpinned bool

	// Note gets what belongs into the audit record. Nil: only the log has it.
	Note func(Note)
	// Opened, Ending and Closed are told what hosts report of their sessions, in
	// order for each host; they must be quick. A session that a host no longer
	// has when it comes back is closed with broker.SessionLost.
	Opened func(broker.HostName, broker.Session)
	Ending func(broker.HostName, broker.Session)
	Closed func(broker.HostName, broker.Session, broker.EventKind, broker.Reason)
	// Calls are the handlers of what hosts ask, by kind. An error of theirs is
	// told to the host, as a text.
	Calls map[string]Handler

	// MaxHosts is how many may be connected. Default 20000.
	MaxHosts int
	// PerAddress is how many connections one address may have: all hosts behind one address
	// translation. Default 64.
	PerAddress int
	// Handshakes is how many may be under way. Default 128.
	Handshakes int
	// HandshakeTime bounds one, TLS and hello. Default 10 seconds.
	HandshakeTime time.Duration
	// MaxSessions is how many sessions one host may report. Default 20000.
	MaxSessions int
	// MaxCalls is how many calls of one host may run at once. Default 32.
	MaxCalls int
	// Queue is how many changes may wait for one host. Default 256.
	Queue int

	// Now is the clock.
	Now func() time.Time
	// Log gets what happens.
	Log *logrus.Entry
}

// Handler answers a call of a host.
type Handler func(ctx context.Context, host broker.HostName, request json.RawMessage) (answer any, err error)

// ClientConfig is what a Client is made of. Brokers, Certificate, CAs, Host,
// StateDir, Log and Now must be set.
type ClientConfig struct {
	// Brokers are HOST:PORT, tried in this order.
	Brokers []string
	// Certificate is the host's, and CAs signs the brokers'; both are asked for
	// at each handshake.
	Certificate func() (*tls.Certificate, error)
	CAs         func() (CAs, error)
	// Host is this host's name in the directory.
	Host broker.HostName
	// StateDir keeps the last good snapshot; made if absent, mode 0700. One
	// process at a time may use it.
	StateDir string
	// MaxAge is the greatest age of the snapshot that a decision may rest on.
	// Default 24 hours.
	MaxAge time.Duration
	// BackoffMin and BackoffMax bound the wait before the next try: a random
	// part of a span that doubles. Default 1 s and 30 s.
	BackoffMin, BackoffMax time.Duration
	// DialTimeout bounds connecting to one broker, TLS and hello. Default 10 s.
	DialTimeout time.Duration
	// Dial connects; default a net.Dialer's.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	// Sessions calls f for all sessions that are open here, as
	// broker.Broker.Sessions does. Nil: none are reported.
	Sessions func(f func(*broker.Session) bool)
	// End ends a session; it reports whether there is one. It must be quick.
	End func(id broker.SessionID, reason broker.Reason, text string) (known bool)
	// Judges says that Judged will be called for each generation, and a change
	// counts as confirmed only then. Without it, one that is applied is.
	Judges bool

	// Now is the clock.
	Now func() time.Time
	// Log gets what happens.
	Log *logrus.Entry
}

// ErrUnavailable says that the broker was not asked, or gave no answer in time:
// it could not be found out.
var ErrUnavailable = errors.New("the broker cannot be asked")

// CallError is what a handler answered instead of an answer.
type CallError struct{ Text string }

func (e *CallError) Error() string { return "the broker: " + e.Text }

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func (c *ServerConfig) validate() error {
	if c.View == nil || c.Wait == nil || c.Certificate == nil || c.CAs == nil || c.Log == nil || c.Now == nil {
		return errors.New("feed: View, Wait, Certificate, CAs, Log and Now must be set")
	}
	setDefault(&c.MaxHosts, 20000)
	setDefault(&c.PerAddress, 64)
	setDefault(&c.Handshakes, 128)
	setDefault(&c.HandshakeTime, 10*time.Second)
	setDefault(&c.MaxSessions, 20000)
	setDefault(&c.MaxCalls, 32)
	setDefault(&c.Queue, 256)
	if min(c.MaxHosts, c.PerAddress, c.Handshakes, c.MaxSessions, c.MaxCalls, c.Queue) < 1 || c.HandshakeTime < 0 {
		return errors.New("feed: a limit is negative")
	}
	if c.Note == nil {
		c.Note = func(Note) {}
	}
	if c.Opened == nil {
		c.Opened = func(broker.HostName, broker.Session) {}
	}
	if c.Ending == nil {
		c.Ending = func(broker.HostName, broker.Session) {}
	}
	if c.Closed == nil {
		c.Closed = func(broker.HostName, broker.Session, broker.EventKind, broker.Reason) {}
	}
	return nil
}

func (c *ClientConfig) validate() error {
	if c.Certificate == nil || c.CAs == nil || c.Log == nil || c.Now == nil || c.Host == "" || c.StateDir == "" {
		return errors.New("feed: Certificate, CAs, Host, StateDir, Log and Now must be set")
	}
	if len(c.Brokers) == 0 {
		return errors.New("no broker to follow: name one as HOST:PORT")
	}
	for _, b := range c.Brokers {
		if host, _, err := net.SplitHostPort(b); err != nil || host == "" {
			return fmt.Errorf("broker %q: must be HOST:PORT", b)
		}
	}
	setDefault(&c.MaxAge, 24*time.Hour)
	setDefault(&c.BackoffMin, time.Second)
	setDefault(&c.BackoffMax, 30*time.Second)
	setDefault(&c.DialTimeout, 10*time.Second)
	if c.MaxAge < 0 || c.BackoffMin < 0 || c.BackoffMax < c.BackoffMin || c.DialTimeout < 0 {
		return errors.New("feed: a duration is negative, or BackoffMax is under BackoffMin")
	}
	if c.Dial == nil {
		var d net.Dialer
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	if c.Sessions == nil {
		c.Sessions = func(func(*broker.Session) bool) {}
	}
	if c.End == nil {
		c.End = func(broker.SessionID, broker.Reason, string) bool { return false }
	}
	return nil
}
