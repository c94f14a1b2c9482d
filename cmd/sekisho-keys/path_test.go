package main

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/sekisho/sekisho/wire"
)

// deaf is a socket that is listened on but never accepted from; full leaves
// no room in its backlog.
func deaf(t *testing.T, full bool) string {
	t.Helper()
	path := filepath.Join(folder(t), "s")
	fd := bound(t, path)
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	if full {
		for {
			c, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { syscall.Close(c) })
			if err := syscall.Connect(c, &syscall.SockaddrUnix{Name: path}); err == syscall.EAGAIN {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	return path
}

func bound(t *testing.T, path string) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestGuardReadsThePath(t *testing.T) {
	for _, path := range []string{"", "s", "run/s", "/", "/run/", "//run/s", "/run//s", "/run/./s", "/run/../run/s", "/run/.", "/run/..", "@abstract"} {
		if _, err := guard(path, os.Geteuid()); err == nil {
			t.Errorf("%q was let pass", path)
		}
	}
	dir := folder(t)
	if uid, err := guard(dir+"/s", os.Geteuid()); err != nil || int(uid) != os.Geteuid() {
		t.Errorf("%d %v", uid, err)
	}
	if uid, err := guard("/s", os.Geteuid()); err != nil || uid != 0 {
		t.Errorf("%d %v", uid, err)
	}
}

func TestGuardLooksAtFolders(t *testing.T) {
	needRoot(t)
	const broker, other = 61001, 61002
	for _, c := range []struct {
		name             string
		above            os.FileMode
		aboveUID         int
		mode             os.FileMode
		uid              int
		says             string
		euid, wantsOwner int
	}{
		{"root's", 0o755, 0, 0o755, 0, "", 0, 0},
		{"the broker's", 0o755, 0, 0o750, broker, "", other, broker},
		{"the caller's own", 0o700, other, 0o700, other, "", other, other},
		{"group may write", 0o755, 0, 0o775, broker, "chmod go-w", other, 0},
		{"world may write", 0o755, 0, 0o757, 0, "chmod go-w", other, 0},
		{"sticky", 0o755, 0, 0o777 | os.ModeSticky, 0, "chmod go-w", other, 0},
		{"above: world may write", 0o777, 0, 0o755, 0, "chmod go-w", other, 0},
		{"above: group may write", 0o775, 0, 0o755, 0, "chmod go-w", other, 0},
		{"above: another's", 0o755, broker, 0o755, broker, "chown root", other, 0},
		{"above sticky, root's", 0o777 | os.ModeSticky, 0, 0o755, 0, "", other, 0},
		{"above sticky, another's", 0o777 | os.ModeSticky, 0, 0o755, broker, "chown root", other, 0},
	} {
		above := filepath.Join(folder(t), "above")
		dir := filepath.Join(above, "dir")
		for _, d := range []struct {
			path string
			mode os.FileMode
			uid  int
		}{{above, c.above, c.aboveUID}, {dir, c.mode, c.uid}} {
			if err := os.Mkdir(d.path, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(d.path, d.uid, 0); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(d.path, d.mode); err != nil {
				t.Fatal(err)
			}
		}
		uid, err := guard(dir+"/s", c.euid)
		switch {
		case c.says == "" && (err != nil || int(uid) != c.wantsOwner):
			t.Errorf("%s: %d, %v", c.name, uid, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %d, %v", c.name, uid, err)
		}
		if c.says == "" {
			link := filepath.Join(above, "link")
			if err := os.Symlink(dir, link); err != nil {
				t.Fatal(err)
			}
			if _, err := guard(link+"/s", c.euid); err == nil || !strings.Contains(err.Error(), "symbolic link") {
				t.Errorf("%s: a symbolic link was followed: %v", c.name, err)
			}
		}
	}
}

// TestFalseSocket: a yes out of a folder that others may write to is not
// even asked for.
func TestFalseSocket(t *testing.T) {
	path := saying(t, "1 yes 1\n"+line+"\n")
	if r := keys(t, "--socket", path, "alice"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if err := os.Chmod(filepath.Dir(path), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if r := keys(t, "--socket", path, "alice"); r.code != 75 || r.out != "" || !strings.Contains(r.err, "chmod go-w") {
		t.Errorf("%+v", r)
	}
}

// TestFalseServer: in a good folder, but served by neither root nor the
// folder's owner.
func TestFalseServer(t *testing.T) {
	needRoot(t)
	const broker, other = 61001, 61002
	for _, c := range []struct {
		name          string
		owner, server int
		code          int
	}{
		{"root serves", 0, 0, 0},
		{"root serves in the broker's folder", broker, 0, 0},
		{"the broker serves in its folder", broker, broker, 0},
		{"another serves in root's folder", 0, other, 75},
		{"another serves in the broker's folder", broker, other, 75},
	} {
		dir := filepath.Join(folder(t), "d")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, c.owner, 0); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "s")
		fd := bound(t, path)
		listenAs(t, fd, c.server)
		own, err := syscall.Dup(fd) // fd itself is closed by bound's cleanup
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(own), path)
		l, err := net.FileListener(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if conn, err := l.Accept(); err == nil {
				if _, err := wire.ReadRequest(conn, nil); err == nil {
					conn.Write([]byte("1 yes 1\n" + line + "\n"))
				}
				conn.Close()
			}
		}()
		r := keys(t, "--socket", path, "alice")
		l.Close()
		<-done
		if r.code != c.code || (c.code != 0 && (r.out != "" || !strings.Contains(r.err, "served by user 61002"))) {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

// listenAs calls listen(2) as another user: that is when the kernel notes
// whom SO_PEERCRED names.
func listenAs(t *testing.T, fd, uid int) {
	t.Helper()
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its ids
		id := uintptr(uid)
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, id, id, id); e != 0 {
			errs <- e
			return
		}
		errs <- syscall.Listen(fd, 8)
	}()
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: folders and sockets of several users")
	}
}
