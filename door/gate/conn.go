package gate

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// Peer is who made a connection, as the kernel says. PID is 0 for a process of
// a pid namespace that sekishod cannot see, and may be another's by now.
type Peer struct {
	UID, GID uint32
	PID      int32
}

// Conn is one connection. One goroutine at a time uses it, but see Answer.
type Conn struct {
	Peer

	g      *Gate
	ctx    context.Context // of the Serve that accepted it
	nc     socket          // the gate too sets its read deadline: see hurry
	waits  wait
	until  time.Time // when the present answer must be taken; zero before its first write
	hasten bool      // until has been shortened, since ctx has ended
}

// socket is what a Conn needs of its *net.UnixConn.
type socket interface {
	net.Conn
	syscall.Conn
}

// wait is what the next Read waits for.
type wait uint8

const (
	forRequest wait = iota // the first byte of a request
	forRest                // the rest of one, whose time has not begun to count
	forRestSet             // the rest of one, until the deadline that is set
)

// answerWrites is how many times Config.Request a whole answer may take.
const answerWrites = 10

var past = time.Unix(1, 0)

// newConn asks the kernel who is on the other side (unix(7), SO_PEERCRED).
func (g *Gate) newConn(ctx context.Context, nc net.Conn) (*Conn, error) {
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
	return &Conn{Peer: Peer{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}, g: g, ctx: ctx, nc: uc}, nil
}

// Next begins another request, and must be called before each. begun says that
// a part of it has been read already, behind the one before. It reports false
// when the door shuts: the handler then returns.
func (c *Conn) Next(begun bool) bool {
	c.waits, c.until = forRequest, time.Time{}
	if begun {
		c.waits = forRest
	}
	return c.ctx.Err() == nil
}

// Answer begins another answer, with a time of its own, for doors that answer
// several requests of one connection in any order. Next, Answer and Write must then
// be kept apart by a lock; Read may go on beside them.
func (c *Conn) Answer() { c.until = time.Time{} }

// Read waits for the first byte of a request for Config.Idle, and for all of
// the rest together until Config.Request after it. When it has waited too long,
// and while the door shuts, the error is os.ErrDeadlineExceeded.
func (c *Conn) Read(p []byte) (int, error) {
	if c.waits != forRestSet {
		d := c.g.c.Idle
		if c.waits == forRest {
			d, c.waits = c.g.c.Request, forRestSet
		}
		if err := c.nc.SetReadDeadline(time.Now().Add(d)); err != nil {
			return 0, err
		}
		if c.ctx.Err() != nil { // after the deadline is set, which undid hurry's
			return 0, os.ErrDeadlineExceeded
		}
	}
	n, err := c.nc.Read(p)
	if n > 0 && c.waits == forRequest {
		c.waits = forRest
	}
	return n, err
}

// Write sends an answer or a part of one. It must be taken within
// Config.Request, and the whole answer within ten times that; while the door
// shuts, within one Config.Request more.
func (c *Conn) Write(p []byte) (int, error) {
	now := time.Now()
	deadline := now.Add(c.g.c.Request)
	if c.until.IsZero() {
		c.until = now.Add(answerWrites * c.g.c.Request)
	}
	if !c.hasten && c.ctx.Err() != nil {
		c.hasten = true
		c.until = earlier(c.until, deadline)
	}
	if err := c.nc.SetWriteDeadline(earlier(deadline, c.until)); err != nil {
		return 0, err
	}
	return c.nc.Write(p)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// turnAway tells a caller for whom there is no room to go. The socket's buffer
// is empty, so this does not wait; the deadline is there in case it does.
func (c *Conn) turnAway() {
	if len(c.g.c.Busy) > 0 {
		c.nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		c.nc.Write(c.g.c.Busy)
	}
	c.nc.Close()
}

// SyscallConn is the connection's descriptor, for asking the kernel more about
// its other side.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.nc.SyscallConn() }
