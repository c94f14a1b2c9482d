package ccache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// withKeys runs f on a thread of its own. Whose keys a thread may use depends on
// the keyrings of that thread; it ends with f, and its process keyring, which f
// uses to possess what it works on, with it.
func withKeys(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		done <- explain(f())
	}()
	return <-done
}

// explain says in words what the kernel's numbers mean here.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		return fmt.Errorf("this kernel or container allows no keyrings (%w): set KRB5CCNAME to a FILE or DIR cache", err)
	case errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("the user's keyrings are full (%w; see /proc/key-users)", err)
	}
	return err
}

// missing are the answers for a key that is not there, or no longer.
func missing(err error) bool {
	return errors.Is(err, unix.ENOKEY) || errors.Is(err, unix.EKEYEXPIRED) || errors.Is(err, unix.EKEYREVOKED)
}

// search looks for a key in a keyring and those below it; ErrNone is not found.
func search(ring int, kind, name string) (int, error) {
	id, err := unix.KeyctlSearch(ring, kind, name, 0)
	if missing(err) {
		return 0, ErrNone
	}
	return id, err
}

// payload reads a key or the list of a keyring.
func payload(id int) ([]byte, error) {
	for size := 1 << 10; ; {
		b := make([]byte, size)
		n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, b, 0)
		switch {
		case missing(err):
			return nil, ErrNone
		case err != nil:
			return nil, err
		case n <= size:
			return b[:n], nil
		case n > maxPayload:
			return nil, fmt.Errorf("a key has more than %d bytes", maxPayload)
		}
		size = n
	}
}

// members are the serial numbers in a keyring.
func members(ring int) ([]int, error) {
	b, err := payload(ring)
	if err != nil {
		return nil, err
	}
	var out []int
	for ; len(b) >= 4; b = b[4:] {
		out = append(out, int(int32(binary.NativeEndian.Uint32(b))))
	}
	return out, nil
}
