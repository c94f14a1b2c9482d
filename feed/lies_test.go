package feed

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// liar is a host that says what it likes.
type liar struct {
	t   *testing.T
	c   *tls.Conn
	r   *bufio.Reader
	buf []byte
}

// lie connects; the error is that of the handshake, as far as a client sees it.
func (x *site) lie(t *testing.T, cert *tls.Certificate, change func(*tls.Config)) *liar {
	t.Helper()
	conf := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{Protocol}, ServerName: "127.0.0.1", RootCAs: x.ca.pool}
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	if change != nil {
		change(conf)
	}
	raw, err := net.Dial("tcp", x.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, conf)
	t.Cleanup(func() { raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(2 * time.Minute))
	return &liar{t: t, c: c, r: bufio.NewReader(c)}
}

func (l *liar) say(frames ...[]byte) {
	for _, f := range frames {
		if _, err := l.c.Write(f); err != nil {
			return // it has hung up already
		}
	}
}

func (l *liar) hello() { l.say(newFrame(kindHello, clientHello{Version: Version})) }

// hears reads frames until one of a kind, or the end.
func (l *liar) hears(want kind) (any, error) {
	for {
		k, body, err := readFrame(l.r, &l.buf)
		if err != nil {
			return nil, err
		}
		m, err := parseServerFrame(k, body)
		if err != nil {
			l.t.Fatal(err)
		}
		if k == want {
			return m, nil
		}
	}
}

// refused expects the end, and that the host is told no data.
func (l *liar) refused() string {
	l.t.Helper()
	var said string
	for {
		k, body, err := readFrame(l.r, &l.buf)
		if err != nil {
			return said
		}
		m, err := parseServerFrame(k, body)
		if err != nil {
			l.t.Fatal(err)
		}
		b, ok := m.(*bye)
		if !ok {
			l.t.Errorf("it is told %c %s", k, body)
			continue
		}
		said = b.Text
	}
}

func testSession(n int, place string) broker.Session {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:], uint64(n))
	return broker.Session{ID: broker.SessionID(base64.RawURLEncoding.EncodeToString(raw[:])), Place: broker.HostName(place),
		Request: broker.Request{User: "user0", Door: "pam", Target: broker.Target{Host: broker.HostName(place)}}, Service: "sshd", Since: time.Now().UTC()}
}

// TestRefused: who is not a host of the directory, with the key that it lists, is
// told nothing.
func TestRefused(t *testing.T) {
	x := newSite(t, small(t), nil)
	good := x.join("host0.example.org")
	other := newCA(t)
	unknown := x.ca.sign(t, "host9.example.org", x509.ExtKeyUsageClientAuth, nil)
	unpinned := x.ca.sign(t, "host1.example.org", x509.ExtKeyUsageClientAuth, nil)
	another := x.ca.sign(t, "host0.example.org", x509.ExtKeyUsageClientAuth, nil)
	for name, c := range map[string]struct {
		cert   *tls.Certificate
		change func(*tls.Config)
		says   string
		note   string
	}{
		"no certificate":   {nil, nil, "", "certificate"},
		"another CA":       {other.sign(t, "host0.example.org", x509.ExtKeyUsageClientAuth, nil), nil, "", "authority"},
		"a server's":       {x.ca.sign(t, "host0.example.org", x509.ExtKeyUsageServerAuth, nil), nil, "", "incompatible key usage"},
		"for anything":     {x.ca.sign(t, "host0.example.org", x509.ExtKeyUsageAny, nil), nil, "", "not for a client"},
		"expired":          {x.ca.sign(t, "host0.example.org", x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), nil, "", "expired"},
		"a CA":             {x.ca.sign(t, "host0.example.org", x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), nil, "", "not for a client"},
		"two names":        {x.ca.sign(t, "host0.example.org", x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "host1.example.org") }), nil, "", "one name"},
		"TLS 1.2":          {good, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, "", "version"},
		"another protocol": {good, func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }, "", "protocol"},
		"no protocol":      {good, func(c *tls.Config) { c.NextProtos = nil }, "", "does not ask for"},
		"unknown host":     {unknown, nil, "no host host9", "no host host9"},
		"no pin":           {unpinned, nil, "has no sekishoHostKey", "has no sekishoHostKey"},
		"another pin":      {another, nil, "has another sekishoHostKey", "has another sekishoHostKey"},
	} {
		t.Run(name, func(t *testing.T) {
			l := x.lie(t, c.cert, c.change)
			l.hello()
			if said := l.refused(); !strings.Contains(said, c.says) || c.says == "" && said != "" {
				t.Errorf("it is told %q", said)
			}
			if n := x.noted(HostRefused); !strings.Contains(n.Text, c.note) || n.From == "" {
				t.Errorf("noted: %+v", n)
			}
		})
	}
	// An ambiguous name is nobody's.
	x.src.edit(func(e *broker.Edit) {
		h := testHost(7)
		h.Names = append(h.Names, "host0.example.org")
		e.PutHost(h)
	})
	until(t, "it is published", func() bool {
		l := x.lie(t, good, nil)
		l.hello()
		return strings.Contains(l.refused(), "or several")
	})
}

// TestUnpinned: only where the configuration says so, and never against a pin.
func TestUnpinned(t *testing.T) {
	x := newSite(t, small(t), func(c *ServerConfig) { c.Unpinned = true })
	x.join("host0.example.org")
	l := x.lie(t, x.ca.sign(t, "host0.example.org", x509.ExtKeyUsageClientAuth, nil), nil)
	until(t, "published", func() bool { return len(x.server.Hosts()) > 0 })
	l.hello()
	if said := l.refused(); !strings.Contains(said, "another sekishoHostKey") {
		t.Errorf("%q", said)
	}
	h := x.host("host1.example.org", x.ca.sign(t, "host1.example.org", x509.ExtKeyUsageClientAuth, nil), nil)
	until(t, "an unpinned host", func() bool { return h.Status().State == Live })
}

// TestLies: whoever breaks the protocol, or speaks for others, is cut off, and it
// is recorded.
func TestLies(t *testing.T) {
	x := newSite(t, small(t), func(c *ServerConfig) { c.MaxSessions = 300 })
	good := x.join("host0.example.org")
	h1 := x.host("host1.example.org", x.join("host1.example.org"), func(c *ClientConfig) {
		c.Sessions = func(f func(*broker.Session) bool) { s := testSession(77, "host1.example.org"); f(&s) }
	})
	until(t, "host1", func() bool {
		n := 0
		x.server.Sessions(func(broker.HostName, bool, *broker.Session) bool { n++; return true })
		return n == 1 && h1.Status().State == Live
	})
	list := func(first, last bool, s ...broker.Session) []byte {
		return newFrame(kindSessions, sessionList{first, last, s})
	}
	event := func(k broker.EventKind, s broker.Session) []byte {
		return newFrame(kindEvent, sessionEvent{Kind: k, Session: s})
	}
	long := binary.BigEndian.AppendUint32(nil, maxFrame+1)
	many := [][]byte{list(true, false)}
	for i := range 2 {
		var s []broker.Session
		for j := range 200 {
			s = append(s, testSession(1000*(i+1)+j, "host0.example.org"))
		}
		many = append(many, list(false, false, s...))
	}
	// No session is too long for a frame, and some of them are too much for the memory.
	heavy, opened := [][]byte{list(true, false)}, [][]byte{list(true, true)}
	for i := range 3 {
		s := testSession(5000+i, "host0.example.org")
		for j := range 300 {
			s.Rules = append(s.Rules, broker.RuleName(fmt.Sprintf("%d-%d-%s", i, j, strings.Repeat("r", 1000))))
		}
		heavy, opened = append(heavy, list(false, false, s)), append(opened, event(broker.SessionOpened, s))
	}
	grown := testSession(6000, "host0.example.org")
	grows := [][]byte{list(true, true, grown)}
	grown.Ending, grown.Rules = time.Now(), make([]broker.RuleName, 700)
	for j := range grown.Rules {
		grown.Rules[j] = broker.RuleName(strings.Repeat("r", 1000))
	}
	grows = append(grows, event(broker.SessionEnding, grown))
	zoned := testSession(6001, "host0.example.org")
	zoned.Request.From = netip.MustParseAddr("fe80::1%a\nb")
	raw := func(k kind, text string) []byte {
		return append(append(binary.BigEndian.AppendUint32(nil, uint32(len(text)+1)), byte(k)), text...)
	}
	for name, c := range map[string]struct {
		frames [][]byte
		note   string
	}{
		"another's session, listed":   {[][]byte{list(true, true, testSession(1, "host1.example.org"))}, "a session on \"host1.example.org\""},
		"another's session, opened":   {[][]byte{list(true, true), event(broker.SessionOpened, testSession(1, "host1.example.org"))}, "a session on"},
		"another's session, closed":   {[][]byte{list(true, true), event(broker.SessionClosed, testSession(77, "host1.example.org"))}, "a session on"},
		"another's ID as its own":     {[][]byte{list(true, true), event(broker.SessionClosed, testSession(77, "host0.example.org"))}, "of host1"},
		"another's ID, listed":        {[][]byte{list(true, true, testSession(77, "host0.example.org"))}, "of host1"},
		"too many":                    {many, "more than 300"},
		"too much":                    {heavy, "bytes of sessions"},
		"too much, one by one":        {opened, "bytes of sessions"},
		"one that grows":              {grows, "bytes of sessions"},
		"a list that was not begun":   {[][]byte{list(false, true)}, "not begun"},
		"an ack of what was not sent": {[][]byte{newFrame(kindAck, ack{5, 0})}, "5 of 1"},
		"judged before applied":       {[][]byte{newFrame(kindAck, ack{0, 1})}, "judged before"},
		"an ack that goes back":       {[][]byte{newFrame(kindAck, ack{1, 1}), newFrame(kindAck, ack{0, 0})}, "applied"},
		"too long a frame":            {[][]byte{long}, "a frame of"},
		"an empty frame":              {[][]byte{{0, 0, 0, 0}}, "a frame of 0"},
		"an unknown kind":             {[][]byte{raw('z', "{}")}, "kind"},
		"a server's kind":             {[][]byte{raw(kindOps, "{}")}, "kind"},
		"an unknown field":            {[][]byte{raw(kindPing, `{"n":1,"m":2}`)}, "unknown field"},
		"no JSON":                     {[][]byte{raw(kindPing, `hello`)}, "invalid character"},
		"two values":                  {[][]byte{raw(kindPing, `{"n":1}{"n":2}`)}, "follows"},
		"a session's ID":              {[][]byte{event(broker.SessionOpened, broker.Session{ID: "x", Place: "host0.example.org"})}, "ID"},
		"a second hello":              {[][]byte{newFrame(kindHello, clientHello{Version: Version})}, "second hello"},
		"a line break in an address":  {[][]byte{list(true, true, zoned)}, "control character"},
		"a line break in a text":      {[][]byte{raw(kindCall, `{"id":1,"kind":"a\nb","wait_ms":1,"body":1}`)}, "control character"},
	} {
		t.Run(name, func(t *testing.T) {
			l := x.lie(t, good, nil)
			l.hello()
			if _, err := l.hears(kindCommit); err != nil {
				t.Fatal(err)
			}
			l.say(c.frames...)
			if _, err := l.hears(kindBye); err == nil || errors.Is(err, errNonsense) {
				t.Errorf("it is not cut off: %v", err)
			}
			n := x.noted(HostLied)
			if n.Host != "host0.example.org" || !strings.Contains(n.Text, c.note) || len(n.Text) > 300 {
				t.Errorf("noted: %+v", n)
			}
		})
	}
	// And nothing of it counts.
	x.server.Sessions(func(h broker.HostName, _ bool, s *broker.Session) bool {
		if h != "host1.example.org" && s.Place != "host0.example.org" || s.ID == testSession(77, "").ID && h != "host1.example.org" {
			t.Errorf("%s has %+v", h, s)
		}
		return true
	})

	t.Run("another version", func(t *testing.T) {
		for _, v := range []int{0, 1, Version + 1} { // 1: its sessions name no key
			l := x.lie(t, good, nil)
			l.say(newFrame(kindHello, clientHello{Version: v}))
			if said := l.refused(); !strings.Contains(said, fmt.Sprintf("version %d of the feed, and this broker version %d", v, Version)) {
				t.Errorf("%q", said)
			}
			if n := x.noted(HostRefused); !strings.Contains(n.Text, "same sekisho release") {
				t.Errorf("%+v", n)
			}
		}
	})
	t.Run("no hello", func(t *testing.T) {
		l := x.lie(t, good, nil)
		l.say(newFrame(kindPing, ping{1}))
		l.refused()
		if n := x.noted(HostRefused); !strings.Contains(n.Text, "no hello") {
			t.Errorf("%+v", n)
		}
	})
}

// TestListedTwice: of two hosts that list the same session at the same time, one alone
// has it; the other speaks for it no more than if it had come later.
func TestListedTwice(t *testing.T) {
	x := newSite(t, small(t), nil)
	part := func(n int, first, last bool, place string) []byte {
		return newFrame(kindSessions, sessionList{First: first, Last: last, Sessions: []broker.Session{testSession(n, place)}})
	}
	var hosts []*liar
	names := []string{"host0.example.org", "host1.example.org"}
	for i, name := range names {
		l := x.lie(t, x.join(name), nil)
		l.hello()
		if _, err := l.hears(kindCommit); err != nil {
			t.Fatal(err)
		}
		l.say(part(77, true, false, name), newFrame(kindPing, ping{uint64(i)}))
		if _, err := l.hears(kindPong); err != nil { // the part was taken
			t.Fatal(err)
		}
		hosts = append(hosts, l)
	}
	hosts[0].say(part(1, false, true, names[0]), newFrame(kindPing, ping{2}))
	if _, err := hosts[0].hears(kindPong); err != nil {
		t.Fatal(err)
	}
	hosts[1].say(part(2, false, true, names[1]))
	if n := x.noted(HostLied); n.Host != "host1.example.org" || !strings.Contains(n.Text, "of host0") {
		t.Errorf("noted: %+v", n)
	}
	x.server.Sessions(func(h broker.HostName, _ bool, s *broker.Session) bool {
		if h != "host0.example.org" {
			t.Errorf("%s has %s", h, s.ID)
		}
		return true
	})
}

// TestCutOff: a host whose pin or entry goes loses its connection at once.
func TestCutOff(t *testing.T) {
	for name, change := range map[string]func(*broker.Edit){
		"the pin":         func(e *broker.Edit) { e.PutHost(testHost(0)) },
		"another pin":     func(e *broker.Edit) { h := testHost(0); h.FeedKeys = [][32]byte{{1}}; e.PutHost(h) },
		"the entry":       func(e *broker.Edit) { e.RemoveHost(testHost(0).ID) },
		"the name":        func(e *broker.Edit) { h := testHost(0); h.Names = h.Names[1:]; e.PutHost(h) },
		"another's alias": func(e *broker.Edit) { h := testHost(1); h.Names = append(h.Names, "host0.example.org"); e.PutHost(h) },
	} {
		t.Run(name, func(t *testing.T) {
			x := newSite(t, small(t), nil)
			cert := x.join("host0.example.org")
			h := x.host("host0.example.org", cert, nil)
			until(t, "followed", func() bool { return h.Status().State == Live })
			began := time.Now()
			x.src.edit(change)
			if n := x.noted(HostCut); n.Host != "host0.example.org" {
				t.Errorf("%+v", n)
			}
			if d := time.Since(began); d > 10*time.Second { // it looks through all hosts after 30
				t.Errorf("it took %s", d)
			}
			x.noted(HostRefused) // when it comes back
			until(t, "it says why", func() bool { return strings.Contains(h.Status().LastError, "refuses this host") })
			if !allowed(h.View(), "user0", "host0.example.org") {
				t.Error("the last good snapshot does not answer")
			}
		})
	}
}

// TestSlowReader: a host that does not read is cut off, and others get what they
// need meanwhile.
func TestSlowReader(t *testing.T) {
	x := newSite(t, small(t), func(c *ServerConfig) { c.Queue = 4 })
	slow := x.lie(t, x.join("host0.example.org"), nil)
	slow.hello()
	if _, err := slow.hears(kindCommit); err != nil {
		t.Fatal(err)
	}
	h := x.host("host1.example.org", x.join("host1.example.org"), nil)
	until(t, "followed", func() bool { return h.Status().State == Live })
	gecos := strings.Repeat("x", 100_000)
	done := make(chan struct{})
	defer func() { <-done }()
	go func() { // it talks, and does not listen
		defer close(done)
		for n := uint64(1); ; n++ {
			if _, err := slow.c.Write(newFrame(kindPing, ping{n})); err != nil {
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
	}()
	var worst time.Duration
	cut := false
	for i := range 2000 {
		u := testUser(0)
		u.Gecos = fmt.Sprint(i, gecos)
		w := testUser(2)
		w.Gecos = fmt.Sprint(i)
		began := time.Now()
		g := x.src.edit(func(e *broker.Edit) { e.PutUser(u); e.PutUser(w) })
		until(t, "the other host has it", func() bool { return h.Status().BrokerGeneration >= g })
		worst = max(worst, time.Since(began))
		select {
		case n := <-x.notes:
			cut = cut || n.Kind == HostCut && n.Host == "host0.example.org"
		default:
		}
		if cut {
			break
		}
	}
	if !cut {
		t.Error("it is not cut off")
	}
	if worst > writeTime-2*time.Second { // for so long a frame waits for who does not read
		t.Errorf("the other host waited for %s", worst)
	}
	_, _ = io.Copy(io.Discard, slow.c)
}

// TestReplay: what was recorded of one connection is worth nothing in another: it
// is TLS, and the frames do not fit there either.
func TestReplay(t *testing.T) {
	m := newMirror()
	s := small(t)
	key, rules, groups := kin(s, s.Host("host0"))
	c, _ := newClass(s, key, rules, groups)
	all := append([][]byte{newFrame(kindSelf, selfOf(s, s.Host("host0")))}, append(c.all(s), c.commitFrame(1))...)
	apply(t, "first", m, all)
	e := s.Edit()
	e.RemoveUser(testUser(0).ID)
	now := e.Commit()
	ch := c.update(newNews(s, now), nil)
	delta := ch.frames(false)
	c.record(delta)
	apply(t, "second", m, append(delta, c.commitFrame(2)))
	if m.snap.UserByID(testUser(0).ID) != nil {
		t.Fatal("the user is still there")
	}
	// The old whole view under the new commit, the old commit, and the change twice.
	for name, frames := range map[string][][]byte{
		"the old view":     append(append([][]byte{}, all[:len(all)-1]...), c.commitFrame(2)),
		"the old commit":   {all[len(all)-1]},
		"the change twice": append(append([][]byte{}, delta...), newFrame(kindCommit, commit{m.stream, m.seq + 1, 3, digest{1}})),
	} {
		before := m.snap
		tx := m.begin()
		var err error
		for _, f := range frames {
			v, perr := parseServerFrame(kind(f[4]), f[5:])
			if perr != nil {
				t.Fatal(perr)
			}
			switch v := v.(type) {
			case *ops:
				err = errors.Join(err, tx.ops(v))
			case *self:
				tx.self = v
			case *commit:
				if err == nil {
					_, _, err = m.commit(tx, v, func(n uint64) uint64 { return n })
				}
			}
		}
		if !errors.Is(err, errNonsense) || m.snap != before || m.snap.UserByID(testUser(0).ID) != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
