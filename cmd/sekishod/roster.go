package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/cmd/internal/roster"
)

// buildRoster has brokers that share a store know each other's sessions. A host
// that follows one reports to that one.
func (d *daemon) buildRoster() {
	if len(d.cfg.State.Servers) == 0 || d.cfg.Follows() {
		return
	}
	d.roster = roster.New(roster.Config{Store: d.state, Broker: d.broker, Name: d.cfg.Host, Report: sessionReport,
		Vouch: d.vouch, Now: d.now, Log: d.log.WithField("part", "roster")})
}

// vouch is roster.Config.Vouch.
func (d *daemon) vouch(host broker.HostName, id broker.SessionID) (known, has bool) {
	if host == broker.HostName(d.cfg.Host) {
		return true, d.pam != nil && d.pam.Has(id)
	}
	if d.feed == nil {
		return false, false
	}
	return d.feed.Lists(host, id)
}

// sharedName is what other brokers know this one by; empty when there are none.
func (d *daemon) sharedName() string {
	if d.roster == nil {
		return ""
	}
	return d.cfg.Host
}

func (d *daemon) elsewhere(id broker.SessionID) bool {
	return d.roster != nil && d.roster.Elsewhere(id)
}

// theirs is what of other brokers' sessions is wanted, and is not this broker's by
// now.
func (d *daemon) theirs(w wanted) func(*roster.Theirs) bool {
	return func(t *roster.Theirs) bool {
		if !w.fits(t.ID, broker.HostName(t.Host), t.User, t.Login) {
			return false
		}
		_, ours := d.broker.Session(broker.SessionID(t.ID))
		return !ours || d.elsewhere(broker.SessionID(t.ID))
	}
}

const otherBrokers = "what other brokers have could not be found out: the state store cannot be reached"

// addTheirs adds other brokers' sessions to a page.
func (d *daemon) addTheirs(ctx context.Context, p *report.SessionPage, w wanted, after string) {
	if d.roster == nil {
		return
	}
	match := d.theirs(w)
	all, err := d.roster.Sessions(ctx, func(t *roster.Theirs) bool { return t.ID > after && match(t) })
	if p.Sessions = append(p.Sessions, all...); err != nil {
		d.log.WithError(err).Debug("other brokers' sessions are not known")
		p.Problem = otherBrokers
		return
	}
	var silent []string
	for _, m := range d.roster.Missing() {
		silent = append(silent, missing(m))
	}
	p.Problem = strings.Join(silent[:min(len(silent), 10)], "; ")
}

func missing(m roster.Silent) string {
	return fmt.Sprintf("broker %s has not been heard of since %s: which sessions it has is not known", m.Broker, stamp(m.Since))
}

// killTheirs orders the ends of other brokers' sessions.
func (d *daemon) killTheirs(ctx context.Context, k *report.Killed, w wanted) {
	if d.roster == nil {
		return
	}
	all, err := d.roster.Find(ctx, d.theirs(w))
	if err != nil {
		d.log.WithError(err).Warn("a kill reaches this broker's sessions alone")
		k.Problem = otherBrokers
		return
	}
	n, err := d.roster.Order(ctx, all, "root", broker.ReasonKilled)
	if err != nil {
		d.log.WithError(err).Warn("a kill does not reach all sessions of other brokers")
		k.Problem = err.Error()
	}
	for _, t := range all[:n] {
		k.Others = append(k.Others, report.KilledThere{Session: t.ID, Host: t.Host, Broker: t.Broker})
	}
}

// confirmingBrokers begins to end what other brokers have of a user's sessions, be
// it that the directory has not told them yet; the function that it returns waits
// until they say that those have ended, or for ctx.
func (d *daemon) confirmingBrokers(ctx context.Context, v broker.View, user broker.UserName, since time.Time) func() []report.RevokedHost {
	if d.roster == nil {
		return func() []report.RevokedHost { return nil }
	}
	reason := broker.ReasonLocked
	if u, _ := v.User(user); u == nil {
		reason = broker.ReasonUnknownUser
	}
	out := make(chan []report.RevokedHost, 1)
	go func() { out <- d.revokeTheirs(ctx, user, reason, since) }()
	return func() []report.RevokedHost { return <-out }
}

func (d *daemon) revokeTheirs(ctx context.Context, user broker.UserName, reason broker.Reason, since time.Time) []report.RevokedHost {
	type place struct{ host, broker string }
	rows := map[place]*report.RevokedHost{}
	ordered := map[string]place{}
	match := d.theirs(wanted{user: string(user)})
	var fault error
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for over := false; !over; {
		all, err := d.roster.Find(ctx, func(t *roster.Theirs) bool { return t.Rests && t.User == string(user) && match(t) })
		if err != nil {
			if ctx.Err() == nil || len(rows) == 0 { // else the wait is over, and rows say for what
				fault = err
			}
			break
		}
		var fresh []roster.Theirs
		left := map[place]bool{}
		for _, t := range all {
			left[place{t.Host, t.Broker}] = true
			if _, is := ordered[t.ID]; !is {
				fresh = append(fresh, t)
			}
		}
		n, err := d.roster.Order(ctx, fresh, "root", reason)
		for _, t := range fresh[:n] {
			at := place{t.Host, t.Broker}
			ordered[t.ID] = at
			if rows[at] == nil {
				rows[at] = &report.RevokedHost{Host: t.Host, Broker: t.Broker}
			}
			rows[at].Sessions++
			rows[at].Confirmed = false
		}
		if err != nil && n == 0 {
			fault = err
			break
		}
		for id, at := range ordered {
			left[at] = left[at] || d.roster.Pending(id)
		}
		over = len(fresh) == 0
		for at, row := range rows {
			if left[at] {
				over = false
			} else if !row.Confirmed {
				row.Confirmed, row.Took = true, d.now().Sub(since)
			}
		}
		if over {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			over = true
		}
	}
	var out []report.RevokedHost
	for _, row := range rows {
		if !row.Confirmed {
			row.Problem = "broker " + row.Broker + " has not said that his sessions have ended"
		}
		out = append(out, *row)
	}
	slices.SortFunc(out, func(a, b report.RevokedHost) int {
		return cmp.Or(cmp.Compare(a.Broker, b.Broker), cmp.Compare(a.Host, b.Host))
	})
	for _, m := range d.roster.Missing() {
		out = append(out, report.RevokedHost{Host: m.Broker, Broker: m.Broker, Problem: missing(m)})
	}
	if fault != nil {
		d.log.WithError(fault).Warn("a revocation does not reach all sessions of other brokers")
		out = append(out, report.RevokedHost{Host: "other brokers", Problem: clip(fault.Error())})
	}
	return out
}
