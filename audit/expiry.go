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
	if err != nil || len(all) < 2 || all[0].name == l.disk.name || !all[1].time.Before(l.c.Now().Add(-x.keep)) {
		return
	}
	for _, f := range all[1:] { // one that a crash has left may hold no record
		if seq, prev, err := firstOf(l.c.Dir, f.name); err == nil {
			x.name, x.last, x.sum = all[0].name, seq-1, prev
			return
		}
	}
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
