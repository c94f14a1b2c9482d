package ldapsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// conn is a bound connection that a search stream comes over.
type conn struct {
	net     net.Conn
	e       endpoint
	max     int // of one message
	timeout time.Duration
	lastID  int

	buf        []byte // what was read: [start:end) is not yet used
	start, end int

	lastRead atomic.Int64 // time of the last read that brought bytes, Unix ns
	reading  sync.WaitGroup
	readErr  error // why the stream ended; set before chunks is closed
	quit     chan struct{}
	used     chan struct{} // a large chunk was dealt with
	once     sync.Once
}

// chunk is some whole messages, and the buffer that they are in.
type chunk struct {
	msgs, buf []byte
	large     int // msgs is one entry that was longer than this many bytes say, without its attributes
}

const (
	chunkSize = 256 << 10
	// A buffer of more than largeChunk is the only one on its way, and is not
	// used again.
	largeChunk = 4 * chunkSize
	// longestSkip bounds an entry whose attributes are passed over.
	longestSkip = 1 << 30
	edge        = 64 << 10 // of its beginning and end are looked at
)

// connect dials, secures and binds, all within the provider's timeout.
func (p *Provider) connect(ctx context.Context, e endpoint, maxMessage int) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	raw, err := p.dial(ctx, e)
	if err != nil {
		return nil, err
	}
	if p.StartTLS && !e.tls && e.network != "unix" {
		t, err := p.startTLS(ctx, e, raw)
		if err != nil {
			raw.Close()
			return nil, err
		}
		raw = t
	}
	c := &conn{net: raw, e: e, max: maxMessage, timeout: p.Timeout, lastID: 1, buf: make([]byte, 4096), quit: make(chan struct{}), used: make(chan struct{}, 1)}
	if err := c.bind(ctx, p); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// close ends the connection and waits for its reader; it may be called twice.
func (c *conn) close() {
	c.once.Do(func() { close(c.quit) })
	c.net.Close()
	c.reading.Wait()
}

func (c *conn) bind(ctx context.Context, p *Provider) error {
	version := integer(tagInteger, 3)
	var op []byte
	switch {
	case p.External:
		op = tlv(opBindRequest, version, text(""), tlv(0xa3, text("EXTERNAL"), text("")))
	case p.BindDN != "":
		pw, err := p.Password()
		if err != nil {
			return err
		}
		defer clear(pw)
		if len(pw) == 0 { // RFC 4513 §5.1.2: an unauthenticated bind, which proves nothing
			return fmt.Errorf("binding to %s as %s: the password is empty", c.e.url, p.BindDN)
		}
		op = tlv(opBindRequest, version, text(p.BindDN), tlv(0x80, pw))
		defer clear(op)
	default:
		return nil // anonymous
	}
	err := c.exchange(ctx, op, nil, func(m message) (bool, error) {
		if m.op != opBindResponse {
			return false, fmt.Errorf("%w: no bind response", errBER)
		}
		return true, m.result()
	})
	if err == nil {
		return nil
	}
	who := p.BindDN
	if p.External {
		who = "this user (SASL EXTERNAL)"
	}
	if IsCode(err, ldap.LDAPResultInvalidCredentials) {
		return fmt.Errorf("binding to %s as %s: %w; correct the bind DN or its password file", c.e.url, who, err)
	}
	return fmt.Errorf("binding to %s as %s: %w", c.e.url, who, err)
}

// exchange sends one request and gives f what comes back under its id, until f
// says that it was the last.
func (c *conn) exchange(ctx context.Context, op, control []byte, f func(message) (done bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.net.SetDeadline(time.Unix(1, 0)) })
	err := c.exchange1(op, control, f)
	if !stop() {
		if err == nil {
			err = context.Cause(ctx) // the deadline is set: the connection is of no more use
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("%s does not answer within %s", c.e.url, c.timeout)
		}
	}
	return err
}

func (c *conn) exchange1(op, control []byte, f func(message) (bool, error)) error {
	c.lastID++
	req := request(c.lastID, op)
	if control != nil {
		req = request(c.lastID, op, control)
	}
	defer clear(req) // it may hold a password
	if _, err := c.net.Write(req); err != nil {
		return fmt.Errorf("writing to %s: %w", c.e.url, err)
	}
	for {
		b, err := c.message()
		if err != nil {
			return err
		}
		m, err := parseMessage(b)
		if err != nil {
			return err
		}
		if m.id == 0 {
			return disconnected(m)
		}
		if m.id != c.lastID {
			continue
		}
		if done, err := f(m); done || err != nil {
			return err
		}
	}
}

// message reads the next message, valid until the call after.
func (c *conn) message() ([]byte, error) {
	for {
		n, err := frame(c.buf[c.start:c.end], c.max)
		if err != nil {
			return nil, err
		}
		if n > 0 && n <= c.end-c.start {
			b := c.buf[c.start : c.start+n]
			c.start += n
			return b, nil
		}
		c.makeRoom(n)
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

// makeRoom sees that there is room to read into, and grows the buffer only
// once what it has is full: a false length costs nothing.
func (c *conn) makeRoom(need int) {
	if c.start > 0 {
		copy(c.buf, c.buf[c.start:c.end])
		c.end -= c.start
		c.start = 0
	}
	if c.end == len(c.buf) {
		grown := make([]byte, min(max(2*len(c.buf), 4096), max(need, 2*chunkSize)))
		if len(grown) <= len(c.buf) {
			grown = make([]byte, 2*len(c.buf))
		}
		copy(grown, c.buf[:c.end])
		c.buf = grown
	}
}

func (c *conn) fill() error {
	n, err := c.net.Read(c.buf[c.end:])
	if n > 0 {
		c.end += n
		c.lastRead.Store(time.Now().UnixNano())
		return nil
	}
	if err == io.EOF || err == nil {
		return fmt.Errorf("%s closed the connection", c.e.url)
	}
	return fmt.Errorf("reading from %s: %w", c.e.url, err)
}

// disconnected is a Notice of Disconnection (RFC 4511 §4.4.1) as an error.
func disconnected(m message) error {
	err := m.result()
	if err == nil {
		err = errors.New("no reason given")
	}
	return fmt.Errorf("the server ends the connection: %w", err)
}

// send writes a request that is answered in the stream, and returns its id.
func (c *conn) send(op []byte, controls ...[]byte) (id int, err error) {
	c.lastID++
	c.net.SetWriteDeadline(time.Now().Add(c.timeout))
	if _, err := c.net.Write(request(c.lastID, op, controls...)); err != nil {
		return 0, fmt.Errorf("writing to %s: %w", c.e.url, err)
	}
	return c.lastID, nil
}
