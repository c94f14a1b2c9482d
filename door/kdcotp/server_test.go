package kdcotp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/sekisho/sekisho/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// judge answers by what was typed, as a SignIn does.
type judge struct {
	calls, running, most atomic.Int32
	hold                 chan struct{} // "hold" waits for it, or for ctx
}

func (j *judge) signIn(ctx context.Context, r broker.Request, typed string) broker.Decision {
	j.calls.Add(1)
	n := j.running.Add(1)
	defer j.running.Add(-1)
	for m := j.most.Load(); n > m && !j.most.CompareAndSwap(m, n); m = j.most.Load() {
	}
	if r.Door != Door || !r.Remote || r.From.IsValid() || r.Target.Host != "dir1" {
		return broker.Decision{Outcome: broker.Unknown}
	}
	switch typed {
	case "hold":
		select {
		case <-j.hold:
		case <-ctx.Done():
			return broker.Decision{Outcome: broker.Unknown}
		}
		return broker.Decision{Outcome: broker.Allow}
	case "yes":
		return broker.Decision{Outcome: broker.Allow}
	case "unknown":
		return broker.Decision{Outcome: broker.Unknown}
	case "more":
		return broker.Decision{Outcome: broker.NeedProof}
	}
	return broker.Decision{}
}

type door struct {
	*judge
	path string
	log  *buffer
	stop func()
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) String() string              { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

func start(t testing.TB, change func(*Config)) *door {
	t.Helper()
	d := &door{judge: &judge{hold: make(chan struct{})}, path: filepath.Join(t.TempDir(), "otp"), log: new(buffer)}
	log := logrus.New()
	log.SetOutput(d.log)
	cfg := Config{SignIn: d.signIn, Host: "dir1", Callers: []uint32{uint32(os.Getuid())}, Log: logrus.NewEntry(log)}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(d.stop)
	return d
}

func (d *door) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// answer reads one answer and checks that it is to one of the requests.
func answer(t testing.TB, c net.Conn, asked map[byte][16]byte) (id, code byte) {
	t.Helper()
	b := make([]byte, headerSize)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	if want := (request{id: b[1], auth: asked[b[1]]}).reply(b[0]); !bytes.Equal(b, want) {
		t.Fatalf("% x, want % x", b, want)
	}
	return b[1], b[0]
}

// await waits for a condition.
func await(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// silent says that nothing comes for a while.
func silent(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !os.IsTimeout(err) {
		t.Errorf("%d bytes, %v", n, err)
	}
	c.SetReadDeadline(time.Now().Add(time.Minute))
}

// TestAnswers: yes, no and silence, on one connection, however the bytes are cut.
func TestAnswers(t *testing.T) {
	d := start(t, nil)
	c := d.dial(t)
	asked := map[byte][16]byte{}
	for i, x := range []struct {
		typed string
		want  byte
	}{{"yes", codeAccept}, {"no", codeReject}, {"more", codeReject}, {"unknown", 0}, {"yes", codeAccept}} {
		id := byte(i)
		asked[id] = randomAuth()
		p := packet(t, id, asked[id], "alice", x.typed)
		for _, b := range p {
			write(t, c, []byte{b})
		}
		if x.want == 0 {
			silent(t, c)
			continue
		}
		if got, code := answer(t, c, asked); got != id || code != x.want {
			t.Errorf("%s: %d", x.typed, code)
		}
	}
	if s := d.log.String(); strings.Contains(s, "yes") || strings.Contains(s, "unknown") {
		t.Errorf("the log tells what was typed: %s", s)
	}
}

// TestAtOnce: no request waits for another; answers come as they are found.
func TestAtOnce(t *testing.T) {
	d := start(t, nil)
	c := d.dial(t)
	asked := map[byte][16]byte{}
	var all []byte
	for id := range 200 {
		asked[byte(id)] = randomAuth()
		typed := "hold"
		if id%2 == 1 {
			typed = "no"
		}
		all = append(all, packet(t, byte(id), asked[byte(id)], "alice", typed)...)
	}
	write(t, c, all)
	for range 100 {
		if id, code := answer(t, c, asked); id%2 != 1 || code != codeReject {
			t.Fatalf("%d: %d", id, code)
		}
	}
	close(d.hold)
	for range 100 {
		if id, code := answer(t, c, asked); id%2 != 0 || code != codeAccept {
			t.Fatalf("%d: %d", id, code)
		}
	}
}

// TestDuplicates: a request that is sent again is judged once and answered again; one
// that got no answer is judged again; an identifier may be used anew.
func TestDuplicates(t *testing.T) {
	d := start(t, nil)
	c := d.dial(t)
	asked := map[byte][16]byte{5: randomAuth()}
	held := packet(t, 5, asked[5], "alice", "hold")
	for range 3 {
		write(t, c, held)
	}
	asked[6] = randomAuth() // what came before this has been read when this is answered
	write(t, c, packet(t, 6, asked[6], "alice", "no"))
	if id, _ := answer(t, c, asked); id != 6 {
		t.Fatalf("an answer to %d", id)
	}
	silent(t, c)
	close(d.hold)
	answer(t, c, asked)
	silent(t, c)
	write(t, c, held)
	if _, code := answer(t, c, asked); code != codeAccept || d.calls.Load() != 2 {
		t.Errorf("code %d, judged %d times", code, d.calls.Load())
	}
	// The same identifier and authenticator with another body is another request.
	write(t, c, packet(t, 5, asked[5], "bob", "no"))
	if _, code := answer(t, c, asked); code != codeReject {
		t.Error("bob has alice's answer")
	}
	asked[5] = randomAuth()
	lost := packet(t, 5, asked[5], "alice", "unknown")
	before := d.calls.Load()
	await(t, "it is not judged again", func() bool { // the first may not be over yet
		write(t, c, lost)
		silent(t, c)
		return d.calls.Load()-before >= 2
	})
}

// TestOverwritten: an answer to a request whose identifier was used anew goes to
// nobody.
func TestOverwritten(t *testing.T) {
	d := start(t, nil)
	c := d.dial(t)
	asked := map[byte][16]byte{5: randomAuth()}
	write(t, c, packet(t, 5, asked[5], "alice", "hold"))
	await(t, "it is not judged", func() bool { return d.running.Load() == 1 })
	asked[5] = randomAuth()
	write(t, c, packet(t, 5, asked[5], "alice", "no"))
	if _, code := answer(t, c, asked); code != codeReject {
		t.Error(code)
	}
	close(d.hold)
	silent(t, c)
}

// TestLimits: of too many requests some are not answered, and a slow one ends.
func TestLimits(t *testing.T) {
	d := start(t, func(c *Config) { c.Max, c.Limit = 3, 500*time.Millisecond })
	c := d.dial(t)
	asked := map[byte][16]byte{}
	for id := range 10 {
		asked[byte(id)] = randomAuth()
		write(t, c, packet(t, byte(id), asked[byte(id)], "alice", "hold"))
	}
	await(t, "not three are judged at once", func() bool { return d.most.Load() == 3 })
	silent(t, c)
	await(t, "a request is judged for ever", func() bool { return d.running.Load() == 0 })
	if n := d.most.Load(); n != 3 {
		t.Errorf("%d at once", n)
	}
	asked[1] = randomAuth()
	await(t, "nobody is answered after that", func() bool { // a turn may not be free yet
		write(t, c, packet(t, 1, asked[1], "alice", "yes"))
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, err := io.ReadFull(c, make([]byte, headerSize))
		return err == nil
	})
	if !strings.Contains(d.log.String(), "too many") {
		t.Error("nobody is told")
	}
}

// TestNonsense ends the connection that it came on.
func TestNonsense(t *testing.T) {
	d := start(t, nil)
	for name, b := range map[string][]byte{
		"a length of 3":     {1, 1, 0, 3},
		"a length of 65535": {1, 1, 255, 255},
		"http":              []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"status":            append([]byte{12, 1, 0, 20}, make([]byte, 16)...),
	} {
		c := d.dial(t)
		write(t, c, b)
		if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %q, %v", name, rest, err)
		}
	}
	if d.calls.Load() != 0 {
		t.Error("something of it was judged")
	}
}

// TestCallerGone: a KDC that dies has its requests ended, and one that comes again is
// served.
func TestCallerGone(t *testing.T) {
	d := start(t, func(c *Config) { c.Limit = time.Hour })
	c := d.dial(t)
	write(t, c, packet(t, 1, randomAuth(), "alice", "hold"))
	await(t, "it is not judged", func() bool { return d.running.Load() == 1 })
	c.Close()
	await(t, "a request is judged for somebody who has gone", func() bool { return d.running.Load() == 0 })
	c = d.dial(t)
	asked := map[byte][16]byte{1: randomAuth()}
	write(t, c, packet(t, 1, asked[1], "alice", "yes"))
	answer(t, c, asked)
}

// TestStop does not wait for requests.
func TestStop(t *testing.T) {
	d := start(t, func(c *Config) { c.Limit = time.Hour })
	c := d.dial(t)
	write(t, c, packet(t, 1, randomAuth(), "alice", "hold"))
	await(t, "it is not judged", func() bool { return d.running.Load() == 1 })
	d.stop() // returns long before the request's time is over
}

// TestOthers: nobody else is heard, root neither.
func TestOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root, to be somebody else")
	}
	const nobody = 65534
	d := start(t, func(c *Config) { c.Callers = []uint32{nobody} })
	c := d.dial(t)
	c.Write(packet(t, 1, randomAuth(), "alice", "yes")) // it may be closed already
	if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%q, %v", rest, err)
	}
	if d.calls.Load() != 0 || !strings.Contains(d.log.String(), "uid=0") {
		t.Errorf("judged %d; log: %s", d.calls.Load(), d.log)
	}
	// The uid that is named is heard, whatever else this process is.
	auth := randomAuth()
	f := os.NewFile(uintptr(dialAs(t, nobody, d.path)), d.path)
	defer f.Close()
	if _, err := f.Write(packet(t, 1, auth, "alice", "yes")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, headerSize)
	if _, err := io.ReadFull(f, b); err != nil || !bytes.Equal(b, (request{id: 1, auth: auth}).reply(codeAccept)) {
		t.Errorf("% x, %v", b, err)
	}
}

// dialAs connects as another user: one thread of this process is he for a moment.
func dialAs(t testing.TB, uid uintptr, path string) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const same = ^uintptr(0)
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, same, uid, same); e != 0 {
		t.Fatal(e)
	}
	err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, same, 0, same); e != 0 {
		panic(e) // never go on as somebody else
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestConfig(t *testing.T) {
	good := Config{SignIn: new(judge).signIn, Callers: []uint32{1}, Log: logrus.NewEntry(logrus.New())}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*Config){func(c *Config) { c.SignIn = nil }, func(c *Config) { c.Callers = nil },
		func(c *Config) { c.Log = nil }, func(c *Config) { c.Max = -1 }, func(c *Config) { c.Limit = -1 }} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}
