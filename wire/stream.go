package wire

import "io"

// wrapped is an error with what was being done; fmt is too heavy for a
// program that sshd starts for each offered key.
type wrapped struct {
	doing string
	err   error
}

func (w *wrapped) Error() string { return w.doing + ": " + w.err.Error() }
func (w *wrapped) Unwrap() error { return w.err }

func errIn(doing string, err error) error { return &wrapped{doing, err} }

// eof tells an end between messages from one within.
func eof(err error, got int) error {
	if err == io.EOF && got > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// read reads at least one byte or fails, also when r returns neither.
func read(r io.Reader, into []byte) (int, error) {
	for range 100 {
		if n, err := r.Read(into); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// grow returns buf with twice the room, at most limit.
func grow(buf []byte, limit int) []byte {
	room := min(max(2*cap(buf), 1<<10), limit)
	return append(make([]byte, 0, max(room, len(buf)+1)), buf...)
}

// index returns where c stands in b, -1 when it does not.
func index(b []byte, c byte) int {
	for i, x := range b {
		if x == c {
			return i
		}
	}
	return -1
}
