package kpasswd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
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
	// tickets for no other server are taken.
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

func (c *Config) validate() error {
	if _, err := krb.NewPrincipal("kadmin/changepw", c.Realm); err != nil {
		return err
	}
	if c.Acceptor == nil || c.Change == nil || c.Log == nil || len(c.Listen) == 0 {
		return errors.New("Listen, Acceptor, Change and Log must be set")
	}
	for _, a := range c.Listen {
		if ap, err := netip.ParseAddrPort(a); err != nil || ap.Addr().Zone() != "" || ap.Addr().Is4In6() {
			return fmt.Errorf("listen address %q: write IP:port, such as 203.0.113.1:464", a)
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MaxAtOnce == 0 {
		c.MaxAtOnce = 16
	}
	if c.MaxConns == 0 {
		c.MaxConns = 64
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.MaxAtOnce < 0 || c.MaxConns < 0 || c.Timeout < 0 {
		return errors.New("a limit is negative")
	}
	return nil
}

// Server serves the protocol.
type Server struct {
	c       Config        // immutable after New
	turns   chan struct{} // one for each request at work
	conns   chan struct{} // one for each TCP connection
	replies replies

	udp []*datagrams   // set by Listen
	tcp []net.Listener // set by Listen
}

// New checks the configuration; it opens no socket.
func New(c Config) (*Server, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("kpasswd: %w", err)
	}
	s := &Server{c: c, turns: make(chan struct{}, c.MaxAtOnce), conns: make(chan struct{}, c.MaxConns)}
	s.replies.now = c.Now
	return s, nil
}

// Listen opens the sockets; it comes once, before Serve.
func (s *Server) Listen() error {
	for _, a := range s.c.Listen {
		u, err := listenUDP(netip.MustParseAddrPort(a)) // validate has seen it
		if err != nil {
			s.Close()
			return fmt.Errorf("kpasswd: listening on %s: %w", a, err)
		}
		s.udp = append(s.udp, u)
		// Port 0 gives both the same one.
		t, err := net.Listen(network("tcp", u.local), u.local.String())
		if err != nil {
			s.Close()
			return fmt.Errorf("kpasswd: listening on %s: %w", a, err)
		}
		s.tcp = append(s.tcp, t)
	}
	return nil
}

// Close closes the sockets, for a server that is not to be served after all. Serve
// does it too; it may be called twice.
func (s *Server) Close() {
	for _, u := range s.udp {
		u.conn.Close()
	}
	for _, t := range s.tcp {
		t.Close()
	}
}

// Addrs are the addresses that Listen has opened.
func (s *Server) Addrs() []netip.AddrPort {
	var out []netip.AddrPort
	for _, u := range s.udp {
		out = append(out, u.local)
	}
	return out
}

// lastMoments is what requests at work are given when the server is to end, and
// a client to take its reply.
const lastMoments = 2 * time.Second

// Serve answers until ctx ends; what is being answered then has two seconds more.
// It returns when every request is done.
func (s *Server) Serve(ctx context.Context) error {
	if len(s.udp) == 0 {
		return errors.New("kpasswd: Listen was not called")
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	told := ctx
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var all sync.WaitGroup
	for _, u := range s.udp {
		all.Go(func() { fail(s.serveUDP(ctx, work, u, &all)) })
	}
	for _, t := range s.tcp {
		all.Go(func() { fail(s.serveTCP(ctx, work, t, &all)) })
	}
	<-ctx.Done()
	for _, u := range s.udp {
		u.conn.SetReadDeadline(time.Unix(1, 0))
	}
	for _, t := range s.tcp {
		t.Close()
	}
	stop := time.AfterFunc(lastMoments, cancel)
	defer stop.Stop()
	all.Wait()
	s.Close()
	if told.Err() == nil {
		return fmt.Errorf("kpasswd: %w", context.Cause(ctx))
	}
	return nil
}

// pause is the wait after an error of a socket: there may be no descriptor or no
// memory for a moment.
func pause(ctx context.Context) {
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// serveUDP reads datagrams. What comes when all turns are taken is dropped: the
// client sends it again.
func (s *Server) serveUDP(ctx, work context.Context, u *datagrams, all *sync.WaitGroup) error {
	buf := make([]byte, maxMessage+1)
	for {
		n, remote, local, err := u.read(buf)
		switch {
		case ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			s.c.Log.WithError(err).Debug("reading a datagram")
			pause(ctx)
			continue
		}
		select {
		case s.turns <- struct{}{}:
		default:
			continue
		}
		raw := append([]byte(nil), buf[:n]...)
		all.Go(func() {
			defer func() { <-s.turns }()
			work, cancel := context.WithTimeout(work, s.c.Timeout)
			defer cancel()
			if reply := s.answer(work, raw, local, remote, true); reply != nil {
				if err := u.write(reply, remote, local); err != nil {
					s.c.Log.WithError(err).WithField("to", remote).Debug("writing a datagram")
				}
			}
		})
	}
}

func (s *Server) serveTCP(ctx, work context.Context, l net.Listener, all *sync.WaitGroup) error {
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return err
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			s.c.Log.WithError(err).Debug("taking a connection")
			pause(ctx)
			continue
		}
		select {
		case s.conns <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-s.conns }()
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
			defer stop()
			s.serveConn(work, conn)
		})
	}
}

// serveConn answers the one request of a connection (RFC 4120 §7.2.2).
func (s *Server) serveConn(work context.Context, conn net.Conn) {
	work, cancel := context.WithTimeout(work, s.c.Timeout)
	defer cancel()
	deadline, _ := work.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return
	}
	remote, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	local, err2 := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil || err2 != nil {
		return
	}
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(conn, raw); err != nil {
		return
	}
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	case <-work.Done():
		return
	}
	reply := s.answer(work, raw, local, remote, false)
	if reply == nil {
		return
	}
	if err := conn.SetWriteDeadline(time.Now().Add(lastMoments)); err != nil { // also when all of Timeout was used
		return
	}
	out := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(reply)), uint32(len(reply)))
	if _, err := conn.Write(append(out, reply...)); err != nil {
		s.c.Log.WithError(err).WithField("to", remote).Debug("writing a reply")
	}
}
