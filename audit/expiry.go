package audit

import (
	"os"
	"path/filepath"
	"time"
)

// expiry deletes old files, few at a time: a clock that is years ahead for an
// hour must not cost all of the record.
type expiry struct {
	keep    time.Duration
	allowed int
	since   time.Time // of the last hour counted

	name string // the file to be deleted now; empty: none
	last uint64 // the last record in it
	sum  string // of its last line
}

// look picks the next file that is too old.
func (x *expiry) look(l *Log) {
	if x.keep == 0 || x.name != "" {
		return
	}
	if time.Since(x.since) >= time.Hour {
		x.since, x.allowed = time.Now(), x.allowed+1
	}
	if x.allowed == 0 {
		return
	}
	x.allowed--
	all, err := files(l.c.Dir)
	if err != nil || len(all) < 2 || all[0].name == l.disk.name || !x.tooOld(l.c.Dir, all, l.c.Now()) {
		return
	}
	for _, f := range all[1:] { // one that a crash has left may hold no record
		if seq, prev, err := firstOf(l.c.Dir, f.name); err == nil {
			x.name, x.last, x.sum = all[0].name, seq-1, prev
			return
		}
	}
}

// tooOld tells whether all records of the first file are too old.
func (x *expiry) tooOld(dir string, all []file, now time.Time) bool {
	before := now.Add(-x.keep)
	if !all[1].time.After(now.Add(time.Hour)) { // or it waits for an hour
		return all[1].time.Before(before)
	}
	// The clock was ahead once, and names go on from there. What was last written
	// to so long ago is too old, and so is all before it; that says more than the
	// first file's own time, which the same clock may have set.
	for _, f := range all {
		if st, err := os.Lstat(filepath.Join(dir, f.name)); err == nil && st.ModTime().Before(before) {
			return true
		}
	}
	return false
}

// firstOf reads a file's first record: its number, and the hash of the one before.
func firstOf(dir, name string) (seq uint64, prev string, err error) {
	f, err := openFile(dir, name)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	line, err := newHeadLines(f).next()
	if err != nil {
		return 0, "", err
	}
	h, err := parse(line)
	return h.seq, string(h.prev), err
}

func (x *expiry) fields() []byte {
	w := writer{}
	w.text("file", x.name)
	w.text("sum", x.sum)
	w.count("of", x.last)
	return w.b
}

// remove deletes the file, now that the record says so.
func (x *expiry) remove(l *Log) {
	if x.name == "" {
		return
	}
	e := l.c.Log.WithField("file", x.name).WithField("last", x.last)
	if err := os.Remove(filepath.Join(l.c.Dir, x.name)); err != nil {
		e.WithError(err).Error("an audit file that is too old cannot be deleted")
	} else {
		e.Info("an audit file that was too old is deleted")
	}
	x.name = ""
}
