package gate

import (
	"context"
	"io"
	"net"
	"testing"
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
// single write is taken in time, and tells how long that was.
func sip(c net.Conn) time.Duration {
	begin, buf := time.Now(), make([]byte, 64<<10)
	for {
		if _, err := c.Read(buf); err != nil {
			return time.Since(begin)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestDeadlines(t *testing.T) {
	const idle, request = 1500 * time.Millisecond, 300 * time.Millisecond
	c, _ := config()
	c.Idle, c.Request = idle, request
	s := start(t, c, lines)
	for name, test := range map[string]struct {
		do          func(t *testing.T, c net.Conn) time.Duration
		least, most time.Duration
	}{
		"silence": {func(t *testing.T, c net.Conn) time.Duration { return ends(t, c) }, idle, idle},
		"silence after an answer": {func(t *testing.T, c net.Conn) time.Duration {
			asked(t, c)
			return ends(t, c)
		}, idle, idle},
		"requests for longer than one may take": {func(t *testing.T, c net.Conn) time.Duration {
			for begin := time.Now(); time.Since(begin) < (answerWrites+1)*request; time.Sleep(request / 2) {
				asked(t, c)
			}
			return ends(t, c)
		}, idle - request/2, idle - request/2},
		"half a request": {func(t *testing.T, c net.Conn) time.Duration {
			send(t, c, "ha")
			return ends(t, c)
		}, request, request},
		"half a request behind another": {func(t *testing.T, c net.Conn) time.Duration {
			send(t, c, "x\nha")
			return ends(t, c)
		}, request, request},
		"byte by byte": {func(t *testing.T, c net.Conn) time.Duration {
			defer drip(c)()
			return ends(t, c)
		}, request, request},
		"byte by byte after an answer": {func(t *testing.T, c net.Conn) time.Duration {
			asked(t, c)
			defer drip(c)()
			return ends(t, c)
		}, request, request},
		"an answer not taken": {func(t *testing.T, c net.Conn) time.Duration {
			begin := time.Now()
			send(t, c, "big\n")
			drip(c)()
			return time.Since(begin)
		}, request, request},
		"an answer taken slowly": {func(t *testing.T, c net.Conn) time.Duration {
			send(t, c, "long\n")
			return sip(c)
		}, answerWrites * request, answerWrites * request},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// A slow machine may be late, never early.
			if d := test.do(t, s.dial(t)); d < test.least-20*time.Millisecond || d > test.most+700*time.Millisecond {
				t.Errorf("it ended after %v, want %v", d, test.least)
			}
		})
	}
}

// TestStop: waits end at once, a request under way is still answered, and Serve
// returns after the last connection.
func TestStop(t *testing.T) {
	c, _ := config()
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
		if d := ends(t, c); d > time.Second {
			t.Errorf("the %s connection held on for %v", name, d)
		}
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
	s.ended(t, 5*time.Second)
	if _, err := net.Dial("unix", s.path); err == nil {
		t.Error("the socket still answers")
	}
}

// TestStopIsNotHeldUp: not by somebody who keeps asking, nor by one who takes
// a long answer slowly.
func TestStopIsNotHeldUp(t *testing.T) {
	c, _ := config()
	c.Request = time.Second
	s := start(t, c, lines)
	sipped, asking := make(chan time.Duration, 1), make(chan struct{})
	long, many := s.dial(t), s.dial(t)
	send(t, long, "long\n")
	go func() { sipped <- sip(long) }()
	go func() {
		defer close(asking)
		go io.Copy(io.Discard, many)
		for {
			if _, err := io.WriteString(many, "x\nx\nx\nx\nx\nx\nx\nx\nx\nx\n"); err != nil {
				return
			}
		}
	}()
	time.Sleep(100 * time.Millisecond)
	s.ended(t, 3*time.Second)
	<-asking
	if d := <-sipped; d < 600*time.Millisecond {
		t.Errorf("a long answer was cut off after %v", d)
	}
}

// TestTwoListeners share the limits, and the end of one leaves the other's
// connections alone.
func TestTwoListeners(t *testing.T) {
	c, _ := config()
	c.Max = 2
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
	if d := ends(t, two); d > time.Second {
		t.Error(d)
	}
	if !welcome(t, one) {
		t.Error("the other listener's connection ended")
	}
}
