package reaper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/wire"
)

// Client asks a sekisho-reaper. It is safe for any number of goroutines.
type Client struct {
	conn *net.UnixConn // nil: there is none
	done chan struct{} // closed when read has ended
	wake chan struct{} // holds one when emptied may have grown
	shut sync.Once

	send sync.Mutex // one writer at a time: a deadline is the connection's

	mu      sync.Mutex                    // guards all below
	last    uint64                        // number of the last request
	waiting map[uint64]chan<- wire.Answer // who waits for which answer
	emptied []string                      // not told yet
	err     error                         // why read has ended
}

const sendWait = 2 * time.Second

// Pair makes the two ends, close-on-exec: one to hold, one for sekisho-reaper.
func Pair() (hold, give *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "sekisho-reaper"), os.NewFile(uintptr(fds[1]), "sekishod"), nil
}

// open takes over an end of a Pair, and closes f.
func open(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok || u.LocalAddr().Network() != "unixpacket" {
		c.Close()
		return nil, errors.New("it is no end of a pair of sockets")
	}
	return u, nil
}

// Dial takes over f, the first end of a Pair, and closes it. With nil there is
// no sekisho-reaper: all methods say ErrAbsent.
func Dial(f *os.File) (*Client, error) {
	c := &Client{done: make(chan struct{}), wake: make(chan struct{}, 1), waiting: map[uint64]chan<- wire.Answer{}}
	if f == nil {
		c.err = ErrAbsent
		close(c.done)
		return c, nil
	}
	var err error
	if c.conn, err = open(f); err != nil {
		return nil, fmt.Errorf("holding sekisho-reaper: %w", err)
	}
	go c.read()
	return c, nil
}

// read takes packets until the other end is closed, or this one.
func (c *Client) read() {
	defer close(c.done)
	b := make([]byte, maxPacket)
	err := ErrEnded
	for {
		n, rerr := c.conn.Read(b)
		if rerr != nil {
			if !errors.Is(rerr, io.EOF) && !errors.Is(rerr, syscall.ECONNRESET) && !errors.Is(rerr, net.ErrClosed) {
				err = fmt.Errorf("hearing sekisho-reaper: %w", rerr)
			}
			break
		}
		if perr := c.take(b[:n]); perr != nil {
			err = fmt.Errorf("hearing sekisho-reaper: %w: install the same sekisho release on both sides", perr)
			break
		}
	}
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
	c.conn.Close()
}

func (c *Client) take(b []byte) error {
	n, message, err := cutNumber(b)
	if err != nil {
		return err
	}
	a, err := wire.ParseAnswer(message)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n != 0 {
		if to := c.waiting[n]; to != nil { // else he waits no more
			to <- a // has room
			delete(c.waiting, n)
		}
		return nil
	}
	for _, line := range a.Body {
		id, ok := readEmptied(line)
		if !ok {
			return errors.New("it tells what it never tells")
		}
		c.emptied = append(c.emptied, id)
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

// ask sends a request, with a descriptor if fd is not -1, and waits for its
// answer.
func (c *Client) ask(ctx context.Context, q request, fd int) (wire.Answer, error) {
	a, err := c.exchange(ctx, q, fd)
	if err == nil {
		err = readFailure(a)
	}
	return a, err
}

func (c *Client) exchange(ctx context.Context, q request, fd int) (wire.Answer, error) {
	got := make(chan wire.Answer, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return wire.Answer{}, c.err
	}
	c.last++
	n := c.last
	c.waiting[n] = got
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, n)
		c.mu.Unlock()
	}()
	b, err := wire.AppendRequest(appendNumber(nil, n), q.message())
	if err != nil {
		return wire.Answer{}, err
	}
	if err := c.write(ctx, b, fd); err != nil {
		select {
		case <-c.done:
			return wire.Answer{}, c.why()
		default:
			return wire.Answer{}, fmt.Errorf("asking sekisho-reaper: %w", err)
		}
	}
	select {
	case a := <-got:
		return a, nil
	case <-ctx.Done():
		return wire.Answer{}, fmt.Errorf("waiting for sekisho-reaper: %w", ctx.Err())
	case <-c.done:
		select {
		case a := <-got:
			return a, nil
		default:
			return wire.Answer{}, c.why()
		}
	}
}

func (c *Client) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// write sends one packet. A sekisho-reaper that takes none for sendWait hangs.
func (c *Client) write(ctx context.Context, b []byte, fd int) error {
	c.send.Lock()
	defer c.send.Unlock()
	until := time.Now().Add(sendWait)
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	if err := c.conn.SetWriteDeadline(until); err != nil {
		return err
	}
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	_, _, err := c.conn.WriteMsgUnix(b, oob, nil)
	return err
}

// Adopt takes the process that opens a session, and all that it will start. It
// is fine to do so again for the same process. An error under errors.Is:
// ErrAbsent, ErrEnded, ErrExists, ErrProcess, ErrRefused, ErrLimit, or ctx's.
func (c *Client) Adopt(ctx context.Context, o Opening) (How, error) {
	if !idForm.MatchString(o.ID) || o.Conn == nil {
		return "", errors.New("adopting a session: it needs an id of A-Z a-z 0-9 - _ and the connection")
	}
	raw, err := o.Conn.SyscallConn()
	if err != nil {
		return "", fmt.Errorf("adopting a session: %w", err)
	}
	var a wire.Answer
	q := request{verb: verbAdopt, id: o.ID, pid: o.PID, started: o.Started, fresh: o.Fresh}
	// The descriptor is copied: Control holds a lock while it runs.
	fd := -1
	if cerr := raw.Control(func(theirs uintptr) { fd, err = unix.FcntlInt(theirs, unix.F_DUPFD_CLOEXEC, 3) }); cerr != nil {
		return "", fmt.Errorf("adopting a session: %w", cerr)
	}
	if err != nil {
		return "", fmt.Errorf("adopting a session: %w", err)
	}
	defer unix.Close(fd)
	if a, err = c.ask(ctx, q, fd); err != nil {
		return "", fmt.Errorf("adopting a session: %w", err)
	}
	if len(a.Body) != 1 || !How(a.Body[0]).known() {
		return "", errors.New("adopting a session: the answer has another form")
	}
	return How(a.Body[0]), nil
}

// End ends all processes of a session and returns when the last has gone, or
// when some cannot be ended (Ended.Left). The error is ErrUnknown when it had
// none any more. When ctx ends first, it is being ended all the same.
func (c *Client) End(ctx context.Context, o Order) (Ended, error) {
	if !idForm.MatchString(o.ID) || o.Grace < 0 || o.Grace > MaxGrace {
		return Ended{}, errors.New("ending a session: its name or the grace is none")
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	a, err := c.ask(ctx, request{verb: verbEnd, id: o.ID, grace: o.Grace, text: printable(o.Text, MaxText)}, -1)
	if err != nil {
		return Ended{}, fmt.Errorf("ending a session: %w", err)
	}
	return readEnded(a.Body)
}

// Forget lets go of a session: its processes go on, and nobody is told of their
// end. An id that is not known is fine.
func (c *Client) Forget(ctx context.Context, id string) error {
	if !idForm.MatchString(id) {
		return errors.New("letting go of a session: its name is none")
	}
	_, err := c.ask(ctx, request{verb: verbForget, id: id}, -1)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return fmt.Errorf("letting go of a session: %w", err)
	}
	return nil
}

// Recover are all adopted sessions, those too that a sekisho-reaper before this
// one adopted, in the order of their ids.
func (c *Client) Recover(ctx context.Context) ([]Session, error) {
	var out []Session
	for after := ""; ; after = out[len(out)-1].ID {
		a, err := c.ask(ctx, request{verb: verbList, id: after}, -1)
		if err != nil {
			return nil, fmt.Errorf("listing sessions: %w", err)
		}
		if len(a.Body) == 0 {
			return out, nil
		}
		for _, line := range a.Body {
			s, err := readSession(line)
			if err == nil && s.ID <= after {
				err = errors.New("they are out of order")
			}
			if err != nil {
				return nil, fmt.Errorf("listing sessions: %w", err)
			}
			out, after = append(out, s), s.ID
		}
	}
}

// Alive are those of the sessions that have processes.
func (c *Client) Alive(ctx context.Context, ids []string) ([]string, error) {
	all, err := c.Recover(ctx)
	if err != nil {
		return nil, err
	}
	asked := make(map[string]bool, len(ids))
	for _, id := range ids {
		asked[id] = true
	}
	var out []string
	for _, s := range all {
		if s.Alive && asked[s.ID] {
			out = append(out, s.ID)
		}
	}
	return out, nil
}

// Events calls emptied with the id of each session whose last process has gone
// without an End, those too that went before the call. It returns nil when ctx
// ends, ErrEnded when sekisho-reaper does, or ErrAbsent at once. It is called by
// one goroutine.
func (c *Client) Events(ctx context.Context, emptied func(id string)) error {
	for {
		c.mu.Lock()
		ids := c.emptied
		c.emptied = nil
		c.mu.Unlock()
		for _, id := range ids {
			emptied(id)
		}
		if len(ids) > 0 {
			continue
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return nil
		case <-c.done:
			c.mu.Lock()
			err, left := c.err, len(c.emptied)
			c.mu.Unlock()
			if left == 0 {
				return err
			}
		}
	}
}

// Close ends sekisho-reaper. It may be called twice.
func (c *Client) Close() (err error) {
	if c.conn != nil {
		c.shut.Do(func() { err = c.conn.Close() })
		<-c.done
	}
	return err
}
