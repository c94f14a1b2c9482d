package gate

import (
	"bytes"
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
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/sekisho/sekisho/testenv"
)

// The tests need root: callers of several users.
func TestMain(m *testing.M) { goleak.VerifyTestMain(testenv.Sandboxed(m)) }

const (
	aliceUID   = 61001
	bobUID     = 61002
	serviceUID = 61003 // of Config.Privileged
	carolUID   = 61004
)

// lockedBuffer is a log that several goroutines write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) lines(with string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, with) {
			n++
		}
	}
	return n
}

func config() (Config, *lockedBuffer) {
	log, out := logrus.New(), new(lockedBuffer)
	log.SetOutput(out)
	return Config{Max: 100, PerUID: 20, Privileged: []uint32{serviceUID}, Idle: 5 * time.Minute, Request: time.Minute,
		Busy: []byte("busy\n"), Log: logrus.NewEntry(log)}, out
}

// echo answers each byte with itself.
func echo(_ context.Context, c *Conn) {
	b := make([]byte, 1)
	for c.Next(false) {
		if _, err := c.Read(b); err != nil {
			return
		}
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// served is a Gate at work on a socket.
type served struct {
	*Gate
	path string
	stop func()     // does not wait
	done chan error // what Serve returns
}

func listen(t testing.TB) (net.Listener, string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{filepath.Dir(dir), dir, path} { // for other users
		if err := os.Chmod(name, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return l, path
}

func start(t testing.TB, c Config, h Handler) *served {
	t.Helper()
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	l, path := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	s := &served{g, path, cancel, make(chan error, 1)}
	go func() { s.done <- g.Serve(ctx, l, h) }()
	t.Cleanup(func() { s.ended(t, time.Minute) })
	return s
}

// ended stops s and fails when that takes longer than most.
func (s *served) ended(t testing.TB, most time.Duration) {
	t.Helper()
	s.stop()
	select {
	case err := <-s.done:
		if err != nil {
			t.Error(err)
		}
		s.done <- nil // for whoever asks again
	case <-time.After(most):
		t.Errorf("Serve has not returned after %v", most)
	}
	if n := s.Stats().Open; n != 0 {
		t.Errorf("%d connections are open after the end", n)
	}
}

func (s *served) dial(t testing.TB) net.Conn {
	t.Helper()
	return kept(t)(net.Dial("unix", s.path))
}

func (s *served) dialAs(t testing.TB, uid int) net.Conn {
	t.Helper()
	return kept(t)(testenv.DialAs(s.path, uid, uid, uid))
}

func kept(t testing.TB) func(net.Conn, error) net.Conn {
	return func(c net.Conn, err error) net.Conn {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(time.Minute))
		return c
	}
}

// welcome reports whether echo answers on c, or the caller was turned away.
func welcome(t testing.TB, c net.Conn) bool {
	t.Helper()
	c.Write([]byte("x")) // it may be closed already
	b := make([]byte, 5)
	n, err := io.ReadAtLeast(c, b, 1)
	if err != nil {
		t.Fatal(err)
	}
	if n > 1 && string(b[:n]) != "busy\n" {
		t.Fatalf("%q", b[:n])
	}
	return string(b[:n]) == "x"
}

// ends waits for the gate to close c.
func ends(t testing.TB, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func TestConfig(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"max": func(c *Config) { c.Max = 0 }, "per uid": func(c *Config) { c.PerUID = 0 }, "idle": func(c *Config) { c.Idle = 0 },
		"request": func(c *Config) { c.Request = -1 }, "log": func(c *Config) { c.Log = nil },
		"busy": func(c *Config) { c.Busy = make([]byte, maxBusy+1) },
	} {
		c, _ := config()
		spoil(&c)
		if g, err := New(c); err == nil || g != nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestPeer: the effective ids at connect(2) count.
func TestPeer(t *testing.T) {
	peers := make(chan Peer, 1)
	c, _ := config()
	s := start(t, c, func(_ context.Context, c *Conn) { peers <- c.Peer })
	s.dial(t)
	if got, want := <-peers, (Peer{0, 0, int32(os.Getpid())}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	kept(t)(testenv.DialAs(s.path, bobUID, aliceUID, bobUID))
	if got, want := <-peers, (Peer{aliceUID, 0, int32(os.Getpid())}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	// A program that is setuid root, started by alice.
	kept(t)(testenv.DialAs(s.path, aliceUID, 0, 0))
	if got := <-peers; got.UID != 0 {
		t.Errorf("%+v", got)
	}
}

// TestRoom: neither one user nor all together keep root and the privileged out,
// and places come back.
func TestRoom(t *testing.T) {
	for _, max := range []int{60, 61} {
		c, _ := config()
		c.Max = max
		half := (max + 1) / 2
		s := start(t, c, echo)
		fill := func(uid, want int) (open []net.Conn) {
			t.Helper()
			for len(open) <= want {
				c := s.dialAs(t, uid)
				if !welcome(t, c) {
					break
				}
				open = append(open, c)
			}
			if len(open) != want {
				t.Errorf("of %d, user %d got %d, want %d", max, uid, len(open), want)
			}
			return open
		}
		alice := fill(aliceUID, 20)
		fill(bobUID, half-20)
		fill(carolUID, 0)
		service := fill(serviceUID, max-half)
		fill(0, 0)
		if got := s.Stats(); got.Open != max || got.Busy != 5 {
			t.Errorf("%+v", got)
		}
		service[0].Close()
		eventually(t, "the place of a closed connection stays taken", func() bool { return welcome(t, s.dial(t)) })
		alice[0].Close()
		alice[1].Close()
		eventually(t, "alice's places stay taken", func() bool { return s.Stats().Open == max-2 })
		fill(carolUID, 2)
		s.ended(t, time.Minute)
		if len(s.byUID) != 0 || s.plain != 0 {
			t.Errorf("still counted: %v, %d", s.byUID, s.plain)
		}
	}
}

// TestTurnedAwayInSilence: who has no room and says nothing is told at once,
// and without words for it he is closed.
func TestTurnedAwayInSilence(t *testing.T) {
	for _, busy := range []string{"busy\n", ""} {
		c, _ := config()
		c.Max, c.Busy = 1, []byte(busy)
		s := start(t, c, echo)
		if !welcome(t, s.dial(t)) {
			t.Fatal("turned away too early")
		}
		// Before any of the times for a connection is over: see kept and config.
		if said, err := io.ReadAll(s.dial(t)); err != nil || string(said) != busy {
			t.Errorf("%q, %v", said, err)
		}
		if got := s.Stats(); got != (Stats{Open: 1, Busy: 1}) {
			t.Errorf("%+v", got)
		}
	}
}

// TestListenerFails: a listener closed by others is an error, and ends the
// connections it gave.
func TestListenerFails(t *testing.T) {
	c, _ := config()
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	l, path := listen(t)
	done := make(chan error, 1)
	go func() { done <- g.Serve(t.Context(), l, echo) }()
	conn := kept(t)(net.Dial("unix", path))
	if !welcome(t, conn) {
		t.Fatal("turned away")
	}
	l.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
	ends(t, conn) // and not because it was idle: see config
}

// TestNotUnix: where the kernel cannot say who calls, nobody is served.
func TestNotUnix(t *testing.T) {
	c, log := config()
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var handled atomic.Bool
	go func() { done <- g.Serve(ctx, l, func(context.Context, *Conn) { handled.Store(true) }) }()
	conn := kept(t)(net.Dial("tcp", l.Addr().String()))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("something was said")
	}
	cancel()
	if err := <-done; err != nil || handled.Load() || log.lines("who is calling") != 1 {
		t.Errorf("%v, handled: %v, log: %s", err, handled.Load(), log.b.String())
	}
}

// TestNoDescriptors: with no file descriptor left what is open goes on, and who
// comes is served as soon as there is one.
func TestNoDescriptors(t *testing.T) {
	c, log := config()
	s := start(t, c, echo)
	open := s.dial(t)
	if !welcome(t, open) {
		t.Fatal("turned away")
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	late := os.NewFile(uintptr(fd), s.path)
	defer late.Close()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	var taken []int
	restore := sync.OnceFunc(func() {
		for _, fd := range taken {
			syscall.Close(fd)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	})
	defer restore()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 200, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		var n int
		if n, err = syscall.Dup(fd); err == nil {
			taken = append(taken, n)
		}
	}
	if err != syscall.EMFILE {
		t.Fatal(err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: s.path}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log does not tell", func() bool { return log.lines("LimitNOFILE") == 1 })
	if !welcome(t, open) {
		t.Error("an open connection was not answered")
	}
	restore()
	conn, err := net.FileConn(late)
	if !welcome(t, kept(t)(conn, err)) {
		t.Error("turned away")
	}
}

// noListener fails each accept until it is closed.
type noListener struct {
	err    error
	tries  atomic.Int64
	closed atomic.Bool
}

func (l *noListener) Accept() (net.Conn, error) { l.tries.Add(1); return nil, l.err }
func (l *noListener) Close() error              { l.closed.Store(true); return nil }
func (l *noListener) Addr() net.Addr            { return nil }

// TestShortage: a long one is neither a busy loop nor a flood of the log, and
// the end is not kept waiting.
func TestShortage(t *testing.T) {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		synctest.Test(t, func(t *testing.T) {
			c, log := config()
			g, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			l := &noListener{err: &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", e)}}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- g.Serve(ctx, l, echo) }()
			time.Sleep(35 * time.Second)
			cancel()
			synctest.Wait()
			select {
			case err := <-done:
				if err != nil || !l.closed.Load() {
					t.Errorf("%v: %v", e, err)
				}
			default:
				t.Fatalf("%v: Serve waits", e)
			}
			if n := l.tries.Load(); n < 300 || n > 400 {
				t.Errorf("%v: %d tries", e, n)
			}
			if n := log.lines("LimitNOFILE"); n != 4 {
				t.Errorf("%v: %d lines", e, n)
			}
		})
	}
}

// BenchmarkTurnAway: what it costs to have one too many, client included.
func BenchmarkTurnAway(b *testing.B) {
	c, _ := config()
	c.Max = 1
	s := start(b, c, echo)
	if !welcome(b, s.dial(b)) {
		b.Fatal("turned away too early")
	}
	buf := make([]byte, 16)
	for b.Loop() {
		c, err := net.Dial("unix", s.path)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "busy\n" {
			b.Fatalf("%q, %v", buf[:n], err)
		}
		c.Close()
	}
}
