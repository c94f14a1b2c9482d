package feed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// Client is the host's side. Its methods may be called from any goroutine.
type Client struct {
	c     ClientConfig
	store *store

	pub atomic.Pointer[published] // nil until there is a snapshot

	mu     sync.Mutex
	news   chan struct{} // closed at each publishing
	st     Status        // State, Broker, LastChange, errors, RetryAt
	ran    bool
	closed bool
	judged uint64   // the snapshot's generation by which sessions were judged
	up     *uplink  // nil while no broker is followed
	said   []string // what was warned of already

	m *mirror // Run's goroutine alone
}

// published is what View gives.
type published struct {
	snap *broker.Snapshot
	asOf time.Time
}

// NewClient checks the configuration and takes hold of StateDir; it reads and
// connects to nothing yet.
func NewClient(c ClientConfig) (*Client, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	st, err := openStore(c.StateDir, c.Host, c.Log)
	if err != nil {
		return nil, err
	}
	cl := &Client{c: c, store: st, news: make(chan struct{})}
	cl.st.State = Stopped
	return cl, nil
}

// Run loads the last good snapshot, then follows a broker until ctx is done;
// then it returns nil. It may be called once. Faults are mended by trying again
// and seen in Status.
func (c *Client) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.ran || c.closed {
		c.mu.Unlock()
		return errors.New("feed: Run is called twice, or after Close")
	}
	c.ran = true
	c.mu.Unlock()
	defer c.Close()
	defer c.setState(Stopped, "")
	if err := c.load(); err != nil {
		return err
	}
	backoff := c.c.BackoffMin
	for {
		lived := c.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if lived {
			backoff = c.c.BackoffMin
		}
		wait := rand.N(backoff) + 1
		backoff = min(2*backoff, c.c.BackoffMax)
		c.mu.Lock()
		c.st.State, c.st.RetryAt = Waiting, c.c.Now().Add(wait)
		c.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// round tries each broker once; it reports whether one was live.
func (c *Client) round(ctx context.Context) bool {
	for _, b := range c.c.Brokers {
		c.setState(Connecting, b)
		lived, err := c.follow(ctx, b)
		if ctx.Err() != nil {
			return lived
		}
		c.fault(fmt.Errorf("following %s: %w", b, err))
		if lived {
			return true // from the first broker again
		}
	}
	return false
}

func (c *Client) fault(err error) {
	c.mu.Lock()
	same := c.st.LastError == err.Error()
	c.st.LastError, c.st.LastErrorAt = err.Error(), c.c.Now()
	c.mu.Unlock()
	if same {
		c.c.Log.WithError(err).Debug("the broker cannot be followed")
	} else {
		c.c.Log.WithError(err).Warn("the broker cannot be followed")
	}
}

// load reads what is on disk and publishes it.
func (c *Client) load() error {
	c.setState(Loading, "")
	l, err := c.store.load()
	if err != nil {
		return err
	}
	c.m = l.mirror
	for _, f := range l.faults {
		c.c.Log.WithError(f).Error("the last good snapshot")
	}
	if c.m.snap == nil {
		return nil
	}
	asOf := l.asOf
	if now := c.c.Now(); asOf.After(now) {
		c.c.Log.Warnf("the snapshot on disk is from %s, which is yet to come: this machine's clock was or is wrong", asOf.UTC().Format(time.RFC3339))
		asOf = now
	}
	c.publish(c.m.snap, asOf)
	users, groups, _, rules := c.m.snap.Size()
	c.c.Log.Infof("loaded %d users, %d groups and %d rules as of %s", users, groups, rules, asOf.UTC().Format(time.RFC3339))
	if users > 20_000 {
		debug.FreeOSMemory()
	}
	return nil
}

func (c *Client) publish(snap *broker.Snapshot, asOf time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.pub.Load(); p != nil && p.asOf.After(asOf) {
		asOf = p.asOf
	}
	c.pub.Store(&published{snap, asOf})
	c.st.LastChange = c.c.Now()
	close(c.news)
	c.news = make(chan struct{})
}

// proven moves AsOf.
func (c *Client) proven(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.pub.Load(); p != nil && t.After(p.asOf) {
		c.pub.Store(&published{p.snap, t})
	}
}

// View is the published snapshot. It answers from memory, at once; the
// Snapshot is nil until one was loaded or received.
func (c *Client) View() broker.View {
	p := c.pub.Load()
	if p == nil {
		return broker.View{}
	}
	return broker.View{Snapshot: p.snap, AsOf: p.asOf, MaxAge: c.c.MaxAge}
}

// Wait returns the view once its generation is greater than after (0: any),
// or ctx's error.
func (c *Client) Wait(ctx context.Context, after uint64) (broker.View, error) {
	for {
		c.mu.Lock()
		news := c.news
		c.mu.Unlock()
		if v := c.View(); v.Snapshot != nil && v.Generation() > after {
			return v, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return broker.View{}, ctx.Err()
		}
	}
}

func (c *Client) setState(state State, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.st.State, c.st.RetryAt = state, time.Time{}
	if name != "" {
		c.st.Broker = name
	}
}

// Status tells how it is going.
func (c *Client) Status() Status {
	fault, bytes := c.store.state()
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.st
	st.DiskError, st.DiskBytes = fault, bytes
	if p := c.pub.Load(); p != nil {
		st.Loaded, st.Generation, st.AsOf = true, p.snap.Generation(), p.asOf
		st.Users, st.Groups, st.Hosts, st.Rules = p.snap.Size()
		if st.State == Live && c.c.Now().Sub(p.asOf) > deadAfter+2*pingEvery {
			st.State = Lagging
		}
	}
	return st
}

// Close lets go of StateDir; after Run has returned, or instead of it. It may
// be called twice.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return c.store.close()
}

// dial connects to a broker and says hello. The welcome's age counts from before
// the hello.
func (c *Client) dial(ctx context.Context, address string) (*link, *welcome, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, c.c.DialTimeout)
	defer cancel()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	conf, err := c.c.tlsConfig(host)
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	raw, err := c.c.Dial(ctx, address)
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	t := tls.Client(raw, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, nil, time.Time{}, fmt.Errorf("handshake: %w", err)
	}
	l := newLink(t, raw, clientQueue)
	h := clientHello{Version: Version, Host: c.c.Host}
	if m := c.m; m != nil && m.snap != nil {
		h.Stream, h.Seq, h.Digest = m.stream, m.seq, m.digest
	}
	began := c.c.Now()
	_ = t.SetWriteDeadline(time.Now().Add(c.c.DialTimeout))
	if _, err := t.Write(newFrame(kindHello, h)); err != nil {
		raw.Close()
		return nil, nil, time.Time{}, fmt.Errorf("hello: %w", err)
	}
	_ = t.SetReadDeadline(time.Now().Add(c.c.DialTimeout))
	what, body, err := readFrame(io.LimitReader(l.r, 64<<10), &l.buf)
	var m any
	if err == nil {
		m, err = parseServerFrame(what, body)
	}
	if err == nil {
		switch m := m.(type) {
		case *welcome:
			if m.Version == Version {
				return l, m, began, nil
			}
			err = fmt.Errorf("it speaks version %d of the feed, and this host version %d: use the same sekisho release on both", m.Version, Version)
		case *bye:
			err = errors.New("it refuses this host: " + m.Text)
		default:
			err = nonsense("no welcome")
		}
	}
	raw.Close()
	return nil, nil, time.Time{}, err
}

// clientQueue is how many frames may wait to be sent to the broker.
const clientQueue = 4096
