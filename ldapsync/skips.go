package ldapsync

import (
	"hash/maphash"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
)

// skipList is what could not be used, for the log and for Status.
type skipList struct {
	all            map[broker.EntryID]skip
	texts          map[broker.EntryID]Skipped // of the first MaxSkipped
	whole, values  int
	log            *logrus.Entry
	now            func() time.Time
	changed        bool // since Status was told
	windowStart    time.Time
	logged, unsaid int
}

type skip struct {
	hash   uint64
	values int32
	whole  bool
}

// logEvery and logMost bound the lines about skipped entries.
const (
	logEvery = time.Minute
	logMost  = 100
)

var skipSeed = maphash.MakeSeed() // immutable after start

func (l *skipList) note(e *entry, p *problems) {
	if len(p.list) == 0 {
		l.forget(e.id)
		return
	}
	why := p.String()
	s := skip{hash: maphash.String(skipSeed, why), whole: p.whole}
	if s.values = int32(len(p.list) + p.more); p.whole {
		s.values = 0
	}
	if l.all[e.id] == s {
		return
	}
	l.forget(e.id)
	l.changed = true
	l.all[e.id] = s
	l.values += int(s.values)
	if s.whole {
		l.whole++
	}
	dn := printable(string(e.dn), 300)
	if len(l.texts) < MaxSkipped {
		l.texts[e.id] = Skipped{DN: dn, Why: why, Whole: s.whole}
	}
	if now := l.now(); now.Sub(l.windowStart) > logEvery || now.Before(l.windowStart) {
		if l.unsaid > 0 {
			l.log.Warnf("%d more directory entries with faults were not logged; see the status", l.unsaid)
		}
		l.windowStart, l.logged, l.unsaid = now, 0, 0
	}
	if l.logged++; l.logged > logMost {
		l.unsaid++
		return
	}
	what := "a value of a directory entry is not used"
	if s.whole {
		what = "a directory entry is not used"
	}
	l.log.WithFields(logrus.Fields{"dn": dn, "why": why}).Warn(what)
}

func (l *skipList) forget(id broker.EntryID) {
	if len(l.all) == 0 {
		return
	}
	s, ok := l.all[id]
	if !ok {
		return
	}
	l.changed = true
	delete(l.all, id)
	delete(l.texts, id)
	l.values -= int(s.values)
	if s.whole {
		l.whole--
	}
}

// list is the texts in the order of their DNs.
func (l *skipList) list() []Skipped {
	s := make([]Skipped, 0, len(l.texts))
	for _, x := range l.texts {
		s = append(s, x)
	}
	slices.SortFunc(s, func(a, b Skipped) int {
		if a.DN < b.DN {
			return -1
		}
		return 1
	})
	return s
}
