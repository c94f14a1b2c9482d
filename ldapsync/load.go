package ldapsync

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/sekisho/sekisho/broker"
)

// loaded is what was found on disk.
type loaded struct {
	segments []segment // in order; empty when there is nothing to load
	last     commit
	next     uint64 // a segment number that was never used
	samePlan bool   // the snapshot holds all that is asked for now
	// faults are for the log; the snapshot before them is good.
	faults []error
}

// maxRecord bounds a record by the greatest message.
func maxRecord(maxMessage int) int { return maxMessage + maxMessage/4 + 1024 }

// findSegments looks through dir, and takes away what was never finished.
func findSegments(dir string, most int) (all []segment, next uint64, faults []error, err error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, 0, nil, fmt.Errorf("reading the state directory: %w", err)
	}
	for _, n := range names {
		num, suffix, ok := segmentNumber(n.Name())
		if !ok {
			continue
		}
		next = max(next, num+1)
		path := filepath.Join(dir, n.Name())
		if suffix == "tmp" {
			if err := os.Remove(path); err != nil {
				faults = append(faults, fmt.Errorf("removing an unfinished snapshot: %w", err))
			}
			continue
		}
		s, err := inspect(path, num, most)
		if err == nil {
			err = s.damage
		}
		if err != nil {
			faults = append(faults, damaged(path, s, err))
		}
		if s.first != 0 {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b segment) int { return int(int64(a.num) - int64(b.num)) })
	return all, next, faults, nil
}

// damaged words what is wrong with a file, and the mend.
func damaged(path string, s segment, err error) error {
	if !errors.Is(err, errCut) && !errors.Is(err, errRecord) {
		return fmt.Errorf("reading the snapshot: %w; see to the disk, or remove the file: what is missing comes from the directory", err)
	}
	if s.first == 0 {
		return fmt.Errorf("snapshot file %s is cut or damaged and of no use; remove it: what is missing comes from the directory", path)
	}
	return fmt.Errorf("snapshot file %s is cut or damaged after byte %d; what came later comes from the directory again", path, s.end)
}

// chain picks the newest full segment that is good and all that continue it.
func chain(all []segment) []segment {
	for i := len(all) - 1; i >= 0; i-- {
		if !all[i].header.full {
			continue
		}
		use := all[i : i+1 : i+1]
		last := all[i].last.seq
		for _, s := range all[i+1:] {
			if s.header.full || s.header.after != last || s.header.plan != all[i].header.plan {
				continue
			}
			use = append(use, s)
			last = s.last.seq
		}
		return use
	}
	return nil
}

// load reads the last good snapshot into m. What it cannot use it tells in
// faults; an error means that the directory cannot be read at all.
func (s *store) load(m *mirror, p *plan, base broker.DN) (*loaded, error) {
	all, next, faults, err := findSegments(s.dir, s.maxRecord)
	if err != nil {
		return nil, err
	}
	l := &loaded{next: max(next, 1), faults: faults}
	use := chain(all)
	if len(use) == 0 {
		return l, nil
	}
	h := use[0].header
	if h.base != string(base) {
		l.faults = append(l.faults, fmt.Errorf("the snapshot in %s is of the base %q, not of %q; it is not used", s.dir, h.base, base))
		return l, nil
	}
	columns := make([]int, len(h.names))
	for i, n := range h.names {
		columns[i] = p.lookup([]byte(n))
	}
	e := p.newEntry()
	for i := range use {
		err := use[i].replay(s.maxRecord, func(b []byte) error {
			if err := readEntry(b, columns, e); err != nil {
				return err
			}
			m.put(e)
			return nil
		}, m.remove)
		if err != nil && err != io.EOF {
			m.rollback()
			l.faults = append(l.faults, damaged(use[i].path, segment{}, err))
			return l, nil
		}
	}
	l.segments, l.last, l.samePlan = use, use[len(use)-1].last, h.plan == p.fingerprint()
	return l, nil
}
