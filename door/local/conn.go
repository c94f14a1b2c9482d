package local

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/door/gate"
	"github.com/sekisho/sekisho/wire"
)

// buffers are a connection's, borrowed while it lives.
type buffers struct{ in, out []byte }

var pool = sync.Pool{New: func() any {
	return &buffers{in: make([]byte, 0, 1<<10), out: make([]byte, 0, 1<<10)}
}}

// talk answers requests until the peer hangs up, breaks the protocol or takes
// too long, or the door shuts.
func (s *Server) talk(ctx context.Context, c *gate.Conn) {
	b := pool.Get().(*buffers)
	defer pool.Put(b)
	for c.Next(false) {
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
			s.c.Log.WithError(err).WithField("uid", c.UID).Debug("a request was refused")
			s.write(c, b, refusal(wire.ReasonMalformed, "the request cannot be read: install the same sekisho release on both sides"))
			return
		}
		if !s.write(c, b, s.answer(ctx, c.Peer, r)) {
			return
		}
	}
}

// write sends a and reports whether the connection is still good.
func (s *Server) write(c *gate.Conn, b *buffers, a wire.Answer) bool {
	out, err := wire.AppendAnswer(b.out[:0], a)
	if err != nil {
		s.c.Log.WithError(err).WithField("uid", c.UID).Error("an answer could not be written")
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
func (s *Server) answer(ctx context.Context, p gate.Peer, r wire.Request) wire.Answer {
	if r.Verb == wire.VerbKeys {
		return s.answerKeys(p, r)
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
	caller := s.named(p)
	switch {
	case caller.Root(), v.May == Anyone:
	case v.May == Self && isSelf(caller, r):
	default:
		return s.deny(caller, r)
	}
	s.requests.Add(1)
	ctx, cancel := context.WithTimeout(ctx, s.c.Answer)
	defer cancel()
	return v.Do(ctx, caller, r)
}

func (s *Server) deny(c Caller, r wire.Request) wire.Answer {
	s.denied.Add(1)
	s.c.Log.WithField("uid", c.UID).WithField("verb", r.Verb).Debug("not for this caller")
	return refusal(wire.ReasonCaller, "this is not for you to ask: ask about your own user, or as root")
}

// named looks up the caller's name in the directory.
func (s *Server) named(p gate.Peer) Caller {
	c := Caller{Peer: p}
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

// refusal is a "could not find out".
func refusal(reason, text string) wire.Answer {
	return wire.Answer{Outcome: wire.Unknown, Reason: reason, Text: text}
}
