package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// conn is one host's connection.
type conn struct {
	s     *Server
	link  *link
	name  broker.HostName // of its certificate
	pin   [32]byte
	until time.Time // of its certificate
	from  string
	hello clientHello
	done  chan struct{} // closed when all that it reported was handed on
	prior *conn         // whose place it takes; it must be done first

	// The loop's:
	host    *broker.Host
	class   *class
	self    []byte
	selfNew bool // not sent yet
	leaving bool // its class, in the midst of publish

	// Guarded by s.mu:
	state                 *hostState
	sent, applied, judged uint64                // changes
	changes               map[uint64]sentChange // the last judged, and those after it

	calls   sync.WaitGroup
	calling chan struct{}
}

// enter has the loop let the host in.
func (s *Server) enter(k *conn) error {
	result := make(chan error, 1)
	if !s.do(func() { result <- s.hall.enter(k) }) {
		close(k.done)
		return s.ctx.Err()
	}
	select {
	case err := <-result:
		if err != nil {
			close(k.done)
			return err
		}
	case <-s.ctx.Done():
		close(k.done)
		return s.ctx.Err()
	}
	if k.prior != nil {
		k.prior.link.close(errors.New("the host has connected anew"))
		<-k.prior.done
		k.prior = nil
	}
	return nil
}

// leave takes an ended connection out.
func (s *Server) leave(k *conn) {
	s.unregister(k)
	s.do(func() { s.hall.leave(k) })
	close(k.done)
}

// run reads what the host sends until the connection ends.
func (k *conn) run() error {
	for {
		what, body, err := k.link.read()
		if err != nil {
			if why := k.link.reason(); why != nil {
				err = why
			}
			return k.ended(err)
		}
		m, err := parseClientFrame(what, body)
		if err == nil {
			err = k.take(m)
		}
		if err != nil {
			return k.ended(err)
		}
	}
}

// label is the host's name, for those who are not the loop.
func (k *conn) label() broker.HostName {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	return k.state.name
}

// ended says why a connection ended.
func (k *conn) ended(err error) error {
	s := k.s
	host := k.label()
	e := s.c.Log.WithError(err).WithField("host", string(host)).WithField("from", k.from)
	var r *refusal
	switch {
	case s.ctx.Err() != nil || errors.As(err, &r): // said already, or nothing to say
	case errors.Is(err, errNonsense), errors.Is(err, errLied):
		e.Error("a host breaks the protocol or speaks for others: its connection is closed")
		s.c.Note(Note{Kind: HostLied, Host: host, From: k.from, Text: short(err.Error())})
	case errors.Is(err, errLagging):
		e.Warn("a host is too slow: its connection is closed, and it may come back")
		s.c.Note(Note{Kind: HostCut, Host: host, From: k.from, Text: short(err.Error())})
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		e.Debug("a host has hung up")
	default:
		e.Info("a host's connection has ended")
	}
	return err
}

var errLied = errors.New("it reports what is not its own")

// take handles one frame.
func (k *conn) take(m any) error {
	switch m := m.(type) {
	case *ping:
		if k.s.c.Now().After(k.until) {
			return &refusal{"its certificate has expired", false}
		}
		k.link.send(newFrame(kindPong, pong{m.N, k.s.age()}))
	case *ack:
		return k.s.acked(k, m)
	case *sessionList:
		return k.s.reported(k, m)
	case *sessionEvent:
		return k.s.happened(k, m)
	case *call:
		k.call(m)
	default:
		return nonsense("a second hello")
	}
	return nil
}

// maxCallTime bounds a call, whatever the host asks for.
const maxCallTime = time.Minute

// call runs a handler.
func (k *conn) call(m *call) {
	handler := k.s.c.Calls[m.Kind]
	if handler == nil {
		k.link.send(newFrame(kindAnswer, answer{ID: m.ID, Error: "nobody here answers that"}))
		return
	}
	select {
	case k.calling <- struct{}{}:
	default:
		k.link.send(newFrame(kindAnswer, answer{ID: m.ID, Busy: true}))
		return
	}
	// The body is in the link's buffer, which the next frame will be read into.
	body := append(json.RawMessage(nil), m.Body...)
	host := k.label()
	k.calls.Go(func() {
		defer func() { <-k.calling }()
		ctx, cancel := context.WithTimeout(k.s.ctx, min(time.Duration(m.WaitMS)*time.Millisecond, maxCallTime))
		defer cancel()
		k.calls.Go(func() {
			select {
			case <-k.link.gone:
				cancel()
			case <-ctx.Done():
			}
		})
		out, err := handler(ctx, host, body)
		a := answer{ID: m.ID}
		if err != nil {
			a.Error = short(err.Error())
		} else if a.Body, err = json.Marshal(out); err != nil {
			a.Error = "the answer cannot be encoded"
		}
		f := newFrame(kindAnswer, a)
		if f == nil {
			f = newFrame(kindAnswer, answer{ID: m.ID, Error: "the answer is too long"})
		}
		k.link.send(f)
	})
}

// hostState is what is known of a host besides the directory. It outlives the
// connection. Guarded by Server.mu.
type hostState struct {
	id       broker.EntryID
	name     broker.HostName
	names    []broker.HostName
	conn     *conn // nil when it is gone
	since    time.Time
	sessions *reports
	fresh    *reports // being listed; nil when not
	listed   bool     // the connection has listed all
	applied  uint64   // generation confirmed by connections that are gone
	judged   uint64   // likewise
	users    int
	groups   int
	rules    int
}

// sentChange is a change that a host was sent: to which generation, and when.
type sentChange struct {
	generation uint64
	at         time.Time
}

// register makes k its host's connection, and tells how old the snapshot is.
// The loop calls it.
func (s *Server) register(k *conn) (ageMS uint64) {
	s.mu.Lock()
	h := s.hosts[k.host.ID]
	if h == nil {
		h = &hostState{id: k.host.ID, sessions: newReports()}
		s.hosts[k.host.ID] = h
	}
	back := h.conn == nil
	k.prior, k.state = h.conn, h
	k.changes = map[uint64]sentChange{}
	h.conn, h.since, h.fresh, h.listed = k, s.c.Now(), nil, false
	h.name, h.names = k.host.Names[0], k.host.Names
	h.users, h.groups, h.rules = len(k.class.users), len(k.class.groups), len(k.class.rules)
	age := s.ageLocked()
	s.mu.Unlock()
	if back {
		s.c.Log.WithField("host", string(k.host.Names[0])).WithField("from", k.from).Info("a host follows")
		s.c.Note(Note{Kind: HostBack, Host: k.host.Names[0], From: k.from, Text: "it follows this broker"})
	}
	return age
}

// rename takes a host's new entry.
func (s *Server) rename(k *conn, h *broker.Host) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k.host = h
	k.state.name, k.state.names = h.Names[0], h.Names
}

// unregister says that a connection has ended.
func (s *Server) unregister(k *conn) {
	s.mu.Lock()
	h := k.state
	gone := h.conn == k
	name := h.name
	if gone {
		h.applied, h.judged = k.confirmed()
		h.conn, h.since, h.fresh = nil, s.c.Now(), nil
	}
	s.mu.Unlock()
	if gone && s.ctx.Err() == nil {
		why := "the connection ended"
		if err := k.link.reason(); err != nil {
			why = err.Error()
		}
		s.c.Note(Note{Kind: HostGone, Host: name, From: k.from, Text: short(why)})
	}
}

// published says that all hosts were sent what the view has for them.
func (s *Server) published(v broker.View) {
	s.mu.Lock()
	s.snap, s.generation, s.asOf = v.Snapshot, v.Generation(), v.AsOf
	var removed []*hostState
	for x, h := range s.hosts {
		if v.HostByID(x) == nil && h.conn == nil {
			removed = append(removed, h)
			for y := range h.sessions.all {
				delete(s.owners, y)
			}
			delete(s.hosts, x)
		}
	}
	for k := range s.hall.conns {
		k.state.users, k.state.groups, k.state.rules = len(k.class.users), len(k.class.groups), len(k.class.rules)
	}
	s.mu.Unlock()
	for _, h := range removed {
		for _, x := range h.sessions.all {
			s.c.Closed(h.name, *x, broker.SessionLost, broker.ReasonUnknownHost)
		}
	}
	s.checkConfirms(nil)
}

// age is how old the directory's state is that hosts were sent last, in
// milliseconds.
func (s *Server) age() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ageLocked()
}

func (s *Server) ageLocked() uint64 {
	if v := s.c.View(); v.Snapshot != nil && v.Snapshot == s.snap && v.AsOf.After(s.asOf) {
		s.asOf = v.AsOf
	}
	age := max(0, s.c.Now().Sub(s.asOf))
	return uint64((age + time.Millisecond - 1) / time.Millisecond)
}

// changing counts a change that is sent to k. The loop calls it.
func (s *Server) changing(k *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k.sent++
	k.changes[k.sent] = sentChange{s.hall.cur.Generation(), s.c.Now()}
}

// acked takes a host's word that it has applied and judged changes.
func (s *Server) acked(k *conn, m *ack) error {
	s.mu.Lock()
	if m.Applied > k.sent || m.Applied < k.applied || m.Judged < k.judged {
		s.mu.Unlock()
		return nonsense("%d of %d changes applied", m.Applied, k.sent)
	}
	for i := k.judged; i < m.Judged; i++ {
		delete(k.changes, i)
	}
	k.applied, k.judged = m.Applied, m.Judged
	h := k.state
	s.mu.Unlock()
	s.checkConfirms(h)
	return nil
}

// Hosts are those that are connected, those that were and have not been removed
// since, and those of the directory whose entry lists a key.
func (s *Server) Hosts() []HostStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]HostStatus, 0, len(s.hosts))
	for _, h := range s.hosts {
		st := HostStatus{Host: h.name, Connected: h.conn != nil, Since: h.since, Applied: h.applied, Judged: h.judged,
			Sessions: len(h.sessions.all), Users: h.users, Groups: h.groups, Rules: h.rules}
		if k := h.conn; k != nil {
			st.From = k.from
			st.Applied, st.Judged = k.confirmed()
			if next, has := k.changes[k.judged+1]; has {
				st.Behind = max(0, s.c.Now().Sub(next.at))
			}
		}
		out = append(out, st)
	}
	s.enrolledLocked(func(h *broker.Host) {
		if s.hosts[h.ID] == nil {
			out = append(out, HostStatus{Host: h.Names[0]})
		}
	})
	return out
}

// enrolledLocked calls f for each host of the directory whose entry lists a key.
func (s *Server) enrolledLocked(f func(*broker.Host)) {
	if s.snap == nil {
		return
	}
	s.snap.Hosts(func(h *broker.Host) bool {
		if len(h.FeedKeys) > 0 {
			f(h)
		}
		return true
	})
}

// confirmed are the broker's generations that the host has applied and judged, by
// this connection or one before.
func (k *conn) confirmed() (applied, judged uint64) {
	return max(k.state.applied, k.generationOf(k.applied)), max(k.state.judged, k.generationOf(k.judged))
}

// generationOf is the broker's generation that a host has with its nth change.
// What comes after the last change it was sent, it has too.
func (k *conn) generationOf(n uint64) uint64 {
	switch {
	case n == 0:
		return 0
	case n == k.sent:
		return k.s.generation
	}
	return k.changes[n].generation
}

// End orders the end of a host's session; Closed will tell of it. The session's ID
// says which host that is, whatever it is called by now; host counts for one that
// none has reported. The error is ErrUnavailable when the host is not connected.
func (s *Server) End(host broker.HostName, x broker.SessionID, reason broker.Reason, text string) error {
	m := end{x, reason, short(text)}
	if err := m.check(); err != nil {
		return fmt.Errorf("ending a session on %s: %w", host, err)
	}
	s.mu.Lock()
	var k *conn
	if h := s.owners[x]; h != nil {
		k = h.conn
	} else {
		for _, h := range s.hosts {
			if h.name == host {
				k = h.conn
			}
		}
	}
	s.mu.Unlock()
	if k == nil || !k.link.send(newFrame(kindEnd, m)) {
		return fmt.Errorf("ending a session on %s: it is not connected: %w", host, ErrUnavailable)
	}
	return nil
}
