package userdb

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// conn is one connection. Its goroutine alone uses it, but for nc's deadlines.
type conn struct {
	ctx context.Context // of the Serve that accepted it
	nc  *net.UnixConn
	uid uint32 // who is calling, as the kernel says
	buf []byte // what was read and is not yet a whole message
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
	return &conn{ctx: ctx, nc: uc, uid: cred.Uid}, nil
}

// errTooLong says that a message is longer than maxMessage.
var errTooLong = errors.New("the message is too long")

// next reads one message and returns it without its NUL (https://varlink.org,
// "Transport"). It is good until the next call. It waits idle for the first
// byte and request for the rest.
func (c *conn) next(idle, request time.Duration) ([]byte, error) {
	wait, scanned := idle, 0
	if len(c.buf) > 0 {
		wait = request
	}
	if err := c.nc.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	if c.ctx.Err() != nil { // after the deadline is set: see gate.hurry
		return nil, os.ErrDeadlineExceeded
	}
	for {
		if i := bytes.IndexByte(c.buf[scanned:], 0); i >= 0 {
			msg := c.buf[:scanned+i]
			c.buf = c.buf[scanned+i+1:]
			return msg, nil
		}
		scanned = len(c.buf)
		if scanned > maxMessage {
			return nil, errTooLong
		}
		if cap(c.buf)-len(c.buf) < 512 {
			c.buf = append(make([]byte, 0, 2*len(c.buf)+1024), c.buf...)
		}
		n, err := c.nc.Read(c.buf[len(c.buf):min(cap(c.buf), maxMessage+1)])
		if scanned == 0 && n > 0 {
			if err := c.nc.SetReadDeadline(time.Now().Add(request)); err != nil {
				return nil, err
			}
		}
		c.buf = c.buf[:len(c.buf)+n]
		if n == 0 && err != nil {
			if err == io.EOF && len(c.buf) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// turnAway tells a caller for whom there is no room to go, without waiting for
// what he has to say.
func (c *conn) turnAway() {
	c.nc.SetWriteDeadline(time.Now().Add(time.Millisecond)) // its send buffer is empty: this does not wait
	c.nc.Write(appendReply(nil, reply{Error: errUnavailable}))
	c.nc.Close()
}

// talk answers calls until the caller goes, is silent, or says something that
// is no call: on a stream out of step nothing can be answered.
func (s *Server) talk(c *conn) {
	for {
		msg, err := c.next(s.c.Idle, s.c.Request)
		if err != nil {
			if errors.Is(err, errTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
				s.bad(c, err)
			}
			return
		}
		call, err := parseCall(msg)
		if err != nil {
			s.bad(c, err)
			return
		}
		s.calls.Add(1)
		if call.oneway { // wants no answer, and we change nothing
			continue
		}
		out := sink{send: func(b []byte) error {
			if err := c.nc.SetWriteDeadline(time.Now().Add(s.c.Request)); err != nil {
				return err
			}
			_, err := c.nc.Write(b)
			return err
		}}
		s.answer(c.uid, call, &out)
		if out.flush() != nil {
			return
		}
	}
}

// sink gathers the messages of an answer and sends them in pieces, so that a
// long answer does not stand in memory whole.
type sink struct {
	send func([]byte) error
	buf  []byte
	err  error // the first of send; nothing is sent after it
}

const sinkPiece = 32 << 10

func (k *sink) add(r reply) {
	if k.err != nil {
		return
	}
	if k.buf = appendReply(k.buf, r); len(k.buf) >= sinkPiece {
		k.flush()
	}
}

func (k *sink) error(name string, params any) { k.add(reply{Error: name, Parameters: params}) }

func (k *sink) flush() error {
	if k.err == nil && len(k.buf) > 0 {
		k.err = k.send(k.buf)
		k.buf = k.buf[:0]
	}
	return k.err
}

func (s *Server) bad(c *conn, err error) {
	s.malformed.Add(1)
	s.c.Log.WithError(err).WithField("uid", c.uid).Debug("not a Varlink call: connection closed")
}
