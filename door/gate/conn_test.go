package gate

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// lines answers each line with "ok", or what the line asks for; what is read
// behind a line's end belongs to the next.
func lines(_ context.Context, c *Conn) {
	var buf []byte
	chunk := make([]byte, 64)
	for c.Next(len(buf) > 0) {
		end := -1
		for end < 0 {
			for i, b := range buf {
				if b == '\n' {
					end = i
					break
				}
			}
			if end < 0 {
				n, err := c.Read(chunk)
				if buf = append(buf, chunk[:n]...); n == 0 && err != nil {
					return
				}
			}
		}
		line := string(buf[:end])
		buf = buf[end+1:]
		size, times := 2, 1
		switch line {
		case "big":
			size = 4 << 20
		case "long":
			size, times = 32<<10, 1<<30
		}
		for range times {
			if _, err := c.Write(make([]byte, size)); err != nil {
				return
			}
		}
	}
}

func send(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

// asked sends one line and takes the short answer.
func asked(t testing.TB, c net.Conn) {
	t.Helper()
	send(t, c, "x\n")
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
}

// drip sends a byte each 10 ms until c is closed. Call the result to wait.
func drip(c net.Conn) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := io.WriteString(c, "x"); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return func() { <-done }
}

// sip takes some of an answer each 20 ms until c is closed, so that every
// single write is taken in time.
func sip(c net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// pipe is a connection in memory, for tests in which the clock stands still
// while anybody works.
type pipe struct{ net.Conn }

func (pipe) SyscallConn() (syscall.RawConn, error) { return nil, errors.ErrUnsupported }

// piped has a connection in memory handled as Serve does it. stop is the end of
// Serve's context.
func piped(t *testing.T, c Config, h Handler) (client net.Conn, stop func()) {
	t.Helper()
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	client, server := net.Pipe()
	conn := &Conn{g: g, ctx: ctx, nc: pipe{server}}
	if !g.enter(conn) {
		t.Fatal("turned away")
	}
	go func() {
		defer g.leave(conn)
		h(ctx, conn)
	}()
	t.Cleanup(func() { client.Close() })
	return client, func() { cancel(); g.hurry(ctx) }
}

// TestDeadlines: each is exact, but for the 20 ms that sip sleeps.
func TestDeadlines(t *testing.T) {
	const idle, request = 1500 * time.Millisecond, 300 * time.Millisecond
	for name, test := range map[string]struct {
		do   func(t *testing.T, c net.Conn) (begin time.Time) // returns when c is closed
		want time.Duration
	}{
		"silence": {func(t *testing.T, c net.Conn) time.Time {
			begin := time.Now()
			ends(t, c)
			return begin
		}, idle},
		"silence after an answer": {func(t *testing.T, c net.Conn) time.Time {
			time.Sleep(request)
			asked(t, c)
			begin := time.Now()
			ends(t, c)
			return begin
		}, idle},
		"requests for longer than one may take": {func(t *testing.T, c net.Conn) time.Time {
			for range 2 * (answerWrites + 1) {
				asked(t, c)
				time.Sleep(request / 2)
			}
			begin := time.Now()
			ends(t, c)
			return begin
		}, idle - request/2},
		"half a request": {func(t *testing.T, c net.Conn) time.Time {
			send(t, c, "ha")
			begin := time.Now()
			ends(t, c)
			return begin
		}, request},
		"half a request behind another": {func(t *testing.T, c net.Conn) time.Time {
			send(t, c, "x\nha")
			begin := time.Now()
			ends(t, c)
			return begin
		}, request},
		"byte by byte": {func(t *testing.T, c net.Conn) time.Time {
			begin := time.Now()
			defer drip(c)()
			ends(t, c)
			return begin
		}, request},
		"byte by byte after an answer": {func(t *testing.T, c net.Conn) time.Time {
			asked(t, c)
			begin := time.Now()
			defer drip(c)()
			ends(t, c)
			return begin
		}, request},
		"an answer not taken": {func(t *testing.T, c net.Conn) time.Time {
			begin := time.Now()
			send(t, c, "big\n")
			drip(c)()
			return begin
		}, request},
		"an answer taken slowly": {func(t *testing.T, c net.Conn) time.Time {
			begin := time.Now()
			send(t, c, "long\n")
			sip(c)
			return begin
		}, answerWrites * request},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg, _ := config()
				cfg.Idle, cfg.Request = idle, request
				c, _ := piped(t, cfg, lines)
				begin := test.do(t, c)
				if d := time.Since(begin); d < test.want || d > test.want+20*time.Millisecond {
					t.Errorf("it ended after %v, want %v", d, test.want)
				}
			})
		})
	}
}

// TestRealDeadlines: the kernel's sockets keep them too. Only one of the two times
// is short, so that a connection ends by that or not at all.
func TestRealDeadlines(t *testing.T) {
	const short = 200 * time.Millisecond
	for name, test := range map[string]struct {
		idle, request time.Duration
		says          string
	}{
		"silence":             {short, time.Hour, ""},
		"half a request":      {time.Hour, short, "ha"},
		"an answer not taken": {time.Hour, short, "big\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, _ := config()
			cfg.Idle, cfg.Request = test.idle, test.request
			s := start(t, cfg, lines)
			begin := time.Now()
			c := s.dial(t)
			send(t, c, test.says)
			eventually(t, "it does not begin", func() bool { return s.Stats().Open == 1 || time.Since(begin) >= short })
			eventually(t, "it does not end", func() bool { return s.Stats().Open == 0 })
			if d := time.Since(begin); d < short {
				t.Errorf("it ended after %v", d)
			}
		})
	}
}

// TestStop: waits end at once, a request under way is still answered, and Serve
// returns after the last connection.
func TestStop(t *testing.T) {
	c, _ := config()
	c.Idle, c.Request = time.Hour, time.Hour // only the stop ends a wait
	entered, release := make(chan struct{}), make(chan struct{})
	s := start(t, c, func(ctx context.Context, c *Conn) {
		b := make([]byte, 4)
		for c.Next(false) {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			if b[0] == 'h' { // half a request
				if _, err := c.Read(b); err == nil {
					t.Error("a wait was not ended")
				}
				return
			}
			if b[0] == 's' {
				close(entered)
				<-ctx.Done()
				<-release
			}
			if _, err := c.Write(b[:n]); err != nil {
				return
			}
			if b[0] == 's' && c.Next(true) {
				t.Error("another request may begin")
			}
		}
	})
	fresh, idle, half, slow := s.dial(t), s.dial(t), s.dial(t), s.dial(t)
	if !welcome(t, idle) {
		t.Fatal("turned away")
	}
	send(t, half, "half")
	send(t, slow, "slow")
	<-entered
	eventually(t, "not all are let in", func() bool { return s.Stats().Open == 4 })
	s.stop()
	for name, c := range map[string]net.Conn{"fresh": fresh, "idle": idle, "half": half} {
		t.Log(name)
		ends(t, c)
	}
	select {
	case err := <-s.done:
		t.Fatalf("Serve left a request behind: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if b, err := io.ReadAll(slow); err != nil || string(b) != "slow" {
		t.Errorf("%q, %v", b, err)
	}
	s.ended(t, time.Minute)
	if _, err := net.Dial("unix", s.path); err == nil {
		t.Error("the socket still answers")
	}
}

// TestStopIsNotHeldUp by somebody who keeps asking.
func TestStopIsNotHeldUp(t *testing.T) {
	c, _ := config()
	c.Idle, c.Request = time.Hour, time.Hour
	s := start(t, c, lines)
	asking := make(chan struct{})
	many := s.dial(t)
	asked(t, many)
	go func() {
		defer close(asking)
		go io.Copy(io.Discard, many)
		for {
			if _, err := io.WriteString(many, "x\nx\nx\nx\nx\nx\nx\nx\nx\nx\n"); err != nil {
				return
			}
		}
	}()
	s.ended(t, time.Minute)
	<-asking
}

// TestStopDuringAnAnswer: one that is taken slowly may go on for as long as a
// write may take, and no longer.
func TestStopDuringAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := config()
		cfg.Request = time.Second
		c, stop := piped(t, cfg, lines)
		send(t, c, "long\n")
		over := make(chan struct{})
		go func() { defer close(over); sip(c) }()
		time.Sleep(90 * time.Millisecond) // between two sips
		begin := time.Now()
		stop()
		<-over
		if d := time.Since(begin); d < cfg.Request || d > cfg.Request+40*time.Millisecond {
			t.Errorf("it ended %v after the stop", d)
		}
	})
}

// TestTwoListeners share the limits, and the end of one leaves the other's
// connections alone.
func TestTwoListeners(t *testing.T) {
	c, _ := config()
	c.Max, c.Idle, c.Request = 2, time.Hour, time.Hour
	s := start(t, c, echo)
	l, path := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l, echo) }()
	one, two := s.dial(t), kept(t)(net.Dial("unix", path))
	if !welcome(t, one) || !welcome(t, two) {
		t.Fatal("turned away")
	}
	if welcome(t, s.dial(t)) {
		t.Error("one too many was let in")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	ends(t, two)
	if !welcome(t, one) {
		t.Error("the other listener's connection ended")
	}
}
