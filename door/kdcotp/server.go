package kdcotp

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/door/gate"
)

// Door is the door's name in requests and records.
const Door broker.Door = "kdc"

// Config is what a Server is made of.
type Config struct {
	// SignIn decides on what somebody typed: his password and the code behind it.
	// It must end soon after ctx. It is called by several goroutines.
	SignIn func(ctx context.Context, r broker.Request, typed string) broker.Decision
	// Host is the host that the KDC runs on.
	Host broker.HostName
	// Callers are the uids that may ask: the KDC's. Root is none of them unless it
	// is named.
	Callers []uint32
	// Max is how many requests are judged at once; default 256, the identifiers of a
	// connection.
	Max int
	// Limit is how long one may be judged; default 20 s.
	Limit time.Duration
	// Log gets what an operator must know.
	Log *logrus.Entry
}

const (
	maxConns = 4 // a KDC has one, and a new one while the old one dies
	idle     = time.Hour
	transfer = 5 * time.Second // of one packet
)

func (c Config) validate() (Config, error) {
	if c.SignIn == nil || c.Log == nil || len(c.Callers) == 0 {
		return c, errors.New("the KDC's door: SignIn, Callers and Log must be set")
	}
	if c.Max < 0 || c.Limit < 0 {
		return c, errors.New("the KDC's door: a negative limit")
	}
	if c.Max == 0 {
		c.Max = 256
	}
	if c.Limit == 0 {
		c.Limit = 20 * time.Second
	}
	c.Callers = slices.Clone(c.Callers)
	return c, nil
}

// Server answers KDCs.
type Server struct {
	c     Config // immutable after New
	gate  *gate.Gate
	turns chan struct{} // one for each request that is being judged
}

// New makes a Server; the error names what is wrong in cfg.
func New(cfg Config) (*Server, error) {
	c, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	s := &Server{c: c, turns: make(chan struct{}, c.Max)}
	s.gate, err = gate.New(gate.Config{Max: 2 * maxConns, PerUID: maxConns, Idle: idle, Request: transfer, Log: c.Log})
	return s, err
}

// Serve answers at l, a unix stream listener, until ctx ends, and closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.gate.Serve(ctx, l, s.handle)
}

// talk is one connection.
type talk struct {
	s *Server
	c *gate.Conn
	// all are the requests that are being judged.
	all sync.WaitGroup

	mu   sync.Mutex // guards all below, and c's writes
	seen [256]asked // by identifier
	dead bool       // nothing can be written any more
}

// asked is the last request of an identifier (RFC 5080 §2.2.2).
type asked struct {
	sum    [sha256.Size]byte // of the whole packet; zero for none
	answer []byte            // nil while it is being judged
}

func (s *Server) handle(ctx context.Context, c *gate.Conn) {
	if !slices.Contains(s.c.Callers, c.UID) {
		s.c.Log.WithField("uid", c.UID).Warn("somebody other than the KDC was turned away from its socket")
		return
	}
	t := &talk{s: s, c: c}
	// A KDC that has gone, or a door that shuts, needs no answer.
	ctx, cancel := context.WithCancel(ctx)
	defer t.all.Wait()
	defer cancel()
	packet := make([]byte, maxPacket)
	for t.next() {
		n, err := t.read(packet)
		if err == nil {
			err = t.take(ctx, packet[:n])
		}
		clear(packet[:n])
		if err != nil {
			if errors.Is(err, errPacket) {
				s.c.Log.WithError(err).Warn("the KDC's connection is closed: what came is no request of libkrad's")
			}
			return
		}
	}
}

func (t *talk) next() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.c.Next(false) && !t.dead
}

// read reads one packet into p, and nothing of the next one.
func (t *talk) read(p []byte) (int, error) {
	if _, err := io.ReadFull(t.c, p[:4]); err != nil {
		return 0, err
	}
	n, err := packetSize(p)
	if err != nil {
		return 0, err
	}
	_, err = io.ReadFull(t.c, p[4:n])
	return n, err
}

// take begins to judge a request, or answers one again that was judged before.
func (t *talk) take(ctx context.Context, packet []byte) error {
	r, err := parse(packet)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(packet)
	t.mu.Lock()
	defer t.mu.Unlock()
	if last := t.seen[r.id]; last.sum == sum {
		if last.answer != nil {
			t.send(last.answer)
		}
		return nil
	}
	select {
	case t.s.turns <- struct{}{}:
	default:
		t.s.c.Log.WithField("limit", t.s.c.Max).Warn("too many sign-ins at the KDC at once: one is not answered")
		return nil
	}
	t.seen[r.id] = asked{sum: sum}
	t.all.Go(func() {
		defer func() { <-t.s.turns }()
		t.judge(ctx, r, sum)
	})
	return nil
}

// judge decides on a request and answers it; silence is "could not find out".
func (t *talk) judge(ctx context.Context, r request, sum [sha256.Size]byte) {
	ctx, cancel := context.WithTimeout(ctx, t.s.c.Limit)
	defer cancel()
	d := t.s.c.SignIn(ctx, broker.Request{User: broker.UserName(r.user), Door: Door, Remote: true, Target: broker.Target{Host: t.s.c.Host}}, r.typed)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen[r.id].sum != sum { // the identifier was used anew
		return
	}
	switch d.Outcome {
	case broker.Allow:
		t.seen[r.id].answer = r.reply(codeAccept)
	case broker.Deny, broker.NeedProof:
		t.seen[r.id].answer = r.reply(codeReject)
	default:
		t.seen[r.id] = asked{} // it may be asked again
		return
	}
	t.send(t.seen[r.id].answer)
}

// send needs the lock.
func (t *talk) send(answer []byte) {
	if t.dead {
		return
	}
	t.c.Answer()
	if _, err := t.c.Write(answer); err != nil {
		t.dead = true
	}
}
