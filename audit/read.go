package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"
)

// Query says which records to read. The zero value is all of them.
type Query struct {
	// Since and Until bound the time, Until excluded; zero: no bound.
	Since, Until time.Time
	// Kinds are those wanted; empty: all.
	Kinds []Kind
	// Has are texts that a line must hold as a JSON string, clipped or not, for it
	// to be read in full: a cheap first filter, not the last word.
	Has []string
}

// filter is a Query in the bytes of a line.
type filter struct {
	since, until string
	kinds        [][]byte
	has          [][]byte
}

func (q Query) filter() filter {
	var f filter
	if !q.Since.IsZero() {
		f.since = string(appendTime(nil, q.Since))
	}
	if !q.Until.IsZero() {
		f.until = string(appendTime(nil, q.Until))
	}
	for _, k := range q.Kinds {
		f.kinds = append(f.kinds, []byte(`"kind":"`+string(k)+`"`))
	}
	for _, s := range q.Has {
		w := writer{}
		w.quote(s)
		f.has = append(f.has, w.b)
	}
	return f
}

// wants tells whether a line may be one of those looked for.
func (f filter) wants(line []byte) bool {
	const begin = `,"time":"`
	at := bytes.Index(line[:min(len(line), 64)], []byte(begin))
	if at < 0 || len(line) < at+len(begin)+len(timeFormat) {
		return true // what is wrong with it is said by the decoder
	}
	rest := line[at+len(begin):]
	t := rest[:len(timeFormat)]
	if f.since != "" && string(t) < f.since || f.until != "" && string(t) >= f.until {
		return false
	}
	rest = rest[len(timeFormat):]
	kind := len(f.kinds) == 0
	for _, k := range f.kinds {
		kind = kind || bytes.HasPrefix(rest, append([]byte(`",`), k...))
	}
	if !kind {
		return false
	}
	for _, s := range f.has {
		if !bytes.Contains(rest, s) {
			return false
		}
	}
	return true
}

// errStop ends a scan early.
var errStop = errors.New("stopped")

// Scan gives f each record of a folder that q wants, oldest first, until f says
// false. It works on the folder of a sekishod that is running, and on a copy. It
// does not look at the chain: that is Verify's. A line that is no record is an
// error, with its place; the last line of all may be unfinished. The Record is
// f's to keep.
func Scan(ctx context.Context, dir string, q Query, f func(*Record) bool) error {
	err := scan(ctx, dir, q, func(_ []byte, r *Record) bool { return f(r) })
	if err == errStop {
		return nil
	}
	return err
}

// ScanLines is Scan that gives the line too, without its newline; it is good
// until f returns.
func ScanLines(ctx context.Context, dir string, q Query, f func([]byte, *Record) bool) error {
	err := scan(ctx, dir, q, f)
	if err == errStop {
		return nil
	}
	return err
}

func scan(ctx context.Context, dir string, q Query, f func([]byte, *Record) bool) error {
	all, err := files(dir)
	if err != nil {
		return err
	}
	ends, err := mends(dir, all)
	if err != nil {
		return err
	}
	filter := q.filter()
	for i, file := range all {
		// No record in a file is younger than the name of the next.
		if i+1 < len(all) && !q.Since.IsZero() && all[i+1].time.Before(q.Since) {
			continue
		}
		if _, err := scanFile(ctx, dir, file.name, place{}, ends, filter, f); err != nil {
			return err
		}
	}
	return nil
}

// place is one in a file: an offset, and the number of lines before it.
type place struct {
	off  int64
	line int
}

// scanFile reads a file from a place on, and tells how far it came: to the end
// of its last whole line.
func scanFile(ctx context.Context, dir, name string, from place, ends map[string]Record, q filter, f func([]byte, *Record) bool) (place, error) {
	r, err := openFile(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return from, nil // it has grown too old meanwhile
	}
	if err != nil {
		return from, fmt.Errorf("reading the audit record: %w", err)
	}
	defer r.Close()
	var in io.Reader = r
	if end, ok := ends[name]; ok {
		in = io.LimitReader(r, max(0, end.At-from.off))
	}
	if _, err := r.Seek(from.off, io.SeekStart); err != nil {
		return from, fmt.Errorf("reading the audit record: %w", err)
	}
	l := newLines(in)
	for done := from; ; {
		if l.n%1024 == 0 && ctx.Err() != nil {
			return done, ctx.Err()
		}
		line, err := l.next()
		if err == io.EOF || err == nil && line[len(line)-1] != '\n' && len(line) < maxLine {
			return done, nil
		}
		if err != nil {
			return done, fmt.Errorf("reading the audit record: %w", err)
		}
		done = place{from.off + l.off, from.line + l.n}
		if !q.wants(line) {
			continue
		}
		var rec Record
		if err := json.Unmarshal(line, &rec); err != nil {
			return done, fmt.Errorf("%s:%d is no audit record (%w): see sekisho audit verify", name, done.line, err)
		}
		if !f(line[:len(line)-1], &rec) {
			return done, errStop
		}
	}
}

// Tail gives f the last n records that there are, and then, if follow is set,
// each that comes, until ctx ends or f says false.
func Tail(ctx context.Context, dir string, n int, follow bool, f func([]byte, *Record) bool) error {
	all, err := files(dir)
	if err != nil {
		return err
	}
	ends, err := mends(dir, all)
	if err != nil {
		return err
	}
	first, from, err := tailPlace(dir, all, ends, n)
	if err != nil {
		return err
	}
	var seen file // the last one that was read
	for {
		for i := first; i < len(all); i++ {
			if i > first {
				from = place{}
			}
			seen = all[i]
			from, err = scanFile(ctx, dir, seen.name, from, ends, filter{}, f)
			switch {
			case err == errStop || follow && ctx.Err() != nil:
				return nil
			case err != nil:
				return err
			}
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
		if all, err = files(dir); err != nil {
			return err
		}
		if first = len(all) - 1; first >= 0 && all[first].name == seen.name {
			continue
		}
		if ends, err = mends(dir, all); err != nil {
			return err
		}
		// It may be gone: too old, or given up before anything in it counted.
		first = slices.IndexFunc(all, func(f file) bool { return f.order(seen) >= 0 })
		switch {
		case first < 0:
			first = len(all)
		case all[first].name != seen.name:
			from = place{}
		}
	}
}

// tailPlace finds where the last n lines begin.
func tailPlace(dir string, all []file, ends map[string]Record, n int) (first int, from place, err error) {
	for i := len(all) - 1; i >= 0; i-- {
		starts, err := lineStarts(dir, all[i].name, ends)
		if err != nil {
			return 0, place{}, err
		}
		if k := len(starts) - n; k >= 0 {
			if k == len(starts) { // none of them
				k--
				if k < 0 {
					return i, place{}, nil
				}
				return i, place{starts[k].end, k + 1}, nil
			}
			return i, place{starts[k].start, k}, nil
		}
		n -= len(starts)
	}
	return 0, place{}, nil
}

type span struct{ start, end int64 }

func lineStarts(dir, name string, ends map[string]Record) ([]span, error) {
	r, err := openFile(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var in io.Reader = r
	if end, ok := ends[name]; ok {
		in = io.LimitReader(r, end.At)
	}
	var out []span
	for l := newLines(in); ; {
		start := l.off
		line, err := l.next()
		if err == io.EOF || err == nil && line[len(line)-1] != '\n' {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, span{start, l.off})
	}
}
