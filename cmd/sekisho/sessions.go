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
of all hosts that follow it. Root sees all of them, everybody else his own.

A session rests on the rules that let it in, on its account alone (account), or, when
it is nobody's of the directory, on nothing (none): such a one is never ended but by
sekisho kill. With --watch, each beginning and end is a line until you press Ctrl-C.`,
		Example: "  sekisho sessions\n  sekisho sessions alice --host web1\n  sekisho sessions --watch\n  sekisho sessions --json",
		RunE: func(c *cobra.Command, args []string) error {
			user := strings.Join(args, "")
			all, err := a.sessions(c.Context(), user, host)
			if err != nil {
				return err
			}
			switch {
			case watch && a.json:
				return usagef("--watch prints lines for people: leave --json out")
			case watch:
				return a.watchSessions(c.Context(), all, user, host)
			case a.json:
				return a.printJSON(all)
			}
			return a.sessionTable(all)
		},
	}
	c.Flags().StringVar(&host, "host", "", "only those on this host")
	c.Flags().BoolVar(&watch, "watch", false, "go on, and print what changes")
	a.complete(c, "user")
	a.completeFlag(c, "host", "host")
	return c
}

// sessions asks page by page. They come in the order of their beginning.
func (a *app) sessions(ctx context.Context, user, host string) ([]report.Session, error) {
	all := []report.Session{}
	for after := ""; ; {
		r := wire.Request{Verb: report.VerbSessions}
		for _, f := range []wire.Field{{Name: wire.FieldUser, Value: user}, {Name: report.FieldHost, Value: host}, {Name: report.FieldAfter, Value: after}} {
			if f.Value != "" {
				r.Fields = append(r.Fields, f)
			}
		}
		ans, err := a.ask(ctx, r)
		if err != nil {
			return nil, err
		}
		p, err := report.DecodeSessions(ans)
		if err != nil {
			return nil, err
		}
		all = append(all, p.Sessions...)
		if !p.More || len(p.Sessions) == 0 {
			break
		}
		after = p.Sessions[len(p.Sessions)-1].ID
	}
	slices.SortStableFunc(all, func(a, b report.Session) int { return cmp.Compare(a.Since, b.Since) })
	return all, nil
}

var sessionHead = []string{"SESSION", "USER", "AS", "HOST", "FROM", "SERVICE", "SINCE", "RESTS ON", "STATE"}

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
	rows := make([][]string, len(all))
	for i, s := range all {
		rows[i] = sessionRow(s)
	}
	return a.table(sessionHead, rows)
}

// watchSessions prints what there is, then what changes.
func (a *app) watchSessions(ctx context.Context, all []report.Session, user, host string) error {
	if err := a.sessionTable(all); err != nil {
		return err
	}
	known := map[string]report.Session{}
	for _, s := range all {
		known[s.ID] = s
	}
	line := func(sign string, s report.Session) {
		a.say("%s %s  %s", time.Now().Format("15:04:05.000"), sign, strings.Join(slices.DeleteFunc(sessionRow(s), func(c string) bool { return c == "" }), "  "))
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
		all, err := a.sessions(ctx, user, host)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		now := map[string]report.Session{}
		for _, s := range all {
			now[s.ID] = s
			if old, ok := known[s.ID]; !ok || old.Ending != s.Ending {
				line("+", s)
			}
		}
		for _, id := range slices.Sorted(maps.Keys(known)) {
			if _, ok := now[id]; !ok {
				line("-", known[id])
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

Exit codes: 0 all have ended; 1 there is no such session; 3 not all have ended yet.`,
		Example: "  sekisho kill Zq3v1x9J0dQmYw2kH5tPLA\n  sekisho kill alice --host web1",
		RunE: func(c *cobra.Command, args []string) error {
			f := wire.Field{Name: wire.FieldUser, Value: args[0]}
			if sessionForm.MatchString(args[0]) {
				f.Name = report.FieldSession
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
			return a.awaitEnds(c.Context(), k.Sessions, began)
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
}

// awaitEnds prints when each session has gone.
func (a *app) awaitEnds(ctx context.Context, ids []string, began time.Time) error {
	left := map[string]bool{}
	for _, id := range ids {
		left[id] = true
	}
	var out []ended
	for deadline := began.Add(killWait); len(left) > 0 && time.Now().Before(deadline); {
		all, err := a.sessions(ctx, "", "")
		if err != nil {
			return err
		}
		took := time.Since(began)
		there := map[string]bool{}
		for _, s := range all {
			there[s.ID] = true
		}
		for _, id := range slices.Sorted(maps.Keys(left)) {
			if there[id] {
				continue
			}
			delete(left, id)
			out = append(out, ended{id, true, took.Milliseconds()})
			a.say("%s ended after %d ms", id, took.Milliseconds())
		}
		if len(left) > 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(left)) {
		out = append(out, ended{Session: id})
		a.say("%s HAS NOT ENDED yet: see sekisho sessions, and the log of its host", id)
	}
	if a.json {
		if err := a.printJSON(out); err != nil {
			return err
		}
	}
	if len(left) > 0 {
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
reached is named: it goes by its last good snapshot until it comes back. Only root may
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
		rows[i] = []string{h.Host, fmt.Sprint(h.Sessions), word}
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
