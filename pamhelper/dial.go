package pamhelper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// Socket dials a sekisho-pam that listens in the file system.
func Socket(path string) Dial {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", path)
		if err != nil {
			return nil, fmt.Errorf("reaching sekisho-pam: %w", err)
		}
		return c, nil
	}
}

// Held is the end of a socket pair (SOCK_SEQPACKET) whose other end a
// sekisho-pam was started with: that one ends when this one is closed. It is
// safe for any number of goroutines.
type Held struct {
	conn  *net.UnixConn
	close sync.Once
}

// Pair makes the two ends, close-on-exec: one to hold, one for sekisho-pam.
func Pair() (hold, give *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "sekisho-pam"), os.NewFile(uintptr(fds[1]), "sekishod"), nil
}

// Hold takes over f, the first end of a Pair, and closes it.
func Hold(f *os.File) (*Held, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("holding sekisho-pam: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok || u.LocalAddr().Network() != "unixpacket" {
		c.Close()
		return nil, errors.New("holding sekisho-pam: it is no end of a pair of sockets")
	}
	return &Held{conn: u}, nil
}

// Dial makes a connection and sends sekisho-pam its other end. It does not wait.
func (h *Held) Dial(context.Context) (net.Conn, error) {
	c, err := h.dial()
	if err != nil {
		return nil, fmt.Errorf("reaching sekisho-pam: %w", err)
	}
	return c, nil
}

func (h *Held) dial() (net.Conn, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fds[1])
	mine := os.NewFile(uintptr(fds[0]), "conversation")
	defer mine.Close() // FileConn makes a descriptor of its own
	raw, err := h.conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if cerr := raw.Control(func(fd uintptr) {
		err = syscall.Sendmsg(int(fd), []byte{0}, syscall.UnixRights(fds[1]), nil, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
	}); cerr != nil {
		return nil, cerr
	}
	if err == syscall.EAGAIN {
		return nil, errors.New("it does not take connections: it hangs, or too many wait")
	}
	if err != nil {
		return nil, err
	}
	return net.FileConn(mine)
}

// Watch waits until sekisho-pam has ended, or h is closed, and says which: nil
// for the second. Nothing that is asked after its end finds out anything.
func (h *Held) Watch() error {
	n, err := h.conn.Read(make([]byte, 1))
	switch {
	case errors.Is(err, net.ErrClosed):
		return nil
	case n > 0:
		return errors.New("sekisho-pam says what it never says: restart sekishod")
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return errors.New("sekisho-pam has ended: restart sekishod to have it again")
	}
	return fmt.Errorf("watching sekisho-pam: %w", err)
}

// Close ends sekisho-pam. It may be called twice.
func (h *Held) Close() (err error) {
	h.close.Do(func() { err = h.conn.Close() })
	return err
}
