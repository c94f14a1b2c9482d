package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sekisho/sekisho/audit"
	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/config"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/feed"
)

// keeperFeed ends sessions on hosts that follow this broker.
const keeperFeed = "feed"

// buildFeed makes the server for hosts, and its sockets.
func (d *daemon) buildFeed() error {
	f := d.cfg.Feed
	if len(f.Listen) == 0 {
		return nil
	}
	cert, ca := &pairFile{cert: f.CertFile, key: f.KeyFile}, f.CAFile
	if d.realm != nil && f.CertFile == "" {
		i := d.realm.Info()
		cert = &pairFile{cert: i.Cert, key: i.CertKey}
	}
	if d.realm != nil && ca == "" {
		ca = d.realm.Info().CAFile
	}
	if _, err := cert.get(); err != nil {
		return fmt.Errorf("feed.cert_file: %w", err)
	}
	if _, err := readCAs(ca); err != nil {
		return fmt.Errorf("feed.ca_file: %w", err)
	}
	calls := map[string]feed.Handler{callTake: d.guesses.answerTake, callSettle: d.guesses.answerSettle}
	if d.codes != nil {
		calls[callCode] = d.answerTyped(broker.ProofOTP, d.codes.Check)
	}
	if d.realm != nil {
		calls[callPassword] = d.answerTyped(broker.ProofPassword, d.passwordForHost)
	}
	var err error
	d.feed, err = feed.NewServer(feed.ServerConfig{
		View: d.sync.View, Wait: d.sync.Wait, Certificate: cert.get, CAs: func() (feed.CAs, error) { return readCAs(ca) },
		Unpinned: f.Unpinned, Note: d.noteHost, Opened: d.openedThere, Closed: d.closedThere, Calls: calls,
		Now: d.now, Log: d.log.WithField("part", "feed"),
	})
	if err != nil {
		return err
	}
	d.guesses.enters = d.feed.Has
	d.broker.Keep(keeperFeed, d.endThere)
	for _, a := range f.Listen {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return fmt.Errorf("feed.listen: %w", err)
		}
		d.feedSockets = append(d.feedSockets, l)
	}
	return nil
}

// serveFeed starts it.
func (d *daemon) serveFeed(doors *crew, fail context.CancelCauseFunc) {
	if d.feed != nil {
		doors.do("feed", fail, func(ctx context.Context) error { return d.feed.Run(ctx, d.feedSockets...) })
	}
}

// noteHost keeps what happens to hosts.
func (d *daemon) noteHost(n feed.Note) {
	if err := d.audit.Note(audit.Event{Kind: string(n.Kind), Actor: n.From, Subject: string(n.Host), Text: n.Text}); err != nil {
		d.log.WithError(err).WithField("host", string(n.Host)).Warn("what happened to a host was not recorded: " + n.Text)
	}
}

// openedThere has a host's session judged here, too.
func (d *daemon) openedThere(host broker.HostName, s broker.Session) {
	s.Keeper, s.Place, s.Request.Target = keeperFeed, host, broker.Target{Host: host} // it speaks for itself alone
	if err := d.broker.ResumeSession(s); err != nil {
		d.log.WithError(err).WithField("host", string(host)).WithField("session", string(s.ID)).Warn("a host's session is not tracked here")
		return
	}
	if d.roster != nil {
		d.roster.Touch(s.ID)
	}
	if d.broker.OverLimit(s.ID) { // over all hosts together
		d.broker.EndSession(s.ID, broker.ReasonTooMany, "sessions.max_per_user")
	}
}

// closedThere takes a session out. The feed has seen to it that a host closes its
// own alone; by what name it began there does not matter, for a host may be called
// otherwise since.
func (d *daemon) closedThere(_ broker.HostName, s broker.Session, kind broker.EventKind, why broker.Reason) {
	if have, ok := d.broker.Session(s.ID); !ok || have.Keeper != keeperFeed {
		return // it is this broker's own
	}
	if kind == broker.SessionLost {
		d.broker.LoseSession(s.ID)
		return
	}
	d.broker.CloseSession(s.ID, why)
}

// endThere orders the end of a host's session. While the host is away it is told
// again and again by the broker.
func (d *daemon) endThere(e broker.Ending) {
	if err := d.feed.End(e.Session.Place, e.Session.ID, e.Reason, e.Text); err != nil {
		d.log.WithError(err).WithField("session", string(e.Session.ID)).Debug("a session could not be ended yet")
	}
}

// confirmingHosts begins to ask the hosts that follow whether they have come to a
// generation; the function that it returns waits for all, or for ctx.
func (d *daemon) confirmingHosts(ctx context.Context, user broker.UserName, generation uint64, since time.Time) func() []report.RevokedHost {
	if d.feed == nil {
		return func() []report.RevokedHost { return nil }
	}
	sessions := map[string]int{}
	d.feed.Sessions(func(h broker.HostName, _ bool, s *broker.Session) bool {
		if s.Request.User == user {
			sessions[string(h)]++
		}
		return true
	})
	var out []report.RevokedHost
	var all sync.WaitGroup
	all.Go(func() {
		d.feed.Confirm(ctx, generation, func(c feed.Confirmation) {
			h := report.RevokedHost{Host: string(c.Host), Confirmed: c.OK, Sessions: sessions[string(c.Host)], Problem: c.Why}
			if c.OK {
				h.Took = d.now().Sub(since)
			}
			out = append(out, h)
		})
	})
	return func() []report.RevokedHost {
		all.Wait()
		return out
	}
}

// lowPort tells whether one of the addresses needs a right that the service user
// does not have.
func lowPort(listen []string) bool {
	for _, v := range listen {
		if a, err := netip.ParseAddrPort(v); err != nil || a.Port() < 1024 {
			return true
		}
	}
	return false
}

// feedNeedsLowPort is needsLowPort for the feed.
func feedNeedsLowPort(c config.Config) bool { return lowPort(c.Feed.Listen) }
