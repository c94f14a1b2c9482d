package audit

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// slowDisk hangs while it is told to, as a real one does that cannot be had here.
type slowDisk struct {
	mu   sync.Mutex
	held chan struct{} // nil: it does not hang
	err  error         // what it answers once
}

func (s *slowDisk) sync(fd int) error {
	s.mu.Lock()
	held, err := s.held, s.err
	s.err = nil
	s.mu.Unlock()
	if held != nil {
		<-held
	}
	if err != nil {
		return err
	}
	return unix.Fdatasync(fd)
}

func (s *slowDisk) hang() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = make(chan struct{})
}

// patience changes how long callers wait, so that only the disk that was told to
// hang is too slow.
func patience(l *Log, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.c.Wait = d
}

func (s *slowDisk) goOn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.held)
	s.held = nil
}

func (s *slowDisk) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// TestSyncFails: after an fdatasync that failed the file is given up for good.
func TestSyncFails(t *testing.T) {
	for _, first := range []bool{false, true} {
		dir := folder(t)
		slow := &slowDisk{}
		if first {
			slow.fail(unix.EIO)
		}
		l := open(t, dir, func(c *Config) { c.sync = slow.sync })
		if !first {
			write(t, l, 3, 1)
			before := l.Status().File
			slow.fail(unix.EIO)
			if err := l.Decision(grant()); !errors.Is(err, unix.EIO) {
				t.Fatal(err)
			}
			defer func() {
				if after := l.Status().File; after == before {
					t.Error("it goes on in the same file")
				}
			}()
		}
		for end := time.Now().Add(time.Minute); l.Decision(grant()) != nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("it never recovers")
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if v := good(t, dir); !first && (len(v.Mended) != 1 || len(v.Gaps) == 0) {
			t.Errorf("%+v", v)
		}
		if got := read(t, dir, Query{Kinds: []Kind{KindDecision}}); !first && len(got) != 5 || first && len(got) < 1 {
			t.Errorf("%d decisions", len(got))
		}
	}
}

// TestSlowDisk holds the writer up, as a disk that hangs does: callers wait no
// longer than Wait, and what reaches the disk afterwards is called void.
func TestSlowDisk(t *testing.T) {
	dir := folder(t)
	slow := &slowDisk{}
	l := open(t, dir, func(c *Config) { c.sync = slow.sync })
	write(t, l, 1, 0)
	begun := time.Now()
	slow.hang()
	patience(l, 200*time.Millisecond)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := l.Decision(grant()); err != ErrSlow {
				t.Error(err)
			}
		})
	}
	over := make(chan struct{})
	go func() { all.Wait(); close(over) }()
	select {
	case <-over: // before the disk answers
	case <-time.After(time.Minute):
		t.Error("they wait for the disk")
		slow.goOn()
		<-over
		return
	}
	if d := time.Since(begun); d < 200*time.Millisecond {
		t.Errorf("it took %s", d)
	}
	if err := l.Decision(grant()); err != ErrSlow { // without waiting any more
		t.Error(err)
	}
	if err := l.Decision(refusal("later")); err != ErrSlow {
		t.Error(err)
	}
	if s := l.Status(); s.Err != ErrSlow {
		t.Errorf("%+v", s)
	}
	slow.goOn()
	for end := time.Now().Add(time.Minute); l.Decision(grant()) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never recovers")
		}
	}
	patience(l, time.Minute)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	good(t, dir)
	granted, void := map[uint64]bool{}, 0
	var told uint64
	for _, r := range read(t, dir, Query{}) {
		switch {
		case r.Kind == KindDecision && r.Outcome == "allow":
			granted[r.Seq] = true
		case r.Kind == KindVoid:
			if !granted[r.Of] {
				t.Errorf("record %d takes back %d, which is no grant", r.Seq, r.Of)
			}
			delete(granted, r.Of)
			void++
		case r.Kind == KindGap:
			told += r.Grants
		}
	}
	if len(granted) < 2 || len(granted) > 2 {
		t.Errorf("%d grants stand", len(granted))
	}
	if void+int(told) < 9 {
		t.Errorf("%d are void and %d were left out, of 9 or more", void, told)
	}
}

// TestQueueIsBounded: while the disk hangs memory does not grow without end.
func TestQueueIsBounded(t *testing.T) {
	dir := folder(t)
	slow := &slowDisk{}
	l := open(t, dir, func(c *Config) { c.sync = slow.sync })
	write(t, l, 1, 0)
	slow.hang()
	patience(l, 50*time.Millisecond)
	l.Decision(grant())
	for end := time.Now().Add(time.Minute); l.Status().Err != ErrSlow; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not notice that the disk hangs")
		}
	}
	big := strings.Repeat("x", 64<<10)
	lost := 0
	for range 40000 {
		q, d := refusal(big)
		if err := l.Decision(q, d); errors.Is(err, ErrFull) || err == nil {
			t.Fatal(err)
		}
		lost++
	}
	if n := l.Status().Queued; n > mostBytes {
		t.Errorf("%d bytes are queued", n)
	}
	patience(l, time.Minute)
	slow.goOn()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	good(t, dir)
	var told, there uint64
	for _, r := range read(t, dir, Query{}) {
		told += r.Lost
		if r.Outcome == "deny" {
			there++
		}
	}
	if told+there != uint64(lost) || told == 0 {
		t.Errorf("of %d records %d are there and %d are told to be lost", lost, there, told)
	}
}
