package userdb

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/sekisho/sekisho/door/gate"
)

// conn is one connection and what was read of it.
type conn struct {
	*gate.Conn
	buf []byte // what was read and is not yet a whole message
}

// errTooLong says that a message is longer than maxMessage.
var errTooLong = errors.New("the message is too long")

// next reads one message and returns it without its NUL (https://varlink.org,
// "Transport"). It is good until the next call.
func (c *conn) next() ([]byte, error) {
	for scanned := 0; ; {
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
		n, err := c.Read(c.buf[len(c.buf):min(cap(c.buf), maxMessage+1)])
		c.buf = c.buf[:len(c.buf)+n]
		if n == 0 && err != nil {
			if err == io.EOF && len(c.buf) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// talk answers calls until the caller goes, is silent, or says something that
// is no call (on a stream out of step nothing can be answered), or the door
// shuts.
func (s *Server) talk(_ context.Context, gc *gate.Conn) {
	c := conn{Conn: gc}
	for c.Next(len(c.buf) > 0) {
		msg, err := c.next()
		if err != nil {
			if errors.Is(err, errTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
				s.bad(c.UID, err)
			}
			return
		}
		call, err := parseCall(msg)
		if err != nil {
			s.bad(c.UID, err)
			return
		}
		s.calls.Add(1)
		if call.oneway { // wants no answer, and we change nothing
			continue
		}
		out := sink{send: func(b []byte) error { _, err := c.Write(b); return err }}
		s.answer(c.UID, call, &out)
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

func (s *Server) bad(uid uint32, err error) {
	s.malformed.Add(1)
	s.c.Log.WithError(err).WithField("uid", uid).Debug("not a Varlink call: connection closed")
}
