package ldapsync

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// gather is a connection, below TLS if there is TLS, that can be told that
// much is coming. slapd writes entry by entry, and each of its writes would
// wake us: in bulk the kernel is told to wake us for no less than bulkRead
// bytes, and a deadline brings us to what is less than that. It saves a third
// of what a refresh costs.
type gather struct {
	net.Conn
	bulk atomic.Bool

	// Of the reader alone:
	low  bool   // bulk, as the socket knows it
	buf  []byte // for the small reads of TLS
	rest []byte // of buf, not yet read
}

const (
	bulkRead = 96 << 10
	bulkWait = 2 * time.Millisecond
)

// gatherOf finds the gather below TLS.
func gatherOf(c net.Conn) *gather {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.(*gather)
}

// Read implements net.Conn.
func (g *gather) Read(p []byte) (int, error) {
	if len(g.rest) > 0 {
		n := copy(p, g.rest)
		g.rest = g.rest[n:]
		return n, nil
	}
	for {
		bulk := g.bulk.Load()
		if bulk != g.low {
			if err := g.setLow(bulk); err != nil {
				return 0, err
			}
		}
		if !bulk {
			g.buf = nil
			return g.Conn.Read(p)
		}
		n, err := g.readBulk(p)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

// ready reports whether more was gathered already.
func (g *gather) ready() bool { return len(g.rest) > 0 }

// readBulk reads what has come together, after at most 2 bulkWait.
func (g *gather) readBulk(p []byte) (int, error) {
	if err := g.Conn.SetReadDeadline(time.Now().Add(2 * bulkWait)); err != nil {
		return 0, err
	}
	into := p
	if len(p) < bulkRead {
		if g.buf == nil {
			g.buf = make([]byte, 2*bulkRead)
		}
		into = g.buf
	}
	n, err := g.Conn.Read(into)
	if n > 0 && n < bulkRead && err == nil {
		time.Sleep(bulkWait)
	}
	if len(p) < bulkRead {
		g.rest = g.buf[:n]
		n = copy(p, g.rest)
		g.rest = g.rest[n:]
	}
	return n, err
}

// setLow sets or takes back the least number of bytes that the kernel wakes us
// for (SO_RCVLOWAT, which counts on TCP only), and the deadline with it.
func (g *gather) setLow(on bool) error {
	g.low = on
	least := 1
	if on {
		least = bulkRead
	} else if err := g.Conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	t, ok := g.Conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	rc, err := t.SyscallConn()
	if err == nil {
		var err2 error
		err = rc.Control(func(fd uintptr) { err2 = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, least) })
		err = errors.Join(err, err2)
	}
	if err != nil {
		return fmt.Errorf("setting up the connection: %w", err)
	}
	return nil
}
