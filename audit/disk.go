package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// disk is the folder as the one goroutine that writes it sees it.
type disk struct {
	dir   string
	host  string
	key   ed25519.PrivateKey
	limit int64 // bytes in a file
	sync  func(fd int) error

	chain
	name   string    // of the file in use, or of the last one
	f      *os.File  // nil: a new file is to be begun
	size   int64     // of f: all of it in the chain and on the disk
	newest time.Time // no record is younger
	asides []aside   // that the next file must speak of

	lastSeal uint64   // its number
	head     *os.File // the copy of the last seal; nil: it cannot be written
}

// open finds out where the record ends, and changes nothing that counts.
func (d *disk) open() error {
	all, err := files(d.dir)
	if err != nil {
		return err
	}
	d.last = genesis
	if len(all) > 0 {
		d.newest, d.name = all[len(all)-1].time, all[len(all)-1].name
	}
	for i := len(all) - 1; i >= 0; i-- {
		path := filepath.Join(d.dir, all[i].name)
		st, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("reading the audit record: %w", err)
		}
		if st.Size() == 0 { // begun, and never written to
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("removing an empty audit file: %w", err)
			}
			continue
		}
		lines, torn, err := d.resume(all[i].name)
		if err != nil {
			return fmt.Errorf("reading the audit record: %w", err)
		}
		if torn != nil {
			d.asides = append([]aside{*torn}, d.asides...)
		}
		if lines > 0 {
			if torn == nil && len(d.asides) == 0 && st.Size() < d.limit {
				if d.f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
					return fmt.Errorf("going on with the audit record: %w", err)
				}
				d.name, d.size = all[i].name, st.Size()
			}
			break
		}
	}
	return nil
}

// resume follows the chain through a file from its own beginning, and tells how
// many lines are good and what is not.
func (d *disk) resume(name string) (n int, torn *aside, err error) {
	f, err := openFile(d.dir, name)
	if err != nil {
		return 0, nil, err
	}
	defer f.Close()
	// A process that was killed has left lines that nobody synced, and the chain
	// goes on from them.
	if err := f.Sync(); err != nil {
		return 0, nil, fmt.Errorf("syncing %s: %w", name, err)
	}
	l := newLines(f)
	for {
		at := l.off
		line, err := l.next()
		if err == io.EOF {
			return n, nil, nil
		}
		if err != nil {
			return 0, nil, err
		}
		if n == 0 {
			h, err := parse(line)
			if err == nil {
				d.chain = chain{h.seq - 1, string(h.prev)}
			}
		}
		h, err := d.take(line)
		if err != nil {
			a, serr := rest(f, name, at)
			a.text = err.Error()
			return n, &a, serr
		}
		n++
		if t, err := time.Parse(timeFormat, string(h.time)); err == nil && t.After(d.newest) {
			d.newest = t
		}
		if h.kind == KindSeal {
			d.lastSeal = h.seq
		}
	}
}

// tail looks at what nobody without the key can have made. gone is the number of
// the last seal by its copy, if that is not in the record; else 0. deletes are the
// records of that kind that no seal follows: of a writer that was killed, or of
// somebody without the key.
func (d *disk) tail() (gone uint64, deletes []uint64, err error) {
	copied, seq, err := d.openHead()
	if err != nil {
		return 0, nil, err
	}
	all, err := files(d.dir)
	if err != nil {
		return 0, nil, err
	}
	ends, err := mends(d.dir, all)
	if err != nil {
		return 0, nil, err
	}
	for _, a := range d.asides {
		ends[a.name] = Record{At: a.at}
	}
	if seq > 0 && (len(all) == 0 || seq >= all[0].seq) { // else it has grown too old
		gone = seq
	}
	sealed := false
	for i := len(all) - 1; i >= 0; i-- {
		t, err := d.look(all[i].name, ends, copied)
		if err != nil {
			return 0, nil, fmt.Errorf("reading the audit record: %w", err)
		}
		if !sealed {
			sealed, deletes = t.sealed, append(t.deletes, deletes...)
		}
		if t.copied {
			gone = 0
		}
		if sealed && (gone == 0 || all[i].seq <= gone) {
			break
		}
	}
	return gone, deletes, nil
}

// looked is what was seen in a file.
type looked struct {
	sealed  bool     // there is a seal
	deletes []uint64 // after the last seal
	copied  bool     // the line that was looked for is there
}

func (d *disk) look(name string, ends map[string]Record, copied []byte) (looked, error) {
	f, err := openFile(d.dir, name)
	if err != nil {
		return looked{}, err
	}
	defer f.Close()
	var in io.Reader = f
	if end, ok := ends[name]; ok {
		in = io.LimitReader(f, end.At)
	}
	t := looked{}
	for l := newLines(in); ; {
		line, err := l.next()
		if err == io.EOF {
			return t, nil
		}
		if err != nil {
			return looked{}, err
		}
		h, err := parse(line)
		switch {
		case err != nil: // Verify says so
		case h.kind == KindSeal:
			t.sealed, t.deletes = true, nil
			t.copied = t.copied || bytes.Equal(line, copied)
		case h.kind == KindDelete:
			t.deletes = append(t.deletes, h.seq)
		}
	}
}

// rest describes a file from an offset on.
func rest(f *os.File, name string, at int64) (aside, error) {
	a := aside{name: name, at: at}
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return a, err
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	a.bytes, a.sum = n, b64.EncodeToString(h.Sum(nil))
	return a, err
}

// write appends whole lines and has them on the disk, all or none. made is the
// chain after them.
func (d *disk) write(lines []byte, made chain) error {
	if err := d.append(lines); err != nil {
		return err
	}
	d.chain = made
	return nil
}

func (d *disk) append(lines []byte) error {
	n, err := d.f.Write(lines)
	if err == nil && n < len(lines) {
		err = io.ErrShortWrite
	}
	if err != nil {
		// What is there of them was promised to nobody.
		if d.cutBack() != nil {
			d.abandon(err)
		}
		return fmt.Errorf("writing the audit record: %w", err)
	}
	if err := d.sync(int(d.f.Fd())); err != nil {
		// The kernel has thrown away what it could not write, and will not say so
		// again (fsync(2)): nothing more can be had from this file.
		d.abandon(err)
		return fmt.Errorf("syncing the audit record: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(d.f.Fd()), &st); err != nil {
		d.abandon(err)
		return fmt.Errorf("looking at the audit record: %w", err)
	}
	if st.Nlink == 0 || st.Size != d.size+int64(len(lines)) {
		err := errors.New("somebody else has changed or removed the file " + d.name)
		d.abandon(err)
		return fmt.Errorf("looking at the audit record: %w", err)
	}
	d.size = st.Size
	return nil
}

// cutBack takes away what a failed write has left after the good part.
func (d *disk) cutBack() error {
	st, err := d.f.Stat()
	if err != nil {
		return err
	}
	if st.Size() < d.size {
		return errors.New("somebody else has cut the file " + d.name)
	}
	return d.f.Truncate(d.size)
}

// abandon gives a file up for good, and remembers that what follows its good
// part does not count.
func (d *disk) abandon(why error) {
	err := d.cutBack()
	d.f.Close()
	d.f = nil
	if err == nil && d.size == 0 && os.Remove(filepath.Join(d.dir, d.name)) == nil {
		return
	}
	d.asides = append(d.asides, aside{name: d.name, at: d.size, bytes: -1, text: why.Error()})
	d.size = 0
}

// begin makes the next file. A folder whose entry could not be synced is no
// place for a grant.
func (d *disk) begin(now time.Time) error {
	if !now.After(d.newest) {
		now = d.newest.Add(1) // the clock was set back: names sort all the same
	}
	name := nameOf(d.seq+1, now)
	f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("beginning an audit file: %w", err)
	}
	if err := syncDir(d.dir); err != nil {
		f.Close()
		os.Remove(filepath.Join(d.dir, name))
		return fmt.Errorf("beginning an audit file: %w", err)
	}
	d.f, d.name, d.size, d.newest = f, name, 0, now
	return nil
}

// full tells whether the file in use has had enough.
func (d *disk) full() bool { return d.f != nil && d.size >= d.limit }

// leave ends the file in use.
func (d *disk) leave() {
	if d.f != nil {
		d.f.Close()
		d.f, d.size = nil, 0
	}
}

// line appends one line to b: what the chain's next record says. rest are the
// fields after host, as a writer makes them.
func (d *disk) line(b []byte, c *chain, at time.Time, kind Kind, rest []byte) []byte {
	start := len(b)
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, c.seq+1, 10)
	b = append(b, `,"time":"`...)
	b = appendTime(b, at)
	b = append(b, `","kind":"`...)
	b = append(b, kind...)
	b = append(b, '"')
	b = append(b, d.host...)
	b = append(b, rest...)
	b = append(b, `,"prev":"`...)
	b = append(b, c.last...)
	b = append(b, '"')
	if kind == KindSeal {
		sig := sign(d.key, b[start:])
		b = append(b, `,"sig":"`...)
		b = append(append(b, sig...), '"')
	}
	b = append(b, '}', '\n')
	c.seq, c.last = c.seq+1, hashOf(b[start:])
	return b
}

// appendTime writes a time that timeFormat can say; another becomes the nearest.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	switch y := t.Year(); {
	case y < 0:
		t = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	case y > 9999:
		t = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	}
	return t.AppendFormat(b, timeFormat)
}

// openHead opens the copy of the last seal and gives its line and number; 0 for
// none that counts.
func (d *disk) openHead() ([]byte, uint64, error) {
	path := filepath.Join(d.dir, headName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("opening %s: %w", path, err)
	}
	d.head = f
	line, h, err := readHead(d.dir)
	if err != nil || h.kind != KindSeal || checkSeal(h, d.key.Public().(ed25519.PublicKey)) != nil {
		return nil, 0, nil // torn by a crash, or of an older key
	}
	return line, h.seq, nil
}

// readHead reads the copy of the last seal; nothing when there is none that can be
// read.
func readHead(dir string) (line []byte, h head, err error) {
	f, err := openFile(dir, headName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, head{}, nil
	}
	if err != nil {
		return nil, head{}, err
	}
	defer f.Close()
	if line, err = newHeadLines(f).next(); err != nil {
		return nil, head{}, nil
	}
	if h, err = parse(line); err != nil || h.kind != KindSeal {
		return nil, head{}, nil
	}
	return line, h, nil
}

// keepHead copies a seal that is on the disk. It need not get there itself: a
// copy that is too old says less, and nothing false.
func (d *disk) keepHead(line []byte) {
	if d.head != nil {
		// One write of less than a page; what an older, longer line leaves behind
		// comes after the newline.
		d.head.WriteAt(line, 0)
	}
}

func (d *disk) close() error {
	d.leave()
	if d.head != nil {
		return d.head.Close()
	}
	return nil
}
