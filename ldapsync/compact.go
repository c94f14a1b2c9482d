package ldapsync

import (
	"bufio"
	"fmt"
	"os"

	"github.com/sekisho/sekisho/broker"
)

// compactWhenDue folds the journal into a new full segment when it has grown
// past half of the full one.
func (w *writer) compactWhenDue() error {
	if len(w.pend) > 0 || len(w.segs) == 0 {
		return nil
	}
	var full, journal int64
	for _, g := range w.segs {
		if g.full {
			full += g.size
		} else {
			journal += g.size
		}
	}
	n := len(w.segs)
	if w.cur != nil {
		journal += w.cur.size
		n++
	}
	if journal <= full/2+slack && n <= maxSegments {
		return nil
	}
	if err := w.closeCur(); err != nil {
		return err
	}
	return w.compact()
}

// place is where an entry's last record is; deleted when seg is -1.
type place struct {
	seg int
	off int64
}

// compact writes all good segments as one. Memory: one place for each entry
// that the journal touches, or that the full segment deletes again.
func (w *writer) compact() error {
	segs := make([]segment, len(w.segs))
	latest := map[broker.EntryID]place{}
	for i, g := range w.segs {
		s, err := inspect(g.path, 0, w.s.maxRecord)
		if err != nil {
			return fmt.Errorf("reading the snapshot back: %w", err)
		}
		segs[i] = s
		err = s.walk(w.s.maxRecord, func(kind byte, body []byte, off int64) error {
			if kind != recPut && kind != recDelete {
				return nil
			}
			p, id := place{i, off}, broker.EntryID(body[:16])
			if kind == recDelete {
				p.seg = -1
			} else if _, ok := latest[id]; i == 0 && !ok {
				return nil // of the full segment only what it takes back is noted
			}
			latest[id] = p
			return nil
		})
		if err != nil {
			return fmt.Errorf("reading the snapshot back: %w", err)
		}
	}
	last := segs[len(segs)-1].last
	for i := len(segs) - 1; last.seq == 0 && i >= 0; i-- {
		last = segs[i].last // a segment without a commit continues nothing
	}
	g, err := w.create("tmp", true, 0)
	if err != nil {
		return err
	}
	if err := w.copyLatest(g, segs, latest, last); err != nil {
		w.discard(g)
		return err
	}
	if err := w.finish(g); err != nil {
		os.Remove(g.path)
		return err
	}
	w.removeBefore(g.path)
	w.segs = []written{{path: g.path, full: true, size: g.size}}
	w.count()
	return nil
}

// copyLatest writes each entry's last record, and the last commit, to g. An
// entry may stand several times in one segment: only the place that was noted
// counts.
func (w *writer) copyLatest(g *written, segs []segment, latest map[broker.EntryID]place, last commit) error {
	out := bufio.NewWriterSize(g.f, 1<<20)
	var size int64
	var rec []byte
	for i := range segs {
		err := segs[i].walk(w.s.maxRecord, func(kind byte, body []byte, off int64) error {
			if kind != recPut {
				return nil
			}
			p, ok := latest[broker.EntryID(body[:16])]
			if ok && p != (place{i, off}) || !ok && i > 0 {
				return nil
			}
			rec = appendRecord(rec[:0], recPut, func(b []byte) []byte { return append(b, body...) })
			size += int64(len(rec))
			_, err := out.Write(rec)
			return err
		})
		if err != nil {
			return fmt.Errorf("folding the snapshot: %w", err)
		}
	}
	rec = last.append(rec[:0])
	size += int64(len(rec))
	if _, err := out.Write(rec); err != nil {
		return fmt.Errorf("folding the snapshot: %w", err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("folding the snapshot: %w", err)
	}
	g.size += size
	return nil
}

// walk calls f for each record up to the last good commit, with the offset
// after it.
func (s *segment) walk(max int, f func(kind byte, body []byte, off int64) error) error {
	r, _, err := openSegment(s.path, max)
	if err != nil {
		return err
	}
	defer r.close()
	for r.off < s.end {
		kind, body, err := r.next()
		if err == nil && (kind == recPut || kind == recDelete) && len(body) < 16 {
			err = errRecord
		}
		if err != nil {
			return err
		}
		if err := f(kind, body, r.off); err != nil {
			return err
		}
	}
	return nil
}
