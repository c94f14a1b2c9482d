package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/audit"
	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/realm"
)

// The kinds of call by which a host asks its broker about attempts.
const (
	callTake   = "take"
	callSettle = "settle"
)

// askUpstream bounds one question; a broker may have an attempt wait its turn for
// five seconds.
const askUpstream = 6 * time.Second

// settleQueue is how many settlements may wait to be sent. What does not get in is
// wrong for the broker half a minute later.
const settleQueue = 4096

// guesses are the budgets of this process, and of its broker when it follows one:
// both must have room. While the broker cannot be asked its own ones decide.
type guesses struct {
	own *broker.Guesses
	log *logrus.Entry
	// call asks the broker that is followed, as feed.Client.Call does; nil: none is.
	call func(ctx context.Context, kind string, request, answer any) error
	// note is the audit record; nil: there is none.
	note func(audit.Event) error
	// enters says whether a user can enter a host that follows; nil: any can.
	enters func(ctx context.Context, host broker.HostName, u broker.UserName) bool

	// codes: the broker checks one-time codes, and counts them when it does.
	codes bool

	settled chan settleCall
}

// buildGuesses makes the budgets, after the audit record; call may be set until they are used.
func (d *daemon) buildGuesses() error {
	g := &guesses{log: d.log.WithField("part", "guessing"), settled: make(chan settleCall, settleQueue)}
	if d.audit != nil {
		g.note = d.audit.Note
	}
	c := d.cfg.Guessing
	var err error
	g.own, err = broker.NewGuesses(broker.GuessConfig{PerUser: c.PerUser, PerSource: c.PerSource,
		LongestWait: time.Duration(c.LongestWait), KnownGood: time.Duration(c.KnownGood), Now: d.now, Note: g.noted})
	d.guesses = g
	return err
}

// runGuesses shares the counters.
func (d *daemon) runGuesses(w *crew, fail context.CancelCauseFunc) {
	if d.guesses.call != nil {
		w.all.Go(func() { d.guesses.run(w.ctx) })
	}
	w.do("sharing counters", fail, func(ctx context.Context) error { return d.guesses.share(ctx, d.state, d.sharing()) })
}

// take is broker.Config.Take.
func (g *guesses) take(ctx context.Context, a broker.Attempt) broker.Allowance {
	al := g.own.Take(ctx, a)
	if !al.OK || g.call == nil || g.codes && a.Proof == broker.ProofOTP {
		return al
	}
	asked, cancel := context.WithTimeout(ctx, askUpstream)
	defer cancel()
	var said takeAnswer
	if err := g.call(asked, callTake, attemptOf(a), &said); err != nil {
		if ctx.Err() != nil {
			g.own.Settle(ctx, a, broker.Unknown)
			return broker.Allowance{Unknown: true}
		}
		g.log.WithError(err).Debug("the broker was not asked about an attempt: this host's own counters decide")
		return al
	}
	if !said.OK {
		g.own.Settle(ctx, a, broker.Unknown)
	}
	return broker.Allowance{OK: said.OK, Unknown: said.Unknown && !said.OK, Until: said.Until}
}

// settle is broker.Config.Settle. It does not wait for the broker.
func (g *guesses) settle(ctx context.Context, a broker.Attempt, o broker.Outcome) {
	g.own.Settle(ctx, a, o)
	if g.call == nil || g.codes && a.Proof == broker.ProofOTP && o != broker.Allow {
		return
	}
	select {
	case g.settled <- settleCall{attemptOf(a), o.String()}:
	default:
		g.log.Warn("the broker does not take what became of attempts as fast as they are made")
	}
}

// run tells the broker what became of attempts, until ctx ends.
func (g *guesses) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-g.settled:
			asked, cancel := context.WithTimeout(ctx, askUpstream)
			if err := g.call(asked, callSettle, s, nil); err != nil {
				g.log.WithError(err).Debug("the broker was not told what became of an attempt")
			}
			cancel()
		}
	}
}

// attemptCall is an attempt as a host tells it; which host, the connection says.
type attemptCall struct {
	User   broker.UserName `json:"user"`
	From   netip.Addr      `json:"from,omitzero"`
	Remote bool            `json:"remote,omitempty"`
	Door   broker.Door     `json:"door"`
	Proof  broker.Proof    `json:"proof"`
}

// takeAnswer is an Allowance.
type takeAnswer struct {
	OK      bool      `json:"ok"`
	Unknown bool      `json:"unknown,omitempty"`
	Until   time.Time `json:"until,omitzero"`
}

// settleCall is how an attempt came out: allow, deny, unknown or need-proof.
type settleCall struct {
	attemptCall
	Outcome string `json:"outcome"`
}

func attemptOf(a broker.Attempt) attemptCall {
	return attemptCall{a.User, a.From, a.Remote, a.Door, a.Proof}
}

// doorFeed begins the door of attempts that a host settles: each its own, and none
// of the broker's or of another host's.
const doorFeed = "feed "

// attempt is what a host speaks for: itself alone, as the place and as the source.
func (c attemptCall) attempt(host broker.HostName) broker.Attempt {
	return broker.Attempt{User: c.User, From: c.From, Remote: c.Remote, Host: host, Door: broker.Door(doorFeed + host), Proof: c.Proof}
}

// errAttempt is told to a host that calls nonsense.
var errAttempt = errors.New("no attempt can be read")

// answerTake is the feed.Handler of callTake.
func (g *guesses) answerTake(ctx context.Context, host broker.HostName, request json.RawMessage) (any, error) {
	var c attemptCall
	if err := json.Unmarshal(request, &c); err != nil {
		return nil, errAttempt
	}
	al := g.take(ctx, c.attempt(host))
	return takeAnswer{al.OK, al.Unknown, al.Until}, nil
}

// answerSettle is the feed.Handler of callSettle.
func (g *guesses) answerSettle(ctx context.Context, host broker.HostName, request json.RawMessage) (any, error) {
	var c settleCall
	if err := json.Unmarshal(request, &c); err != nil {
		return nil, errAttempt
	}
	for _, o := range []broker.Outcome{broker.Allow, broker.Deny, broker.Unknown, broker.NeedProof} {
		if o.String() != c.Outcome {
			continue
		}
		a := c.attempt(host)
		switch {
		case o != broker.Allow:
			g.own.Settle(ctx, a, o)
		case g.enters == nil || g.enters(ctx, host, a.User):
			g.own.Vouch(ctx, a)
		default: // nobody who could be in there
			g.own.Settle(ctx, a, broker.NeedProof)
		}
		return struct{}{}, nil
	}
	return nil, errAttempt
}

// noted writes down that somebody must wait from now on, or no longer.
func (g *guesses) noted(e broker.LockoutEvent) {
	kind, text := "lockout", fmt.Sprintf("%.1f wrong", e.Wrong)
	if !e.Begin {
		kind, text = "unlock", "cleared"
		if e.By == "" {
			text = "has signed in"
		}
	}
	log := g.log.WithFields(logrus.Fields{"kind": string(e.Kind), "name": e.Name, "by": e.By})
	log.Warn(kind + ": " + text)
	if g.note == nil {
		return
	}
	if err := g.note(audit.Event{Kind: kind, Actor: e.By, Subject: e.Lockout.String(), Text: text}); err != nil {
		log.WithError(err).Warn("a lockout was not recorded")
	}
}

// pause is broker.Config.Pause.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

var (
	errBusy      = errors.New("too many password changes at once: try again")
	errThrottled = errors.New("too many wrong passwords: try again later")
	errUndecided = errors.New("it could not be found out whether another password may be tried: try again later")
)

// tryOld runs a change of the password by somebody on this host, whose old one is
// a guess like any other.
func (d *daemon) tryOld(ctx context.Context, user string, change func() error) error {
	began := d.now()
	a := broker.Attempt{User: broker.UserName(user), Host: broker.HostName(d.cfg.Host), Door: "passwd", Proof: broker.ProofPassword}
	al := d.guesses.take(ctx, a)
	err := errThrottled
	switch {
	case al.Unknown:
		return errUndecided
	case al.OK:
		err = change()
		o := broker.Unknown
		var refused *realm.PasswordRefused
		switch {
		case err == nil, errors.As(err, &refused): // the old one was right, or was not looked at
			o = broker.NeedProof
		case errors.Is(err, realm.ErrWrongPassword), errors.Is(err, realm.ErrLocked):
			o = broker.Deny
		}
		d.guesses.settle(ctx, a, o)
	}
	if err != nil {
		pause(ctx, broker.RefusalTime-min(broker.RefusalTime, d.now().Sub(began)))
	}
	return err
}
