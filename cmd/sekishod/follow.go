package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/feed"
	"github.com/sekisho/sekisho/ldapsync"
)

// follower keeps a snapshot: of the directory (ldapsync.Sync), or of a broker's
// view for this host (feed.Client).
type follower interface {
	View() broker.View
	Wait(ctx context.Context, after uint64) (broker.View, error)
	Run(context.Context) error
	Close() error
}

// buildFollower makes what this host follows.
func (d *daemon) buildFollower(provider ldapsync.Provider, base string) error {
	if d.cfg.Follows() {
		return d.buildUpstream()
	}
	c := d.cfg
	schema, err := c.Schema()
	if err != nil {
		return err
	}
	sc := ldapsync.Config{
		Provider: provider, BaseDN: base, Schema: schema, StateDir: filepath.Join(c.StateDir, "snapshot"),
		UIDFloor: c.UserDB.UIDMin, KeyPolicy: c.Policy(), HoldShare: c.Snapshot.HoldShare,
		MaxAge: time.Duration(c.Snapshot.MaxAge), Log: d.log.WithField("part", "sync"),
	}
	if d.realm != nil { // it is here, and may have just been started
		sc.BackoffMin, sc.BackoffMax = 50*time.Millisecond, time.Second
	}
	if d.ldap, err = ldapsync.New(sc); err != nil {
		return err
	}
	d.sync = d.ldap
	return nil
}

// buildUpstream makes the client of a broker. What it calls back is made later, and
// before it runs.
func (d *daemon) buildUpstream() (err error) {
	u := d.cfg.Upstream
	cert, cas := &pairFile{cert: u.CertFile, key: u.KeyFile}, func() (feed.CAs, error) { return readCAs(u.CAFile) }
	if _, err := cert.get(); err != nil {
		return fmt.Errorf("upstream.cert_file: %w: sekisho host enrol writes it", err)
	}
	if _, err := cas(); err != nil {
		return fmt.Errorf("upstream.ca_file: %w", err)
	}
	d.upstream, err = feed.NewClient(feed.ClientConfig{
		Brokers: u.Brokers, Certificate: cert.get, CAs: cas, Host: broker.HostName(d.cfg.Host),
		StateDir: filepath.Join(d.cfg.StateDir, "feed"), MaxAge: time.Duration(d.cfg.Snapshot.MaxAge),
		Sessions: d.sessionsToReport, End: d.endOwn, Judges: true, Now: d.now, Log: d.log.WithField("part", "feed"),
	})
	if err != nil {
		return err
	}
	d.sync = d.upstream
	return nil
}

// ownSessions are those that run here.
func (d *daemon) ownSessions(f func(*broker.Session) bool) {
	d.broker.Sessions(func(s *broker.Session) bool { return s.Place != broker.HostName(d.cfg.Host) || f(s) })
}

// findWait is how long a report of all sessions waits for those of the last sekishod.
const findWait = 15 * time.Second

// sessionsToReport are ownSessions, once those were found that began before this
// sekishod did: the broker takes what it is not told of for lost.
func (d *daemon) sessionsToReport(f func(*broker.Session) bool) {
	if d.pam != nil {
		t := time.NewTimer(findWait)
		defer t.Stop()
		select {
		case <-d.pam.Found():
		case <-t.C:
		}
	}
	d.ownSessions(f)
}

// endOwn ends a session that the broker wants ended.
func (d *daemon) endOwn(id broker.SessionID, reason broker.Reason, _ string) (known bool) {
	return d.broker.EndSession(id, reason, "the broker")
}

// recordSession is broker.Config.RecordSession: the audit record first, then the
// broker that is followed, and those beside us.
func (d *daemon) recordSession(e broker.SessionEvent) error {
	err := d.audit.Session(e)
	if d.roster != nil {
		d.roster.Tell(e)
	}
	if d.upstream != nil && (err == nil || e.Kind != broker.SessionOpened) && e.Session.Place == broker.HostName(d.cfg.Host) {
		d.upstream.Session(e)
	}
	return err
}

// judged is broker.Config.Judged: the broker hears first which sessions are to end.
func (d *daemon) judged(generation uint64) {
	if d.upstream == nil {
		return
	}
	d.ownSessions(func(s *broker.Session) bool {
		if !s.Ending.IsZero() {
			d.upstream.Session(broker.SessionEvent{Kind: broker.SessionEnding, Session: *s, Reason: s.Why})
		}
		return true
	})
	d.upstream.Judged(generation)
}

// callUpstream is how this host's budgets ask those of its broker. A one-time code
// is counted there when it is checked there.
func (d *daemon) callUpstream(ctx context.Context, kind string, request, answer any) error {
	switch q := request.(type) {
	case attemptCall:
		if q.Proof == broker.ProofOTP && d.codesUpstream {
			*answer.(*takeAnswer) = takeAnswer{OK: true}
			return nil
		}
	case settleCall:
		if q.Proof == broker.ProofOTP && d.codesUpstream {
			return nil
		}
	}
	return d.upstream.Call(ctx, kind, request, answer)
}

// callCode asks whether a one-time code is right, and spends it; callPassword
// asks about the password of somebody whom the KDC asks for codes too.
const (
	callCode     = "code"
	callPassword = "password"
	typedWait    = 15 * time.Second
	maxTyped     = 4096
)

// typedCall is what somebody has typed on a host.
type typedCall struct {
	attemptCall
	Typed string `json:"typed"`
}

// typedAnswer is what came of it, without what is for the record alone.
type typedAnswer struct {
	Outcome broker.Outcome `json:"outcome"`
	Reason  broker.Reason  `json:"reason"`
}

// proveCodeUpstream is a broker.Prover that has the broker check a one-time code.
func (d *daemon) proveCodeUpstream(ctx context.Context, c broker.Claim, ask broker.Asker) broker.Proven {
	return d.proveUpstream(ctx, c, ask, upstreamProof{callCode, broker.ProofOTP, broker.Prompt{Kind: broker.PromptSecret, Text: "One-time code: "}})
}

// provePasswordUpstream is one for a password that the KDC takes with a code only.
func (d *daemon) provePasswordUpstream(ctx context.Context, c broker.Claim, ask broker.Asker) broker.Proven {
	return d.proveUpstream(ctx, c, ask, upstreamProof{callPassword, broker.ProofPassword, broker.Prompt{Kind: broker.PromptPassword, Text: "Password: "}})
}

// upstreamProof is one that the broker checks.
type upstreamProof struct {
	call   string
	proof  broker.Proof
	prompt broker.Prompt
}

func (d *daemon) proveUpstream(ctx context.Context, c broker.Claim, ask broker.Asker, by upstreamProof) broker.Proven {
	typed, err := ask(ctx, by.prompt)
	if err != nil || len(typed) != 1 {
		return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonConversation}
	}
	if len(typed[0]) > maxTyped {
		typed[0] = ""
	}
	ctx, cancel := context.WithTimeout(ctx, typedWait)
	defer cancel()
	var a typedAnswer
	q := typedCall{attemptCall{User: c.User, From: c.From, Remote: c.From.IsValid(), Door: c.Door, Proof: by.proof}, typed[0]}
	if err := d.upstream.Call(ctx, by.call, q, &a); err != nil {
		d.log.WithError(err).WithField("user", string(c.User)).Warn("the broker could not check what was typed")
		return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonUnreachable}
	}
	if a.Outcome > broker.Allow || a.Outcome == broker.NeedProof {
		return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonProver}
	}
	return broker.Proven{Outcome: a.Outcome, Reason: a.Reason}
}

// passwordForHost is passwordInRealm for a host's own users; for others the work is
// done for a user that there is not.
func (d *daemon) passwordForHost(ctx context.Context, c broker.Claim, password string) broker.Proven {
	if c.DN == "" {
		c.User = "-"
	}
	return d.passwordInRealm(ctx, c, password)
}

// answerTyped is a feed.Handler that checks a proof. A host asks for its own users
// alone; for any other, as much work is done for nobody's proof.
func (d *daemon) answerTyped(proof broker.Proof, check func(context.Context, broker.Claim, string) broker.Proven) feed.Handler {
	return func(ctx context.Context, host broker.HostName, request json.RawMessage) (any, error) {
		var c typedCall
		if err := json.Unmarshal(request, &c); err != nil || len(c.Typed) > maxTyped {
			return nil, errAttempt
		}
		claim := broker.Claim{User: c.User, Door: c.Door}
		if v := d.sync.View(); v.Snapshot != nil && d.feed.Has(ctx, host, c.User) {
			if u, ambiguous := v.User(c.User); u != nil && !ambiguous {
				claim.DN = u.DN
			}
		}
		if c.From.IsValid() {
			claim.From = c.From.Unmap().WithZone("")
		}
		a := c.attempt(host)
		d.guesses.settle(ctx, a, broker.NeedProof) // what the host has taken for it: it is counted once, here
		a.Door, a.Proof = "codes", proof           // the host must not settle it
		switch al := d.guesses.take(ctx, a); {
		case al.Unknown:
			return typedAnswer{broker.Unknown, broker.ReasonState}, nil
		case !al.OK:
			return typedAnswer{broker.Deny, broker.ReasonThrottled}, nil
		}
		p := check(ctx, claim, c.Typed)
		o := p.Outcome
		if o == broker.Allow { // whether he is let in by it, the host says
			o = broker.NeedProof
		}
		d.guesses.settle(ctx, a, o)
		return typedAnswer{p.Outcome, p.Reason}, nil
	}
}

// syncReport is how what this host follows is doing.
func (d *daemon) syncReport() report.Sync {
	v := d.sync.View()
	max := int64(v.MaxAge / time.Second)
	if d.upstream != nil {
		s := d.upstream.Status()
		return report.Sync{
			State: string(s.State), Loaded: s.Loaded, Generation: s.Generation, MaxAgeSeconds: max,
			Users: s.Users, Groups: s.Groups, Hosts: s.Hosts, Rules: s.Rules, LastChange: moment(s.LastChange),
			Provider: "broker " + s.Broker, LastError: clip(s.LastError), LastErrorAt: moment(s.LastErrorAt), RetryAt: moment(s.RetryAt),
			DiskError: clip(s.DiskError), DiskBytes: s.DiskBytes,
		}
	}
	s := d.ldap.Status()
	r := report.Sync{
		State: string(s.State), Loaded: s.Loaded, Generation: s.Generation, MaxAgeSeconds: max,
		Users: s.Users, Groups: s.Groups, Hosts: s.Hosts, Rules: s.Rules, LastChange: moment(s.LastChange),
		Provider: s.Provider, LastError: s.LastError, LastErrorAt: moment(s.LastErrorAt), RetryAt: moment(s.RetryAt),
		DiskError: s.DiskError, DiskBytes: s.DiskBytes,
		SkippedEntries: s.SkippedEntries, SkippedValues: s.SkippedValues,
	}
	if h := s.Held; h != nil {
		r.Held = &report.Held{Since: h.Since, Why: h.Why, Users: h.Users, Of: h.Of, First: texts(h.First)}
	}
	for _, k := range s.Skipped[:min(len(s.Skipped), maxShown)] {
		r.Skipped = append(r.Skipped, report.Skipped{DN: clip(k.DN), Why: clip(k.Why), Whole: k.Whole})
	}
	return r
}

// pairFile is a certificate with its key, read anew when a file has changed.
type pairFile struct {
	cert, key string

	mu      sync.Mutex
	pair    *tls.Certificate
	written [2]time.Time
}

func (p *pairFile) get() (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var now [2]time.Time
	for i, path := range []string{p.cert, p.key} {
		st, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		now[i] = st.ModTime()
	}
	if p.pair != nil && now == p.written {
		return p.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		if p.pair != nil { // they are being replaced, one after the other
			return p.pair, nil
		}
		return nil, fmt.Errorf("%s and %s: %w", p.cert, p.key, err)
	}
	p.pair, p.written = &pair, now
	return p.pair, nil
}

func readCAs(path string) (feed.CAs, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("there is no PEM certificate in %s", path)
	}
	return pool, nil
}
