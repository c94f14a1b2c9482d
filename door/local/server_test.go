package local

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/wire"
)

func TestConfigIsChecked(t *testing.T) {
	_, b := newDirectory(t)
	do := func(context.Context, Caller, wire.Request) wire.Answer { return wire.Answer{} }
	for name, spoil := range map[string]func(*Config){
		"no broker":     func(c *Config) { c.Broker = nil },
		"no log":        func(c *Config) { c.Log = nil },
		"no host":       func(c *Config) { c.Host = "" },
		"negative":      func(c *Config) { c.Idle = -1 },
		"keys replaced": func(c *Config) { c.Verbs = map[string]Verb{"keys": {Do: do}} },
		"bad name":      func(c *Config) { c.Verbs = map[string]Verb{"Why": {Do: do}} },
		"no function":   func(c *Config) { c.Verbs = map[string]Verb{"why": {}} },
		"bad access":    func(c *Config) { c.Verbs = map[string]Verb{"why": {Do: do, May: Anyone + 1}} },
	} {
		c := config(b)
		spoil(&c)
		if s, err := New(c); err == nil || s != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// verbs echo who they think is calling.
func echoVerbs() map[string]Verb {
	do := func(ctx context.Context, c Caller, r wire.Request) wire.Answer {
		if _, ok := ctx.Deadline(); !ok {
			return wire.Answer{Outcome: wire.No, Text: "no deadline"}
		}
		return wire.Answer{Outcome: wire.Yes, Text: string(c.User)}
	}
	return map[string]Verb{
		"why":    {May: Self, Fields: []string{"user", "door"}, Do: do},
		"status": {May: Anyone, Do: do},
		"accept": {Do: do},
	}
}

func TestWhoMayAskWhat(t *testing.T) {
	d, b := newDirectory(t)
	people(t, d)
	d.user(t, "twin1", 61020)
	d.user(t, "twin2", 61020)
	cfg := config(b)
	cfg.Verbs = echoVerbs()
	path, _ := start(t, cfg)
	refused := wire.ReasonCaller
	for _, c := range []struct {
		uid     int
		request string
		outcome wire.Outcome
		reason  string
	}{
		{0, "keys user=alice", wire.Yes, ""},
		{0, "why user=alice", wire.Yes, ""},
		{0, "status", wire.Yes, ""},
		{0, "accept", wire.Yes, ""},
		{keysUID, "keys user=alice", wire.Yes, ""},
		{keysUID, "keys user=mallory", wire.No, "no-key"},
		{keysUID, "why user=alice", wire.Unknown, refused},
		{keysUID, "status", wire.Yes, ""},
		{keysUID, "accept", wire.Unknown, refused},
		{aliceUID, "keys user=alice", wire.Yes, ""},
		{aliceUID, "keys user=bob", wire.Unknown, refused},
		{aliceUID, "keys user=Alice", wire.Unknown, refused},
		{aliceUID, "keys user=", wire.Unknown, refused},
		{aliceUID, "keys", wire.Unknown, refused},
		{aliceUID, "why user=alice", wire.Yes, ""},
		{aliceUID, "why user=alice door=keys", wire.Yes, ""},
		{aliceUID, "why user=bob", wire.Unknown, refused},
		{aliceUID, "why door=keys", wire.Unknown, refused},
		{aliceUID, "why user=alice target=x", wire.Unknown, wire.ReasonMalformed},
		{aliceUID, "status", wire.Yes, ""},
		{aliceUID, "accept", wire.Unknown, refused},
		{aliceUID, "accept user=alice", wire.Unknown, wire.ReasonMalformed},
		{aliceUID, "reboot", wire.Unknown, wire.ReasonVerb},
		{nobodyUID, "keys user=alice", wire.Unknown, refused},
		{nobodyUID, "keys user=", wire.Unknown, refused},
		{nobodyUID, "why user=", wire.Unknown, refused},
		{nobodyUID, "status", wire.Yes, ""},
		{61020, "keys user=twin1", wire.Unknown, refused},
		{61020, "why user=twin2", wire.Unknown, refused},
	} {
		conn := dialAs(t, path, c.uid)
		if _, err := io.WriteString(conn, "1 "+c.request+"\n"); err != nil {
			t.Fatal(err)
		}
		a, err := wire.ReadAnswer(conn)
		if err != nil || a.Outcome != c.outcome || a.Reason != c.reason {
			t.Errorf("%d asks %s: %+v, %v", c.uid, c.request, a, err)
		}
		if c.outcome == wire.Yes && c.uid == aliceUID && !strings.HasPrefix(c.request, "keys") && a.Text != "alice" {
			t.Errorf("%d asks %s and is taken for %q", c.uid, c.request, a.Text)
		}
		conn.Close()
	}
	// Without a directory nobody has a name to be himself by.
	d.set(func(d *directory) { d.view.Snapshot = nil })
	if a := ask(t, dialAs(t, path, aliceUID), "why", "user", "alice"); a.Reason != refused {
		t.Errorf("%+v", a)
	}
}

// TestBadRequests: each is answered with "could not find out" and ends the
// connection.
func TestBadRequests(t *testing.T) {
	_, b := newDirectory(t)
	path, s := start(t, config(b))
	for text, reason := range map[string]string{
		"\n": "malformed", "keys user=alice\n": "malformed", "1 keys user=a user=b\n": "malformed", "\x00\xff\n": "malformed",
		"GET / HTTP/1.1\r\n": "malformed", "2 keys user=alice\n": "version", "1 status\n1 status\n": "malformed",
		"1 keys user=" + strings.Repeat("a", wire.MaxLine) + "\n": "malformed", strings.Repeat("x", 2*wire.MaxLine): "malformed",
	} {
		c := dial(t, path)
		go io.WriteString(c, text)
		a, err := wire.ReadAnswer(c)
		if err != nil || a.Outcome != wire.Unknown || a.Reason != reason || a.Body != nil {
			t.Errorf("%.40q: %+v, %v", text, a, err)
		}
		if reason == "version" && !strings.Contains(a.Text, "version 2 of the sekisho socket protocol and this program version 1") {
			t.Errorf("%q", a.Text)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || (err != io.EOF && !errors.Is(err, syscall.ECONNRESET)) {
			t.Errorf("%.40q: the connection was kept: %v", text, err)
		}
	}
	if got := s.Stats(); got.Malformed != 9 || got.Requests != 0 {
		t.Errorf("%+v", got)
	}
}

// ends waits for the server to close c.
func ends(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
}

// TestDeadlines: the times themselves are the gate's, and tested there. Here one of
// them is short and the other does not end while a test runs: a connection ends by
// the right one or not at all.
func TestDeadlines(t *testing.T) {
	_, b := newDirectory(t)
	const short = 300 * time.Millisecond
	serve := func(idle, request time.Duration) string {
		cfg := config(b)
		cfg.Idle, cfg.Request = idle, request
		cfg.Verbs = map[string]Verb{"big": {Do: func(context.Context, Caller, wire.Request) wire.Answer {
			return wire.Answer{Outcome: wire.Yes, Body: []string{strings.Repeat("x", wire.MaxBodyLine), strings.Repeat("y", wire.MaxBodyLine)}}
		}}}
		path, s := start(t, cfg)
		t.Cleanup(func() {
			for end := time.Now().Add(time.Minute); s.Stats().Open > 0; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%+v", s.Stats())
				}
			}
		})
		return path
	}
	idle, request := serve(short, time.Hour), serve(time.Hour, short)
	t.Run("silence", func(t *testing.T) {
		t.Parallel()
		begin := time.Now()
		if ends(t, dial(t, idle)); time.Since(begin) < short {
			t.Error(time.Since(begin))
		}
	})
	t.Run("silence after an answer", func(t *testing.T) {
		t.Parallel()
		for end := time.Now().Add(time.Minute); ; {
			begin := time.Now()
			c := dial(t, idle)
			if _, err := wire.Ask(c, wire.Request{Verb: "keys", Fields: []wire.Field{{Name: "user", Value: "alice"}}}); err != nil {
				if time.Since(begin) < short || time.Now().After(end) { // else we were too slow
					t.Fatal(err)
				}
				continue
			}
			if ends(t, c); time.Since(begin) < short {
				t.Error(time.Since(begin))
			}
			return
		}
	})
	t.Run("half a request", func(t *testing.T) {
		t.Parallel()
		c := dial(t, request)
		io.WriteString(c, "1 keys")
		ends(t, c)
	})
	// until writes text over and over until the server closes c.
	until := func(t *testing.T, c net.Conn, text string) {
		for {
			if _, err := io.WriteString(c, text); err != nil {
				if os.IsTimeout(err) {
					t.Error("the server does not close the connection")
				}
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	t.Run("byte by byte", func(t *testing.T) {
		t.Parallel()
		until(t, dial(t, request), "1")
	})
	t.Run("answers not taken", func(t *testing.T) {
		t.Parallel()
		until(t, dial(t, request), "1 big\n") // one request's answer fills the socket, and no second one is read
	})
}

// busy asks on a fresh connection and reports whether it was turned away.
func busy(t *testing.T, c net.Conn) bool {
	t.Helper()
	a, err := wire.Ask(c, wire.Request{Verb: "status"})
	if err != nil {
		t.Fatal(err)
	}
	return a.Reason == wire.ReasonBusy
}

// TestUsersCannotKeepSshdOut: neither one user nor all of them together.
func TestUsersCannotKeepSshdOut(t *testing.T) {
	_, b := newDirectory(t)
	cfg := config(b)
	cfg.MaxConns = 200
	cfg.Verbs = echoVerbs()
	path, s := start(t, cfg)
	fill := func(uid, want int) {
		t.Helper()
		got := 0
		for ; got < 150; got++ {
			if busy(t, dialAs(t, path, uid)) {
				break
			}
		}
		if got != want {
			t.Errorf("user %d got %d connections, want %d", uid, got, want)
		}
	}
	fill(aliceUID, perUID)
	fill(bobUID, 100-perUID)
	fill(nobodyUID, 0)
	if busy(t, dialAs(t, path, keysUID)) || busy(t, dial(t, path)) {
		t.Error("sshd or root was turned away")
	}
	if got := s.Stats(); got.Busy != 3 || got.Open != 102 {
		t.Errorf("%+v", got)
	}
}

func TestTwoThousandAtOnce(t *testing.T) {
	d, b := newDirectory(t)
	people(t, d)
	path, _ := start(t, config(b))
	var wg sync.WaitGroup
	var failed atomic.Int32
	open := make(chan struct{})
	for range 2000 {
		wg.Go(func() {
			c, err := net.Dial("unix", path)
			if err != nil {
				failed.Add(1)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(2 * time.Minute))
			<-open
			for range 3 {
				a, err := wire.Ask(c, wire.Request{Verb: "keys", Fields: []wire.Field{{Name: "user", Value: "alice"}}})
				if err != nil || a.Outcome != wire.Yes || len(a.Body) != 2 {
					failed.Add(1)
					return
				}
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	close(open)
	wg.Wait()
	if n := failed.Load(); n != 0 {
		t.Errorf("%d of 2000 failed", n)
	}
}

// TestShutdown: a verb at work learns of it, and its answer still gets through.
func TestShutdown(t *testing.T) {
	_, b := newDirectory(t)
	cfg := config(b)
	entered := make(chan struct{})
	cfg.Verbs = map[string]Verb{"slow": {Do: func(ctx context.Context, _ Caller, _ wire.Request) wire.Answer {
		close(entered)
		<-ctx.Done()
		return wire.Answer{Outcome: wire.No, Reason: "done", Text: ctx.Err().Error()}
	}}}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	slow, answer := dial(t, path), make(chan wire.Answer, 1)
	go func() {
		a, _ := wire.Ask(slow, wire.Request{Verb: "slow"})
		answer <- a
	}()
	<-entered
	cancel()
	if a := <-answer; a.Reason != "done" || a.Text != context.Canceled.Error() {
		t.Errorf("%+v", a)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestBadAnswer: what a verb says wrong never reaches the peer, and is never
// a yes.
func TestBadAnswer(t *testing.T) {
	_, b := newDirectory(t)
	cfg := config(b)
	cfg.Verbs = map[string]Verb{"bad": {Do: func(context.Context, Caller, wire.Request) wire.Answer {
		return wire.Answer{Outcome: wire.Yes, Body: []string{"two\nlines"}}
	}}}
	path, _ := start(t, cfg)
	c := dial(t, path)
	for range 2 {
		if a := ask(t, c, "bad"); a.Outcome != wire.Unknown || a.Reason != reasonAnswer || a.Body != nil {
			t.Errorf("%+v", a)
		}
	}
}

// benchmarks: client and server share the machine's cores.

func benchWorld(b *testing.B) (path, line string) {
	d, br := newDirectory(b)
	d.user(b, "alice", aliceUID, keyLine(b, "", "laptop"), keyLine(b, "", "phone"))
	d.rule(b, broker.RuleAttributes{Name: "people"})
	path, _ = start(b, config(br))
	r, err := wire.AppendRequest(nil, wire.Request{Verb: "keys", Fields: []wire.Field{{Name: "user", Value: "alice"},
		{Name: "fp", Value: key("laptop").Fingerprint()}, {Name: "type", Value: "ssh-ed25519"}, {Name: "key", Value: key("laptop").Base64()}}})
	if err != nil {
		b.Fatal(err)
	}
	return path, string(r)
}

func BenchmarkKeptConnections(b *testing.B) {
	path, line := benchWorld(b)
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("unix", path)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		buf := make([]byte, 4096)
		for pb.Next() {
			if _, err := io.WriteString(c, line); err != nil {
				b.Error(err)
				return
			}
			if n, err := c.Read(buf); err != nil || string(buf[:8]) != "1 yes 1\n" || buf[n-1] != '\n' {
				b.Errorf("%q %v", buf[:n], err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lookups/s")
}

func BenchmarkNewConnections(b *testing.B) {
	path, line := benchWorld(b)
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 4096)
		for pb.Next() {
			c, err := net.Dial("unix", path)
			if err != nil {
				b.Error(err)
				return
			}
			n := 0
			if _, err = io.WriteString(c, line); err == nil {
				n, err = c.Read(buf)
			}
			if err != nil || string(buf[:8]) != "1 yes 1\n" || buf[n-1] != '\n' {
				b.Errorf("%q %v", buf[:n], err)
				return
			}
			c.Close()
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lookups/s")
}
