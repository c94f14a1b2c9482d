package broker

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Explanation is a decision with its grounds, for `sekisho why`. It tells more
// than a door may tell its peer.
type Explanation struct {
	Decision Decision
	// Rules are the rules about this user, in the order of their names: those
	// that matched and those that missed by door, target, login or a condition.
	Rules []RuleFate
	// Change lists what would have to change for a yes; empty on an allow. Any
	// one of them would do, unless the account itself is shut.
	Change []string
}

// RuleFate is how one rule fared.
type RuleFate struct {
	Name    RuleName
	Matched bool
	// Miss is what the rule did not find met; empty on a match.
	Miss string
	// Via is the way from the user to the group that the rule names, and
	// HostVia from the host to its host group; empty when the rule names the
	// user, the host or anybody.
	Via, HostVia []GroupName
}

// Explain is Decide with the grounds. The decision is the same, made by the
// same code.
func Explain(v View, r Request, shown []Proof, now time.Time) Explanation {
	j := judge(v, r, shown, now)
	if r.Login == "" {
		r.Login = Login(r.User)
	}
	x := Explanation{Decision: j.decision}
	for _, f := range j.rules {
		if f.miss == missDisabled || f.miss == missSubject {
			continue
		}
		rf := RuleFate{Name: f.rule.Name, Matched: f.miss == missNone, Miss: f.text(r)}
		rf.Via = subjectPath(v, j.user, f.rule)
		rf.HostVia = targetPath(v, j.host, f.rule)
		x.Rules = append(x.Rules, rf)
	}
	x.Change = j.change(v, r)
	return x
}

// subjectPath is the way by which a rule names the user; nil when directly.
func subjectPath(v View, u *User, r *Rule) []GroupName {
	var best []GroupName
	for _, s := range r.Subjects {
		if s.Anyone || s.User != "" && s.User == u.Name {
			return nil
		}
		if s.Group == "" {
			continue
		}
		if p, in := v.InGroup(u, s.Group); in && (best == nil || len(p) < len(best)) {
			best = p
		}
	}
	return best
}

func targetPath(v View, h *Host, r *Rule) []GroupName {
	if h == nil {
		return nil
	}
	for _, t := range r.Targets {
		if t.HostGroup == "" {
			continue
		}
		if p, in := v.HostInGroup(h, t.HostGroup); in {
			return p
		}
	}
	return nil
}

// text says what a rule did not find met.
func (f fate) text(r Request) string {
	switch f.miss {
	case missDoor:
		return fmt.Sprintf("it is for the doors %s, not %s", strings.Join(f.rule.Doors, ", "), r.Door)
	case missTarget:
		return fmt.Sprintf("it does not lead to %s", r.Target)
	case missLogin:
		return fmt.Sprintf("it allows the logins %s, not %s", strings.Join(f.rule.Logins, ", "), r.Login)
	case missCommand:
		return fmt.Sprintf("it forces a command, which the door %s cannot do", r.Door)
	case missNotYet:
		return "it begins at " + stamp(f.rule.NotBefore)
	case missExpired:
		return "it expired at " + stamp(f.rule.Expires)
	case missTime:
		s := "it is not open at this time; its hours are " + join(f.rule.Times, "; ")
		if !f.until.IsZero() {
			s += ", next from " + stamp(f.until)
		}
		return s
	case missSource:
		from := "an unknown source"
		if r.From.IsValid() {
			from = r.From.String()
		}
		return fmt.Sprintf("it is for callers from %s, not %s", join(f.rule.From, ", "), from)
	case missProof:
		return "it also needs " + join(f.need, " and ")
	case missStale:
		return fmt.Sprintf("it wants a snapshot younger than %s", f.rule.MaxAge)
	}
	return ""
}

// change lists what would turn a refusal into a yes.
func (j judgement) change(v View, r Request) []string {
	d := j.decision
	switch d.Reason {
	case ReasonRule:
		return nil
	case ReasonNoSnapshot:
		return []string{"the directory must be read once: see `sekisho status`"}
	case ReasonStale:
		if len(d.Rules) == 0 {
			return []string{fmt.Sprintf("the directory must be reachable again: the last good snapshot is %s old and at most %s are allowed (max_age)", d.Age.Round(time.Second), v.MaxAge)}
		}
	case ReasonUnknownUser:
		return []string{fmt.Sprintf("a user %s must exist in the directory: sekisho user add %s", r.User, r.User)}
	case ReasonAmbiguousUser:
		return []string{fmt.Sprintf("the name %s and its uid number must each stand in one entry only: remove the other entry", r.User)}
	case ReasonLocked:
		return []string{"the account must be unlocked: sekisho user set " + string(r.User) + " --unlock"}
	case ReasonPolicyLocked:
		return []string{"the password policy's lock must end: wait, or sekisho user set " + string(r.User) + " --unlock"}
	case ReasonShadowExpired, ReasonKerberosExpired:
		return []string{"the account's expiry must be moved: sekisho user set " + string(r.User) + " --expires DATE"}
	case ReasonNologin:
		return []string{"the account needs a login shell: sekisho user set " + string(r.User) + " --shell /bin/bash"}
	case ReasonNoKey:
		return []string{fmt.Sprintf("the key must stand in the user's entry: sekisho key add %s FILE.pub", r.User)}
	case ReasonUnknownHost:
		return []string{fmt.Sprintf("the directory must know the host: sekisho host add %s", r.Target.Host)}
	case ReasonConflict:
		return []string{fmt.Sprintf("the rules %s force different commands: only one of them may fit", join(d.Rules, ", "))}
	}
	var out []string
	for _, f := range j.rules {
		if c := f.change(r); c != "" {
			out = append(out, fmt.Sprintf("rule %s: %s", f.rule.Name, c))
		}
	}
	if d.Reason == ReasonNoRule {
		out = append(out, j.groupsThatWouldDo(v, r)...)
	}
	if len(out) == 0 {
		target := "host:" + string(r.Target.Host)
		if r.Target.Host == "" {
			target = "net:" + r.Target.String()
			if !r.Target.Addr.IsValid() {
				target = "'*'"
			}
		}
		c := fmt.Sprintf("a rule must allow it: sekisho rule add NAME --subject user:%s --door %s --target %s", r.User, r.Door, target)
		if string(r.Login) != string(r.User) {
			c += " --login " + string(r.Login)
		}
		out = append(out, c)
	}
	return out
}

// change is what would make one rule match that missed late enough to be about
// this request.
func (f fate) change(r Request) string {
	switch f.miss {
	case missDoor, missTarget, missLogin, missCommand, missNone, missDisabled, missSubject:
		return ""
	case missNotYet:
		return "wait until " + stamp(f.rule.NotBefore)
	case missExpired:
		return "move its expiry: sekisho rule set " + string(f.rule.Name) + " --expires DATE"
	case missTime:
		if f.until.IsZero() {
			return ""
		}
		return "come back at " + stamp(f.until)
	case missSource:
		return "come from " + join(f.rule.From, " or ")
	case missProof:
		return "show " + join(f.need, " and ")
	case missStale:
		return "the directory must be reachable again"
	}
	return ""
}

// groupsThatWouldDo are the groups whose membership would make some rule
// match, when no rule is about the user yet.
func (j judgement) groupsThatWouldDo(v View, r Request) []string {
	var out []string
	for _, f := range j.rules {
		if f.miss != missSubject || len(out) == 8 {
			continue
		}
		q := question{View: v, Request: r, user: j.user, host: j.host}
		if j.host != nil {
			q.hostGroups = v.hostGroups(j.host)
		}
		if !slices.ContainsFunc(f.rule.Doors, func(g string) bool { return glob(g, string(r.Door)) }) ||
			!slices.ContainsFunc(f.rule.Targets, q.isTarget) || !slices.ContainsFunc(f.rule.Logins, q.isLogin) {
			continue
		}
		for _, s := range f.rule.Subjects {
			if s.Group != "" {
				out = append(out, fmt.Sprintf("rule %s: %s must be in group %s: sekisho group set %s --add %s", f.rule.Name, r.User, s.Group, s.Group, r.User))
			}
		}
	}
	return out
}

// String is the host's name or the address.
func (t Target) String() string {
	switch {
	case t.Host != "":
		return string(t.Host)
	case t.Addr.IsValid():
		return t.Addr.String()
	}
	return "an unnamed target"
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// join prints a list with each value's own String.
func join[T any](xs []T, sep string) string {
	s := make([]string, len(xs))
	for i, x := range xs {
		s[i] = fmt.Sprint(x)
	}
	return strings.Join(s, sep)
}
