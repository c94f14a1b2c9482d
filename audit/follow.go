package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// verifier is a Verify under way.
type verifier struct {
	c    VerifyConfig
	v    Verdict
	keys []ed25519.PublicKey

	chain
	begun    bool
	lastTime [len(timeFormat)]byte // of the last record
	newest   [len(timeFormat)]byte // no record so far is younger
	lost     bool                  // the last line could not be read, so the next names one unknown
	file     string
	line     int
	before   Problem           // where the last line is
	suspect  *Problem          // the line at which the chain broke last, and nothing else was said of it
	accused  Problem           // the line before that
	asides   map[string]Record // the mends, by the file that they speak of
	wanted   map[string]wanted // lines of seals that were not seen yet
	given    int               // seals from elsewhere
	total    int64
	done     int64
	told     time.Time
	lastSeal []byte
	deleted  uint64 // the record that excuses what is missing before the first, once a seal follows
}

// Verify follows the chain through all files of a folder and checks each seal.
// The error is for a folder that cannot be read; what is wrong with the record is
// in the Verdict. It may be run while a Log writes.
func Verify(ctx context.Context, c VerifyConfig) (*Verdict, error) {
	v := &verifier{c: c, wanted: map[string]wanted{}}
	if err := v.prepare(); err != nil {
		return nil, err
	}
	all, err := files(c.Dir)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there is no audit record in %s: %w", c.Dir, fs.ErrNotExist)
	}
	if v.asides, err = mends(c.Dir, all); err != nil {
		return nil, err
	}
	for _, f := range all {
		if st, err := os.Stat(filepath.Join(c.Dir, f.name)); err == nil {
			v.total += st.Size()
		}
	}
	v.v.Files = len(all)
	for i, f := range all {
		if err := v.one(ctx, f, i == len(all)-1); err != nil {
			return nil, err
		}
	}
	if v.v.Bytes == 0 && len(v.wanted) == 0 { // the first record is on its way
		return nil, fmt.Errorf("there is no audit record in %s yet: %w", c.Dir, fs.ErrNotExist)
	}
	v.finish(all)
	return &v.v, nil
}

func (v *verifier) prepare() error {
	for _, s := range v.c.Keys {
		k, err := ParseKey(s)
		if err != nil {
			return err
		}
		v.keys = append(v.keys, k)
	}
	if v.v.Trusted = len(v.keys) > 0; !v.v.Trusted {
		k, err := readPublic(v.c.Dir)
		if err != nil {
			return err
		}
		if k != nil {
			v.keys = append(v.keys, k)
		}
	}
	return v.want()
}

// readPublic reads the public key that lies in the folder; nil when there is none.
func readPublic(dir string) (ed25519.PublicKey, error) {
	f, err := openFile(dir, publicName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	k, err := ParseKey(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	return k, nil
}

func (v *verifier) wrong(p Problem) {
	v.v.Wrong++
	if len(v.v.Problems) < maxProblems {
		v.v.Problems = append(v.v.Problems, p)
	}
}

func (v *verifier) here(format string, args ...any) Problem {
	return Problem{v.file, v.line, fmt.Sprintf(format, args...)}
}

// one follows the chain through a file, up to where a mend says that it ends.
func (v *verifier) one(ctx context.Context, f file, last bool) error {
	r, err := openFile(v.c.Dir, f.name)
	if errors.Is(err, fs.ErrNotExist) && !v.begun {
		v.v.Files--
		return nil // it has grown too old meanwhile
	}
	if err != nil {
		return fmt.Errorf("reading the audit record: %w", err)
	}
	defer r.Close()
	v.file, v.line = f.name, 0
	// Scan leaves files out by the name of the next one.
	if v.begun && bytes.Compare(appendTime(nil, f.time), v.newest[:]) < 0 {
		v.wrong(Problem{File: f.name, What: fmt.Sprintf("its name is older than records before it, the youngest of which is of %s", v.newest)})
	}
	mend, mended := v.asides[f.name]
	l := newLines(r)
	for {
		if l.n%4096 == 0 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			v.progress(v.done + l.off)
		}
		start := l.off
		if mended && start >= mend.At {
			break
		}
		line, err := l.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the audit record: %w", err)
		}
		if last && line[len(line)-1] != '\n' && len(line) < maxLine {
			if line, err = wholeLine(ctx, v.c.Dir, f.name, start); err != nil {
				return err
			}
			// On from its end: the rest of it may be there by now.
			if _, err := r.Seek(start+int64(len(line)), io.SeekStart); err != nil {
				return fmt.Errorf("reading the audit record: %w", err)
			}
			n := l.n
			l = newLines(r)
			l.n, l.off = n, start+int64(len(line))
		}
		v.line++
		if err := v.next(line); err != nil {
			return err
		}
		if v.line == 1 && !v.lost && v.seq != f.seq {
			v.wrong(Problem{File: f.name, What: fmt.Sprintf("its name says that it begins with record %d", f.seq)})
		}
		if last && line[len(line)-1] != '\n' {
			break
		}
	}
	if mended {
		if err := v.aside(r, f.name, mend, l.off); err != nil {
			return err
		}
	}
	st, err := r.Stat()
	if err != nil {
		return fmt.Errorf("reading the audit record: %w", err)
	}
	if st.Size() == 0 && !last && !mended {
		v.wrong(Problem{File: f.name, What: "it is empty"})
	}
	v.done += st.Size()
	v.v.Bytes += st.Size()
	return nil
}

// wholeLine reads the last line again for a while: it may be on its way.
func wholeLine(ctx context.Context, dir, name string, start int64) ([]byte, error) {
	for try := 0; ; try++ {
		r, err := openFile(dir, name)
		if err != nil {
			return nil, fmt.Errorf("reading the audit record: %w", err)
		}
		var line []byte
		if _, err = r.Seek(start, io.SeekStart); err == nil {
			line, err = newLines(r).next()
			line = bytes.Clone(line)
		}
		r.Close()
		if err != nil {
			return nil, fmt.Errorf("reading the audit record: %w", err)
		}
		if line[len(line)-1] == '\n' || try == 10 {
			return line, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// next follows the chain by a line. Where it is broken that is told, and it goes
// on from there.
func (v *verifier) next(line []byte) error {
	h, err := parse(line)
	place := Problem{File: v.file, Line: v.line}
	if err != nil {
		v.settle(false)
		if err == errCut {
			err = fmt.Errorf("it is cut off after %d bytes: by a crash, and then sekishod mends it when it starts, or by somebody", len(line))
		}
		v.wrong(v.here("%v", err))
		if !v.lost {
			v.seq++ // taken for one record
		}
		v.lost, v.before = true, place
		return nil
	}
	due := v.seq + 1
	switch {
	case !v.begun:
		v.v.First, v.v.Prev = v.point(h), string(h.prev)
		if v.v.Prev == genesis {
			v.v.Prev = ""
		}
	case h.seq != due:
		v.settle(false)
		what := fmt.Sprintf("record %d stands where %d is due", h.seq, due)
		if h.seq > due {
			what = fmt.Sprintf("records %d to %d are missing before it", due, h.seq-1)
		}
		v.wrong(v.here("%s", what))
	case v.lost:
	case string(h.prev) != v.last:
		if v.suspect != nil { // that line itself is the false one: it fits neither side
			v.settle(true)
		} else {
			v.suspect, v.accused = &place, v.before
		}
	default:
		v.settle(false)
	}
	v.begun, v.lost, v.before = true, false, place
	v.chain = chain{h.seq, hashOf(line)}
	v.v.Records++
	v.v.Last.Seq, v.v.Last.File = h.seq, v.file
	copy(v.lastTime[:], h.time)
	if bytes.Compare(h.time, v.newest[:]) > 0 {
		copy(v.newest[:], h.time)
	}
	return v.read(h, line)
}

// settle tells which line was changed where the chain broke: the one before, if
// the line that names it fits what follows.
func (v *verifier) settle(itself bool) {
	if v.suspect == nil {
		return
	}
	p := v.accused
	if itself {
		p = *v.suspect
	}
	p.What = "it was changed: it is not what the lines after it name"
	if itself {
		p.What = "it was changed: it names another line before it, and the one after it another"
	}
	v.suspect = nil
	v.wrong(p)
}

func (v *verifier) point(h head) Point {
	t, _ := time.Parse(timeFormat, string(h.time))
	return Point{h.seq, t, v.file}
}

// read looks at what records say about the record.
func (v *verifier) read(h head, line []byte) error {
	switch h.kind {
	case KindSeal:
		v.seal(h, line)
		return nil
	case KindMend, KindGap, KindDelete, KindCut, KindVoid:
	default:
		return nil
	}
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		v.wrong(v.here("it is no audit record: %v", err))
		return nil
	}
	switch h.kind {
	case KindMend:
		if m := v.asides[r.File]; m.Seq != r.Seq {
			v.wrong(v.here("it speaks of the end of %s, but does not stand where such a record does", r.File))
		}
	case KindGap:
		v.v.Gaps = append(v.v.Gaps, v.here("%s: %d grants were refused and %d records lost because nothing could be written: %s",
			h.time, r.Grants, r.Lost, r.Text))
	case KindDelete:
		if r.Of+1 == v.v.First.Seq {
			v.deleted = r.Seq
			if r.Sum != v.v.Prev {
				v.wrong(v.here("it names another last line of the deleted file %s than the first record here does", r.File))
			}
		}
	case KindVoid:
		if r.Of == v.deleted {
			v.deleted = 0
		}
	case KindCut:
		if r.Of < r.Seq {
			v.wrong(v.here("when sekishod started, the seal of record %d was not in the record: it was cut off or written anew", r.Of))
			return nil
		}
		v.wrong(v.here("when sekishod started, the seal of record %d and all since record %d were gone", r.Of, r.Seq-1))
	}
	return nil
}

func (v *verifier) seal(h head, line []byte) {
	delete(v.wanted, string(line))
	if len(v.keys) == 0 { // whatever the record itself says
		var r Record
		if json.Unmarshal(line, &r) == nil {
			if k, err := ParseKey(r.Key); err == nil {
				v.keys = append(v.keys, k)
			}
		}
	}
	if !v.sealed(h) {
		v.wrong(v.here("the seal's signature is wrong, or made with another key"))
		return
	}
	if v.deleted > 0 {
		v.v.Deleted, v.deleted = v.deleted, 0
	}
	v.v.Seals++
	v.v.LastSeal = v.point(h)
	v.lastSeal = append(v.lastSeal[:0], line...)
}

// sealed tells whether one of the keys has made a seal.
func (v *verifier) sealed(h head) bool {
	for _, k := range v.keys {
		if checkSeal(h, k) == nil {
			return true
		}
	}
	return false
}

// aside looks at the end of a file that a mend has put aside. A crash leaves
// there a piece of one write, which was on the disk for nobody to rely on.
func (v *verifier) aside(r *os.File, name string, m Record, came int64) error {
	p := Problem{File: name, Line: v.line + 1}
	if came != m.At {
		p.What = fmt.Sprintf("record %d puts aside what follows byte %d, where no line begins", m.Seq, m.At)
		v.wrong(p)
		return nil
	}
	a, err := rest(r, name, m.At)
	if err != nil {
		return fmt.Errorf("reading the audit record: %w", err)
	}
	p.What = fmt.Sprintf("%d bytes are no part of the record, as record %d says: %s", a.bytes, m.Seq, m.Text)
	v.v.Mended = append(v.v.Mended, p)
	if m.Bytes >= 0 && (m.Bytes != a.bytes || m.Sum != a.sum) {
		p.What = fmt.Sprintf("what record %d has put aside was changed since", m.Seq)
		v.wrong(p)
	}
	if a.bytes > maxBatch {
		p.What = fmt.Sprintf("%d bytes were put aside, more than a crash can leave: they were changed or cut", a.bytes)
		v.wrong(p)
	}
	if _, err := r.Seek(m.At, io.SeekStart); err != nil {
		return fmt.Errorf("reading the audit record: %w", err)
	}
	for l := newLines(r); ; {
		line, err := l.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the audit record: %w", err)
		}
		h, err := parse(line[max(0, bytes.LastIndex(line, []byte(`{"seq":`))):])
		// Only a write's first line is a seal, of all before that write.
		if err == nil && h.kind == KindSeal && h.seq > v.seq+1 && v.sealed(h) {
			p.What = fmt.Sprintf("the seal of record %d stands among what was put aside after record %d: sealed records were changed or cut", h.seq, v.seq)
			v.wrong(p)
		}
	}
}

// finish looks at what only the end can tell.
func (v *verifier) finish(all []file) {
	if v.suspect != nil {
		p := *v.suspect
		p.What = fmt.Sprintf("the line before it is not the one that it names: it, or %s:%d, was changed", v.accused.File, v.accused.Line)
		v.suspect = nil
		v.wrong(p)
	}
	v.v.Last.Time, _ = time.Parse(timeFormat, string(v.lastTime[:]))
	if !v.begun {
		v.wrong(Problem{File: all[0].name, What: "there is no whole record in it, nor in any other file"})
	}
	if v.v.Prev != "" && v.v.Deleted == 0 {
		v.wrong(Problem{File: v.v.First.File, What: fmt.Sprintf("the record begins with %d, and does not say that the files before it were deleted for their age: they were removed, or not copied", v.v.First.Seq)})
	}
	names := map[string]bool{}
	for _, f := range all {
		names[f.name] = true
	}
	for name, m := range v.asides {
		if !names[name] && name > all[0].name {
			v.wrong(Problem{File: name, What: fmt.Sprintf("it is gone, and record %d puts a part of it aside", m.Seq)})
		}
	}
	v.unseen()
	if len(v.keys) > 0 {
		v.v.Key = b64.EncodeToString(v.keys[0])
	}
	v.v.LastSealLine = strings.TrimSuffix(string(v.lastSeal), "\n")
	v.v.Unsealed = v.v.Last.Seq - v.v.LastSeal.Seq
	switch {
	case v.v.Seals == 0 && v.v.Trusted:
		v.wrong(Problem{What: "there is no seal that the given key has made: nothing proves who wrote this"})
	case v.v.Seals == 0:
		v.v.Notes = append(v.v.Notes, "there is no good seal: nothing proves who wrote this")
	}
	v.progress(v.total)
}

func (v *verifier) progress(done int64) {
	if v.c.Progress != nil && (time.Since(v.told) > 200*time.Millisecond || done == v.total) {
		v.told = time.Now()
		v.c.Progress(done, v.total)
	}
}
