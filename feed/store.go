package feed

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/broker"
)

// store keeps the mirror on disk: a log of the frames as they came, each change
// closed by a record of ours. One goroutine writes, so that a slow disk does not
// slow what is published; one that cannot keep up, or is full, costs the copy on
// disk and not the service: after a fault all is written anew once there is room.
//
// The file is a row of records: four bytes of length, four of CRC-32C, and what
// was counted: a byte that says what it is, and its content. A record that is
// not whole ends it; what comes before the last whole change holds.
type store struct {
	dir  string
	host broker.HostName
	log  *logrus.Entry
	lock *os.File

	// The writer's:
	file    *os.File
	base    int64 // size after the last compaction
	size    int64
	top     uint64 // generations up to it are reserved
	broken  bool   // only a whole copy mends it
	retryAt time.Time

	jobs chan job
	done chan struct{} // closed when the writer has ended; nil before it began

	mu     sync.Mutex
	fault  string
	bytes  int64
	beaten time.Time // the last AsOf given to the writer
	whole  bool      // a whole copy is wanted
	ended  bool
}

// The records.
const (
	recordHost     = 'h' // header
	recordFrame    = 'f' // a kind and a body
	recordCommit   = 'c' // local: closes a change
	recordAsOf     = 'a' // local
	recordReserved = 'g' // a generation up to which none may be given again
)

// storeVersion is that of the file: its own, since a host keeps its last good
// snapshot when it is brought up to date. It is another when the records are, or
// what the frames of a change hold.
const storeVersion = 1

type header struct {
	Version int             `json:"version"`
	Host    broker.HostName `json:"host"`
}

type local struct {
	AsOf time.Time `json:"as_of"`
}

// generations are how many are reserved at once.
const generations = 1 << 20

const (
	logName       = "feed.log"
	maxRecord     = maxFrame + 64
	compactFrom   = 1 << 20
	heartbeatTime = time.Minute
	retryTime     = 5 * time.Second
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli) // immutable

func openStore(dir string, host broker.HostName, log *logrus.Entry) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making %s: %w", dir, err)
	}
	l, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	if err := unix.Flock(int(l.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		l.Close()
		return nil, fmt.Errorf("%s is in use by another process: %w", dir, err)
	}
	return &store{dir: dir, host: host, log: log, lock: l, jobs: make(chan job, 256)}, nil
}

// loaded is what was on disk.
type loaded struct {
	mirror *mirror
	asOf   time.Time
	faults []error
}

// load reads the log, cuts off what is torn, and begins to write.
func (s *store) load() (*loaded, error) {
	l := &loaded{mirror: newMirror()}
	path := filepath.Join(s.dir, logName)
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.broken = true // nothing there: a whole copy begins it
	case err != nil:
		return nil, fmt.Errorf("reading the last good snapshot: %w", err)
	default:
		good := s.replay(f, l)
		s.file, s.size, s.base = f, good, good
		if st, err := f.Stat(); err == nil && st.Size() > good {
			l.faults = append(l.faults, fmt.Errorf("%s: %d bytes at its end are torn or damaged and not used", path, st.Size()-good))
			err = f.Truncate(good)
			if err == nil {
				err = f.Sync()
			}
			if err != nil {
				s.broken = true
				s.setFault(err)
			}
		}
		if good == 0 {
			f.Close()
			s.file, s.broken = nil, true
		} else if _, err := f.Seek(good, io.SeekStart); err != nil {
			s.broken = true
			s.setFault(err)
		}
	}
	os.Remove(path + ".new")
	s.setBytes()
	s.done = make(chan struct{})
	s.whole = s.broken
	go s.run()
	m := l.mirror
	if m.snap != nil {
		m.floor = s.reserve(m.snap.Generation())
		e := m.snap.Edit()
		e.SetGeneration(m.floor)
		m.snap = e.Commit()
		s.beaten = l.asOf
	}
	return l, nil
}

// replay applies what is whole, and gives the offset up to which it is.
func (s *store) replay(f *os.File, l *loaded) (good int64) {
	r := bufio.NewReaderSize(f, 1<<20)
	m, at, first := l.mirror, int64(0), true
	t := m.begin()
	var buf []byte
	var pending *commit
	for {
		what, body, n, err := readRecord(r, &buf)
		if err != nil {
			if err != io.EOF {
				l.faults = append(l.faults, fmt.Errorf("at byte %d: %w", at, err))
			}
			return good
		}
		at += n
		if first {
			var h header
			if what != recordHost || decode(body, &h) != nil || h.Version != storeVersion || h.Host != s.host {
				l.faults = append(l.faults, errors.New("it is that of another host or of another release: it is not used"))
				return 0
			}
			first, good = false, at
			continue
		}
		if err := s.replayOne(&t, &pending, l, what, body); err != nil {
			l.faults = append(l.faults, fmt.Errorf("at byte %d: %w", at, err))
			return good
		}
		if len(t.kept) == 0 && !t.began && t.self == nil && pending == nil {
			good = at
		}
	}
}

func (s *store) replayOne(t **tx, pending **commit, l *loaded, what byte, body []byte) error {
	m := l.mirror
	switch what {
	case recordFrame:
		if len(body) == 0 {
			return errors.New("an empty frame")
		}
		v, err := parseServerFrame(kind(body[0]), body[1:])
		if err != nil {
			return err
		}
		switch v := v.(type) {
		case *ops:
			return (*t).ops(v)
		case *self:
			(*t).self = v
		case *commit:
			*pending = v
		default:
			return errors.New("a frame that does not belong here")
		}
	case recordCommit:
		var x local
		if err := decode(body, &x); err != nil {
			return err
		}
		if *pending == nil {
			return errors.New("the end of a change that was not begun")
		}
		if _, _, err := m.commit(*t, *pending, func(uint64) uint64 { return 0 }); err != nil {
			return err
		}
		*t, *pending = m.begin(), nil
		if x.AsOf.After(l.asOf) {
			l.asOf = x.AsOf
		}
	case recordAsOf:
		var x local
		if err := decode(body, &x); err != nil {
			return err
		}
		if m.snap != nil && x.AsOf.After(l.asOf) {
			l.asOf = x.AsOf
		}
	case recordReserved:
		if len(body) != 8 {
			return errors.New("a number that is none")
		}
		s.top = max(s.top, binary.BigEndian.Uint64(body))
	default:
		return fmt.Errorf("a record of kind %q", what)
	}
	return nil
}

var errTorn = errors.New("a record is torn or damaged")

func readRecord(r io.Reader, buf *[]byte) (what byte, body []byte, n int64, err error) {
	var head [8]byte
	if k, err := io.ReadFull(r, head[:]); err != nil {
		if k == 0 {
			return 0, nil, 0, io.EOF
		}
		return 0, nil, 0, errTorn
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < 1 || size > maxRecord {
		return 0, nil, 0, errTorn
	}
	if cap(*buf) < int(size) {
		*buf = make([]byte, size)
	}
	b := (*buf)[:size]
	if _, err := io.ReadFull(r, b); err != nil || crc32.Checksum(b, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
		return 0, nil, 0, errTorn
	}
	return b[0], b[1:], int64(8 + size), nil
}

func appendRecord(b []byte, what byte, parts ...[]byte) []byte {
	at := len(b)
	b = append(b, make([]byte, 8)...)
	b = append(b, what)
	for _, p := range parts {
		b = append(b, p...)
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-8))
	binary.BigEndian.PutUint32(b[at+4:], crc32.Checksum(b[at+8:], castagnoli))
	return b
}

func appendChange(b []byte, frames []frameKept, asOf time.Time) []byte {
	for _, f := range frames {
		b = appendRecord(b, recordFrame, []byte{byte(f.what)}, f.body)
	}
	return appendRecord(b, recordCommit, encodeEntry(local{asOf}))
}

// reserve gives a number from which generations may be given, least or more:
// none was given before, and as many as generations after it are on disk as given.
func (s *store) reserve(least uint64) uint64 {
	j := job{reserve: least, answer: make(chan uint64, 1)}
	select {
	case s.jobs <- j:
	default:
		// The writer hangs. Time has gone on since any number was given.
		return max(least, uint64(time.Now().UnixMicro()))
	}
	select {
	case n := <-j.answer:
		return n
	case <-time.After(time.Second):
		return max(least, uint64(time.Now().UnixMicro()))
	}
}

// job is something for the writer.
type job struct {
	data    []byte // appended, and synced
	asOf    time.Time
	whole   bool // data takes the place of all
	reserve uint64
	answer  chan uint64
}

// write keeps a change. When the writer cannot keep up it is dropped, and all is
// written later.
func (s *store) write(frames []frameKept, m *mirror, asOf time.Time) {
	s.mu.Lock()
	whole := s.whole
	if whole {
		s.whole = false
	}
	s.mu.Unlock()
	j := job{asOf: asOf, whole: whole}
	if whole {
		frames = m.dump()
	}
	j.data = appendChange(nil, frames, asOf)
	select {
	case s.jobs <- j:
	default:
		s.mu.Lock()
		s.whole = true
		s.mu.Unlock()
	}
}

// heartbeat keeps AsOf, now and then, and mends the copy once that is possible.
func (s *store) heartbeat(m *mirror, asOf time.Time) {
	s.mu.Lock()
	whole := s.whole
	due := asOf.Sub(s.beaten) >= heartbeatTime
	if due {
		s.beaten = asOf
	}
	s.mu.Unlock()
	switch {
	case whole:
		s.write(nil, m, asOf)
	case due:
		select {
		case s.jobs <- job{asOf: asOf}:
		default:
		}
	}
}

func (s *store) state() (fault string, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault, s.bytes
}

func (s *store) setFault(err error) {
	s.mu.Lock()
	was := s.fault
	s.fault = ""
	if err != nil {
		s.fault = err.Error()
	}
	now := s.fault
	s.mu.Unlock()
	if now != was && now != "" {
		s.log.WithError(err).Error("the last good snapshot cannot be written; the service goes on")
	}
}

func (s *store) setBytes() {
	s.mu.Lock()
	s.bytes = s.size
	s.mu.Unlock()
}

// run is the writer.
func (s *store) run() {
	defer close(s.done)
	for j := range s.jobs {
		switch {
		case j.answer != nil:
			j.answer <- s.doReserve(j.reserve)
		case j.whole:
			s.rewrite(j)
		case j.data == nil:
			s.append(appendRecord(nil, recordAsOf, encodeEntry(local{j.asOf})))
		default:
			s.append(j.data)
		}
		if !s.broken && s.size > compactFrom && s.size > 2*s.base || s.broken && time.Now().After(s.retryAt) {
			s.mu.Lock()
			s.whole = true
			s.mu.Unlock()
		}
	}
}
