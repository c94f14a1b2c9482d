package main

import (
	"fmt"
	"strings"

	"github.com/sekisho/sekisho/cmd/internal/rehearsal"
)

// few is a list for a table: the first ones, and how many there are.
func few[T ~string](all []T) string {
	const most = 5
	var s []string
	for _, x := range all[:min(len(all), most)] {
		s = append(s, string(x))
	}
	if len(all) > most {
		s = append(s, fmt.Sprintf("… %d in all", len(all)))
	}
	return list(s)
}

func orNothing(ways []string) string {
	if len(ways) == 0 {
		return "-"
	}
	return strings.Join(ways, " | ")
}

// printRehearsal is the report for people: the loud things first.
func (a *app) printRehearsal(r rehearsed) error {
	for _, f := range r.Faults {
		switch {
		case f.Whole && f.Already:
			a.say("NOTE: %s is not used, now as afterwards: %s", f.DN, f.Why)
		case f.Whole:
			a.say("WARNING: %s would NOT BE USED AT ALL: %s", f.DN, f.Why)
		case !f.Already:
			a.say("WARNING: not all of %s would be used: %s", f.DN, f.Why)
		}
	}
	if len(r.Ambiguous) > 0 {
		a.say("WARNING: shut out, for others would share their name or uid number: %s", few(r.Ambiguous))
	}
	for _, n := range r.Notes {
		a.say("NOTE: %s", n)
	}
	if len(r.Entries) == 0 {
		a.say("no user, group, host or rule would be another than now")
	} else {
		a.say("users, groups, hosts and rules that would be others than now: %d", len(r.Entries))
		var rows [][]string
		for _, e := range r.Entries[:min(len(r.Entries), 50)] {
			rows = append(rows, []string{e.What, e.Kind, e.Name})
		}
		if err := a.table([]string{"WHAT", "KIND", "NAME"}, rows); err != nil {
			return err
		}
		if n := len(r.Entries) - 50; n > 0 {
			a.say("… and %d more: see --json", n)
		}
	}
	a.say("")
	if len(r.Changes) == 0 {
		a.say("nobody gains or loses a way in (%d users looked at)", r.Users)
	} else {
		var rows [][]string
		for _, c := range r.Changes {
			rows = append(rows, []string{strings.ToUpper(c.Kind), few(c.Users), few(c.Doors), few(c.Hosts), few(c.Logins), orNothing(c.Before), orNothing(c.After)})
		}
		if err := a.table([]string{"WHAT", "USERS", "DOORS", "HOSTS", "AS", "BEFORE", "AFTER"}, rows); err != nil {
			return err
		}
	}
	a.say("")
	if err := a.printEnds(r); err != nil {
		return err
	}
	if r.Audit != nil {
		a.say("")
		if err := a.printPast(r.Audit); err != nil {
			return err
		}
	}
	if len(r.Unknown) > 0 {
		a.say("")
	}
	for _, u := range r.Unknown {
		a.say("COULD NOT FIND OUT: %s", u)
	}
	a.say("")
	a.say("nothing was changed")
	return nil
}

func (a *app) printEnds(r rehearsed) error {
	var rows [][]string
	for _, s := range r.SessionsEnd {
		why := s.Reason
		if s.Anyway {
			why += " (without the change too)"
		}
		from := s.From
		if from == "" {
			from = s.TTY
		}
		rows = append(rows, []string{s.ID, s.User, s.Login, s.Host, from, whenText(s.Since), why})
	}
	if len(rows) == 0 {
		a.say("no session would end (%d open)", r.SessionsOpen)
		return nil
	}
	a.say("%d of %d open sessions would end:", len(rows), r.SessionsOpen)
	return a.table([]string{"SESSION", "USER", "AS", "HOST", "FROM", "SINCE", "WHY"}, rows)
}

func (a *app) printPast(p *rehearsal.Past) error {
	a.say("audit record since %s: %d decisions, %d different ones", p.Since.Local().Format("2006-01-02 15:04"), p.Records, p.Different)
	if p.Refused > 0 {
		a.say("%d of them were granted and would not be today, without the change too", p.Refused)
	}
	if len(p.Lost)+len(p.Gained) == 0 {
		a.say("all of them would come out as they would without the change")
		return nil
	}
	var rows [][]string
	for _, l := range []struct {
		what string
		list []rehearsal.Decided
	}{{"LOST", p.Lost}, {"GAINED", p.Gained}} {
		for _, d := range l.list[:min(len(l.list), 100)] {
			rows = append(rows, []string{l.what, d.User, d.Login, d.Door, d.Target, d.From, fmt.Sprint(d.Times), d.Last.Local().Format("2006-01-02 15:04"), d.Was, d.Would})
		}
	}
	if err := a.table([]string{"WHAT", "USER", "AS", "DOOR", "HOST", "FROM", "TIMES", "LAST", "WAS", "WOULD BE"}, rows); err != nil {
		return err
	}
	if n := len(p.Lost) + len(p.Gained) - len(rows); n > 0 {
		a.say("… and %d more: see --json", n)
	}
	return nil
}
