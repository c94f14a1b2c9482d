package local

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/wire"
)

// conn is one connection. Its goroutine alone uses it, but for nc's deadlines.
type conn struct {
	ctx     context.Context // of the Serve that accepted it
	nc      *net.UnixConn
	caller  Caller
	counted bool // among the unprivileged; guarded by gate.mu

	idle, request time.Duration
	begun         bool // a byte of the present request has arrived
}

// newConn asks the kernel who is on the other side (unix(7), SO_PEERCRED).
func newConn(ctx context.Context, nc net.Conn) (*conn, error) {
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		return nil, errors.New("it is no unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *syscall.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, err
	}
	return &conn{ctx: ctx, nc: uc, caller: Caller{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}}, nil
}

// Read waits for the first byte of a request for idle, and for the rest until
// request after it. While the server shuts down it waits no more.
func (c *conn) Read(p []byte) (int, error) {
	if !c.begun {
		if err := c.nc.SetReadDeadline(time.Now().Add(c.idle)); err != nil {
			return 0, err
		}
		if c.ctx.Err() != nil { // after the deadline is set: see gate.hurry
			return 0, os.ErrDeadlineExceeded
		}
	}
	n, err := c.nc.Read(p)
	if n > 0 && !c.begun {
		c.begun = true
		if p[n-1] != '\n' { // the rest is still to come
			if err := c.nc.SetReadDeadline(time.Now().Add(c.request)); err != nil {
				return 0, err
			}
		}
	}
	return n, err
}

// Write sends one whole answer.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.request)); err != nil {
		return 0, err
	}
	return c.nc.Write(p)
}

// turnAway tells the caller that there are too many. The socket's buffer is
// empty, so this never waits.
func (c *conn) turnAway() {
	b, err := wire.AppendAnswer(nil, refusal(wire.ReasonBusy, "too many connections at once: try again later"))
	if err == nil {
		c.nc.SetWriteDeadline(time.Now().Add(time.Second))
		c.nc.Write(b)
	}
	c.nc.Close()
}

// buffers are a connection's, borrowed while it lives.
type buffers struct{ in, out []byte }

var pool = sync.Pool{New: func() any {
	return &buffers{in: make([]byte, 0, 1<<10), out: make([]byte, 0, 1<<10)}
}}

// talk answers requests until the peer hangs up, breaks the protocol or takes
// too long.
func (s *Server) talk(c *conn) {
	b := pool.Get().(*buffers)
	defer pool.Put(b)
	c.idle, c.request = s.c.Idle, s.c.Request
	for {
		c.begun = false
		r, err := wire.ReadRequest(c, b.in)
		var version *wire.VersionError
		switch {
		case err == nil:
		case err == io.EOF, errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ECONNRESET):
			return
		case errors.As(err, &version):
			s.malformed.Add(1)
			s.write(c, b, refusal(wire.ReasonVersion, version.Error()))
			return
		default:
			s.malformed.Add(1)
			s.c.Log.WithError(err).WithField("uid", c.caller.UID).Debug("a request was refused")
			s.write(c, b, refusal(wire.ReasonMalformed, "the request cannot be read: install the same sekisho release on both sides"))
			return
		}
		if !s.write(c, b, s.answer(c, r)) {
			return
		}
	}
}

// write sends a and reports whether the connection is still good.
func (s *Server) write(c *conn, b *buffers, a wire.Answer) bool {
	out, err := wire.AppendAnswer(b.out[:0], a)
	if err != nil {
		s.c.Log.WithError(err).WithField("uid", c.caller.UID).Error("an answer could not be written")
		if out, err = wire.AppendAnswer(b.out[:0], refusal(reasonAnswer, "the answer does not fit the protocol: see sekishod's log")); err != nil {
			return false
		}
	}
	if cap(out) <= 16<<10 {
		b.out = out
	}
	_, err = c.Write(out)
	return err == nil
}

// answer finds the verb and whether the caller may use it.
func (s *Server) answer(c *conn, r wire.Request) wire.Answer {
	if r.Verb == wire.VerbKeys {
		return s.answerKeys(c, r)
	}
	v, ok := s.verbs[r.Verb]
	if !ok {
		s.malformed.Add(1)
		return refusal(wire.ReasonVerb, "sekishod has no such verb: install the same sekisho release on both sides")
	}
	if err := r.Only(v.Fields...); err != nil {
		s.malformed.Add(1)
		return refusal(wire.ReasonMalformed, err.Error())
	}
	caller := s.named(c.caller)
	switch {
	case caller.Root(), v.May == Anyone:
	case v.May == Self && isSelf(caller, r):
	default:
		return s.deny(caller, r)
	}
	s.requests.Add(1)
	ctx, cancel := context.WithTimeout(c.ctx, s.c.Answer)
	defer cancel()
	return v.Do(ctx, caller, r)
}

func (s *Server) deny(c Caller, r wire.Request) wire.Answer {
	s.denied.Add(1)
	s.c.Log.WithField("uid", c.UID).WithField("verb", r.Verb).Debug("not for this caller")
	return refusal(wire.ReasonCaller, "this is not for you to ask: ask about your own user, or as root")
}

// named looks up the caller's name in the directory.
func (s *Server) named(c Caller) Caller {
	if v := s.c.Broker.View(); v.Snapshot != nil {
		if u, ambiguous := v.UserByUID(c.UID); u != nil && !ambiguous {
			c.User = u.Name
		}
	}
	return c
}

// isSelf reports whether the request is about the caller.
func isSelf(c Caller, r wire.Request) bool {
	return c.User != "" && broker.UserName(r.Get(wire.FieldUser)) == c.User
}

func (s *Server) keysCaller(c Caller) bool { return slices.Contains(s.c.KeysCallers, c.UID) }

// refusal is a "could not find out".
func refusal(reason, text string) wire.Answer {
	return wire.Answer{Outcome: wire.Unknown, Reason: reason, Text: text}
}

// temporary reports whether accept may work again later (accept(2)).
func temporary(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
