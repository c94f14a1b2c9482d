package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// ledger counts, beside NATS's own files, the marks that must be there: for each
// second (for those with long lives, each hour) how many end in it. When a folder
// is opened the marks found are compared with it, so that a log that was cut or
// damaged, which NATS takes up again without a word, does not make spent marks
// spendable.
//
// A count is written before Create says nil, and synced within a second. A killed
// process loses nothing of it; a machine that loses its power may lose the last
// second's, and with it only the means to notice that marks of that second are
// lost too.
type ledger struct {
	path string

	mu    sync.Mutex // guards all below
	f     *os.File   // nil once closed
	slots []slot
	dirty bool // written and not synced
}

// slot is 16 bytes of the file: at and count, and a CRC-32C of both and of the
// slot's index, big-endian.
type slot struct {
	at    int64 // the second or hour since 1970
	count uint32
}

const (
	slotSize  = 16
	nSeconds  = 1 << 13 // over two hours
	nHours    = 1 << 10 // over 42 days
	perBucket = nSeconds + nHours + 1

	// shortLife is up to how many seconds a mark's life is counted by the second.
	shortLife = 2 * 3600
	// maxLife is the longest life in seconds of a mark that has an end.
	maxLife = (nHours - 2) * 3600
)

// counted are the buckets in the ledger, in the file's order.
var counted = []string{BucketReplay, BucketCodes}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	// errLedger is of a file that tells nothing.
	errLedger = errors.New("the count of the marks is missing or damaged")
)

// place says in which slot a mark is counted, and as what.
func place(bucket string, r record) (index int, at int64) {
	i := slices.Index(counted, bucket) * perBucket
	switch {
	case r.ttl == 0:
		return i + nSeconds + nHours, 0
	case r.ttl <= shortLife:
		return i + int(r.expires%nSeconds), r.expires
	}
	return i + nSeconds + int(r.expires/3600%nHours), r.expires / 3600
}

// alive tells whether marks counted in a slot must all be there still, and until
// when they are needed, zero is for ever.
func (s slot) alive(index int, now time.Time) (bool, time.Time) {
	unit := int64(1)
	switch i := index % perBucket; {
	case i == nSeconds+nHours:
		return true, time.Time{}
	case i >= nSeconds:
		unit = 3600
	}
	// NATS takes off what ends now and, as its clock is read a little later than
	// ours, not before; the rest is for a clock that is being corrected.
	return s.at*unit > now.Unix()+3, time.Unix((s.at+1)*unit, 0)
}

func (s slot) bytes(index int) []byte {
	b := make([]byte, 0, slotSize)
	b = binary.BigEndian.AppendUint64(b, uint64(s.at))
	b = binary.BigEndian.AppendUint32(b, s.count)
	return binary.BigEndian.AppendUint32(b, slotSum(b, index))
}

func slotSum(b []byte, index int) uint32 {
	return crc32.Checksum(binary.BigEndian.AppendUint32(slices.Clone(b[:slotSize-4]), uint32(index)), castagnoli)
}

func newSlots() []slot { return make([]slot, len(counted)*perBucket) }

// openLedger reads the file. With errLedger there is a ledger all the same, an
// empty one.
func openLedger(path string) (*ledger, error) {
	l := &ledger{path: path, slots: newSlots()}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err != nil || len(b) != len(l.slots)*slotSize {
		return l, errLedger
	}
	for i := range l.slots {
		s := b[i*slotSize:][:slotSize]
		if binary.BigEndian.Uint32(s[slotSize-4:]) != slotSum(s, i) {
			l.slots = newSlots()
			return l, errLedger
		}
		l.slots[i] = slot{int64(binary.BigEndian.Uint64(s)), binary.BigEndian.Uint32(s[8:])}
	}
	return l, nil
}

// note counts a mark that was written.
func (l *ledger) note(bucket string, r record) error {
	i, at := place(bucket, r)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return os.ErrClosed
	}
	if l.slots[i].at != at {
		l.slots[i] = slot{at: at}
	}
	l.slots[i].count++
	l.dirty = true
	_, err := l.f.WriteAt(l.slots[i].bytes(i), int64(i)*slotSize)
	return err
}

// missing compares a bucket's marks as they were found with the count: how many
// are lost that are needed still, and until when, zero is for ever.
func (l *ledger) missing(bucket string, got []slot, now time.Time) (n int, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first, ever := slices.Index(counted, bucket)*perBucket, false
	for i := first; i < first+perBucket; i++ {
		want, have := l.slots[i], uint32(0)
		if got[i].at == want.at {
			have = got[i].count
		}
		alive, end := want.alive(i, now)
		if !alive || have >= want.count {
			continue
		}
		n += int(want.count - have)
		ever = ever || end.IsZero()
		if end.After(until) {
			until = end
		}
	}
	if ever {
		until = time.Time{}
	}
	return n, until
}

// replace begins anew with what was found. A file of the right size is written in
// place, which needs no room on a full disk: of a write that ends half-way, each
// slot is the old or the new.
func (l *ledger) replace(got []slot) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := make([]byte, 0, len(got)*slotSize)
	for i, s := range got {
		b = append(b, s.bytes(i)...)
	}
	if l.f == nil {
		if fi, err := os.Lstat(l.path); err != nil || fi.Size() != int64(len(b)) {
			if err := create(l.path, b); err != nil {
				return err
			}
		}
		f, err := os.OpenFile(l.path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		l.f = f
	}
	if _, err := l.f.WriteAt(b, 0); err != nil {
		return err
	}
	if err := l.f.Sync(); err != nil {
		return err
	}
	l.slots, l.dirty = got, false
	return nil
}

// create puts a whole new file in place.
func create(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		os.Remove(path + ".new") // it may hold the last room on the disk
		return fmt.Errorf("making %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sync brings what was noted to the disk.
func (l *ledger) sync() error {
	l.mu.Lock()
	f, dirty := l.f, l.dirty
	l.dirty = false
	l.mu.Unlock()
	if f == nil || !dirty {
		return nil
	}
	return f.Sync()
}

func (l *ledger) close() error {
	err := l.sync()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		if cerr := l.f.Close(); err == nil {
			err = cerr
		}
		l.f = nil
	}
	return err
}
