package rehearsal

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sekisho/sekisho/audit"
	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/report"
)

// SessionEnd is a session that would end.
type SessionEnd struct {
	report.Session
	// Reason is why, one of broker's.
	Reason string `json:"reason"`
	// Anyway: it would end without the change too.
	Anyway bool `json:"anyway,omitempty"`
}

// Sessions judges open sessions by the snapshot of after, as a broker would that
// has just read it.
func Sessions(before, after *broker.Snapshot, all []report.Session, now time.Time) ([]SessionEnd, error) {
	ends := []SessionEnd{}
	for _, s := range all {
		if s.Basis == "none" {
			continue
		}
		if s.Ending != "" {
			ends = append(ends, SessionEnd{s, s.Why, true})
			continue
		}
		q, proofs, err := question(s)
		if err != nil {
			return nil, fmt.Errorf("session %s: %w", s.ID, err)
		}
		reason, stays := judge(after, s.Basis, q, proofs, now)
		if stays {
			continue
		}
		_, stood := judge(before, s.Basis, q, proofs, now)
		ends = append(ends, SessionEnd{s, string(reason), !stood})
	}
	return ends, nil
}

// judge says whether a session may go on; what cannot be found out goes on.
func judge(s *broker.Snapshot, basis string, q broker.Request, proofs []broker.Proof, now time.Time) (broker.Reason, bool) {
	v := broker.View{Snapshot: s, AsOf: now, MaxAge: 24 * time.Hour}
	if basis == "account" {
		d := broker.Decide(v, broker.Request{User: q.User}, nil, now) // for no door: only the account is looked at
		return d.Reason, d.Reason == broker.ReasonNoRule
	}
	d := broker.Decide(v, q, proofs, now)
	return d.Reason, d.Outcome == broker.Allow || d.Outcome == broker.Unknown
}

// question is what was asked when a session began.
func question(s report.Session) (q broker.Request, proofs []broker.Proof, err error) {
	q = broker.Request{User: broker.UserName(s.User), Login: broker.Login(s.Login), Door: broker.Door(s.Door), Target: broker.Target{Host: broker.HostName(s.Target)}, Key: s.Key}
	if s.Target == "" && s.Addr == "" && s.Basis == "rules" {
		return q, nil, fmt.Errorf("sekishod does not say what it rests on: install the same release of sekisho and sekishod")
	}
	for _, a := range []struct {
		text string
		to   *netip.Addr
	}{{s.From, &q.From}, {s.Addr, &q.Target.Addr}} {
		if a.text != "" {
			if *a.to, err = netip.ParseAddr(a.text); err != nil {
				return q, nil, err
			}
		}
	}
	for _, f := range s.Flags {
		switch f {
		case "remote":
			q.Remote = true
		case "source-deferred":
			q.SourceDeferred = true
		case "proofs-deferred":
			q.ProofsDeferred = true
		case "unconfined":
			q.Unconfined = true
		default:
			return q, nil, fmt.Errorf("a flag %.40q is not known: install the same release of sekisho and sekishod", f)
		}
	}
	for _, p := range s.Proofs {
		proofs = append(proofs, broker.Proof(p))
	}
	q.Recent, err = recent(s.Recent)
	return q, proofs, err
}

// recent reads older proofs, as otp:3600.
func recent(texts []string) (out []broker.RecentProof, err error) {
	for _, t := range texts {
		p, secs, _ := strings.Cut(t, ":")
		n, err := strconv.ParseInt(secs, 10, 40)
		if err != nil {
			return nil, fmt.Errorf("%.40q is no older proof", t)
		}
		out = append(out, broker.RecentProof{Proof: broker.Proof(p), Age: time.Duration(n) * time.Second})
	}
	return out, nil
}

// Decided is a decision of the record, as often as it was made.
type Decided struct {
	User   string    `json:"user"`
	Login  string    `json:"login,omitempty"`
	Door   string    `json:"door"`
	Target string    `json:"target,omitempty"`
	From   string    `json:"from,omitempty"`
	Proofs []string  `json:"proofs,omitempty"`
	Times  int       `json:"times"`
	Last   time.Time `json:"last"`
	// Was is the recorded outcome and reason, Would what it would be.
	Was   string `json:"was"`
	Would string `json:"would"`

	recent   []string
	deferred bool
	standing bool
	allowed  bool
}

// History is the decisions of an audit record, without repetitions.
type History struct {
	Since   time.Time
	all     map[string]*Decided
	records int
	over    int
}

// maxDecided bounds how many different decisions are kept.
const maxDecided = 500_000

// NewHistory begins one.
func NewHistory(since time.Time) *History { return &History{Since: since, all: map[string]*Decided{}} }

// Add takes in a record; what is no decision is passed by.
func (h *History) Add(r *audit.Record) {
	if r.Kind != audit.KindDecision || r.User == "" {
		return
	}
	h.records++
	d := Decided{User: r.User, Login: r.Login, Door: r.Door, Target: r.Target, From: r.From, Proofs: r.Shown, Times: 1, Last: r.Time,
		Was: r.Outcome + " (" + r.Reason + ")", recent: r.Recent, allowed: r.Outcome == broker.Allow.String()}
	d.deferred = d.allowed && r.Reason == string(broker.ReasonDeferred)
	d.standing = d.deferred && len(r.Rules) == 0
	key := fmt.Sprintf("%q", []string{d.User, d.Login, d.Door, d.Target, d.From, d.Was, strings.Join(d.Proofs, ","), strings.Join(d.recent, ",")})
	if old := h.all[key]; old != nil {
		old.Times++
		if d.Last.After(old.Last) {
			old.Last = d.Last
		}
		return
	}
	if len(h.all) == maxDecided {
		h.over++
		return
	}
	h.all[key] = &d
}

// Past is what a record says of a change.
type Past struct {
	Since   time.Time `json:"since"`
	Records int       `json:"records"`
	// Different is how many different decisions they are.
	Different int `json:"different"`
	// Lost were granted, and would be no more; Gained were refused, and would be
	// granted, or would be with a proof.
	Lost   []Decided `json:"lost"`
	Gained []Decided `json:"gained"`
	// Refused were granted once, and would not be today, without the change too.
	Refused int `json:"refused_today"`
	// Left is how many records were not looked at, being too many different ones.
	Left int `json:"left_out,omitempty"`
}

// Judge decides everything again, at the time at which it was decided last, by both
// snapshots.
func (h *History) Judge(before, after *broker.Snapshot, user broker.UserName, host broker.HostName) (Past, error) {
	p := Past{Since: h.Since, Records: h.records, Different: len(h.all), Lost: []Decided{}, Gained: []Decided{}, Left: h.over}
	for _, d := range h.all {
		if user != "" && d.User != string(user) || host != "" && d.Target != string(host) {
			continue
		}
		was, _, err := d.again(before)
		if err != nil {
			return p, err
		}
		would, text, err := d.again(after)
		if err != nil {
			return p, err
		}
		switch d.Would = text; {
		case d.allowed && was == 2 && would < 2:
			p.Lost = append(p.Lost, *d)
		case d.allowed && was < 2 && would < 2:
			p.Refused++
		case !d.allowed && would > was:
			p.Gained = append(p.Gained, *d)
		}
	}
	for _, l := range [][]Decided{p.Lost, p.Gained} {
		slices.SortFunc(l, func(a, b Decided) int {
			return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Login, b.Login), cmp.Compare(a.From, b.From),
				a.Last.Compare(b.Last), cmp.Compare(a.Was, b.Was), slices.Compare(a.Proofs, b.Proofs))
		})
	}
	return p, nil
}

// again decides it by a snapshot: 2 allow, 1 with a proof, 0 no.
func (d *Decided) again(s *broker.Snapshot) (int, string, error) {
	q := broker.Request{User: broker.UserName(d.User), Login: broker.Login(d.Login), Door: broker.Door(d.Door), ProofsDeferred: d.deferred}
	if a, err := netip.ParseAddr(d.Target); err == nil {
		q.Target.Addr = a
	} else {
		q.Target.Host = broker.HostName(d.Target)
	}
	if d.From != "" {
		a, err := netip.ParseAddr(d.From)
		if err != nil {
			return 0, "", fmt.Errorf("a record of %s: from: %w", d.Last.Format(time.RFC3339), err)
		}
		q.From = a
	} else {
		q.SourceDeferred = d.Door == "keys" // sshd knows, and holds to it
	}
	var err error
	if q.Recent, err = recent(d.recent); err != nil {
		return 0, "", fmt.Errorf("a record of %s: %w", d.Last.Format(time.RFC3339), err)
	}
	var proofs []broker.Proof
	for _, p := range d.Proofs {
		proofs = append(proofs, broker.Proof(p))
	}
	if d.standing {
		reason, open := judge(s, "account", q, nil, d.Last)
		if open {
			return 2, "allow", nil
		}
		return 0, "deny (" + string(reason) + ")", nil
	}
	x := broker.Decide(broker.View{Snapshot: s, AsOf: d.Last, MaxAge: 24 * time.Hour}, q, proofs, d.Last)
	text := fmt.Sprintf("%s (%s)", x.Outcome, x.Reason)
	switch x.Outcome {
	case broker.Allow:
		return 2, text, nil
	case broker.NeedProof:
		return 1, text, nil
	}
	return 0, text, nil
}
