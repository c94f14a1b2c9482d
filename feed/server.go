package feed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// Server is the broker's side. Its methods may be called from any goroutine.
type Server struct {
	c    ServerConfig
	tls  *tls.Config
	work chan func() // for the loop, which owns hall
	ctx  context.Context
	stop context.CancelFunc
	all  sync.WaitGroup // connections
	ran  chan struct{}  // closed when Run has begun

	hall hall

	mu         sync.Mutex
	asOf       time.Time // of the snapshot that was handed on last
	generation uint64    // its number
	snap       *broker.Snapshot
	hosts      map[broker.EntryID]*hostState
	confirms   map[*confirm]struct{}
	owners     map[broker.SessionID]*hostState // who has reported a session
	addresses  map[netip.Addr]int
	open       int
	handshakes chan struct{}
	begun      bool
}

// NewServer checks the configuration.
func NewServer(c ServerConfig) (*Server, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	c.Note = newNotes(c.Note, c.Now).note
	s := &Server{c: c, tls: c.tlsConfig(), work: make(chan func(), 64), ran: make(chan struct{}), hosts: map[broker.EntryID]*hostState{},
		confirms: map[*confirm]struct{}{}, owners: map[broker.SessionID]*hostState{}, addresses: map[netip.Addr]int{}, handshakes: make(chan struct{}, c.Handshakes)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.hall = hall{s: s, classes: map[string]*class{}, conns: map[*conn]struct{}{}}
	return s, nil
}

// Run serves hosts until ctx is done, then returns nil; all connections are
// closed by then, and so are the listeners. It may be called once.
func (s *Server) Run(ctx context.Context, listeners ...net.Listener) error {
	s.mu.Lock()
	if s.begun {
		s.mu.Unlock()
		return errors.New("feed: Run is called twice")
	}
	s.begun = true
	s.mu.Unlock()
	defer s.stop()
	var all sync.WaitGroup
	fault := make(chan error, len(listeners)+1)
	for _, l := range listeners {
		all.Go(func() { fault <- s.accept(l) })
	}
	all.Go(func() { s.follow() })
	all.Go(func() { s.loop() })
	close(s.ran)
	var err error
	select {
	case <-ctx.Done():
	case err = <-fault:
	}
	s.stop()
	for _, l := range listeners {
		l.Close()
	}
	all.Wait()
	s.all.Wait()
	s.drain()
	return err
}

// drain forgets what was left for the loop.
func (s *Server) drain() {
	for {
		select {
		case <-s.work:
		default:
			return
		}
	}
}

// follow hands new snapshots to the loop.
func (s *Server) follow() {
	after := uint64(0)
	for {
		v, err := s.c.Wait(s.ctx, after)
		if err != nil {
			if s.ctx.Err() != nil {
				return
			}
			s.c.Log.WithError(err).Error("the snapshot cannot be followed")
			select {
			case <-time.After(time.Second):
			case <-s.ctx.Done():
			}
			continue
		}
		after = v.Generation()
		if !s.do(func() { s.hall.publish(v) }) {
			return
		}
	}
}

// do has the loop run f; false when there is no loop any more.
func (s *Server) do(f func()) bool {
	select {
	case s.work <- f:
		return true
	case <-s.ctx.Done():
		return false
	}
}

func (s *Server) loop() {
	tidy := time.NewTicker(30 * time.Second)
	defer tidy.Stop()
	for {
		select {
		case f := <-s.work:
			f()
		case <-tidy.C:
			s.hall.tidy()
		case <-s.ctx.Done():
			return
		}
	}
}

// accept takes connections in, within limits.
func (s *Server) accept(l net.Listener) error {
	var warned time.Time
	for {
		c, err := l.Accept()
		if err != nil {
			var temporary interface{ Temporary() bool }
			if s.ctx.Err() != nil {
				return nil
			}
			if errors.As(err, &temporary) && temporary.Temporary() { // too many open files
				s.c.Log.WithError(err).Warn("a host's connection was not taken")
				time.Sleep(100 * time.Millisecond)
				continue
			}
			return fmt.Errorf("listening for hosts: %w", err)
		}
		addr := addressOf(c)
		if !s.slot() {
			c.Close()
			continue
		}
		if !s.take(addr) {
			<-s.handshakes
			c.Close()
			if now := time.Now(); now.Sub(warned) > time.Minute {
				warned = now
				s.c.Log.WithField("from", addr.String()).Warn("a host's connection was not taken: there are too many, in all or from its address")
			}
			continue
		}
		s.all.Go(func() {
			defer s.give(addr)
			s.serve(c)
		})
	}
}

// slotWait is how long a new connection waits for one of the handshakes; those
// behind it wait in the kernel meanwhile. After a restart all hosts come at once, and
// one that is turned away comes back much later.
const slotWait = 2 * time.Second

// slot takes one of the handshakes.
func (s *Server) slot() bool {
	select {
	case s.handshakes <- struct{}{}:
		return true
	default:
	}
	t := time.NewTimer(slotWait)
	defer t.Stop()
	select {
	case s.handshakes <- struct{}{}:
		return true
	case <-t.C:
	case <-s.ctx.Done():
	}
	return false
}

func addressOf(c net.Conn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

func (s *Server) take(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= s.c.MaxHosts || s.addresses[a] >= s.c.PerAddress || s.ctx.Err() != nil {
		return false
	}
	s.open++
	s.addresses[a]++
	return true
}

func (s *Server) give(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	if s.addresses[a]--; s.addresses[a] == 0 {
		delete(s.addresses, a)
	}
}

// serve is one connection, from its handshake to its end. It holds one of
// s.handshakes until the hello was read.
func (s *Server) serve(raw net.Conn) {
	defer raw.Close()
	stop := context.AfterFunc(s.ctx, func() { raw.Close() })
	defer stop()
	k, err := s.greet(raw)
	<-s.handshakes
	if err != nil {
		if s.ctx.Err() == nil {
			s.refused(k, raw, err)
		}
		return
	}
	defer k.link.close(nil)
	var writer sync.WaitGroup
	writer.Go(k.link.write)
	defer writer.Wait()
	defer k.link.close(nil)
	if err := s.enter(k); err != nil {
		if s.ctx.Err() == nil {
			s.refused(k, raw, err)
		}
		return
	}
	err = k.run()
	k.link.close(err)
	k.calls.Wait()
	s.leave(k)
}

// greet does the handshake and reads the hello.
func (s *Server) greet(raw net.Conn) (*conn, error) {
	_ = raw.SetDeadline(time.Now().Add(s.c.HandshakeTime))
	t := tls.Server(raw, s.tls)
	ctx, cancel := context.WithTimeout(s.ctx, s.c.HandshakeTime)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	state := t.ConnectionState()
	name, err := hostOf(state)
	if err != nil {
		return nil, err
	}
	leaf := state.PeerCertificates[0]
	k := &conn{s: s, name: name, pin: KeyPin(leaf), until: leaf.NotAfter, from: raw.RemoteAddr().String(),
		link: newLink(t, raw, s.c.Queue), done: make(chan struct{}), calling: make(chan struct{}, s.c.MaxCalls)}
	what, body, err := readFrame(io.LimitReader(k.link.r, 64<<10), &k.link.buf)
	if err != nil {
		return k, fmt.Errorf("its hello: %w", err)
	}
	m, err := parseClientFrame(what, body)
	if err != nil {
		return k, fmt.Errorf("its hello: %w", err)
	}
	h, ok := m.(*clientHello)
	if !ok {
		return k, nonsense("no hello")
	}
	k.hello = *h
	_ = raw.SetDeadline(time.Time{})
	if h.Version != Version {
		return k, &refusal{fmt.Sprintf("it speaks version %d of the feed, and this broker version %d: use the same sekisho release on both", h.Version, Version), false}
	}
	return k, nil
}

// refusal is why a host is not let in, as it is told.
type refusal struct {
	text string
	wait bool
}

func (r *refusal) Error() string { return r.text }

// refused says why a connection did not come about: to the host, when it has
// shown who it is, to the log, and to the audit record.
func (s *Server) refused(k *conn, raw net.Conn, err error) {
	n := Note{Kind: HostRefused, From: raw.RemoteAddr().String(), Text: short(err.Error())}
	if k == nil {
		// Anybody can connect and say nothing; that is no event of a host.
		s.c.Log.WithError(err).WithField("from", n.From).Debug("a connection to the feed came to nothing")
		if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !timedOut(err) {
			s.c.Note(n)
		}
		return
	}
	n.Host = k.name
	var r *refusal
	m := bye{Text: "refused"}
	if errors.As(err, &r) {
		m = bye{short(r.text), r.wait}
		if r.wait {
			n.Kind = ""
		}
	}
	s.c.Log.WithError(err).WithField("host", string(k.name)).WithField("from", n.From).Warn("a host is refused")
	if n.Kind != "" {
		s.c.Note(n)
	}
	k.link.last(newFrame(kindBye, m))
}

func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// short keeps a text within the bounds of the protocol and of one line.
func short(s string) string {
	b := []rune(s)
	for i, c := range b {
		if c < 0x20 || c >= 0x7f && c < 0xa0 {
			b[i] = ' '
		}
	}
	if len(b) > 240 {
		b = append(b[:240], '…')
	}
	return string(b)
}

// Has tells whether a host that is connected has that user in its view.
func (s *Server) Has(ctx context.Context, host broker.HostName, user broker.UserName) bool {
	out := make(chan bool, 1)
	if !s.do(func() { out <- s.hall.has(host, user) }) {
		return false
	}
	select {
	case has := <-out:
		return has
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	return false
}
