package main

import (
	"errors"
	"io"
	"syscall"
	"time"
)

// errLate is the deadline passed.
var errLate = errors.New("no answer in time")

// conn is a connected stream socket. All it does ends by until: the kernel's
// own timeouts (SO_SNDTIMEO, SO_RCVTIMEO; socket(7)) are set to what is left
// before each call. They bound connect too, where a full backlog blocks and
// poll(2) would not help.
type conn struct {
	fd    int
	until time.Time
}

func dial(path string, until time.Time) (*conn, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	c := &conn{fd, until}
	addr := &syscall.SockaddrUnix{Name: path}
	_, err = c.try(syscall.SO_SNDTIMEO, func() (int, error) { return 0, syscall.Connect(fd, addr) })
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// peer returns the uid of the process that listens (unix(7), SO_PEERCRED).
func (c *conn) peer() (uint32, error) {
	cred, err := syscall.GetsockoptUcred(c.fd, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.try(syscall.SO_RCVTIMEO, func() (int, error) { return syscall.Read(c.fd, p) })
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := c.try(syscall.SO_SNDTIMEO, func() (int, error) { return syscall.Write(c.fd, p[done:]) })
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// try makes one call within the time left, again when a signal broke it off.
func (c *conn) try(timeout int, call func() (int, error)) (int, error) {
	for {
		left := time.Until(c.until)
		if left <= 0 {
			return 0, errLate
		}
		tv := syscall.NsecToTimeval(int64(max(left, time.Millisecond))) // 0 would wait for ever
		if err := syscall.SetsockoptTimeval(c.fd, syscall.SOL_SOCKET, timeout, &tv); err != nil {
			return 0, err
		}
		n, err := call()
		switch err {
		case nil:
			return n, nil
		case syscall.EINTR:
		case syscall.EAGAIN, syscall.EINPROGRESS:
			return 0, errLate
		default:
			return 0, err
		}
	}
}

func (c *conn) close() { syscall.Close(c.fd) }
