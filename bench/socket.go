package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/wire"
)

// The client of the load is as light as can be, for it has the same two cores:
// a few threads, each with some connections at once, plain system calls, and
// the bytes that are sent and must come made before.
const loadThreads = 2

// lookup is a question and the answer that it must get, as bytes.
type lookup struct{ question, answer []byte }

// measureSocket counts key lookups a second through the local socket.
func measureSocket(ctx context.Context, b *bench) error {
	w, err := b.theWorld(ctx)
	if err != nil {
		return err
	}
	ls, err := lookups(w)
	if err != nil {
		return err
	}
	kinds := []struct {
		name  string
		kept  bool
		conns int
		least float64
	}{
		{"key lookups, a new connection each, 32 at once", false, 32, 20_000},
		{"key lookups, 32 kept-open connections", true, 32, 60_000},
		{"key lookups, 256 kept-open connections", true, 256, 60_000},
	}
	rates, cost := make([][]float64, len(kinds)), make([][]float64, len(kinds))
	rounds, length := pick(6, 2), time.Duration(pick(2000, 200))*time.Millisecond
	for range rounds {
		for i, k := range kinds {
			before, err := cpuOf(w.sekishod.Daemon)
			if err != nil {
				return err
			}
			n, took, err := load(ctx, w, loadConfig{kept: k.kept, conns: k.conns / loadThreads, length: length, lookups: ls})
			if err != nil {
				return err
			}
			after, err := cpuOf(w.sekishod.Daemon)
			if err != nil {
				return err
			}
			rates[i] = append(rates[i], float64(n)/took.Seconds())
			cost[i] = append(cost[i], (after-before).Seconds()*1e6/float64(n))
		}
	}
	for i, k := range kinds {
		b.table.add(row{name: k.name, ours: median(rates[i]), peer: math.NaN(), unit: "1/s", bound: bound{"ours", ">=", k.least},
			note: fmt.Sprintf("sekishod used %.1f µs of CPU a lookup, on %d cores that the client uses, too", median(cost[i]), runtime.NumCPU())})
	}
	return nil
}

// lookups are those of sshd for users of the directory who have keys. What
// sekishod answers is looked at once, here.
func lookups(w *world) ([]lookup, error) {
	c, err := net.Dial("unix", w.sekishod.socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Minute))
	var ls []lookup
	for n := 0; n < w.users; n += everyKeys {
		p := personOf(n)
		typ, blob, _ := strings.Cut(keyOf(n, 1), " ")
		k, err := ssh.ParsePublicKey(blobOf(n, 1))
		if err != nil {
			return nil, err
		}
		q := wire.Request{Verb: wire.VerbKeys, Fields: []wire.Field{
			{Name: wire.FieldUser, Value: p.name}, {Name: wire.FieldFingerprint, Value: ssh.FingerprintSHA256(k)},
			{Name: wire.FieldType, Value: typ}, {Name: wire.FieldKey, Value: blob},
		}}
		a, err := wire.Ask(c, q)
		if err != nil {
			return nil, err
		}
		if a.Outcome != wire.Yes || len(a.Body) != 1 || !strings.Contains(a.Body[0], blob) {
			return nil, fmt.Errorf("keys for %s: %s (%s), %d lines, not the key that was asked for", p.name, a.Outcome, a.Reason, len(a.Body))
		}
		var l lookup
		if l.question, err = wire.AppendRequest(nil, q); err != nil {
			return nil, err
		}
		if l.answer, err = wire.AppendAnswer(nil, a); err != nil {
			return nil, err
		}
		ls = append(ls, l)
	}
	return ls, nil
}

type loadConfig struct {
	kept    bool // the connections stay open
	conns   int  // of one thread
	length  time.Duration
	lookups []lookup
}

// load asks for c.length and returns how many lookups were answered in what
// time.
func load(ctx context.Context, w *world, c loadConfig) (int, time.Duration, error) {
	type tally struct {
		n   int
		err error
	}
	tallies := make(chan tally, loadThreads)
	start := time.Now()
	for t := range loadThreads {
		go func() {
			l := &loader{c: c, fds: make([]int, c.conns), asked: make([]lookup, c.conns), next: t * len(c.lookups) / loadThreads, end: start.Add(c.length)}
			err := w.web.Inside(func() error { return l.run(ctx) })
			tallies <- tally{l.n, err}
		}()
	}
	var sum int
	var errs []error
	for range loadThreads {
		t := <-tallies
		sum += t.n
		errs = append(errs, t.err)
	}
	return sum, time.Since(start), errors.Join(errs...)
}

// loader is one thread of the load.
type loader struct {
	c     loadConfig
	end   time.Time
	next  int // of c.lookups
	n     int // answered
	fds   []int
	asked []lookup
	buf   [16 << 10]byte
}

func (l *loader) run(ctx context.Context) (err error) {
	for i := range l.fds {
		l.fds[i] = -1
	}
	defer l.hangUp()
	for time.Now().Before(l.end) && ctx.Err() == nil {
		for i := range l.fds {
			if err := l.ask(i); err != nil {
				return fmt.Errorf("asking: %w", err)
			}
		}
		for i := range l.fds {
			if err := l.hear(i); err != nil {
				return err
			}
		}
		if !l.c.kept {
			l.hangUp()
		}
	}
	return ctx.Err()
}

func (l *loader) ask(i int) (err error) {
	if l.fds[i] < 0 {
		if l.fds[i], err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(l.fds[i], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
			return err
		}
		if err := unix.Connect(l.fds[i], &unix.SockaddrUnix{Name: sockPath}); err != nil {
			return err
		}
	}
	l.asked[i] = l.c.lookups[l.next]
	if l.next++; l.next == len(l.c.lookups) {
		l.next = 0
	}
	n, err := unix.Write(l.fds[i], l.asked[i].question)
	if err == nil && n != len(l.asked[i].question) {
		err = errors.New("a short write")
	}
	return err
}

func (l *loader) hear(i int) error {
	want := l.asked[i].answer
	got := 0
	for got < len(want) {
		n, err := unix.Read(l.fds[i], l.buf[got:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("waiting for an answer: %w", err)
		}
		if n == 0 {
			break
		}
		got += n
	}
	if !bytes.Equal(l.buf[:got], want) {
		return fmt.Errorf("answered %q, want %q", l.buf[:min(got, 200)], want)
	}
	l.n++
	return nil
}

func (l *loader) hangUp() {
	for i, fd := range l.fds {
		if fd >= 0 {
			unix.Close(fd)
			l.fds[i] = -1
		}
	}
}
