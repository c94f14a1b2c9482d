package audit

import (
	"fmt"
	"strconv"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// decision appends what a record of a decision says.
func (w *writer) decision(q broker.Request, d broker.Decision) {
	w.request(q)
	w.text("outcome", d.Outcome.String())
	w.text("reason", string(d.Reason))
	w.rules(d.Rules)
	list(w, "shown", d.Shown)
	w.need(d.Need)
	if len(q.Recent) > 0 {
		var recent [MaxList]string
		n := 0
		for _, p := range q.Recent[:min(len(q.Recent), MaxList)] {
			recent[n] = string(p.Proof) + ":" + strconv.FormatInt(int64(p.Age/time.Second), 10)
			n++
		}
		list(w, "recent", recent[:n])
	}
	w.moment("until", d.Until)
	w.count("generation", d.Generation)
	w.number("age", int64(d.Age/time.Second))
}

// request appends who wants what.
func (w *writer) request(q broker.Request) {
	w.text("door", string(q.Door))
	w.text("user", string(q.User))
	if string(q.Login) != string(q.User) {
		w.text("login", string(q.Login))
	}
	if q.From.IsValid() {
		w.text("from", q.From.String())
	}
	if q.Target != (broker.Target{}) {
		w.text("target", q.Target.String())
	}
}

func (w *writer) rules(in []broker.RuleName) {
	w.number("more_rules", int64(list(w, "rules", in)))
}

// need appends the lists of proofs that would do.
func (w *writer) need(lists [][]broker.ProofNeed) {
	if len(lists) == 0 {
		return
	}
	w.name("need")
	w.b = append(w.b, '[')
	left := MaxList // in all
	for i, needs := range lists[:min(len(lists), MaxList)] {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.b = append(w.b, '[')
		for j, n := range needs[:min(len(needs), left)] {
			left--
			if j > 0 {
				w.b = append(w.b, ',')
			}
			text := ""
			for k, p := range n[:min(len(n), MaxList)] {
				if k > 0 {
					text += "|"
				}
				text += fmt.Sprint(p)
			}
			w.quote(text)
		}
		w.b = append(w.b, ']')
	}
	w.b = append(w.b, ']')
}

// session appends a step in a session's life: all about it when it is opened,
// later what tells it apart.
func (w *writer) session(e broker.SessionEvent) {
	s := e.Session
	w.text("event", string(e.Kind))
	w.text("session", string(s.ID))
	w.request(s.Request)
	if e.Kind == broker.SessionOpened {
		w.rules(s.Rules)
		list(w, "shown", s.Proofs)
		w.moment("until", s.Until)
		w.count("generation", s.Generation)
		w.text("keeper", s.Keeper)
	}
	w.text("place", string(s.Place))
	w.text("service", s.Service)
	w.text("tty", s.TTY)
	w.moment("since", s.Since)
	w.text("reason", string(e.Reason))
	w.text("by", e.By)
	if e.Took > 0 {
		w.name("took")
		w.b = strconv.AppendFloat(w.b, e.Took.Seconds(), 'f', 6, 64)
	}
}

// note appends an event.
func (w *writer) note(e Event) {
	w.text("event", e.Kind)
	w.text("actor", e.Actor)
	w.text("subject", e.Subject)
	w.text("text", e.Text)
}
