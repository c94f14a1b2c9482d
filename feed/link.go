package feed

import (
	"bufio"
	"errors"
	"net"
	"sync"
	"time"
)

// Times of a connection, both ways.
const (
	pingEvery = 2 * time.Second
	deadAfter = 6 * time.Second
	writeTime = 10 * time.Second // for one frame
)

// link is one connection: it reads frames, and writes what is queued.
type link struct {
	net  net.Conn // TLS
	raw  net.Conn // what it runs over
	r    *bufio.Reader
	buf  []byte
	out  chan [][]byte
	once sync.Once
	gone chan struct{} // closed by close

	mu  sync.Mutex
	why error // of the first close
}

func newLink(c, raw net.Conn, queue int) *link {
	return &link{net: c, raw: raw, r: bufio.NewReaderSize(c, 4096), out: make(chan [][]byte, queue), gone: make(chan struct{})}
}

var errLagging = errors.New("it does not take what is sent")

// send queues frames; they go out together and in order. It never waits: false
// says that the queue is full, and the connection is closed.
func (l *link) send(frames ...[]byte) bool {
	for _, f := range frames {
		if f == nil { // too long; nobody sends that knowingly
			l.close(errors.New("a frame that cannot be encoded"))
			return false
		}
	}
	select {
	case l.out <- frames:
		return true
	case <-l.gone:
		return false
	default:
		l.close(errLagging)
		return false
	}
}

// write sends what is queued until the connection is closed.
func (l *link) write() {
	w := bufio.NewWriterSize(l.net, 4096)
	for {
		var frames [][]byte
		select {
		case frames = <-l.out:
		default:
			if err := w.Flush(); err != nil {
				l.close(err)
				return
			}
			select {
			case frames = <-l.out:
			case <-l.gone:
				return
			}
		}
		for _, f := range frames {
			// What is buffered before it, and at the flush, falls under the same time.
			if err := l.net.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
				l.close(err)
				return
			}
			if _, err := w.Write(f); err != nil {
				l.close(err)
				return
			}
		}
	}
}

// last writes one frame and closes; for a peer that is not let in.
func (l *link) last(frame []byte) {
	_ = l.net.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = l.net.Write(frame)
}

// read gives the next frame; the body holds until the next call.
func (l *link) read() (kind, []byte, error) {
	if err := l.net.SetReadDeadline(time.Now().Add(deadAfter)); err != nil {
		return 0, nil, err
	}
	if cap(l.buf) > 64<<10 {
		l.buf = nil // one large frame must not be paid for ever
	}
	return readFrame(l.r, &l.buf)
}

// close ends the connection; the first reason counts.
func (l *link) close(why error) {
	l.once.Do(func() {
		l.mu.Lock()
		l.why = why
		l.mu.Unlock()
		close(l.gone)
		l.raw.Close() // a goodbye of TLS could wait for a peer that does not read
	})
}

func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why
}
