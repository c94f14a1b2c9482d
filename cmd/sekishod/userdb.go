package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// userDBSocket is where libnss-systemd looks for us
// (https://systemd.io/USER_GROUP_API): a service's socket has its name.
const userDBSocket = "/run/systemd/userdb/io.sekisho.Directory"

// bindUserDB makes the users door's socket, which does not listen yet: until
// there is a snapshot, a caller is refused at once instead of kept waiting. It
// takes the place of the socket of a sekishod that was killed.
func bindUserDB() (int, error) {
	if err := os.MkdirAll(filepath.Dir(userDBSocket), 0o755); err != nil {
		return 0, err
	}
	fresh := userDBSocket + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("making the users door's socket: %w", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: fresh}); err == nil {
		err = os.Chmod(fresh, 0o666)
	}
	if err == nil {
		err = os.Rename(fresh, userDBSocket)
	}
	if err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("making the users door's socket: %w", err)
	}
	return fd, nil
}

func (d *daemon) userDBState() string { return "off" }
