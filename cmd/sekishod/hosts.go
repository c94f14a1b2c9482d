package main

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/door/local"
	"github.com/sekisho/sekisho/feed"
	"github.com/sekisho/sekisho/wire"
)

// behindAfter is for how long a host may owe its word about a change; mostly it
// comes within milliseconds.
const behindAfter = 5 * time.Second

// hostsVerb answers `sekisho status --json` on a broker: all hosts that follow it or
// may, page by page.
func (d *daemon) hostsVerb() local.Verb {
	return local.Verb{
		May:    local.Anyone,
		Fields: []string{report.FieldAfter},
		Do: func(_ context.Context, c local.Caller, r wire.Request) wire.Answer {
			if !toldAll(c) {
				return wire.Answer{Reason: wire.ReasonCaller, Text: "only root may see the hosts that follow"}
			}
			var all []report.FeedHost
			if d.feed != nil {
				all = hostReports(d.feed.Hosts())
			}
			after := r.Get(report.FieldAfter)
			all = slices.DeleteFunc(all, func(h report.FeedHost) bool { return h.Host <= after })
			body, err := report.EncodeHosts(all)
			if err != nil {
				return wire.Answer{Reason: "answer", Text: err.Error()}
			}
			return wire.Answer{Outcome: wire.Yes, Body: body}
		},
	}
}

// feedReport sums up the hosts that follow; nil when none may.
func (d *daemon) feedReport() *report.Feed {
	if d.feed == nil {
		return nil
	}
	return sumHosts(hostReports(d.feed.Hosts()))
}

// hostReports are hosts by name.
func hostReports(hosts []feed.HostStatus) []report.FeedHost {
	out := make([]report.FeedHost, 0, len(hosts))
	for _, h := range hosts {
		r := report.FeedHost{Host: clip(string(h.Host)), State: report.HostGone, From: h.From, Since: moment(h.Since), Generation: h.Judged,
			BehindSeconds: int64(h.Behind / time.Second), Sessions: h.Sessions}
		switch {
		case h.Connected && h.Behind > behindAfter:
			r.State = report.HostBehind
		case h.Connected:
			r.State = report.HostFollowing
		case h.Since.IsZero():
			r.State = report.HostAbsent
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b report.FeedHost) int { return strings.Compare(a.Host, b.Host) })
	return out
}

// sumHosts counts hosts, and keeps those that matter most.
func sumHosts(all []report.FeedHost) *report.Feed {
	f := &report.Feed{Hosts: []report.FeedHost{}}
	rank := map[string]int{report.HostBehind: 0, report.HostGone: 1, report.HostAbsent: 2, report.HostFollowing: 3}
	for _, h := range all {
		f.Sessions += h.Sessions
		switch h.State {
		case report.HostFollowing:
			f.Following++
		case report.HostBehind:
			f.Following++
			f.Behind++
		case report.HostGone:
			f.Gone++
		case report.HostAbsent:
			f.Absent++
		}
		if h.State != report.HostFollowing || len(all) <= report.MostHosts {
			f.Hosts = append(f.Hosts, h)
		}
	}
	slices.SortStableFunc(f.Hosts, func(a, b report.FeedHost) int { return cmp.Compare(rank[a.State], rank[b.State]) })
	f.Hosts = f.Hosts[:min(len(f.Hosts), report.MostHosts)]
	return f
}
