package userdb

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Bind makes the socket at path, open to all, which does not listen yet: until
// Listen, whoever connects is refused at once instead of kept waiting. It
// takes the place of a socket that a killed sekishod left, and may be called
// as root for a file that is handed to an unprivileged process. A socket that
// somebody listens on is left alone.
func Bind(path string) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, fmt.Errorf("users door: making the socket %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fail(err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fail(errors.New("another sekishod listens there: stop it first"))
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail(err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: fresh}); err == nil {
		err = os.Chmod(fresh, 0o666)
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		f.Close()
		os.Remove(fresh)
		return fail(err)
	}
	return f, nil
}

// backlog is how many callers may wait to be accepted; the kernel lowers it to
// net.core.somaxconn. One more waits in connect(2).
const backlog = 4096

// Listen begins to listen on a socket that Bind made. f may be closed after it.
func Listen(f *os.File) (net.Listener, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("users door: %w", err)
	}
	if cerr := raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), backlog) }); cerr != nil {
		return nil, fmt.Errorf("users door: %w", cerr)
	}
	if err != nil {
		return nil, fmt.Errorf("users door: listening: %w", err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("users door: listening: %w", err)
	}
	return l, nil
}
