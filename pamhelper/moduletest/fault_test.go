package moduletest

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
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
			c.SetDeadline(time.Now().Add(20 * time.Second))
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
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	for name, f := range map[string]func(net.Conn){
		"silence": func(c net.Conn) {
			request(c)
			select {
			case <-stop:
			case <-time.After(5 * time.Second):
			}
		},
		"drops": func(c net.Conn) {
			request(c)
			for range 100 {
				if _, err := io.WriteString(c, "1"); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		},
		"a long body in drops": func(c net.Conn) {
			request(c)
			io.WriteString(c, "1 yes 1000\n")
			for range 100 {
				if _, err := io.WriteString(c, "info x\n"); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		},
		"nobody reads": func(c net.Conn) {
			select {
			case <-stop:
			case <-time.After(5 * time.Second):
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := rawDoor(t, f)
			dir := v.stack(t, d, withOptions("timeout=1"))
			for _, signals := range []string{"itimer=0", "itimer=300"} {
				within(t, 900*time.Millisecond, 3*time.Second, func() {
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
				time.Sleep(700 * time.Millisecond / time.Duration(len(a)))
				io.WriteString(c, a[i:i+1])
			}
		}
	})
	dir := v.stack(t, d, withOptions("timeout=1"))
	within(t, 2*time.Second, 6*time.Second, func() {
		wants(t, v.start(t, dir, "itimer=300", "reply=x", "reply=y", "auth"), "batch 1", "msg 1 a", "batch 1", "msg 1 b", rc("auth", success))
	})
}

// crowded makes a listener whose queue is full.
func crowded(t *testing.T, path string) int {
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
	for {
		c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(c) })
		if err := unix.Connect(c, &unix.SockaddrUnix{Name: path}); err == unix.EAGAIN {
			return l
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullBacklog(t *testing.T) { each(t, fullBacklog) }

func fullBacklog(t *testing.T, v variant) {
	d := newDoorFolder(t)
	l := crowded(t, d.path)
	dir := v.stack(t, d, withOptions("timeout=1"))
	for _, signals := range []string{"itimer=0", "itimer=300"} {
		within(t, 900*time.Millisecond, 3*time.Second, func() { wants(t, v.start(t, dir, signals, "auth"), rc("auth", unavail)) })
	}
	// Once there is room, it is served.
	dir = v.stack(t, d, withOptions("timeout=10"))
	var served sync.WaitGroup
	served.Go(func() {
		time.Sleep(500 * time.Millisecond)
		for {
			c, _, err := unix.Accept(l)
			if err != nil {
				return
			}
			f := os.NewFile(uintptr(c), "conn")
			r, err := wire.ReadRequest(deadlined(c, f), nil)
			if err == nil && r.Verb == "auth" {
				f.WriteString("1 yes 0\n")
				f.Close()
				return
			}
			f.Close()
		}
	})
	within(t, 400*time.Millisecond, 8*time.Second, func() { wants(t, v.start(t, dir, "itimer=300", "auth"), rc("auth", success)) })
	served.Wait()
}

// deadlined keeps the connections that crowd the queue, and say nothing, from
// being waited for.
func deadlined(fd int, f *os.File) io.Reader {
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200000})
	return f
}

func TestNobodyListens(t *testing.T) { each(t, nobodyListens) }

func nobodyListens(t *testing.T, v variant) {
	d := newDoorFolder(t)
	dir := v.stack(t, d, every)
	all := []string{"setcred:e", "auth", "acct", "open", "close", "chauthtok"}
	codes := []string{rc("setcred", success), rc("auth", unavail), rc("acct", unavail), rc("open", unavail), rc("close", unavail), rc("chauthtok", tryAgain)}
	within(t, 0, 3*time.Second, func() { wants(t, v.start(t, dir, all...), codes...) })
	l, err := net.Listen("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	within(t, 0, 3*time.Second, func() { wants(t, v.start(t, dir, all...), codes...) })
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

// SIGPIPE is not raised when the server stops reading, whatever the program does
// with that signal, and the program's ways are left alone.
func TestNoSIGPIPE(t *testing.T) { each(t, noSIGPIPE) }

func noSIGPIPE(t *testing.T, v variant) {
	d := rawDoor(t, func(c net.Conn) {
		request(c)
		c.(*net.UnixConn).CloseRead()
		io.WriteString(c, "1 no 1 reason=prompt\nsecret s\n")
		time.Sleep(300 * time.Millisecond)
	})
	dir := v.stack(t, d, every)
	for _, way := range []string{"dfl", "ign"} {
		got := v.start(t, dir, "umask=0027", "sigpipe="+way, "reply=x", "logs", "auth:s", "sigpipe?", "umask?")
		if want := "log 3 svc(svc:auth): "; len(got) != 6 || !strings.HasSuffix(got[2], "writing to sekishod: Broken pipe") {
			t.Errorf("it printed %q, want one log line like %q", got, want)
		}
		wants(t, got[3:], rc("auth", unavail), "sigpipe "+way, "umask 0027")
	}
}

// With descriptors 0, 1 and 2 closed, a connection never stands in their place,
// and none is left open.
func TestClosedDescriptors(t *testing.T) { each(t, closedDescriptors) }

func closedDescriptors(t *testing.T, v variant) {
	var mu sync.Mutex
	var low []string
	d := rawDoor(t, func(c net.Conn) {
		for _, a := range []string{"1 no 1 reason=prompt\nsecret s\n", "1 yes 0\n"} {
			request(c)
			cred, _ := peer(c)
			for fd := range 3 {
				to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", cred, fd))
				mu.Lock()
				if err == nil {
					low = append(low, to)
				}
				mu.Unlock()
			}
			io.WriteString(c, a)
		}
	})
	dir := v.stack(t, d, every)
	args := []string{"closefd=0", "closefd=1", "closefd=2", "fds", "reply=x", "auth", "fds"}
	got := strings.Join(v.start(t, dir, args...), "\n")
	before, rest, _ := strings.Cut(got, "batch 1\nmsg 1 s\n"+rc("auth", success))
	if strings.TrimSpace(before) != strings.TrimSpace(rest) || rest == got {
		t.Errorf("it printed %s", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(low) > 0 {
		t.Errorf("while it talked, the low descriptors were %q", low)
	}
}

func peer(c net.Conn) (pid int32, err error) {
	rc, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	rc.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = cred.Pid
		}
	})
	return pid, err
}

// Nothing is left open after any call, good or bad.
func TestNothingStaysOpen(t *testing.T) { each(t, nothingStaysOpen) }

func nothingStaysOpen(t *testing.T, v variant) {
	d := newDoor(t)
	dir := v.stack(t, d, every)
	for _, answers := range [][]wire.Answer{{yes()}, {no("locked", "")}, {unknown("", "")}, {prompt("x")}, {prompt("secret s"), yes()}, {yes("?")}} {
		for _, verb := range []string{"auth", "account", "session", "passwd"} {
			d.plan(verb, answers...)
		}
		got := v.start(t, dir, "fds", "reply=1", "convfail=19", "auth:s", "acct:s", "open:s", "close:s", "chauthtok:s", "fds")
		var fds []string
		for _, l := range got {
			if strings.HasPrefix(l, "fd ") {
				fds = append(fds, l)
			}
		}
		if n := len(fds); n%2 != 0 || strings.Join(fds[:n/2], ",") != strings.Join(fds[n/2:], ",") {
			t.Errorf("%v: %q", answers, fds)
		}
	}
}

// A program's own threads may all be in PAM at once, on small stacks.
func TestThreads(t *testing.T) { each(t, threads) }

func threads(t *testing.T, v variant) {
	d := newDoor(t)
	dir := v.stack(t, d, every)
	d.plan("auth", prompt("password P: ", "visible V: "), prompt("secret S: "), yes("login "+token))
	d.plan("account", yes())
	d.plan("session", yes("session "+sessionID))
	d.plan("credentials", yes())
	got := v.raw(t, "threads=64", "confdir="+dir, "service=svc", "user=alice", "start", "itimer=500", "reply=a", "reply=b", "reply=c", "auth", "acct", "open", "close")
	wants(t, got, "threads 64 bad 0")
}

// Who stands behind the socket is looked at before anything is said.
func TestFalseServers(t *testing.T) { each(t, falseServers) }

func falseServers(t *testing.T, v variant) {
	const nobody = 65534
	for _, tc := range []struct {
		name   string
		change func(d *door) error
		uid    int // who listens
		code   int
	}{
		{"root", func(*door) error { return nil }, 0, success},
		{"the folder's owner", func(d *door) error { return os.Chown(d.dir, nobody, nobody) }, nobody, success},
		{"root in the broker's folder", func(d *door) error { return os.Chown(d.dir, nobody, nobody) }, 0, success},
		{"somebody else", func(*door) error { return nil }, nobody, unavail},
		{"somebody else in the broker's folder", func(d *door) error { return os.Chown(d.dir, 1, 1) }, nobody, unavail},
		{"a folder that a group may write", func(d *door) error { return os.Chmod(d.dir, 0o775) }, 0, unavail},
		{"a folder that all may write", func(d *door) error { return os.Chmod(d.dir, os.ModeSticky|0o777) }, 0, unavail},
		{"a folder above that all may write", func(d *door) error { return os.Chmod(filepath.Dir(d.dir), 0o777) }, 0, unavail},
		{"a folder above that a group may write", func(d *door) error { return os.Chmod(filepath.Dir(d.dir), 0o775) }, 0, unavail},
		{"a sticky one above, ours within", func(d *door) error { return os.Chmod(filepath.Dir(d.dir), os.ModeSticky|0o777) }, 0, success},
		{"a sticky one above, the broker's within", func(d *door) error {
			os.Chmod(filepath.Dir(d.dir), os.ModeSticky|0o777)
			return os.Chown(d.dir, nobody, nobody)
		}, nobody, unavail},
		{"a folder above that is somebody's", func(d *door) error { return os.Chown(filepath.Dir(d.dir), nobody, nobody) }, 0, unavail},
		{"a link above", func(d *door) error {
			real := d.dir + "-real"
			if err := os.Rename(d.dir, real); err != nil {
				return err
			}
			return os.Symlink(real, d.dir)
		}, 0, unavail},
		{"a link in the socket's place", func(d *door) error {
			if err := os.Rename(d.path, d.path+"2"); err != nil {
				return err
			}
			return os.Symlink(d.path+"2", d.path)
		}, 0, unavail},
		{"a socket of somebody's", func(d *door) error { return os.Chown(d.path, nobody, nobody) }, 0, unavail},
		{"a file", func(d *door) error {
			os.Remove(d.path)
			return os.WriteFile(d.path, nil, 0o666)
		}, 0, unavail},
	} {
		d := newDoorFolder(t)
		d.plans = map[string][]wire.Answer{"auth": {prompt("password P: "), yes()}}
		l, err := listenAs(d.path, tc.uid)
		if err != nil {
			t.Fatal(err)
		}
		d.serve(t, l)
		if err := tc.change(d); err != nil {
			t.Fatal(err)
		}
		dir := v.stack(t, d, every)
		got := v.start(t, dir, "reply=secret", "auth")
		if last(got) != rc("auth", tc.code) {
			t.Errorf("%s: %q", tc.name, got)
		}
		if heard := d.heard(); tc.code != success && len(heard) > 0 {
			t.Errorf("%s: it was told %q", tc.name, heard)
		}
	}
}

// listenAs listens as a user: the kernel remembers who did (unix(7)).
func listenAs(path string, uid int) (net.Listener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return nil, err
	}
	if uid == 0 {
		return l, nil
	}
	rc, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	errc := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its uid
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
			errc <- e
			return
		}
		var lerr error
		cerr := rc.Control(func(fd uintptr) { lerr = unix.Listen(int(fd), 16) })
		if cerr != nil {
			lerr = cerr
		}
		errc <- lerr
	}()
	if err := <-errc; err != nil {
		return nil, err
	}
	return l, nil
}

// For somebody who is not root the module works as well: a screen locker.
func TestUnprivilegedCaller(t *testing.T) { each(t, unprivileged) }

func unprivileged(t *testing.T, v variant) {
	d := newDoor(t)
	dir := v.stack(t, d, every)
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	d.plan("auth", prompt("password P: "), yes("login "+token))
	d.plan("account", yes())
	got := v.raw(t, "uid=65534", "confdir="+dir, "service=svc", "user=alice", "start", "reply=x", "auth:s", "acct", "setcred:e", "env", "setcred:i", "setcred:r", "setcred:d")
	wants(t, got, "batch 1", "msg 1 P: ", rc("auth", 0), rc("acct", 0), rc("setcred", 0), rc("setcred", 0), rc("setcred", 0), rc("setcred", 0))
	wants(t, d.heard(), "auth user=alice service=svc", "answer a1=x", "account user=alice service=svc login="+token)
}
