package kpasswd

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/accept"
)

// Config is what a Server needs.
type Config struct {
	// Listen are the addresses, IP:port, each UDP and TCP.
	Listen []string
	// Acceptor judges the tickets; it must hold the key of kadmin/changepw, and
	// no server but that one is taken.
	Acceptor *accept.Acceptor
	// Realm is the one that passwords are changed in.
	Realm string
	// Change sets the new password of a user who has just proved the old one. The
	// password has been checked by krb.CheckPassword. Its errors: *Refused, whose
	// words the user is shown; *Denied, likewise; anything else is "could not be
	// done", and goes to the log.
	Change func(ctx context.Context, user krb.Principal, newPassword string) error
	// Log gets one line for each change and each refusal.
	Log *logrus.Entry
	// Now is the clock; default time.Now.
	Now func() time.Time
	// MaxAtOnce bounds the requests that are being answered, over UDP and TCP
	// together; default 16. MaxConns bounds the TCP connections; default 64.
	MaxAtOnce, MaxConns int
	// Timeout bounds one request: reading it over TCP, and answering it; default 10 s.
	Timeout time.Duration
}

// Server serves the protocol.
type Server struct{ c Config }

// New checks the configuration; it opens no socket.
func New(c Config) (*Server, error) { return nil, errors.New("not yet written") }

// Listen opens the sockets; Serve needs them.
func (s *Server) Listen() error { return errors.New("not yet written") }

// Addrs are the addresses that Listen has opened.
func (s *Server) Addrs() []netip.AddrPort { return nil }

// Serve answers until ctx ends, and returns when every request is done. It
// returns an error only when it cannot go on.
func (s *Server) Serve(ctx context.Context) error { return errors.New("not yet written") }
