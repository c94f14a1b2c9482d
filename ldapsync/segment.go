package ldapsync

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// A segment is a file of records: a header, then puts and deletes, closed by
// commits. A full segment holds everything up to its first commit; another one
// continues from the commit that its header names. What follows the last good
// commit was never finished and does not count.
//
// A record is its length and the CRC-32C of its payload, four bytes each,
// little-endian, and the payload: one byte of kind, and what the kind says.

const segmentMagic = "sekisho snapshot 1\n"

// Kinds of record.
const (
	recHeader = 'h'
	recPut    = 'p' // appendEntry's bytes
	recDelete = 'd' // the id
	recCommit = 'c'
)

const recordHead = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli) // immutable after start

// header is a segment's first record.
type header struct {
	full  bool
	after uint64 // the commit that it continues from; 0 for a full one
	plan  uint64 // plan.fingerprint
	base  string // the normalized base DN
	names []string
}

// commit closes a batch of records.
type commit struct {
	seq        uint64 // grows by one with each commit
	generation uint64
	asOf       time.Time
	cookie     string
}

func appendRecord(b []byte, kind byte, payload func([]byte) []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, recordHead)...)
	b = append(b, kind)
	b = payload(b)
	body := b[at+recordHead:]
	binary.LittleEndian.PutUint32(b[at:], uint32(len(body)))
	binary.LittleEndian.PutUint32(b[at+4:], crc32.Checksum(body, castagnoli))
	return b
}

func appendPut(b []byte, e *entry) []byte {
	return appendRecord(b, recPut, func(b []byte) []byte { return appendEntry(b, e) })
}

func appendDelete(b []byte, id broker.EntryID) []byte {
	return appendRecord(b, recDelete, func(b []byte) []byte { return append(b, id[:]...) })
}

func (c commit) append(b []byte) []byte {
	return appendRecord(b, recCommit, func(b []byte) []byte {
		b = binary.AppendUvarint(b, c.seq)
		b = binary.AppendUvarint(b, c.generation)
		b = binary.AppendVarint(b, c.asOf.UnixNano())
		return appendBytes(b, []byte(c.cookie))
	})
}

func parseCommit(b []byte) (c commit, err error) {
	var nanos int64
	var n int
	for _, to := range []*uint64{&c.seq, &c.generation} {
		if *to, n = binary.Uvarint(b); n <= 0 {
			return c, errRecord
		}
		b = b[n:]
	}
	if nanos, n = binary.Varint(b); n <= 0 {
		return c, errRecord
	}
	c.asOf = time.Unix(0, nanos)
	cookie, rest, ok := cutBytes(b[n:])
	if !ok || len(rest) != 0 {
		return c, errRecord
	}
	c.cookie = string(cookie)
	return c, nil
}

func (h header) append(b []byte) []byte {
	return appendRecord(b, recHeader, func(b []byte) []byte {
		full := byte(0)
		if h.full {
			full = 1
		}
		b = append(b, full)
		b = binary.AppendUvarint(b, h.after)
		b = binary.LittleEndian.AppendUint64(b, h.plan)
		b = appendBytes(b, []byte(h.base))
		for _, n := range h.names {
			b = appendBytes(b, []byte(n))
		}
		return b
	})
}

func parseHeader(b []byte) (h header, err error) {
	if len(b) < 1 {
		return h, errRecord
	}
	h.full, b = b[0] == 1, b[1:]
	var n int
	if h.after, n = binary.Uvarint(b); n <= 0 || len(b) < n+8 {
		return h, errRecord
	}
	h.plan, b = binary.LittleEndian.Uint64(b[n:]), b[n+8:]
	for i := 0; len(b) > 0; i++ {
		v, rest, ok := cutBytes(b)
		if !ok {
			return h, errRecord
		}
		if b = rest; i == 0 {
			h.base = string(v)
		} else {
			h.names = append(h.names, string(v))
		}
	}
	return h, nil
}

// recordReader reads a segment's records, up to the first bad one.
type recordReader struct {
	f   *os.File
	r   *bufio.Reader
	off int64 // of the next record
	buf []byte
	max int
}

var errCut = errors.New("the file is cut or damaged")

// openSegment opens a segment and reads its header.
func openSegment(path string, max int) (*recordReader, header, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, header{}, err
	}
	size := 1 << 20
	if st, err := f.Stat(); err == nil && st.Size() < int64(size) {
		size = int(st.Size()) + 16
	}
	r := &recordReader{f: f, r: bufio.NewReaderSize(f, size), max: max}
	h, err := r.header()
	if err != nil {
		f.Close()
		return nil, header{}, err
	}
	return r, h, nil
}

func (r *recordReader) header() (header, error) {
	magic := make([]byte, len(segmentMagic))
	if _, err := io.ReadFull(r.r, magic); err != nil || string(magic) != segmentMagic {
		return header{}, errCut
	}
	r.off = int64(len(magic))
	kind, body, err := r.next()
	if err != nil || kind != recHeader {
		return header{}, errCut
	}
	return parseHeader(body)
}

// next gives the next record, valid until the call after; io.EOF at a clean
// end, errCut where the file is not what was written.
func (r *recordReader) next() (kind byte, body []byte, err error) {
	var head [recordHead]byte
	if n, err := io.ReadFull(r.r, head[:]); err != nil {
		if n == 0 && err == io.EOF {
			return 0, nil, io.EOF
		}
		return 0, nil, cutOr(err)
	}
	n := int(binary.LittleEndian.Uint32(head[:]))
	if n < 1 || n > r.max {
		return 0, nil, errCut
	}
	if cap(r.buf) < n {
		// Grow with what is really there: a damaged length costs nothing.
		r.buf = make([]byte, 0, min(n, 1<<20))
	}
	r.buf = r.buf[:0]
	for len(r.buf) < n {
		step := min(n-len(r.buf), 1<<20)
		at := len(r.buf)
		if cap(r.buf) < at+step {
			r.buf = append(make([]byte, 0, min(n, 2*(at+step))), r.buf...)
		}
		r.buf = r.buf[:at+step]
		if _, err := io.ReadFull(r.r, r.buf[at:]); err != nil {
			return 0, nil, cutOr(err)
		}
	}
	if crc32.Checksum(r.buf, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return 0, nil, errCut
	}
	r.off += int64(recordHead + n)
	return r.buf[0], r.buf[1:], nil
}

// cutOr tells a file that ends too early from one that cannot be read.
func cutOr(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errCut
	}
	return err
}

func (r *recordReader) close() { r.f.Close() }

// segment is what is known of a file after it was looked through.
type segment struct {
	path   string
	num    uint64
	header header
	first  uint64 // seq of the first commit, 0 when there is none
	last   commit
	end    int64 // offset after the last commit
	size   int64
	damage error // why it was not read to its end
}

// inspect reads a segment through and finds its last good commit.
func inspect(path string, num uint64, max int) (segment, error) {
	s := segment{path: path, num: num}
	r, h, err := openSegment(path, max)
	if err != nil {
		return s, err
	}
	defer r.close()
	s.header = h
	if st, err := r.f.Stat(); err == nil {
		s.size = st.Size()
	}
	for {
		kind, body, err := r.next()
		switch {
		case err == io.EOF:
			if h.full && s.first == 0 {
				s.damage = errCut // full segments get their name after a commit
			}
			return s, nil
		case err != nil:
			s.damage = err
			return s, nil
		case kind == recCommit:
			c, err := parseCommit(body)
			if err != nil || s.last.seq != 0 && c.seq != s.last.seq+1 {
				s.damage = errCut
				return s, nil
			}
			if s.first == 0 {
				s.first = c.seq
			}
			s.last, s.end = c, r.off
		case kind != recPut && kind != recDelete:
			s.damage = errCut
			return s, nil
		}
	}
}

// replay calls put and del for the records up to the last good commit.
func (s *segment) replay(max int, put func([]byte) error, del func(broker.EntryID)) error {
	r, _, err := openSegment(s.path, max)
	if err != nil {
		return err
	}
	defer r.close()
	for r.off < s.end {
		kind, body, err := r.next()
		if err != nil {
			return err
		}
		switch kind {
		case recPut:
			if err := put(body); err != nil {
				return err
			}
		case recDelete:
			if len(body) != 16 {
				return errRecord
			}
			del(broker.EntryID(body))
		}
	}
	return nil
}

// segmentPath names a segment: NUMBER.full, NUMBER.log, or NUMBER.tmp while it
// is unfinished. The numbers have twenty digits: names sort as they do.
func segmentPath(dir string, num uint64, suffix string) string {
	return filepath.Join(dir, fmt.Sprintf("%020d.%s", num, suffix))
}

// segmentNumber is segmentPath's other way round.
func segmentNumber(name string) (num uint64, suffix string, ok bool) {
	base, suffix, _ := strings.Cut(name, ".")
	num, err := strconv.ParseUint(base, 10, 63)
	return num, suffix, err == nil && len(base) == 20 && (suffix == "full" || suffix == "log" || suffix == "tmp")
}
