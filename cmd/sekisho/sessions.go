package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/admin"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/wire"
)

// sessionForm is a session's id.
var sessionForm = regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`)

const (
	watchEvery = 500 * time.Millisecond
	killWait   = 10 * time.Second
)

func (a *app) sessionsCommand() *cobra.Command {
	var host string
	var watch bool
	c := &cobra.Command{
		Use: "sessions [USER]", Short: "Show who is logged in", Args: takes(0, 1, "a user, or nothing"),
		Long: `Show the sessions that this machine's sekishod knows: its own and, on a broker, those
of all hosts that follow it. Brokers that share a store ([state] servers) show each
other's, too; what a broker has not confirmed for some minutes says when it did last.
Root sees all of them, everybody else his own.

A session rests on the rules that let it in, on its account alone (account), or, when
it is nobody's of the directory, on nothing (none): such a one is never ended but by
sekisho kill. With --watch, each beginning and end is a line until you press Ctrl-C.

Exit codes: 0 these are all; 3 other brokers' sessions could not be found out, or not
all: those that are known are shown.`,
		Example: "  sekisho sessions\n  sekisho sessions alice --host web1\n  sekisho sessions --watch\n  sekisho sessions --json",
		RunE: func(c *cobra.Command, args []string) error {
			user := strings.Join(args, "")
			if watch && a.json {
				return usagef("--watch prints lines for people: leave --json out")
			}
			asked := sessionsAsked{user: user, host: host}
			p, err := a.sessions(c.Context(), asked)
			if err != nil {
				return err
			}
			a.notAll(p.Problem)
			switch {
			case watch:
				return a.watchSessions(c.Context(), p, asked)
			case a.json:
				err = a.printJSON(p.Sessions)
			default:
				err = a.sessionTable(p.Sessions)
			}
			if err == nil && p.Problem != "" {
				return exit(exitUnknown)
			}
			return err
		},
	}
	c.Flags().StringVar(&host, "host", "", "only those on this host")
	c.Flags().BoolVar(&watch, "watch", false, "go on, and print what changes")
	a.complete(c, "user")
	a.completeFlag(c, "host", "host")
	return c
}

// sessionsAsked says which sessions are asked for; what is empty says nothing.
type sessionsAsked struct {
	user, id, host string
	here           bool // without those of other brokers
}

// sessions asks page by page. They come in the order of their beginning.
func (a *app) sessions(ctx context.Context, q sessionsAsked) (report.SessionPage, error) {
	all := report.SessionPage{Sessions: []report.Session{}}
	here := ""
	if q.here {
		here = "yes"
	}
	for after := ""; ; {
		r := wire.Request{Verb: report.VerbSessions}
		for _, f := range []wire.Field{{Name: wire.FieldUser, Value: q.user}, {Name: report.FieldSession, Value: q.id}, {Name: report.FieldHost, Value: q.host},
			{Name: report.FieldAfter, Value: after}, {Name: report.FieldHere, Value: here}} {
			if f.Value != "" {
				r.Fields = append(r.Fields, f)
			}
		}
		ans, err := a.ask(ctx, r)
		if err != nil {
			return report.SessionPage{}, err
		}
		if ans.Outcome != wire.Yes {
			return report.SessionPage{}, refusedError{errors.New(ans.Text)}
		}
		p, err := report.DecodeSessions(ans)
		if err != nil {
			return report.SessionPage{}, err
		}
		all.Sessions, all.Broker = append(all.Sessions, p.Sessions...), p.Broker
		if p.Problem != "" {
			all.Problem = p.Problem
		}
		if !p.More || len(p.Sessions) == 0 {
			break
		}
		after = p.Sessions[len(p.Sessions)-1].ID
	}
	slices.SortStableFunc(all.Sessions, func(a, b report.Session) int { return cmp.Compare(a.Since, b.Since) })
	return all, nil
}

// notAll says that there may be more sessions than are shown.
func (a *app) notAll(problem string) {
	if problem != "" {
		fmt.Fprintf(a.err, "sekisho: %s\n", clean(problem))
	}
}

var sessionHead = []string{"SESSION", "USER", "AS", "HOST", "FROM", "SERVICE", "SINCE", "RESTS ON", "STATE"}

// confirmedLately is how old a broker's word may be that is not worth saying.
const confirmedLately = 5 * time.Minute

func sessionRow(s report.Session) []string {
	as, rests, state := "", s.Basis, "open"
	if s.Login != s.User {
		as = s.Login
	}
	if s.Basis == "rules" {
		rests = list(s.Rules)
		if s.Until != "" {
			rests += " until " + whenText(s.Until)
		}
	}
	if s.Ending != "" {
		state = "ENDING: " + s.Why
	}
	if at, err := time.Parse(time.RFC3339, s.Confirmed); err == nil && time.Since(at) > confirmedLately {
		state += ", as of " + whenText(s.Confirmed)
	}
	from := s.From
	if from == "" {
		from = s.TTY
	}
	return []string{s.ID, s.User, as, s.Host, from, s.Service, whenText(s.Since), rests, state}
}

func (a *app) sessionTable(all []report.Session) error {
	if len(all) == 0 {
		a.say("no session is open")
		return nil
	}
	head, brokers := sessionHead, slices.ContainsFunc(all, func(s report.Session) bool { return s.Broker != "" })
	if brokers {
		head = append(slices.Clip(head), "BROKER")
	}
	rows := make([][]string, len(all))
	for i, s := range all {
		if rows[i] = sessionRow(s); brokers {
			rows[i] = append(rows[i], s.Broker)
		}
	}
	return a.table(head, rows)
}

// watchSessions prints what there is, then what changes.
func (a *app) watchSessions(ctx context.Context, first report.SessionPage, q sessionsAsked) error {
	if err := a.sessionTable(first.Sessions); err != nil {
		return err
	}
	known, problem := map[string]report.Session{}, first.Problem
	for _, s := range first.Sessions {
		known[s.ID] = s
	}
	line := func(sign string, s report.Session) {
		cells := append(sessionRow(s), s.Broker)
		a.say("%s %s  %s", time.Now().Format("15:04:05.000"), sign, strings.Join(slices.DeleteFunc(cells, func(c string) bool { return c == "" }), "  "))
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
		p, err := a.sessions(ctx, q)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if p.Problem != problem {
			problem = p.Problem
			a.notAll(problem)
		}
		now := map[string]report.Session{}
		for _, s := range p.Sessions {
			now[s.ID] = s
			if old, ok := known[s.ID]; !ok || old.Ending != s.Ending {
				line("+", s)
			}
		}
		for _, id := range slices.Sorted(maps.Keys(known)) {
			if _, ok := now[id]; ok {
				continue
			}
			if s := known[id]; problem != "" && s.Broker != p.Broker {
				now[id] = s // it is not known whether it has ended
			} else {
				line("-", s)
			}
		}
		known = now
	}
}

func (a *app) killCommand() *cobra.Command {
	var host string
	c := &cobra.Command{
		Use: "kill SESSION|USER", Short: "End sessions now", Args: takes(1, 1, "a session or a user"),
		Long: `End one session, or all of a user's, and wait until they have ended. Each terminal
gets a line that says so first. It changes nothing in the directory: whoever may log in
can do so again at once. To keep somebody out, use sekisho revoke. Only root may.

Other brokers that share a store with this one are ordered to end theirs, and each
says when it has.

Exit codes: 0 all have ended; 1 there is no such session; 3 not all have ended yet, or
other brokers could not be ordered to end theirs.`,
		Example: "  sekisho kill Zq3v1x9J0dQmYw2kH5tPLA\n  sekisho kill alice --host web1",
		RunE: func(c *cobra.Command, args []string) error {
			f, asked := wire.Field{Name: wire.FieldUser, Value: args[0]}, sessionsAsked{user: args[0], host: host}
			if sessionForm.MatchString(args[0]) {
				f.Name, asked.user, asked.id = report.FieldSession, "", args[0]
			}
			r := wire.Request{Verb: report.VerbKill, Fields: []wire.Field{f}}
			if host != "" {
				r.Fields = append(r.Fields, wire.Field{Name: report.FieldHost, Value: host})
			}
			began := time.Now()
			ans, err := a.ask(c.Context(), r)
			if err != nil {
				return err
			}
			if ans.Outcome != wire.Yes {
				return refusedError{errors.New(ans.Text)}
			}
			var k report.Killed
			if err := report.Decode(ans, &k); err != nil {
				return err
			}
			return a.awaitEnds(c.Context(), k, asked, began)
		},
	}
	c.Flags().StringVar(&host, "host", "", "only those on this host")
	a.complete(c, "user")
	a.completeFlag(c, "host", "host")
	return c
}

// ended is one session's end, for --json.
type ended struct {
	Session string `json:"session"`
	Ended   bool   `json:"ended"`
	Millis  int64  `json:"ms,omitempty"`
	Host    string `json:"host,omitempty"`   // of another broker's
	Broker  string `json:"broker,omitempty"` // another one
}

func (e ended) String() string {
	if e.Broker == "" {
		return e.Session
	}
	return fmt.Sprintf("%s on %s (broker %s)", e.Session, e.Host, e.Broker)
}

// awaitEnds prints when each session has gone.
func (a *app) awaitEnds(ctx context.Context, k report.Killed, q sessionsAsked, began time.Time) error {
	a.notAll(k.Problem)
	left := map[string]ended{}
	for _, id := range k.Sessions {
		left[id] = ended{Session: id}
	}
	for _, t := range k.Others {
		left[t.Session] = ended{Session: t.Session, Host: t.Host, Broker: t.Broker}
	}
	q.here = len(k.Others) == 0
	var out []ended
	for deadline := began.Add(killWait); len(left) > 0 && time.Now().Before(deadline); {
		p, err := a.sessions(ctx, q)
		if err != nil {
			return err
		}
		took := time.Since(began)
		there := map[string]bool{}
		for _, s := range p.Sessions {
			there[s.ID] = true
		}
		for _, id := range slices.Sorted(maps.Keys(left)) {
			e := left[id]
			if there[id] {
				continue
			}
			delete(left, id)
			e.Ended, e.Millis = true, took.Milliseconds()
			out = append(out, e)
			a.say("%s ended after %d ms", e, e.Millis)
		}
		if len(left) > 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(left)) {
		out = append(out, left[id])
		a.say("%s HAS NOT ENDED yet: see sekisho sessions, and the log of its host", left[id])
	}
	if a.json {
		if err := a.printJSON(out); err != nil {
			return err
		}
	}
	if len(left) > 0 || k.Problem != "" {
		return exit(exitUnknown)
	}
	return nil
}

func (a *app) revokeCommand() *cobra.Command {
	var wait, noLock, yes bool
	c := &cobra.Command{
		Use: "revoke USER", Short: "Lock a user out everywhere, and end his sessions", Args: takes(1, 1, "a user"),
		Long: `Lock a user's account in the directory (as sekisho user set --lock does). Every door
refuses him from then on, and every open session of his ends, on every host.

With --wait, it returns when each host that follows this broker has said that it knows and
that none of his sessions is left, and prints how long that took. A host that cannot be
reached is named: it goes by its last good snapshot until it comes back. Brokers that
share a store with this one are ordered to end the sessions that they have, and each is
named with them; a host that follows another broker is not asked itself. Only root may
wait. With --no-lock, the directory is left as it is: you have locked or removed him there
yourself. To let him in again: sekisho user set USER --unlock.

Exit codes: 0 done, and confirmed with --wait; 1 there is no such user; 3 not every
host has confirmed.`,
		Example: "  sekisho revoke alice --wait\n  sekisho revoke alice --wait --json",
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(yes || !a.interactive(), fmt.Sprintf("Lock %s out of everything, and end all sessions?", args[0])); err != nil {
				return err
			}
			if !noLock {
				if err := a.work(c, func(ctx context.Context, d *admin.Directory) error {
					lock := true
					return d.SetUser(ctx, args[0], admin.UserChange{Lock: &lock})
				}); err != nil {
					return err
				}
			}
			since := time.Now()
			if !wait {
				a.say("%s is locked", args[0])
				return nil
			}
			return a.awaitRevoked(c.Context(), args[0], since)
		},
	}
	f := c.Flags()
	f.BoolVar(&wait, "wait", false, "return when every host has confirmed")
	f.BoolVar(&noLock, "no-lock", false, "he is locked or removed in the directory already")
	f.BoolVar(&yes, "yes", false, "do not ask")
	a.complete(c, "user")
	return c
}

// awaitRevoked asks where the user is out, and prints it.
func (a *app) awaitRevoked(ctx context.Context, user string, since time.Time) error {
	ans, err := a.ask(ctx, wire.Request{Verb: report.VerbRevoked, Fields: []wire.Field{{Name: wire.FieldUser, Value: user},
		{Name: report.FieldSince, Value: since.UTC().Format(time.RFC3339Nano)}}})
	if err != nil {
		return err
	}
	var r report.Revoked
	if err := report.Decode(ans, &r); err != nil {
		return err
	}
	all := true
	rows := make([][]string, len(r.Hosts))
	for i, h := range r.Hosts {
		word := fmt.Sprintf("out after %.1f ms", float64(h.Took.Microseconds())/1000)
		if !h.Confirmed {
			all, word = false, "NOT CONFIRMED: "+h.Problem
		}
		name := h.Host
		if h.Broker != "" {
			name += " (broker " + h.Broker + ")"
		}
		rows[i] = []string{name, fmt.Sprint(h.Sessions), word}
	}
	if a.json {
		err = a.printJSON(r)
	} else {
		err = a.table([]string{"HOST", "SESSIONS", user}, rows)
	}
	if err == nil && !all {
		return exit(exitUnknown)
	}
	return err
}
