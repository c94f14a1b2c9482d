package rehearsal

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// kindOf says how two sets of ways differ; empty: not at all.
func kindOf(ways [2][]way) string {
	was, is := possible(ways[0]), possible(ways[1])
	switch {
	case !was && !is:
		return ""
	case !was:
		return Gained
	case !is:
		return Lost
	}
	kept, more := within(ways[0], ways[1]), !within(ways[1], ways[0])
	switch {
	case !kept:
		return Narrower
	case more:
		return Wider
	}
	return ""
}

// possible reports whether somebody with all proofs gets in by some of the ways,
// from somewhere and at some time. Rules that force different commands shut each
// other out where they meet, and not else.
func possible(ws []way) bool {
	return slices.ContainsFunc(ws, func(w way) bool {
		return !slices.ContainsFunc(ws, func(o way) bool {
			return clash(w, o) && o.about(w) && !slices.ContainsFunc(ws, func(f way) bool { return f.rule.Permit.Command == "" && f.about(w) })
		})
	})
}

func clash(a, b way) bool {
	p, q := a.rule.Permit.Command, b.rule.Permit.Command
	return p != "" && q != "" && p != q
}

// within reports whether each of some ways is covered by one of others, and none
// of those is in conflict that was not.
func within(some, others []way) bool {
	for _, w := range some {
		if !slices.ContainsFunc(others, func(o way) bool { return o.about(w) && permits(o.rule.Permit, w.rule.Permit) }) {
			return false
		}
	}
	conflicts := func(ws []way) bool {
		return slices.ContainsFunc(ws, func(a way) bool { return slices.ContainsFunc(ws, func(b way) bool { return clash(a, b) }) })
	}
	return !conflicts(others) || conflicts(some)
}

// about reports whether w is open whenever o is.
func (w way) about(o way) bool {
	r, q := w.rule, o.rule
	return nets(r.From, q.From) && times(r.Times, q.Times) && needs(r.Proofs, q.Proofs) &&
		!w.from.After(o.from) && (w.until.IsZero() || !o.until.IsZero() && !o.until.After(w.until)) &&
		(r.MaxAge == 0 || q.MaxAge != 0 && q.MaxAge <= r.MaxAge)
}

// nets reports whether wide covers narrow; empty is from anywhere.
func nets(wide, narrow []netip.Prefix) bool {
	if len(wide) == 0 {
		return true
	}
	return len(narrow) > 0 && !slices.ContainsFunc(narrow, func(n netip.Prefix) bool {
		return !slices.ContainsFunc(wide, func(w netip.Prefix) bool { return w.Bits() <= n.Bits() && w.Contains(n.Addr()) })
	})
}

// times is nets for windows, which are compared by what is written.
func times(wide, narrow []broker.Window) bool {
	if len(wide) == 0 {
		return true
	}
	return len(narrow) > 0 && !slices.ContainsFunc(narrow, func(n broker.Window) bool {
		return !slices.ContainsFunc(wide, func(w broker.Window) bool { return w.String() == n.String() })
	})
}

// needs reports whether whoever meets many meets few too.
func needs(few, many []broker.ProofNeed) bool {
	return !slices.ContainsFunc(few, func(f broker.ProofNeed) bool {
		return !slices.ContainsFunc(many, func(m broker.ProofNeed) bool {
			return !slices.ContainsFunc(m, func(c broker.ProofChoice) bool {
				return !slices.ContainsFunc(f, func(d broker.ProofChoice) bool { return d.Proof == c.Proof && d.Within >= c.Within })
			})
		})
	})
}

// permits reports whether more gives all that less gives.
func permits(more, less broker.Permissions) bool {
	if reflect.DeepEqual(more, less) {
		return true
	}
	sub := func(a, b []string) bool { // a in b
		return !slices.ContainsFunc(a, func(v string) bool { return !slices.Contains(b, v) })
	}
	return (more.PTY || !less.PTY) && (more.PortForwarding || !less.PortForwarding) && (more.AgentForwarding || !less.AgentForwarding) &&
		(more.X11Forwarding || !less.X11Forwarding) && (more.UserRC || !less.UserRC) &&
		(more.PortForwarding || sub(less.PermitOpen, more.PermitOpen) && sub(less.PermitListen, more.PermitListen)) &&
		sub(less.Environment, more.Environment) && (more.Command == "" || more.Command == less.Command) &&
		(!less.HasTunnel || more.HasTunnel && (more.Tunnel < 0 || more.Tunnel == less.Tunnel)) &&
		(more.Sessions == 0 || less.Sessions != 0 && less.Sessions <= more.Sessions)
}

// texts are ways for people, or why there is none.
func texts(ws []way, shut string) []string {
	if shut != "" {
		return []string{"account: " + shut}
	}
	out := []string{}
	for _, w := range ws {
		out = append(out, w.String())
	}
	if len(ws) > 0 && !possible(ws) {
		out = append(out, "conflict: they force different commands")
	}
	return out
}

// String is the rule's name with what it asks for.
func (w way) String() string {
	r := w.rule
	var c []string
	list := func(word string, n int, at func(int) string) {
		var vs []string
		for i := range n {
			vs = append(vs, at(i))
		}
		if n > 0 {
			c = append(c, word+" "+strings.Join(vs, ", "))
		}
	}
	list("from", len(r.From), func(i int) string { return r.From[i].String() })
	list("at", len(r.Times), func(i int) string { return r.Times[i].String() })
	list("with", len(r.Proofs), func(i int) string { return r.Proofs[i].String() })
	if !w.from.IsZero() {
		c = append(c, "not before "+stamp(w.from))
	}
	if !w.until.IsZero() {
		c = append(c, "until "+stamp(w.until))
	}
	if r.MaxAge != 0 {
		c = append(c, fmt.Sprintf("snapshot younger than %s", r.MaxAge))
	}
	if p := r.Permit.Values(); !slices.Equal(p, []string{"pty", "user-rc"}) {
		c = append(c, "permit "+strings.Join(p, ", "))
	}
	if len(c) == 0 {
		return "rule " + string(r.Name)
	}
	return "rule " + string(r.Name) + " (" + strings.Join(c, "; ") + ")"
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
