package broker

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
)

// maxSources bounds how many source networks a grant of deferred source may
// be split into; rules beyond it do not match.
const maxSources = 64

// Decide answers a request from what it is given and nothing else.
//
// The order of the questions is the order of the answers: can this view answer
// at all, is there such a user in good standing, has he this key, is there such a
// target, which rules fit, and what do they still want. A rule that fits but wants a younger
// snapshot than this one makes a refusal "could not find out", never a no; only
// the proof that another rule asks for comes before it.
func Decide(v View, r Request, shown []Proof, now time.Time) Decision {
	return judge(v, r, shown, now).decision
}

// judgement is a decision with how each rule fared, for Explain.
type judgement struct {
	decision Decision
	user     *User
	host     *Host
	rules    []fate
}

// fate is how one rule fared with a request: the zero miss is a match.
type fate struct {
	rule  *Rule
	miss  miss
	until time.Time   // when a match ends, or a miss by time may end
	need  []ProofNeed // missing proofs
}

// miss is the first thing in a rule that a request did not meet. They stand in
// the order of the questions: a later one is a nearer miss.
type miss int

const (
	missNone miss = iota
	missDisabled
	missSubject
	missDoor
	missTarget
	missLogin
	missCommand
	missNotYet
	missExpired
	missTime
	missSource
	missStale
	missProof
)

func judge(v View, r Request, shown []Proof, now time.Time) (j judgement) {
	d := &j.decision
	if j.user, *d = person(v, r.User, now); d.Reason != ReasonNone {
		return j
	}
	if r.Key != "" && !j.user.HasKey(r.Key) {
		d.Reason, d.Until = ReasonNoKey, time.Time{}
		return j
	}
	accountUntil := d.Until
	if r.Login == "" {
		r.Login = Login(r.User)
	}
	if r.Target.Host != "" {
		if j.host = v.Host(r.Target.Host); j.host == nil {
			d.Reason = ReasonUnknownHost
			return j
		}
	} else if r.Target.Addr.IsValid() {
		j.host = v.HostByAddr(r.Target.Addr)
	}

	q := question{View: v, Request: r, user: j.user, host: j.host, shown: shown, now: now, age: d.Age,
		userGroups: v.userGroups(j.user)}
	if j.host != nil {
		q.hostGroups = v.hostGroups(j.host)
	}
	rules := v.Rules()
	j.rules = make([]fate, 0, len(rules))
	for _, rule := range rules {
		j.rules = append(j.rules, q.try(rule))
	}
	j.settle(q, accountUntil)
	return j
}

// standing is Broker.Standing.
func standing(v View, r Request, now time.Time) Decision {
	_, d := person(v, r.User, now)
	if d.Reason == ReasonNone {
		d.Outcome, d.Reason = Allow, ReasonDeferred
	}
	return d
}

// person finds a user in good standing. Without a reason, the decision goes on:
// its Until is when the account is shut.
func person(v View, name UserName, now time.Time) (u *User, d Decision) {
	if v.Snapshot == nil {
		d.Outcome, d.Reason = Unknown, ReasonNoSnapshot
		return nil, d
	}
	d.Generation, d.Age = v.Generation(), v.Age(now)
	if d.Age > v.MaxAge {
		d.Outcome, d.Reason = Unknown, ReasonStale
		return nil, d
	}
	u, ambiguous := v.User(name)
	switch {
	case u == nil || name == "":
		d.Reason = ReasonUnknownUser
	case ambiguous:
		d.Reason = ReasonAmbiguousUser
	default:
		d.Reason, d.Until = account(u, now)
	}
	return u, d
}

// account says why the user's account is shut, or until when it is open.
func account(u *User, now time.Time) (Reason, time.Time) {
	s := u.State
	var until time.Time
	shuts := func(at int64) bool {
		if at == 0 {
			return false
		}
		if t := time.Unix(at, 0); now.Before(t) {
			until = sooner(until, t)
			return false
		}
		return true
	}
	switch {
	case s.Locked:
		return ReasonLocked, time.Time{}
	case s.PolicyLockedUntil != 0 && now.Unix() < s.PolicyLockedUntil:
		return ReasonPolicyLocked, time.Unix(s.PolicyLockedUntil, 0)
	case shuts(s.ShadowExpires):
		return ReasonShadowExpired, time.Time{}
	case shuts(s.KerberosExpires):
		return ReasonKerberosExpired, time.Time{}
	case Nologin(u.Shell):
		return ReasonNologin, time.Time{}
	}
	return ReasonNone, until
}

// Nologin reports whether a shell says that nobody logs in to the account.
func Nologin(shell string) bool {
	base := shell[strings.LastIndexByte(shell, '/')+1:]
	return base == "nologin" || base == "false"
}

// sooner is the earlier of two times, of which zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// question is a request with all that is looked up once for all rules.
type question struct {
	View
	Request
	user                   *User
	host                   *Host
	userGroups, hostGroups []groupHandle
	shown                  []Proof
	now                    time.Time
	age                    time.Duration
}

func (q *question) try(r *Rule) fate {
	f := fate{rule: r}
	switch {
	case r.Disabled:
		f.miss = missDisabled
	case !slices.ContainsFunc(r.Subjects, q.isSubject):
		f.miss = missSubject
	case q.Door == "" || !slices.ContainsFunc(r.Doors, func(g string) bool { return glob(g, string(q.Door)) }):
		f.miss = missDoor
	case !slices.ContainsFunc(r.Targets, q.isTarget):
		f.miss = missTarget
	case !slices.ContainsFunc(r.Logins, q.isLogin):
		f.miss = missLogin
	case q.Unconfined && r.Permit.Command != "":
		f.miss = missCommand
	case q.now.Before(r.NotBefore):
		f.miss, f.until = missNotYet, r.NotBefore
	case !r.Expires.IsZero() && !q.now.Before(r.Expires):
		f.miss = missExpired
	default:
		f.until = r.Expires
		q.conditions(&f)
	}
	return f
}

// conditions tries what changes with the request's time, source and proofs.
func (q *question) conditions(f *fate) {
	r := f.rule
	if len(r.Times) > 0 {
		open, change := anyOpen(r.Times, q.now)
		if !open {
			f.miss, f.until = missTime, change
			return
		}
		f.until = sooner(f.until, change)
	}
	if len(r.From) > 0 && !q.fromAllowed(r.From) {
		f.miss = missSource
		return
	}
	if r.MaxAge != 0 {
		if q.age >= r.MaxAge {
			f.miss = missStale
			return
		}
		f.until = sooner(f.until, q.AsOf.Add(r.MaxAge))
	}
	for _, need := range r.Proofs {
		if !need.met(q.shown, q.Recent) {
			f.need = append(f.need, need)
		}
	}
	if f.need != nil {
		f.miss = missProof
	}
}

// anyOpen reports whether one of the windows is open, and until when they stay
// so, or when the first opens.
func anyOpen(ws []Window, t time.Time) (open bool, change time.Time) {
	for t0 := t; ; t0 = change {
		var end, next time.Time
		for _, w := range ws {
			if in, at := w.open(t0); in {
				if at.After(end) {
					end = at
				}
			} else {
				next = sooner(next, at)
			}
		}
		switch {
		case end.IsZero() && t0.Equal(t):
			return false, next
		case end.IsZero():
			return true, t0
		case end.Sub(t) > 8*24*time.Hour: // windows that follow on each other without end
			return true, end
		}
		change = end
	}
}

func (q *question) fromAllowed(nets []netip.Prefix) bool {
	if !q.From.IsValid() {
		return q.SourceDeferred
	}
	from := q.From.Unmap().WithZone("")
	return slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(from) })
}

func (q *question) isSubject(s Subject) bool {
	switch {
	case s.Anyone:
		return true
	case s.User != "":
		return s.User == q.User
	case s.Group != "":
		return q.within(q.userGroups, s.Group)
	}
	return false
}

func (q *question) isTarget(t RuleTarget) bool {
	switch {
	case t.Anywhere:
		return true
	case t.Host != "":
		return q.host != nil && slices.ContainsFunc(q.host.Names, func(n HostName) bool { return glob(t.Host, string(n)) })
	case t.HostGroup != "":
		return q.host != nil && q.within(q.hostGroups, t.HostGroup)
	case t.Net.IsValid():
		if q.Target.Addr.IsValid() {
			return t.Net.Contains(q.Target.Addr.Unmap().WithZone(""))
		}
		return q.host != nil && slices.ContainsFunc(q.host.Addrs, t.Net.Contains)
	}
	return false
}

// isLogin matches the account asked for. Neither a glob nor self is ever meant
// for root, not even where a directory user has that name: root must be named.
func (q *question) isLogin(g string) bool {
	switch {
	case q.Login == "root":
		return g == "root"
	case g == loginSelf:
		return string(q.Login) == string(q.User)
	}
	return glob(g, string(q.Login))
}

// settle makes the decision out of the rules' fates.
func (j *judgement) settle(q question, accountUntil time.Time) {
	d := &j.decision
	var matched []fate
	nearest := fate{miss: missDisabled}
	for _, f := range j.rules {
		switch {
		case f.miss == missNone:
			matched = append(matched, f)
		case f.miss > nearest.miss:
			nearest = f
		}
	}
	if len(matched) > 0 {
		j.allow(q, matched, accountUntil)
		return
	}
	if nearest.miss == missProof && q.ProofsDeferred {
		if wanting := j.alike(); wanting != nil {
			j.allow(q, wanting, accountUntil)
			if d.Outcome == Allow {
				d.Reason = ReasonDeferred
			}
			return
		}
	}
	d.Until = accountUntil
	for _, f := range j.rules {
		if f.miss >= missNotYet {
			d.Until = sooner(d.Until, f.until)
		}
		if f.miss == missProof {
			d.Need = append(d.Need, f.need)
		}
	}
	switch nearest.miss {
	case missProof:
		d.Outcome, d.Reason = NeedProof, ReasonProof
	case missStale:
		d.Outcome, d.Reason = Unknown, ReasonStale
	case missSource:
		d.Reason = ReasonSource
	case missTime:
		d.Reason = ReasonTime
	case missExpired:
		d.Reason = ReasonRuleExpired
	case missNotYet:
		d.Reason = ReasonRuleNotYet
	case missCommand:
		d.Reason = ReasonCommand
	default:
		d.Reason = ReasonNoRule
		return
	}
	for _, f := range j.rules {
		if f.miss == nearest.miss {
			d.Rules = append(d.Rules, f.rule.Name)
		}
	}
}

// alike are the rules that want only proofs, if all permit the same: which of
// them will be met is not known yet, and nobody may get what another permits.
func (j *judgement) alike() []fate {
	var out []fate
	for _, f := range j.rules {
		if f.miss != missProof {
			continue
		}
		if len(out) > 0 && !reflect.DeepEqual(out[0].rule.Permit, f.rule.Permit) {
			return nil
		}
		out = append(out, f)
	}
	return out
}

// allow makes the grants. With a deferred source there is one for each network
// that a matching rule names, the longest prefix first: networks are nested or
// apart, so the first that contains the caller has exactly the rules that a
// known source would have matched.
func (j *judgement) allow(q question, matched []fate, accountUntil time.Time) {
	d := &j.decision
	d.Outcome, d.Reason = Allow, ReasonRule
	nets := []netip.Prefix{{}}
	if q.SourceDeferred && !q.From.IsValid() {
		for _, f := range matched {
			nets = append(nets, f.rule.From...)
		}
		slices.SortFunc(nets, func(a, b netip.Prefix) int {
			if a.Bits() != b.Bits() { // the zero Prefix has -1 bits and comes last
				return b.Bits() - a.Bits()
			}
			return a.Addr().Compare(b.Addr())
		})
		nets = slices.Compact(nets)
		if cut := len(nets) - maxSources; cut > 0 {
			// Keep the widest: a caller in a narrow one that is dropped gets the
			// grant of fewer rules, which is less, unless one of them would
			// have been in conflict.
			nets = nets[cut:]
			if conflict(matched) {
				d.refuse(ReasonConflict, matched)
				return
			}
		}
	}
	for _, net := range nets {
		var here []fate
		for _, f := range matched {
			if len(f.rule.From) == 0 || q.From.IsValid() ||
				slices.ContainsFunc(f.rule.From, func(p netip.Prefix) bool { return covers(p, net) }) {
				here = append(here, f)
			}
		}
		if len(here) == 0 {
			continue
		}
		if conflict(here) { // and no wider grant may take the place of this one
			d.refuse(ReasonConflict, here)
			return
		}
		g := Grant{From: net, User: q.user.Name, Login: q.Login, Until: accountUntil, Permit: here[0].rule.Permit}
		for i, f := range here {
			if i > 0 {
				g.Permit = g.Permit.union(f.rule.Permit)
			}
			g.Rules = append(g.Rules, f.rule.Name)
			g.Until = sooner(g.Until, f.until)
		}
		d.Grants = append(d.Grants, g)
	}
	d.Until = accountUntil
	for _, f := range matched {
		d.Rules = append(d.Rules, f.rule.Name)
		d.Until = sooner(d.Until, f.until)
	}
}

// conflict reports whether rules force different commands and none leaves the
// choice to the caller.
func conflict(rules []fate) bool {
	for _, f := range rules {
		if f.rule.Permit.Command == "" {
			return false
		}
	}
	return slices.ContainsFunc(rules, func(f fate) bool { return f.rule.Permit.Command != rules[0].rule.Permit.Command })
}

// refuse takes back an allow.
func (d *Decision) refuse(why Reason, rules []fate) {
	*d = Decision{Reason: why, Generation: d.Generation, Age: d.Age}
	for _, f := range rules {
		d.Rules = append(d.Rules, f.rule.Name)
		d.Until = sooner(d.Until, f.until)
	}
}

// covers reports whether p contains all of net.
func covers(p, net netip.Prefix) bool {
	return net.IsValid() && p.Bits() <= net.Bits() && p.Contains(net.Addr())
}
