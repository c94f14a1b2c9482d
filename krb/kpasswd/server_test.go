package kpasswd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

var testAddr = netip.MustParseAddrPort("127.0.0.1:1")

// testListener answers one request a TCP connection by f; nil is no answer.
func testListener(t testing.TB, f func(req []byte) []byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(time.Minute))
			var head [4]byte
			io.ReadFull(c, head[:])
			req := make([]byte, binary.BigEndian.Uint32(head[:])&0xffff)
			io.ReadFull(c, req)
			if reply := f(req); reply != nil {
				c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(reply))), reply...))
			}
			c.Close()
		}
	})
	return l.Addr().String()
}

// raw makes a request with user data of any kind.
func raw(t testing.TB, cred krb.Credential, version uint16, change func(x *exchange, p *private)) (*exchange, []byte) {
	t.Helper()
	x, err := newExchange(cred, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p := private{seq: x.seq}
	change(x, &p)
	priv, err := p.seal(x.subkey, testAddr.Addr())
	if err != nil {
		t.Fatal(err)
	}
	b, err := frame(version, x.apReq, priv)
	if err != nil {
		t.Fatal(err)
	}
	return x, b
}

// setData is a ChangePasswdData; no components: without a target.
func setData(password, realm string, components ...string) []byte {
	fields := [][]byte{der.Field(0, der.Octets([]byte(password)))}
	if len(components) > 0 {
		fields = append(fields, der.Field(1, der.Name(krb.Principal{Components: components})), der.Field(2, der.Text(realm)))
	}
	return der.Seq(fields...)
}

// TestResults: what each kind of request is answered.
func TestResults(t *testing.T) {
	w := startWorld(t)
	s := w.serve(nil)
	cred := w.ticket("first password")
	for name, c := range map[string]struct {
		version uint16
		change  func(x *exchange, p *private)
		code    int // -1: a KRB-ERROR
		done    string
	}{
		"change":           {versionChange, func(_ *exchange, p *private) { p.data = []byte("second password") }, resultSuccess, "alice@EXAMPLE.ORG second password"},
		"set":              {versionSet, func(_ *exchange, p *private) { p.data = setData("third password", "") }, resultSuccess, "alice@EXAMPLE.ORG third password"},
		"set one's own":    {versionSet, func(_ *exchange, p *private) { p.data = setData("x", testRealm, "alice") }, resultSuccess, "alice@EXAMPLE.ORG x"},
		"set another's":    {versionSet, func(_ *exchange, p *private) { p.data = setData("x", testRealm, "bob") }, resultAccessDenied, ""},
		"set instance":     {versionSet, func(_ *exchange, p *private) { p.data = setData("x", testRealm, "alice", "admin") }, resultAccessDenied, ""},
		"set other realm":  {versionSet, func(_ *exchange, p *private) { p.data = setData("x", "OTHER", "alice") }, resultAccessDenied, ""},
		"set slash":        {versionSet, func(_ *exchange, p *private) { p.data = setData("x", testRealm, "al/ice") }, resultAccessDenied, ""},
		"set plain":        {versionSet, func(_ *exchange, p *private) { p.data = []byte("password") }, resultMalformed, ""},
		"set trailing":     {versionSet, func(_ *exchange, p *private) { p.data = append(setData("x", ""), 0) }, resultMalformed, ""},
		"empty":            {versionChange, func(_ *exchange, p *private) {}, resultSoftError, ""},
		"NUL":              {versionChange, func(_ *exchange, p *private) { p.data = []byte("a\x00b") }, resultSoftError, ""},
		"not UTF-8":        {versionChange, func(_ *exchange, p *private) { p.data = []byte("\xff\xfe") }, resultSoftError, ""},
		"4096 bytes":       {versionChange, func(_ *exchange, p *private) { p.data = bytes.Repeat([]byte("x"), 4096) }, resultSuccess, "alice@EXAMPLE.ORG " + strings.Repeat("x", 4096)},
		"4097 bytes":       {versionChange, func(_ *exchange, p *private) { p.data = bytes.Repeat([]byte("x"), 4097) }, resultSoftError, ""},
		"sequence":         {versionChange, func(_ *exchange, p *private) { p.data = []byte("second password"); p.seq++ }, resultAuthError, ""},
		"version 2":        {2, func(_ *exchange, p *private) { p.data = []byte("second password") }, -1, ""},
		"altered AP-REQ":   {versionChange, func(x *exchange, p *private) { x.apReq[len(x.apReq)-1] ^= 1 }, -1, ""},
		"another's subkey": {versionChange, func(x *exchange, p *private) { x.subkey.Value[3] ^= 1 }, resultAuthError, ""},
		"no subkey known": {versionChange, func(x *exchange, p *private) {
			p.data, x.subkey = []byte("second password"), x.cred.Key // sealed with the session key though a subkey was sent
		}, resultAuthError, ""},
	} {
		s.set(nil, 0)
		x, req := raw(t, cred, c.version, c.change)
		reply := s.answer(t.Context(), req, testAddr, testAddr, true)
		var unsealed *ServerError
		var code uint16
		var err error
		if name == "another's subkey" {
			x.subkey.Value[3] ^= 1
		}
		if name == "no subkey known" {
			code = resultAuthError // only the server knows the key of its answer
		} else if code, _, err = x.parse(reply); c.code == -1 {
			if !errors.As(err, &unsealed) {
				t.Errorf("%s: %d, %v", name, code, err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.code >= 0 && int(code) != c.code {
			t.Errorf("%s: result %d", name, code)
		}
		if got := strings.Join(s.made(), ";"); got != c.done {
			t.Errorf("%s: done %.60q", name, got)
		}
		// What comes again is answered again and not done again, over any transport and
		// with whatever behind the AP-REQ.
		if c.code < 0 {
			continue
		}
		again := s.answer(t.Context(), req, testAddr, testAddr, false)
		if name != "no subkey known" {
			if code2, _, err := x.parse(again); err != nil || code2 != code {
				t.Errorf("%s again: %d, %v", name, code2, err)
			}
		}
		other, err := private{data: []byte("evil password"), seq: x.seq}.seal(x.subkey, testAddr.Addr())
		if err != nil {
			t.Fatal(err)
		}
		evil, err := frame(versionChange, x.apReq, other)
		if err != nil {
			t.Fatal(err)
		}
		s.answer(t.Context(), evil, testAddr, testAddr, true)
		if got := strings.Join(s.made(), ";"); got != c.done {
			t.Errorf("%s: done again: %.60q", name, got)
		}
	}
	// After a restart of the server the replay cache remembers.
	x, req := raw(t, cred, versionChange, func(_ *exchange, p *private) { p.data = []byte("second password") })
	if code, _, err := x.parse(s.answer(t.Context(), req, testAddr, testAddr, true)); code != 0 || err != nil {
		t.Fatal(code, err)
	}
	s.Server.replies = replies{now: time.Now}
	s.set(nil, 0)
	var unsealed *ServerError
	if _, _, err := x.parse(s.answer(t.Context(), req, testAddr, testAddr, true)); !errors.As(err, &unsealed) || len(s.made()) != 0 {
		t.Errorf("a replay: %v, %q", err, s.made())
	}
}

// TestAtTheSameInstant: 200 copies of one request are one change.
func TestAtTheSameInstant(t *testing.T) {
	w := startWorld(t)
	s := w.serve(nil)
	s.set(nil, 50*time.Millisecond)
	x, req := raw(t, w.ticket("first password"), versionChange, func(_ *exchange, p *private) { p.data = []byte("second password") })
	var all sync.WaitGroup
	var mu sync.Mutex
	good := 0
	for i := range 200 {
		all.Go(func() {
			reply := s.answer(t.Context(), req, testAddr, testAddr, i%2 == 0)
			if reply == nil && i%2 == 0 {
				return // a datagram that the first answer serves
			}
			code, _, err := x.parse(reply)
			mu.Lock()
			defer mu.Unlock()
			if code == 0 && err == nil {
				good++
			}
		})
	}
	all.Wait()
	if len(s.made()) != 1 || good < 100 {
		t.Errorf("%d changes, %d answers", len(s.made()), good)
	}
}

// TestNoAnswer: what is no request has no answer, above all what a server sends.
func TestNoAnswer(t *testing.T) {
	w := startWorld(t)
	s := w.serve(nil)
	x, req := raw(t, w.ticket("first password"), versionChange, func(_ *exchange, p *private) { p.data = []byte("second password") })
	reply := s.answer(t.Context(), req, testAddr, testAddr, true)
	if _, _, err := x.parse(reply); err != nil {
		t.Fatal(err)
	}
	long := append(bytes.Clone(req), make([]byte, maxMessage)...)
	binary.BigEndian.PutUint16(long, uint16(len(long)))
	for name, b := range map[string][]byte{
		"a reply": reply, "an error": s.refuse(resultMalformed, "x"), "nothing": {}, "short": req[:5], "cut": req[:len(req)-1],
		"longer than it says": append(bytes.Clone(req), 0), "too long": long,
	} {
		if got := s.answer(t.Context(), b, testAddr, testAddr, true); got != nil {
			t.Errorf("%s: answered with %d bytes", name, len(got))
		}
	}
	for n := range req {
		if s.answer(t.Context(), req[:n], testAddr, testAddr, true) != nil {
			t.Errorf("cut to %d bytes: answered", n)
		}
	}
	s.set(nil, 0)
	for at := range req {
		for _, bit := range []byte{1, 0x80} {
			b := bytes.Clone(req)
			b[at] ^= bit
			s.answer(t.Context(), b, testAddr, testAddr, true)
		}
	}
	if len(s.made()) != 0 {
		t.Errorf("done with an altered request: %q", s.made())
	}
}

// TestLimits: connections, their time and the size of what comes over them.
func TestLimits(t *testing.T) {
	w := startWorld(t)
	s := w.serve(func(c *Config) { c.MaxConns, c.Timeout = 4, 5*time.Second })
	dial := func() net.Conn {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(time.Minute))
		return c
	}
	ended := func(c net.Conn) time.Duration {
		began := time.Now()
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("it goes on, or there was an answer: %d bytes, %v", n, err)
		}
		return time.Since(began)
	}
	idle := dial() // lives for as long as the server lets it
	for name, b := range map[string][]byte{"long": {0, 1, 0, 0}, "high bit": {0x80, 0, 0, 1, 'x'}} {
		c := dial()
		c.Write(b)
		ended(c)
		idle.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: was waited for (%v)", name, err)
		}
	}
	idle.SetReadDeadline(time.Now().Add(time.Minute))
	c := dial()
	c.Write([]byte{0, 0, 1, 0, 'x'})
	if d := ended(c); d < s.c.Timeout/2 {
		t.Errorf("a slow one was given %s", d)
	}
	ended(idle)
	var held []net.Conn
	for range 4 {
		c := dial()
		c.Write([]byte{0, 0, 1, 0, 'x'})
		held = append(held, c)
	}
	for len(s.conns) < 4 {
		time.Sleep(time.Millisecond)
	}
	ended(dial())
	if len(s.conns) < 4 {
		t.Error("the fifth was kept until one of the others ended")
	}
	for _, c := range held {
		ended(c)
	}
	for len(s.conns) > 0 {
		time.Sleep(time.Millisecond)
	}
	if err := w.client(s.addr).Change(t.Context(), alice, "first password", "second password"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	// A stop does not wait for those who only hold a connection.
	s2 := w.serve(func(c *Config) { c.Timeout = 2 * time.Minute })
	last, err := net.Dial("tcp", s2.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	for len(s2.conns) < 1 {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	s2.stop()
	if d := time.Since(began); d > time.Minute {
		t.Errorf("stopping took %s", d)
	}
	if err := s2.Serve(t.Context()); err == nil && t.Context().Err() == nil {
		t.Error("served twice")
	}
}

// TestReplies: what is remembered is bounded in number and time.
func TestReplies(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := replies{now: func() time.Time { return now }}
	mark := func(i int) (m [32]byte) { binary.BigEndian.PutUint32(m[:], uint32(i)); return m }
	for i := range 3 * maxReplies {
		o, first := r.begin(mark(i))
		if !first {
			t.Fatal("known already")
		}
		o.believed = i%3 != 0
		r.end(mark(i), o)
		if len(r.known) > maxReplies+1 || len(r.order) > maxReplies+1 {
			t.Fatalf("%d are remembered", len(r.known))
		}
	}
	if _, first := r.begin(mark(3*maxReplies - 1)); first {
		t.Error("the last is forgotten")
	}
	now = now.Add(replyLife + time.Second)
	if o, first := r.begin(mark(3*maxReplies - 1)); !first {
		t.Error("remembered too long")
	} else {
		r.end(mark(3*maxReplies-1), o)
	}
	if len(r.known) != 0 {
		t.Errorf("%d are remembered", len(r.known))
	}
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("an empty configuration is taken")
	}
	if err := new(Server).Serve(t.Context()); err == nil {
		t.Error("served without sockets")
	}
}
