package client_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// fake answers in a KDC's place, over UDP, TCP or both, on a port of its own. For
// each request it calls answer, which sends what it likes: over UDP each call of
// send is a datagram, over TCP the bytes as they are (see frame).
type fake struct {
	addr string
	udp  net.PacketConn
	tcp  net.Listener
	wg   sync.WaitGroup

	mu    sync.Mutex // guards all below
	asked map[string]int
	conns map[net.Conn]bool
}

type answerer func(network string, req []byte, send func([]byte))

func newFake(t testing.TB, networks string, answer answerer) *fake {
	t.Helper()
	f := &fake{addr: freePort(), asked: map[string]int{}, conns: map[net.Conn]bool{}}
	var err error
	if networks != "tcp" {
		if f.udp, err = net.ListenPacket("udp", f.addr); err != nil {
			t.Fatal(err)
		}
		f.wg.Go(func() { f.serveUDP(answer) })
	}
	if networks != "udp" {
		if f.tcp, err = net.Listen("tcp", f.addr); err != nil {
			t.Fatal(err)
		}
		f.wg.Go(func() { f.serveTCP(answer) })
	}
	t.Cleanup(f.close)
	return f
}

func (f *fake) close() {
	if f.udp != nil {
		f.udp.Close()
	}
	if f.tcp != nil {
		f.tcp.Close()
	}
	f.mu.Lock()
	for c := range f.conns {
		c.Close()
	}
	f.mu.Unlock()
	f.wg.Wait()
}

func (f *fake) count(network string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[network]
}

func (f *fake) note(network string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[network]++
}

func (f *fake) serveUDP(answer answerer) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := f.udp.ReadFrom(buf)
		if err != nil {
			return
		}
		f.note("udp")
		answer("udp", append([]byte(nil), buf[:n]...), func(b []byte) { f.udp.WriteTo(b, from) })
	}
}

func (f *fake) serveTCP(answer answerer) {
	for {
		conn, err := f.tcp.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns[conn] = true
		f.mu.Unlock()
		f.wg.Go(func() {
			defer func() {
				conn.Close()
				f.mu.Lock()
				delete(f.conns, conn)
				f.mu.Unlock()
			}()
			req, err := readFrame(conn)
			if err != nil {
				return
			}
			f.note("tcp")
			answer("tcp", req, func(b []byte) { conn.Write(b) })
		})
	}
}

func frame(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }

func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > 1<<20 {
		return nil, errors.New("too long")
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// roundTrip asks a real KDC.
func roundTrip(t testing.TB, addr string, req []byte) []byte {
	conn, err := net.DialTimeout("tcp", addr, 30*time.Second)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Write(frame(req)); err != nil {
		t.Error(err)
		return nil
	}
	b, err := readFrame(conn)
	if err != nil {
		t.Error(err)
	}
	return b
}

// relay stands before a real KDC, on TCP alone so that a reply that is not taken
// costs no time, and changes its replies.
func relay(t testing.TB, target string, change func(req, reply []byte) []byte) *fake {
	t.Helper()
	return newFake(t, "tcp", func(_ string, req []byte, send func([]byte)) {
		send(frame(change(req, roundTrip(t, target, req))))
	})
}
