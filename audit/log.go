package audit

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/broker"
)

const (
	// sealLines and sealAge: a seal is written with the next records when as many
	// lines stand unsealed, and by itself when one has stood so long.
	sealLines = 1000
	sealAge   = time.Second

	// slowBytes may be queued before refusals wait for the disk too, and
	// mostBytes and mostRecords are the end.
	slowBytes   = 1 << 20
	mostBytes   = 4 << 20
	mostRecords = 1 << 14
	// maxBatch is more than one write ever has: each record gets some 250 bytes
	// more, and seal, gap, voids and mends come with them.
	maxBatch = mostBytes + (mostRecords+4096)*512

	defaultWait = 5 * time.Second
	retryEvery  = 250 * time.Millisecond
)

// What keeps a grant's record off the disk, besides what the disk says.
var (
	// ErrClosed: the Log is closed.
	ErrClosed = errors.New("the audit record is closed")
	// ErrFull: more waits to be written than may.
	ErrFull = errors.New("too much waits for the audit record's disk")
	// ErrSlow: the disk did not answer in time.
	ErrSlow = errors.New("the audit record's disk does not answer in time")
)

// Config is what a Log is made of.
type Config struct {
	// Dir is the folder; it is made, for its owner alone. Its files and the
	// signing key lie there.
	Dir string
	// Host is written in every record.
	Host string
	// FileSize is how many bytes a file holds before the next is begun.
	FileSize int64
	// Keep is how long files are kept after their last record; 0: for ever.
	Keep time.Duration
	// Syslog is the path of a datagram socket that each record is sent to as well
	// when it is on the disk; empty: none.
	Syslog string
	// Wait bounds how long a caller waits for the disk; 0: five seconds.
	Wait time.Duration
	// Now reads the clock; nil: time.Now.
	Now func() time.Time
	// Log is for what happens to the record itself.
	Log *logrus.Entry

	// sync is fdatasync(2); tests put a disk there that hangs or fails.
	sync func(fd int) error
}

func (c *Config) validate() error {
	if c.Dir == "" || c.Host == "" || c.FileSize <= 0 || c.Keep < 0 || c.Wait < 0 || c.Log == nil {
		return errors.New("audit: Dir, Host, FileSize and Log must be set, and nothing be below zero")
	}
	if c.Wait == 0 {
		c.Wait = defaultWait
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.sync == nil {
		c.sync = unix.Fdatasync
	}
	return nil
}

// Log writes the record. It is safe for any number of goroutines.
type Log struct {
	c    Config // immutable
	key  string // the public key; immutable
	wake chan struct{}
	done chan struct{} // closed when run has ended
	stop chan struct{} // closed by Close

	held   *os.File // the lock on the folder; run's
	disk   disk     // run's
	syslog *syslog  // run's; nil: none
	seal   sealing  // run's
	old    expiry   // run's
	pace   int      // how many wait for a write of late; run's
	buf    []byte   // run's

	mu       sync.Mutex
	next     *batch    // guarded by mu: what is queued
	busy     time.Time // guarded by mu: since when run is at the disk; zero: it is not
	err      error     // guarded by mu: why the last write failed; nil: it did not
	closed   bool      // guarded by mu
	missing  missing   // guarded by mu: what is to be told of records that were not written
	voids    []uint64  // guarded by mu: decisions that are to be taken back
	status   Status    // guarded by mu
	closeErr error     // set before done is closed
}

// batch is what is written and synced together.
type batch struct {
	body    []byte  // the records' fields, one after the other
	entries []entry // where each begins
	waiting int     // how many of them somebody waits for
	taken   chan struct{}
	done    chan struct{}
	over    bool  // done is closed; guarded by Log.mu
	err     error // set before done is closed
	late    bool  // it was not on the disk in time: what it grants is void; guarded by Log.mu
	timer   *time.Timer
}

// entry is one record that is to be.
type entry struct {
	at    time.Time
	kind  Kind
	start int
	waits bool   // somebody waits for it
	seq   uint64 // once it is written
}

// fields are those of an entry.
func (b *batch) fields(i int) []byte {
	if i+1 < len(b.entries) {
		return b.body[b.entries[i].start:b.entries[i+1].start]
	}
	return b.body[b.entries[i].start:]
}

// end lets those go who wait. The lock is held.
func (b *batch) end(err error) {
	if b.timer != nil {
		b.timer.Stop()
	}
	if !b.over {
		b.over, b.err = true, err
		close(b.done)
	}
}

func newBatch() *batch { return &batch{taken: make(chan struct{}), done: make(chan struct{})} }

// missing is what a gap record tells.
type missing struct {
	grants, lost uint64
	why          string
	failed       bool // a write did
}

func (m missing) none() bool { return m.grants == 0 && m.lost == 0 && !m.failed }

// Status is how a Log is doing.
type Status struct {
	// Seq is the last record on the disk, and File the file that it is in.
	Seq  uint64
	File string
	// Sealed is the last seal.
	Sealed uint64
	// Err is why nothing can be written at the moment; nil: it can.
	Err error
	// Queued is how many bytes wait to be written.
	Queued int
	// SyslogLost is how many records syslog did not take.
	SyslogLost uint64
	// Key is the public key of the seals.
	Key string
}

var writers = sync.Pool{New: func() any { return &writer{b: make([]byte, 0, 1024)} }}

// add hands w's fields to run, and gives w back.
func (l *Log) add(kind Kind, w *writer, wait bool) error {
	err := l.enqueue(kind, w.b, wait)
	if cap(w.b) < 64<<10 {
		w.b = w.b[:0]
		writers.Put(w)
	}
	return err
}

// Decision records a decision. For a grant it returns when that is on the disk;
// an error says that it may not be given. Another is queued, and the error is
// that of an earlier write if none has succeeded since.
func (l *Log) Decision(q broker.Request, d broker.Decision) error {
	w := writers.Get().(*writer)
	w.decision(q, d)
	return l.add(KindDecision, w, d.Outcome == broker.Allow)
}

// Session records a step in a session's life: its opening is on the disk when
// Session returns, and without that it may not begin. The other steps are queued.
func (l *Log) Session(e broker.SessionEvent) error {
	w := writers.Get().(*writer)
	w.session(e)
	return l.add(KindSession, w, e.Kind == broker.SessionOpened)
}

// Note records anything else.
func (l *Log) Note(e Event) error {
	w := writers.Get().(*writer)
	w.note(e)
	return l.add(KindNote, w, e.Sure)
}

// enqueue copies a record's fields to the queue, and waits if that is wanted.
func (l *Log) enqueue(kind Kind, body []byte, wait bool) error {
	l.mu.Lock()
	if !wait && !l.slowDown() {
		l.mu.Unlock()
		return l.lose(ErrSlow, wait)
	}
	b := l.next
	err := l.err
	switch {
	case l.closed:
		l.mu.Unlock()
		return ErrClosed
	case err == nil && l.stuck():
		err = ErrSlow
	}
	full := len(b.body)+len(body) > mostBytes || len(b.entries) == mostRecords
	if full || err != nil && wait {
		if err == nil {
			err = ErrFull
		}
		l.mu.Unlock()
		return l.lose(err, wait)
	}
	b.entries = append(b.entries, entry{at: l.c.Now(), kind: kind, start: len(b.body), waits: wait})
	b.body = append(b.body, body...)
	if wait {
		if b.waiting++; b.timer == nil {
			b.timer = time.AfterFunc(l.c.Wait, func() { l.expire(b) })
		}
	}
	l.mu.Unlock()
	l.rouse()
	if !wait {
		return err
	}
	<-b.done
	return b.err
}

// slowDown has refusals wait while much is queued, so that a flood of them is as
// fast as the disk and no faster. The lock is held, but not meanwhile.
func (l *Log) slowDown() bool {
	var timer *time.Timer
	for len(l.next.body) > slowBytes && l.err == nil && !l.closed && !l.stuck() {
		taken := l.next.taken
		l.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(l.c.Wait)
			defer timer.Stop()
		}
		late := false
		select {
		case <-taken:
		case <-timer.C:
			late = true
		}
		if l.mu.Lock(); late {
			return false
		}
	}
	return true
}

func (l *Log) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// stuck tells whether the disk takes longer than anybody waits. The lock is held.
func (l *Log) stuck() bool { return !l.busy.IsZero() && time.Since(l.busy) > l.c.Wait }

// lose counts a record that is not written.
func (l *Log) lose(err error, grant bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.miss(err, grant)
	return err
}

// miss is lose with the lock held.
func (l *Log) miss(err error, grant bool) {
	if grant {
		l.missing.grants++
	} else {
		l.missing.lost++
	}
	l.missing.why = err.Error()
}

// expire lets those go who have waited too long for a batch, with ErrSlow. Their
// records are left out, or, when they may be on their way to the disk, others will
// say that they are void.
func (l *Log) expire(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case b.over:
		return
	case b == l.next:
		l.next = newBatch()
		l.keep(b, ErrSlow)
		close(b.taken)
	default:
		b.late = true
	}
	b.end(ErrSlow)
}

// keep puts the records of a batch that is given up, but those that somebody
// waited for, to the end of the queue. The lock is held.
func (l *Log) keep(b *batch, err error) {
	to := l.next
	for i, e := range b.entries {
		body := b.fields(i)
		switch {
		case e.waits:
			l.miss(err, true)
		case len(to.body)+len(body) > mostBytes || len(to.entries) == mostRecords:
			l.miss(err, false)
		default:
			e.start = len(to.body)
			to.body = append(to.body, body...)
			to.entries = append(to.entries, e)
		}
	}
}

// Status is how the Log is doing.
func (l *Log) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.status
	s.Key, s.Err, s.Queued = l.key, l.err, len(l.next.body)
	if s.Err == nil && l.stuck() {
		s.Err = ErrSlow
	}
	return s
}

// Close writes what is queued and a last seal. It may be called twice.
func (l *Log) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.stop)
	}
	l.mu.Unlock()
	select {
	case <-l.done:
		return l.closeErr
	case <-time.After(l.c.Wait + defaultWait):
		return fmt.Errorf("closing the audit record: %w", ErrSlow)
	}
}
