package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// transcriptSessions are a transcript's sessions: a Broker whose directory and
// clock are the transcript's, judging after each command.
type transcriptSessions struct {
	b      *Broker
	max    int
	silent bool // the keeper does not say that a session has ended
	told   []Ending
	events []SessionEvent
	full   bool // the recorder fails
}

// session does one command about sessions:
//
//	session open|resume ID [basis=account|none] [place=HOST] and what decide takes
//	session close|lose ID
//	session kill by=NAME [id=ID] [user=NAME]
//	session show ID
//	session events                     what was recorded since the last time
//	session keeper silent|prompt       whether sessions that were told to end do so
//	session recorder full|works
//	sessions                           all that are open
//	max-sessions N
func (tr *transcript) session(verb string, a *args) ([]string, error) {
	l := tr.live
	if l == nil {
		l = &transcriptSessions{}
		c := Config{Record: func(Request, Decision) error { return nil }, Now: func() time.Time { return tr.now },
			Directory: func() View {
				return View{Snapshot: tr.snap, AsOf: tr.now.Add(-tr.age), MaxAge: tr.maxAge}
			},
			RecordSession: func(e SessionEvent) error {
				if l.full {
					return errors.New("no space left on device")
				}
				l.events = append(l.events, e)
				return nil
			}}
		l.b, _ = New(c)
		l.b.Keep("door", func(e Ending) {
			l.told = append(l.told, e)
			if !l.silent {
				l.b.CloseSession(e.Session.ID, ReasonNone)
			}
		})
		tr.live = l
		tr.endings()
	}
	var out []string
	id := SessionID(a.word(1))
	switch what := a.word(0); {
	case verb == "max-sessions":
		n := 0
		if _, err := fmt.Sscan(what, &n); err != nil {
			return nil, err
		}
		l.b.c.MaxSessions = n
	case verb == "sessions":
		l.b.Sessions(func(s *Session) bool { out = append(out, printSession(s)); return true })
		if slices.Sort(out); out == nil {
			out = []string{"none"}
		}
	case what == "open", what == "resume":
		tr.cases++
		r, shown, err := a.request()
		if err != nil {
			return nil, err
		}
		s := Session{ID: id, Request: r, Proofs: shown, Basis: BasisRules, Keeper: "door", Since: tr.now, Place: HostName(a.one("place"))}
		switch a.one("basis") {
		case "account":
			s.Basis = BasisAccount
		case "none":
			s.Basis = BasisNone
		}
		open := l.b.OpenSession
		if what == "resume" {
			open = l.b.ResumeSession
		}
		if err := open(s); err != nil {
			return []string{err.Error()}, a.check()
		}
		s, _ = l.b.Session(id)
		out = append(out, printSession(&s))
	case what == "close":
		l.b.CloseSession(id, ReasonNone)
	case what == "lose":
		l.b.LoseSession(id)
	case what == "kill":
		which, user := SessionID(a.one("id")), UserName(a.one("user"))
		n := l.b.Kill(func(s *Session) bool { return s.ID == which || s.Request.User == user }, a.one("by"))
		out = append(out, fmt.Sprintf("killed %d", n))
	case what == "show":
		s, ok := l.b.Session(id)
		if !ok {
			return []string{"no such session"}, a.check()
		}
		out = append(out, printSession(&s))
	case what == "events":
		for _, e := range l.events {
			out = append(out, printEvent(e))
		}
		l.events = nil
	case what == "keeper":
		l.silent = id == "silent"
	case what == "recorder":
		l.full = id == "full"
	default:
		return nil, fmt.Errorf("no command %s %q", verb, what)
	}
	return out, a.check()
}

// endings judges what the last command has touched and tells what ends.
func (tr *transcript) endings() (out []string) {
	l := tr.live
	if l == nil {
		return nil
	}
	l.b.judgeTouched(func() {})
	for _, k := range l.b.live.keepers {
		l.b.live.tell(k, func() bool { return true })
	}
	l.b.recordEvents()
	for _, e := range l.told {
		out = append(out, fmt.Sprintf("ends %s: %s: %s", e.Session.ID, e.Reason, e.Text))
	}
	l.told = nil
	slices.Sort(out)
	return out
}

func printSession(s *Session) string {
	out := fmt.Sprintf("session %s of %s", s.ID, s.Request.User)
	if len(s.Rules) > 0 {
		out += " rests on " + join(s.Rules, ", ")
	}
	if !s.Until.IsZero() {
		out += ", until " + stamp(s.Until)
	}
	if !s.Ending.IsZero() {
		out += fmt.Sprintf(", ending since %s: %s", stamp(s.Ending), s.Why)
	}
	return out
}

func printEvent(e SessionEvent) string {
	out := []string{string(e.Kind), string(e.Session.ID)}
	if e.Reason != ReasonNone {
		out = append(out, string(e.Reason))
	}
	if e.By != "" {
		out = append(out, "by "+e.By)
	}
	if e.Took != 0 {
		out = append(out, "after "+e.Took.String())
	}
	return strings.Join(out, " ")
}
