package ldapsync

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// store keeps the snapshot on disk. Its methods only queue what its one
// goroutine writes, so that a slow disk does not slow what is published; a
// disk that cannot keep up, or is full, costs the copy on disk and not the
// service. After any fault the store waits for room, and then for a full
// refresh, since the raw entries are nowhere but there.
type store struct {
	dir       string
	lock      *os.File
	maxRecord int
	head      header // of every new segment, but for full and after
	log       *logrus.Entry
	wake      func() // called when a full refresh is wanted

	mu      sync.Mutex
	more    *sync.Cond // the queue, or closed, changed
	queue   []op
	queued  int  // bytes in queue
	closed  bool // no more ops
	broken  bool // ops are dropped until a full begin
	wanted  bool // a full refresh is wanted: there is room again
	fault   string
	written int64         // bytes on disk
	done    chan struct{} // closed when the goroutine is over; nil before start

	buffers sync.Pool // of *[]byte, for large batches

	w writer // of the goroutine alone
}

// op is one thing to do, in order.
type op struct {
	kind  opKind
	data  []byte // opData
	after uint64 // the last commit before it
	full  bool   // opBegin
}

type opKind uint8

const (
	opData  opKind = iota // append records to the newest segment
	opBegin               // open an unfinished segment
	opAbort               // throw the newest unfinished segment away
	opSeal                // make all unfinished segments good
)

const (
	maxQueued   = 32 << 20
	slowDisk    = 10 * time.Second // how long the sync waits for the queue
	syncEvery   = time.Second
	roomRetry   = 5 * time.Second // doubled up to roomRetryMax
	roomMax     = 5 * time.Minute
	maxSegments = 24
	slack       = 4 << 20 // of the journal, before it is folded into a full segment
)

// openStore makes and locks the state directory.
func openStore(c *Config, h header) (*store, error) {
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	st, err := os.Stat(c.StateDir)
	if err != nil {
		return nil, fmt.Errorf("looking at the state directory: %w", err)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("state directory %s: others may write to it, and could let anybody in; chmod go-w it", c.StateDir)
	}
	lock, err := os.OpenFile(filepath.Join(c.StateDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the state directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("state directory %s is in use by another sekishod; stop it or use another directory", c.StateDir)
		}
		return nil, fmt.Errorf("locking the state directory: %w", err)
	}
	s := &store{dir: c.StateDir, lock: lock, maxRecord: maxRecord(c.MaxMessage), head: h, log: c.Log, wake: func() {}}
	s.more = sync.NewCond(&s.mu)
	s.w.s = s
	return s, nil
}

// start takes over what was loaded and starts the writing goroutine.
func (s *store) start(l *loaded) {
	s.w.next = l.next
	s.w.retry = roomRetry
	for _, g := range l.segments {
		s.w.segs = append(s.w.segs, written{path: g.path, full: g.header.full, size: g.size})
	}
	if len(l.segments) == 0 {
		s.broken = true // until the first full refresh
	}
	s.w.count()
	s.done = make(chan struct{})
	go s.w.run()
}

// stop writes what is queued and ends the goroutine; it may be called twice.
func (s *store) stop() {
	s.mu.Lock()
	s.closed = true
	s.more.Broadcast()
	s.mu.Unlock()
	if s.done != nil {
		<-s.done
	}
	s.lock.Close()
}

// do queues an op. It waits, for a time, when the queue is full.
func (s *store) do(o op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.kind == opBegin && o.full && (s.fault == "" || s.wanted) {
		s.broken, s.wanted = false, false
	}
	var late bool
	if s.queued > maxQueued && !s.broken {
		t := time.AfterFunc(slowDisk, func() {
			s.mu.Lock()
			late = true
			s.more.Broadcast()
			s.mu.Unlock()
		})
		for s.queued > maxQueued && !s.broken && !s.closed && !late {
			s.more.Wait()
		}
		t.Stop()
		if late && s.queued > maxQueued {
			s.failLocked(fmt.Errorf("the disk under %s does not keep up", s.dir))
		}
	}
	if s.broken || s.closed {
		return
	}
	s.queue = append(s.queue, o)
	s.queued += len(o.data)
	s.more.Broadcast()
}

// buffer is an empty one for a refresh's records; the writer gives it back.
func (s *store) buffer() []byte {
	if b, ok := s.buffers.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, flushRecords+flushRecords/4)
}

// failLocked gives the copy on disk up until there is room and a full refresh.
func (s *store) failLocked(err error) {
	s.fault, s.broken, s.wanted = err.Error(), true, false
	s.queue, s.queued = nil, 0
	s.more.Broadcast()
}

// wantsFull reports whether the store waits for a full refresh.
func (s *store) wantsFull() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wanted
}

func (s *store) state() (fault string, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault, s.written
}

// writer is the store's goroutine.
type writer struct {
	s    *store
	next uint64 // number of the next segment

	segs  []written  // good segments in order, without cur
	cur   *written   // where data goes; nil: a new one is opened
	pend  []*written // unfinished segments; data goes to the last
	dirty bool       // cur has data that was not synced
	retry time.Duration
}

// written is a segment on disk.
type written struct {
	f    *os.File // nil when it is only read
	path string
	full bool
	size int64
}

func (w *writer) run() {
	s := w.s
	defer close(s.done)
	tick := time.AfterFunc(syncEvery, s.more.Broadcast)
	defer tick.Stop()
	lastSync, retryAt := time.Now(), time.Time{}
	for {
		s.mu.Lock()
		for len(s.queue) == 0 && !s.closed && time.Since(lastSync) < syncEvery {
			s.more.Wait()
		}
		ops, closed, failed := s.queue, s.closed, s.fault != "" && s.broken && !s.wanted
		s.queue, s.queued = nil, 0
		s.more.Broadcast()
		s.mu.Unlock()

		for _, o := range ops {
			if err := w.one(o); err != nil {
				w.fail(err)
				break
			}
			if c := cap(o.data); c >= flushRecords && c < 8*flushRecords {
				s.buffers.Put(&o.data)
			}
		}
		if time.Since(lastSync) >= syncEvery || closed {
			if err := w.sync(); err != nil {
				w.fail(err)
			}
			lastSync = time.Now()
			if !closed {
				tick.Reset(syncEvery + 10*time.Millisecond)
			}
		}
		switch {
		case failed && retryAt.IsZero():
			w.drop()
			retryAt = time.Now().Add(w.retry)
		case failed && time.Now().After(retryAt):
			w.retry, retryAt = min(2*w.retry, roomMax), time.Time{}
			w.tryRoom()
		}
		if closed && len(ops) == 0 {
			w.drop()
			return
		}
	}
}

func (w *writer) one(o op) error {
	switch o.kind {
	case opBegin:
		f, err := w.create("tmp", o.full, o.after)
		if err != nil {
			return err
		}
		w.pend = append(w.pend, f)
	case opAbort:
		if n := len(w.pend); n > 0 {
			w.discard(w.pend[n-1])
			w.pend = w.pend[:n-1]
		}
	case opSeal:
		return w.seal()
	case opData:
		return w.data(o)
	}
	return nil
}

func (w *writer) create(suffix string, full bool, after uint64) (*written, error) {
	path := segmentPath(w.s.dir, w.next, suffix)
	w.next++
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("writing the snapshot: %w", err)
	}
	h := w.s.head
	h.full, h.after = full, after
	g := &written{f: f, path: path, full: full}
	if err := g.write(h.append([]byte(segmentMagic))); err != nil {
		w.discard(g)
		return nil, err
	}
	return g, nil
}

func (g *written) write(b []byte) error {
	n, err := g.f.Write(b)
	g.size += int64(n)
	if err != nil {
		return fmt.Errorf("writing the snapshot: %w", err)
	}
	return nil
}

func (w *writer) discard(g *written) {
	g.f.Close()
	if err := os.Remove(g.path); err != nil {
		w.s.log.WithError(err).Warn("removing an unfinished snapshot")
	}
}

func (w *writer) data(o op) error {
	if n := len(w.pend); n > 0 {
		return w.pend[n-1].write(o.data)
	}
	if w.cur == nil {
		g, err := w.create("log", false, o.after)
		if err != nil {
			return err
		}
		w.cur = g
	}
	if err := w.cur.write(o.data); err != nil {
		return err
	}
	w.dirty = true
	w.count()
	return w.compactWhenDue()
}

// sync brings what was written to the disk itself.
func (w *writer) sync() error {
	if w.cur == nil || !w.dirty {
		return nil
	}
	w.dirty = false
	if err := w.cur.f.Sync(); err != nil {
		return fmt.Errorf("syncing the snapshot: %w", err)
	}
	return nil
}

// seal makes the unfinished segments good, in order. A full one takes the
// place of all before it.
func (w *writer) seal() error {
	pend := w.pend
	if len(pend) == 0 {
		return nil
	}
	if err := w.closeCur(); err != nil {
		return err
	}
	for i, g := range pend {
		if err := w.finish(g); err != nil {
			w.pend = pend[i:]
			return err
		}
		if g.full {
			w.removeBefore(g.path)
			w.segs = nil
		}
		w.segs = append(w.segs, written{path: g.path, full: g.full, size: g.size})
	}
	w.pend = nil
	w.recovered()
	w.count()
	return w.compactWhenDue()
}

// finish gives a segment its good name, durably.
func (w *writer) finish(g *written) error {
	if err := g.f.Sync(); err != nil {
		return fmt.Errorf("syncing the snapshot: %w", err)
	}
	if err := g.f.Close(); err != nil {
		return fmt.Errorf("closing the snapshot: %w", err)
	}
	suffix := "log"
	if g.full {
		suffix = "full"
	}
	to := g.path[:len(g.path)-len("tmp")] + suffix
	if err := os.Rename(g.path, to); err != nil {
		return fmt.Errorf("naming the snapshot: %w", err)
	}
	g.path = to
	return syncDir(w.s.dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing the state directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing the state directory: %w", err)
	}
	return nil
}

// closeCur ends the segment that data goes to.
func (w *writer) closeCur() error {
	if w.cur == nil {
		return nil
	}
	g := w.cur
	w.cur = nil
	w.segs = append(w.segs, written{path: g.path, full: g.full, size: g.size})
	if err := errors.Join(g.f.Sync(), g.f.Close()); err != nil {
		return fmt.Errorf("syncing the snapshot: %w", err)
	}
	w.dirty = false
	return nil
}

// removeBefore removes all segments that are older than a full one: those that
// it takes the place of, and what was found damaged.
func (w *writer) removeBefore(full string) {
	names, err := os.ReadDir(w.s.dir)
	if err != nil {
		w.s.log.WithError(err).Warn("removing old snapshots")
		return
	}
	for _, n := range names {
		num, suffix, ok := segmentNumber(n.Name())
		if !ok || suffix == "tmp" || segmentPath(w.s.dir, num, suffix) >= full {
			continue
		}
		if err := os.Remove(filepath.Join(w.s.dir, n.Name())); err != nil {
			w.s.log.WithError(err).Warn("removing an old snapshot")
		}
	}
}

// count tells Status how much there is on disk.
func (w *writer) count() {
	var n int64
	for _, g := range w.segs {
		n += g.size
	}
	if w.cur != nil {
		n += w.cur.size
	}
	w.s.mu.Lock()
	w.s.written = n
	w.s.mu.Unlock()
}

// recovered notes that a good snapshot is on disk again.
func (w *writer) recovered() {
	w.retry = roomRetry
	w.s.mu.Lock()
	was := w.s.fault
	w.s.fault = ""
	w.s.mu.Unlock()
	if was != "" {
		w.s.log.Info("the snapshot is on disk again")
	}
}

func (w *writer) fail(err error) {
	w.s.mu.Lock()
	first := w.s.fault == ""
	w.s.failLocked(err)
	w.s.mu.Unlock()
	if first {
		w.s.log.WithError(err).Error("the directory's snapshot cannot be kept on disk; make room: until then a restart without the directory has only an older one")
	}
}

// drop lets go of unfinished and open segments; what was good stays.
func (w *writer) drop() {
	for _, g := range w.pend {
		w.discard(g)
	}
	w.pend = nil
	if err := w.closeCur(); err != nil {
		w.s.log.WithError(err).Debug("closing the snapshot")
	}
}

// tryRoom finds out whether a new full segment would fit, by taking that much.
func (w *writer) tryRoom() {
	need := int64(1 << 20)
	for _, g := range w.segs {
		need += g.size
	}
	path := segmentPath(w.s.dir, w.next, "tmp")
	w.next++
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, need)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = nil // cannot be known beforehand here: just try
	}
	f.Close()
	os.Remove(path)
	if err != nil {
		return
	}
	w.s.mu.Lock()
	w.s.wanted = true
	w.s.mu.Unlock()
	w.s.wake()
}
