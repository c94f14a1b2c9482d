package moduletest

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/wire"
)

// rawDoor has f handle each connection; one after the other.
func rawDoor(t *testing.T, f func(net.Conn)) *door {
	t.Helper()
	d := newDoorFolder(t)
	l, err := net.Listen("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(2 * time.Minute))
			f(c)
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); done.Wait() })
	return d
}

// newDoorFolder is a door that nobody has opened.
func newDoorFolder(t *testing.T) *door {
	t.Helper()
	dir := filepath.Join(short(t), "run")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return &door{dir: dir, path: filepath.Join(dir, "pam.sock")}
}

func request(c net.Conn) { wire.ReadRequest(c, nil) }

// last is the last line.
func last(lines []string) string { return lines[len(lines)-1] }

// An answer that is not whole is no answer, wherever it ends.
func TestCutAnswers(t *testing.T) { each(t, cutAnswers) }

func cutAnswers(t *testing.T, v variant) {
	for _, answer := range []string{
		"1 yes 2 text=Hello%20alice.\nlogin " + token + "\ninfo Welcome.\n",
		"1 no 0 reason=wrong-password text=no\n",
		"1 no 2 reason=prompt\npassword P: \ninfo i\n",
	} {
		var n atomic.Int64
		d := rawDoor(t, func(c net.Conn) {
			request(c)
			io.WriteString(c, answer[:n.Load()])
		})
		dir := v.stack(t, d, every)
		for i := range answer {
			n.Store(int64(i))
			if got := v.start(t, dir, "reply=x", "auth", "env"); last(got) != rc("auth", unavail) {
				t.Fatalf("%q: %q", answer[:i], got)
			}
		}
	}
	// The same while its prompts are answered, and in a request's stead.
	d := rawDoor(t, func(c net.Conn) { request(c); io.WriteString(c, "1 no 1 reason=prompt\nsecret s\n") })
	dir := v.stack(t, d, every)
	wants(t, v.start(t, dir, "reply=x", "auth"), "batch 1", "msg 1 s", rc("auth", unavail))
	d = rawDoor(t, func(net.Conn) {})
	dir = v.stack(t, d, every)
	wants(t, v.start(t, dir, "auth", "acct", "open", "close", "chauthtok"), rc("auth", unavail), rc("acct", unavail), rc("open", unavail),
		rc("close", unavail), rc("chauthtok", tryAgain))
}

func TestUnreadableAnswers(t *testing.T) { each(t, unreadable) }

func unreadable(t *testing.T, v variant) {
	var said atomic.Value
	d := rawDoor(t, func(c net.Conn) { request(c); io.WriteString(c, said.Load().(string)) })
	dir := v.stack(t, d, every)
	for _, answer := range []string{
		"\n", " \n", "1\n", "1 yes\n", "1 yes \n", "yes 0\n", "1 YES 0\n", "1 yes 00\n", "1 yes 01\n", "1 yes -1\n", "1 yes 0 \n", " 1 yes 0\n",
		"1  yes 0\n", "1 yes  0\n", "1 yes 0\r\n", "1 yes 0\x00\n", "1 yes 0\n\n", "1 yes 0\n1 yes 0\n", "1 yes 0\nx", "1 yes 0 x\n",
		"2 yes 0\n", "0 yes 0\n", "01 yes 0\n", "100000 yes 0\n", "99999 yes 0\n", "one yes 0\n", "1 maybe 0\n", "1 yes 0 reason=\n", "1 yes 0 reason=A\n",
		"1 yes 0 reason=a reason=b\n", "1 yes 0 text=\n", "1 yes 0 text=a reason=b\n", "1 yes 0 text=a text=b\n", "1 yes 0 text=%41\n",
		"1 yes 0 text=%0a\n", "1 yes 0 text=%0A\n", "1 yes 0 text=%\n", "1 yes 0 text=%2\n", "1 yes 0 text=\xc3\xa9\n", "1 yes 0 text=%7F\n", "1 yes 0 text=%00\n",
		"1 yes 0 reason=" + strings.Repeat("r", 65) + "\n", "1 yes 0 text=" + strings.Repeat("t", wire.MaxText+1) + "\n",
		"1 yes 16385\n", "1 yes 99999999999999999999\n", "1 yes 1\ninfo \t\n", "1 yes 1\n\x7f\n",
		"1 yes 0" + strings.Repeat(" ", wire.MaxLine) + "\n", strings.Repeat("1", wire.MaxLine) + "\n",
		"1 yes 1\ninfo " + strings.Repeat("x", wire.MaxBodyLine) + "\n",
		"1 yes 100\n" + strings.Repeat("info "+strings.Repeat("x", 20000)+"\n", 100),
		strings.Repeat("x", 2<<20), strings.Repeat("\n", 100),
	} {
		said.Store(answer)
		if got := v.start(t, dir, "auth", "env"); last(got) != rc("auth", unavail) {
			t.Errorf("%.60q: %q", answer, got)
		}
		if _, err := wire.ParseAnswer([]byte(answer)); err == nil {
			t.Errorf("%.60q: package wire can read it", answer)
		}
	}
	// The longest that are good.
	for _, answer := range []string{
		"1 yes 0 reason=" + strings.Repeat("r", 64) + " text=" + strings.Repeat("t", wire.MaxText) + "\n",
		"1 yes 1\ninfo " + strings.Repeat("x", wire.MaxBodyLine-5) + "\n",
		"1 yes 16384\n" + strings.Repeat("info \n", 16384),
	} {
		said.Store(answer)
		if got := v.start(t, dir, "auth:s"); last(got) != rc("auth", success) {
			t.Errorf("%.60q: %q", answer, got)
		}
		if _, err := wire.ParseAnswer([]byte(answer)); err != nil {
			t.Errorf("%.60q: package wire: %v", answer, err)
		}
	}
}

// within runs f and checks how long it took.
func within(t *testing.T, least, most time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took < least || took > most {
		t.Errorf("it took %v, want %v to %v", took, least, most)
	}
}

// The module waits for an answer as long as timeout says, however it is withheld,
// and signals do not lengthen that.
func TestDeadline(t *testing.T) { each(t, deadline) }

func deadline(t *testing.T, v variant) {
	for name, f := range map[string]func(c net.Conn, over <-chan struct{}){
		"silence": func(c net.Conn, over <-chan struct{}) {
			request(c)
			<-over
		},
		"drops": func(c net.Conn, _ <-chan struct{}) {
			request(c)
			for range 1000 {
				if _, err := io.WriteString(c, "1"); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		},
		"a long body in drops": func(c net.Conn, _ <-chan struct{}) {
			request(c)
			io.WriteString(c, "1 yes 2000\n")
			for range 1000 {
				if _, err := io.WriteString(c, "info x\n"); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		},
		"nobody reads": func(_ net.Conn, over <-chan struct{}) { <-over },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			over := make(chan struct{})
			d := rawDoor(t, func(c net.Conn) { f(c, over) })
			t.Cleanup(func() { close(over) }) // before the door waits for f
			dir := v.stack(t, d, withOptions("timeout=1"))
			for _, signals := range []string{"itimer=0", "itimer=300"} {
				within(t, 900*time.Millisecond, 20*time.Second, func() {
					if got := v.start(t, dir, signals, "auth"); last(got) != rc("auth", unavail) {
						t.Errorf("%q", got)
					}
				})
			}
		})
	}
}

// What a person takes for his reply does not count, and each answer has the whole
// time; a signal in between breaks nothing.
func TestSlowAnswersInTime(t *testing.T) { each(t, slowAnswers) }

func slowAnswers(t *testing.T, v variant) {
	d := rawDoor(t, func(c net.Conn) {
		for _, a := range []string{"1 no 1 reason=prompt\nsecret a\n", "1 no 1 reason=prompt\nsecret b\n", "1 yes 0\n"} {
			request(c)
			for i := range a {
				time.Sleep(2 * time.Second / time.Duration(len(a)))
				io.WriteString(c, a[i:i+1])
			}
		}
	})
	dir := v.stack(t, d, withOptions("timeout=5"))
	within(t, 5*time.Second, 40*time.Second, func() {
		wants(t, v.start(t, dir, "itimer=300", "reply=x", "reply=y", "auth"), "batch 1", "msg 1 a", "batch 1", "msg 1 b", rc("auth", success))
	})
}

// crowded makes a listener whose queue is full.
func crowded(t *testing.T, path string) (listener int, leave func()) {
	t.Helper()
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(l, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Listen(l, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(l) })
	var crowd []int
	leave = func() {
		for _, c := range crowd {
			unix.Close(c)
		}
		crowd = nil
	}
	t.Cleanup(leave)
	for {
		c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		crowd = append(crowd, c)
		if err := unix.Connect(c, &unix.SockaddrUnix{Name: path}); err == unix.EAGAIN {
			return l, leave
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullBacklog(t *testing.T) { each(t, fullBacklog) }

func fullBacklog(t *testing.T, v variant) {
	d := newDoorFolder(t)
	l, leave := crowded(t, d.path)
	dir := v.stack(t, d, withOptions("timeout=1"))
	for _, signals := range []string{"itimer=0", "itimer=300"} {
		within(t, 900*time.Millisecond, 20*time.Second, func() { wants(t, v.start(t, dir, signals, "auth"), rc("auth", unavail)) })
	}
	// Once there is room, it is served.
	dir = v.stack(t, d, withOptions("timeout=60"))
	var served sync.WaitGroup
	served.Go(func() {
		time.Sleep(500 * time.Millisecond)
		leave()
		for {
			c, _, err := unix.Accept(l)
			if err != nil {
				return
			}
			f := os.NewFile(uintptr(c), "conn")
			r, err := wire.ReadRequest(f, nil)
			if err == nil && r.Verb == "auth" {
				f.WriteString("1 yes 0\n")
				f.Close()
				return
			}
			f.Close()
		}
	})
	within(t, 400*time.Millisecond, 40*time.Second, func() { wants(t, v.start(t, dir, "itimer=300", "auth"), rc("auth", success)) })
	served.Wait()
}

func TestNobodyListens(t *testing.T) { each(t, nobodyListens) }

func nobodyListens(t *testing.T, v variant) {
	d := newDoorFolder(t)
	dir := v.stack(t, d, every)
	all := []string{"setcred:e", "auth", "acct", "open", "close", "chauthtok"}
	codes := []string{rc("setcred", success), rc("auth", unavail), rc("acct", unavail), rc("open", unavail), rc("close", unavail), rc("chauthtok", tryAgain)}
	within(t, 0, 10*time.Second, func() { wants(t, v.start(t, dir, all...), codes...) })
	l, err := net.Listen("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	within(t, 0, 10*time.Second, func() { wants(t, v.start(t, dir, all...), codes...) })
}

// A server that turns the connection away unread says why in the log, and nothing
// it says then is a yes.
func TestTurnedAway(t *testing.T) { each(t, turnedAway) }

func turnedAway(t *testing.T, v variant) {
	d := rawDoor(t, func(c net.Conn) {
		io.WriteString(c, "1 unknown 0 reason=busy text=too%20many\n")
		c.(*net.UnixConn).CloseRead() // so that writing to it fails
		time.Sleep(50 * time.Millisecond)
	})
	dir := v.stack(t, d, every)
	busy := false
	for range 20 {
		got := v.start(t, dir, "logs", "sigpipe=dfl", "auth:s")
		if last(got) != rc("auth", unavail) {
			t.Errorf("%q", got)
		}
		busy = busy || strings.Contains(strings.Join(got, "\n"), "too many")
	}
	if !busy {
		t.Error("the log never said why")
	}
}
