package feed

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// uplink is the connection to a broker that is followed.
type uplink struct {
	c    *Client
	link *link

	// Guarded by c.mu:
	count, judged uint64   // changes that came, and were judged by
	marks         []mark   // of those that were not judged yet
	listing       bool     // all sessions are being listed
	late          [][]byte // events in the meantime
	again         bool     // there were too many of them
	calls         map[uint64]chan *answer
	lastCall      uint64
	pings         map[uint64]time.Time // when they were sent

	welcomed time.Time // AsOf by the welcome; Run's goroutine
}

// mark says by which generation of ours the nth change is judged.
type mark struct{ n, generation uint64 }

// follow connects to one broker and stays with it. lived says that it was
// followed.
func (c *Client) follow(ctx context.Context, address string) (lived bool, err error) {
	l, w, began, err := c.dial(ctx, address)
	if err != nil {
		return false, err
	}
	defer l.close(nil)
	// The age was taken between the hello and the welcome, and rounded up.
	age := time.Duration(min(w.AgeMS, 1<<40)) * time.Millisecond
	asOf, latest := began.Add(-age), c.c.Now().Add(time.Millisecond-age)
	if p := c.pub.Load(); p != nil && latest.Before(p.asOf) {
		return false, fmt.Errorf("its view is of %s, and this host has seen that of %s: it is not followed until it has caught up",
			latest.UTC().Format(time.RFC3339Nano), p.asOf.UTC().Format(time.RFC3339Nano))
	}
	if w.Host != c.c.Host {
		c.warnOnce(fmt.Sprintf("the broker calls this host %s, and the configuration %s: rules go by the broker's", w.Host, c.c.Host))
	}
	u := &uplink{c: c, link: l, calls: map[uint64]chan *answer{}, pings: map[uint64]time.Time{}, welcomed: asOf}
	stop := context.AfterFunc(ctx, func() { l.close(ctx.Err()) })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	defer l.close(nil)
	all.Go(l.write)
	all.Go(u.keepAlive)
	defer u.detach()
	return u.run(address)
}

func (c *Client) warnOnce(text string) {
	c.mu.Lock()
	for _, s := range c.said {
		if s == text {
			c.mu.Unlock()
			return
		}
	}
	c.said = append(c.said, text)
	c.mu.Unlock()
	c.c.Log.Warn(text)
}

// keepAlive pings until the link is closed.
func (u *uplink) keepAlive() {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for n := uint64(1); ; n++ {
		u.c.mu.Lock()
		u.pings[n] = u.c.c.Now()
		u.c.mu.Unlock()
		u.link.send(newFrame(kindPing, ping{n}))
		select {
		case <-tick.C:
		case <-u.link.gone:
			return
		}
	}
}

// run takes in what comes, until the connection ends.
func (u *uplink) run(address string) (lived bool, err error) {
	c := u.c
	tx := c.m.begin()
	for {
		what, body, err := u.link.read()
		if err != nil {
			if why := u.link.reason(); why != nil {
				err = why
			}
			return lived, err
		}
		m, err := parseServerFrame(what, body)
		if err != nil {
			return lived, err
		}
		switch m := m.(type) {
		case *ops:
			err = tx.ops(m)
			tx.keep(what, body)
		case *self:
			tx.self = m
			tx.keep(what, body)
		case *commit:
			tx.keep(what, body)
			if err = u.commit(tx, m, !lived); err == nil {
				tx = c.m.begin()
				if !lived {
					lived = true
					u.live(address)
				}
			}
		case *pong:
			err = u.pong(m, lived)
		case *end:
			u.end(m)
		case *answer:
			err = u.answered(m)
		case *bye:
			return lived, errors.New("it hangs up: " + m.Text)
		default:
			return lived, nonsense("a second welcome")
		}
		if err != nil {
			return lived, err
		}
	}
}

// live says that the broker is followed.
func (u *uplink) live(address string) {
	c := u.c
	c.mu.Lock()
	c.st.State, c.st.RetryAt, c.st.LastError = Live, time.Time{}, ""
	c.up, u.listing = u, true
	c.mu.Unlock()
	c.c.Log.WithField("broker", address).Info("following a broker")
	u.list()
}

// detach ends what waits for the connection.
func (u *uplink) detach() {
	c := u.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.up == u {
		c.up = nil
	}
	for x, ch := range u.calls {
		delete(u.calls, x)
		close(ch)
	}
}

// Shares and counts of users that may go at once without being told of.
const (
	manyUsers = 10
	manyShare = 0.3
)

// commit takes a change in. That many users go at once is held back by the
// broker, if by anybody; here it is only said.
func (u *uplink) commit(tx *tx, m *commit, first bool) error {
	c := u.c
	before, after, err := c.m.commit(tx, m, c.store.reserve)
	if err != nil {
		return err
	}
	asOf := u.welcomed
	if p := c.pub.Load(); p == nil || p.snap != after {
		if !first && p != nil {
			asOf = p.asOf
		}
		c.publish(after, asOf)
	} else if first {
		c.proven(asOf)
	}
	if n := tx.lost; before != nil && n >= manyUsers {
		if had, _, _, _ := before.Size(); float64(n) > manyShare*float64(had) {
			c.c.Log.WithField("users", n).WithField("of", had).Warn("the broker has taken many of this host's users away at once")
		}
	}
	c.store.write(tx.kept, c.m, c.pub.Load().asOf)
	c.mu.Lock()
	c.st.BrokerGeneration = m.Generation
	u.count++
	u.marks = append(u.marks, mark{u.count, after.Generation()})
	f := u.ackLocked()
	c.mu.Unlock()
	u.link.send(f)
	return nil
}

// ackLocked makes an ack of how far we are. What was judged while all sessions are
// listed is said when the list and the events in the meantime have gone out: a
// session may have been copied before, and its order to end waits among them.
func (u *uplink) ackLocked() []byte {
	for !u.listing && len(u.marks) > 0 && (!u.c.c.Judges || u.marks[0].generation <= u.c.judged) {
		u.judged = u.marks[0].n
		u.marks = u.marks[1:]
	}
	return newFrame(kindAck, ack{u.count, u.judged})
}

// Judged says that all sessions here were judged by the snapshot of that
// generation, and what had to end was told so and reported.
func (c *Client) Judged(generation uint64) {
	c.mu.Lock()
	c.judged = max(c.judged, generation)
	u := c.up
	var f []byte
	if u != nil && !u.listing && len(u.marks) > 0 && u.marks[0].generation <= c.judged {
		f = u.ackLocked()
	}
	c.mu.Unlock()
	if f != nil {
		u.link.send(f)
	}
}

// pong moves AsOf.
func (u *uplink) pong(m *pong, lived bool) error {
	c := u.c
	c.mu.Lock()
	sent, ok := u.pings[m.N]
	delete(u.pings, m.N)
	c.mu.Unlock()
	if !ok {
		return nonsense("an answer to a ping that was not sent")
	}
	if lived {
		c.proven(sent.Add(-time.Duration(min(m.AgeMS, 1<<40)) * time.Millisecond))
		c.store.heartbeat(c.m, c.View().AsOf)
	}
	return nil
}

// end has a session ended. One that is not here is closed.
func (u *uplink) end(m *end) {
	if !u.c.c.End(m.ID, m.Reason, m.Text) {
		s := broker.Session{ID: m.ID, Place: u.c.m.selfName()}
		u.c.Session(broker.SessionEvent{Kind: broker.SessionLost, Session: s})
	}
}
