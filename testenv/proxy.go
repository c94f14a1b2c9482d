package testenv

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Proxy is a TCP relay that misbehaves when told. The kernel's own way, netem,
// is not everywhere.
type Proxy struct {
	Addr string // where it listens

	target string
	lis    net.Listener
	wg     sync.WaitGroup

	mu      sync.Mutex // guards all below
	delay   time.Duration
	stalled bool
	refuse  bool
	closed  bool
	changed chan struct{}         // closed and renewed when stalled or closed change
	conns   map[net.Conn]struct{} // both sides
}

// NewProxy relays from listen (such as "203.0.113.1:0", which hosts reach) to target.
func NewProxy(listen, target string) (*Proxy, error) {
	lis, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("starting a proxy: %w", err)
	}
	p := &Proxy{Addr: lis.Addr().String(), target: target, lis: lis,
		changed: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	p.wg.Add(1)
	go p.accept()
	return p, nil
}

// Delay holds everything up by d in each direction, from now on.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Stall makes all connections, open and new, half-open: they stand, and
// nothing passes until Stall(false).
func (p *Proxy) Stall(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = on
	p.wake()
}

// Refuse resets new connections.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
}

// CutAll resets all open connections.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		reset(c)
	}
}

// Close resets everything and waits. It may be called twice.
func (p *Proxy) Close() error {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	for c := range p.conns {
		reset(c)
	}
	p.wake()
	p.mu.Unlock()
	var err error
	if first {
		err = p.lis.Close()
	}
	p.wg.Wait()
	return err
}

func (p *Proxy) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// reset closes with RST.
func reset(c net.Conn) {
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

func (p *Proxy) accept() {
	defer p.wg.Done()
	for {
		c, err := p.lis.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of files, say
			continue
		}
		if !p.add(c, true) {
			reset(c)
			continue
		}
		go p.relay(c)
	}
}

// add remembers c; false when it must not live. A client also counts in wg.
func (p *Proxy) add(c net.Conn, client bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || client && p.refuse {
		return false
	}
	p.conns[c] = struct{}{}
	if client {
		p.wg.Add(1)
	}
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	c.Close()
}

func (p *Proxy) relay(client net.Conn) {
	defer p.wg.Done()
	defer p.drop(client)
	server, err := net.DialTimeout("tcp", p.target, time.Minute)
	if err != nil {
		reset(client)
		return
	}
	if !p.add(server, false) {
		reset(server)
		return
	}
	defer p.drop(server)
	var both sync.WaitGroup
	for _, d := range []struct{ from, to net.Conn }{{client, server}, {server, client}} {
		both.Add(2)
		chunks := make(chan chunk, 64)
		go func() { defer both.Done(); p.read(d.from, chunks) }()
		go func() { defer both.Done(); p.write(d.to, chunks) }()
	}
	both.Wait()
}

type chunk struct {
	data []byte
	at   time.Time // when it came
}

func (p *Proxy) read(from net.Conn, chunks chan<- chunk) {
	defer close(chunks)
	for {
		buf := make([]byte, 16<<10)
		n, err := from.Read(buf)
		if n > 0 {
			chunks <- chunk{buf[:n], time.Now()}
		}
		if err != nil {
			return
		}
	}
}

// write passes chunks on in their time; at their end it closes its direction.
func (p *Proxy) write(to net.Conn, chunks <-chan chunk) {
	for c := range chunks {
		if !p.hold(c.at) {
			continue // closed: drain
		}
		if _, err := to.Write(c.data); err != nil {
			reset(to) // which ends the other direction's read, and so this one's
			for range chunks {
			}
			return
		}
	}
	p.hold(time.Now())
	to.(*net.TCPConn).CloseWrite()
}

// hold waits until what came at that time may pass; false when the proxy is closed.
func (p *Proxy) hold(at time.Time) bool {
	for {
		p.mu.Lock()
		closed, stalled, changed := p.closed, p.stalled, p.changed
		wait := time.Until(at.Add(p.delay))
		p.mu.Unlock()
		if closed {
			return false
		}
		var timer <-chan time.Time
		if !stalled {
			if wait <= 0 {
				return true
			}
			timer = time.After(wait)
		}
		select {
		case <-changed:
		case <-timer:
		}
	}
}
