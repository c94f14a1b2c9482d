package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// held is a listener whose connections come as descriptors over one end of a
// pamhelper.Pair. Accept fails with io.EOF when the other end is closed.
type held struct{ *net.UnixConn }

// listenHeld takes over a descriptor.
func listenHeld(fd int) (net.Listener, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_SEQPACKET {
		return nil, fmt.Errorf("descriptor %d is no end of a pair of sockets: sekishod starts this program with one; by hand use --socket", fd)
	}
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "sekishod")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("taking over descriptor %d: %w", fd, err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("taking over descriptor %d: it is no unix socket", fd)
	}
	return held{u}, nil
}

func (h held) Accept() (net.Conn, error) {
	for {
		b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*4))
		_, n, flags, _, err := h.ReadMsgUnix(b, oob)
		if err != nil {
			return nil, err
		}
		// Without a descriptor of ours to spare, the kernel drops the one sent:
		// the sender sees his connection end.
		if c := received(oob[:n]); c != nil && flags&unix.MSG_CTRUNC == 0 {
			return c, nil
		} else if c != nil {
			c.Close()
		}
	}
}

// received is the connection in a control message, nil when there is not
// exactly one.
func received(oob []byte) net.Conn {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for i := range msgs {
		if got, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	var c net.Conn
	if len(fds) == 1 {
		f := os.NewFile(uintptr(fds[0]), "conversation")
		c, err = net.FileConn(f)
		f.Close()
		if err != nil {
			return nil
		}
		return c
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return nil
}

func (h held) Addr() net.Addr { return h.LocalAddr() }

// listenSocket makes a socket that only root and the user with this uid can
// connect to. One that a killed sekisho-pam left is replaced.
func listenSocket(path string, uid uint32) (net.Listener, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return nil, fmt.Errorf("the socket's path %q must be absolute, without . and ..", path)
	}
	var dir unix.Stat_t
	if err := unix.Lstat(filepath.Dir(path), &dir); err != nil {
		return nil, fmt.Errorf("making the socket %s: %w", path, err)
	}
	if dir.Mode&unix.S_IFMT != unix.S_IFDIR || dir.Uid != 0 || dir.Mode&0o022 != 0 {
		return nil, fmt.Errorf("making the socket %s: its folder must be root's, and only root may write there", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("making the socket %s: another sekisho-pam listens there: stop it first", path)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("making the socket %s: there is something else of that name", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("making the socket: %w", err)
	}
	old := syscall.Umask(0o777)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("making the socket: %w", err)
	}
	if err := os.Chown(path, int(uid), 0); err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("making the socket: %w", err)
	}
	return l, nil
}
