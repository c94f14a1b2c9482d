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
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/wire"
)

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
