package testenv

import (
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// DialAs connects to the unix stream socket at path as another user: real,
// effective and saved uid. The kernel notes the ids of the thread that calls
// connect(2); this one ends afterwards. It needs root.
func DialAs(path string, real, effective, saved int) (net.Conn, error) {
	type result struct {
		fd  int
		err error
	}
	got := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its ids
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			got <- result{-1, err}
			return
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(real), uintptr(effective), uintptr(saved)); e != 0 {
			err = fmt.Errorf("setresuid: %w", e)
		} else {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}
		got <- result{fd, err}
	}()
	r := <-got
	if r.fd >= 0 {
		f := os.NewFile(uintptr(r.fd), path)
		defer f.Close() // net.FileConn has its own
		if r.err == nil {
			return net.FileConn(f)
		}
	}
	return nil, fmt.Errorf("connecting to %s as uid %d: %w", path, effective, r.err)
}
