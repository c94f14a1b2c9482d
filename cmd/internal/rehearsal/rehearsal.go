// Package rehearsal compares two snapshots of a directory: who gains and who loses
// which ways in, which sessions would end, and which decisions of the audit record
// would come out otherwise. It changes nothing and asks nobody.
package rehearsal

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// Config is what is compared.
type Config struct {
	Before, After *broker.Snapshot
	Now           time.Time
	// User and Host narrow the gains and losses; empty: all.
	User broker.UserName
	Host broker.HostName
	// Work bounds the subject checks, and after them the comparisons; 0: the
	// default of ten million.
	Work int
	// Progress is told how many steps of how many are done; nil: nobody is.
	Progress func(done, total int)
}

const defaultWork = 10_000_000

// The kinds of a Change.
const (
	Gained   = "gained"
	Lost     = "lost"
	Wider    = "wider"    // possible before and after; all that was possible still is, and more
	Narrower = "narrower" // something of what was possible is no longer, or not shown to be
)

// Change is a difference in who may enter, for each of Users with each of Doors,
// Hosts and Logins: the lists are sorted, and all their combinations are meant.
type Change struct {
	Kind  string            `json:"kind"`
	Users []broker.UserName `json:"users"`
	Doors []string          `json:"doors"`
	// Hosts are names of hosts, net:CIDR for addresses in a network that are no
	// host's, or * for what is neither.
	Hosts []string `json:"hosts"`
	// Logins are accounts; self is each user's own, and a glob stands for those
	// that no other rule names.
	Logins []string `json:"logins"`
	// Before and After are the rules that can grant it, each with its conditions, or
	// the account's state when that is what shuts it.
	Before []string `json:"before"`
	After  []string `json:"after"`
}

// Result is what Compare finds.
type Result struct {
	Changes []Change `json:"changes"`
	// Ambiguous are accounts that are shut after the change, because others have
	// come to share their name or uid number.
	Ambiguous []broker.UserName `json:"ambiguous,omitempty"`
	// Users and Hosts are how many were compared.
	Users int `json:"users_compared"`
	Hosts int `json:"hosts_compared"`
	// Cut says what was left out because it was too much; empty: nothing.
	Cut string `json:"cut,omitempty"`
}

// way is one rule as a way in: with all that it asks for, and what it permits.
type way struct {
	rule  *broker.Rule
	from  time.Time // not before: the rule's, or the end of the account's lock
	until time.Time // the rule's or the account's end; zero: none
}

// comparison is one run of Compare.
type comparison struct {
	Config
	views  [2]broker.View // before, after
	rules  [2][]*broker.Rule
	doors  []string
	logins []string
	left   int
	cut    string
}

// Compare works out who gains and who loses. Users who are the same to all rules
// are compared once, and so are hosts.
func Compare(c Config) Result {
	if c.Work == 0 {
		c.Work = defaultWork
	}
	x := &comparison{Config: c, left: c.Work}
	for i, s := range []*broker.Snapshot{c.Before, c.After} {
		x.views[i] = broker.View{Snapshot: s, AsOf: c.Now, MaxAge: 24 * time.Hour}
		for _, r := range s.Rules() {
			if !r.Disabled && (r.Expires.IsZero() || c.Now.Before(r.Expires)) {
				x.rules[i] = append(x.rules[i], r)
			}
		}
	}
	x.atoms()
	users := x.userClasses(x.candidates())
	hosts := x.hostClasses()
	var res Result
	found := map[string]*Change{}
	var order []string
	for n, u := range users {
		if c.Progress != nil {
			c.Progress(n, len(users))
		}
		res.Users += len(u.names)
		if _, amb := c.After.User(u.names[0]); amb {
			if _, was := c.Before.User(u.names[0]); !was {
				res.Ambiguous = append(res.Ambiguous, u.names...)
			}
		}
		for _, h := range hosts {
			x.compare(u, h, func(ch Change) {
				key := strings.Join([]string{ch.Kind, join(ch.Users), ch.Hosts[0], join(ch.Logins), strings.Join(ch.Before, "\n"), strings.Join(ch.After, "\n")}, "\x00")
				if old := found[key]; old != nil {
					old.Doors = append(old.Doors, ch.Doors...)
					return
				}
				found[key] = &ch
				order = append(order, key)
			})
		}
	}
	for _, h := range hosts {
		res.Hosts += len(h.names)
	}
	for _, k := range order {
		res.Changes = append(res.Changes, *found[k])
	}
	// Doors are merged; then logins, hosts and users of what is the same else.
	res.Changes = merge(res.Changes, func(c *Change) *[]string { return &c.Logins })
	res.Changes = merge(res.Changes, func(c *Change) *[]string { return &c.Hosts })
	res.Changes = mergeUsers(res.Changes)
	rank := []string{Lost, Narrower, Gained, Wider}
	slices.SortStableFunc(res.Changes, func(a, b Change) int {
		return cmp.Or(slices.Index(rank, a.Kind)-slices.Index(rank, b.Kind), cmp.Compare(a.Users[0], b.Users[0]), cmp.Compare(a.Hosts[0], b.Hosts[0]))
	})
	slices.Sort(res.Ambiguous)
	res.Cut = x.cut
	return res
}

// spend counts work; false: there is no more to be spent.
func (x *comparison) spend(n int, what string) bool {
	if x.left -= n; x.left < 0 && x.cut == "" {
		x.cut = fmt.Sprintf("%s: it is more than %d steps of work, and the rest was left out: rehearse a smaller change, or one --user or --host", what, x.Work)
	}
	return x.left >= 0
}

// atoms gathers the doors and logins that rules tell apart.
func (x *comparison) atoms() {
	doors, logins := map[string]bool{"keys": true, "pam": true}, map[string]bool{"self": true, "root": true}
	for _, rs := range x.rules {
		for _, r := range rs {
			for _, d := range r.Doors {
				doors[d] = true
			}
			for _, l := range r.Logins {
				logins[l] = true
			}
		}
	}
	for d := range doors {
		x.doors = append(x.doors, d)
	}
	for l := range logins {
		x.logins = append(x.logins, l)
	}
	slices.Sort(x.doors)
	slices.Sort(x.logins)
}

// candidates are the users for whom anything may be another than before.
func (x *comparison) candidates() []broker.UserName {
	if x.User != "" {
		return []broker.UserName{x.User}
	}
	set := map[broker.UserName]struct{}{}
	add := func(u *broker.User) { set[u.Name] = struct{}{} }
	subjects := func(r *broker.Rule) {
		for _, v := range x.views {
			v.SubjectUsers(r.Subjects, add)
		}
	}
	ch := x.After.Changes(x.Before)
	ch.TouchedUsers(func(n broker.UserName) bool { set[n] = struct{}{}; return true })
	// By their entries: a name that two groups share is nobody's.
	ch.TouchedGroups(func(g *broker.Group) bool {
		for _, v := range x.views {
			v.GroupUsers(g.DN, add)
			if g.GID != 0 {
				v.Users(func(u *broker.User) bool {
					if u.GID == g.GID {
						add(u)
					}
					return true
				})
			}
		}
		return true
	})
	// A group's name may have come to stand for another group.
	ch.Groups(func(old, now *broker.Group) bool {
		for _, g := range []*broker.Group{old, now} {
			if g != nil && (old == nil || now == nil || old.Name != now.Name) {
				subjects(&broker.Rule{Subjects: []broker.Subject{{Group: g.Name}}})
			}
		}
		return true
	})
	ch.Rules(func(old, now *broker.Rule) bool {
		for _, r := range []*broker.Rule{old, now} {
			if r != nil && (old == nil || now == nil || !same(old, now)) {
				subjects(r)
			}
		}
		return true
	})
	for _, h := range x.hostClasses() { // those whose rules changed
		for i := range 2 {
			for _, r := range h.rules[i] {
				if !slices.ContainsFunc(h.rules[1-i], func(o *broker.Rule) bool { return same(r, o) }) {
					subjects(r)
				}
			}
		}
	}
	names := make([]broker.UserName, 0, len(set))
	for n := range set {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// same reports whether two rules say the same under the same name.
func same(a, b *broker.Rule) bool {
	p, q := *a, *b
	p.ID, p.DN, p.Description, q.ID, q.DN, q.Description = broker.EntryID{}, "", "", broker.EntryID{}, "", ""
	return a == b || reflect.DeepEqual(p, q)
}

// class is users, or hosts, for whom the same rules count before and after.
type class struct {
	names []broker.UserName
	hosts []string
	rules [2][]*broker.Rule
	// shut is why the account is shut, empty when it is not; from and until bound it.
	shut        [2]string
	from, until [2]time.Time
}

func (x *comparison) userClasses(names []broker.UserName) []*class {
	by := map[string]*class{}
	var out []*class
	for n, name := range names {
		if !x.spend(len(x.rules[0])+len(x.rules[1]), fmt.Sprintf("of %d users, %d were looked at", len(names), n)) {
			break
		}
		c := &class{names: []broker.UserName{name}}
		key := ""
		for i, v := range x.views {
			// Nothing is asked for by this but the account's state.
			d := broker.Decide(v, broker.Request{User: name}, nil, x.Now)
			switch d.Reason {
			case broker.ReasonNoRule:
				c.until[i] = d.Until
			case broker.ReasonPolicyLocked:
				c.from[i] = d.Until
			default:
				c.shut[i] = string(d.Reason)
			}
			u, ambiguous := v.User(name)
			if u != nil && !ambiguous && c.shut[i] == "" {
				for k, r := range x.rules[i] {
					if v.IsSubject(u, r.Subjects) {
						c.rules[i] = append(c.rules[i], r)
						key += fmt.Sprint(k, ",")
					}
				}
			}
			key += fmt.Sprint("|", c.shut[i], c.from[i].Unix(), c.until[i].Unix(), "|")
		}
		if slices.ContainsFunc(x.logins, func(l string) bool { return l != "self" && l != "*" && covers(l, string(name)) }) {
			key += string(name) // a rule names the account that is his own
		}
		if old := by[key]; old != nil {
			old.names = append(old.names, name)
			continue
		}
		by[key] = c
		out = append(out, c)
	}
	return out
}

// hostClasses are all targets that rules tell apart.
func (x *comparison) hostClasses() []*class {
	names := map[string]bool{}
	for _, v := range x.views {
		v.Hosts(func(h *broker.Host) bool {
			if len(h.Names) > 0 && (x.Host == "" || slices.Contains(h.Names, x.Host)) {
				names[string(h.Names[0])] = true
			}
			return true
		})
	}
	by := map[string]*class{}
	var out []*class
	put := func(name string, c *class, key string) {
		if old := by[key]; old != nil {
			old.hosts = append(old.hosts, name)
			return
		}
		c.hosts = []string{name}
		by[key] = c
		out = append(out, c)
	}
	sorted := make([]string, 0, len(names))
	for n := range names {
		sorted = append(sorted, n)
	}
	slices.Sort(sorted)
	for _, n := range sorted {
		c, key := &class{}, ""
		for i, v := range x.views {
			if h := v.Host(broker.HostName(n)); h != nil {
				for _, t := range v.RulesFor(h) {
					if k := slices.Index(x.rules[i], t.Rule); k >= 0 {
						c.rules[i] = append(c.rules[i], t.Rule)
						key += fmt.Sprint(k, ",")
					}
				}
			}
			key += "|"
		}
		put(n, c, key)
	}
	if x.Host != "" {
		return out
	}
	// Targets that are no hosts: networks that rules name, and all else.
	nets := map[netip.Prefix]bool{}
	for _, rs := range x.rules {
		for _, r := range rs {
			for _, t := range r.Targets {
				if t.Net.IsValid() {
					nets[t.Net] = true
				}
			}
		}
	}
	others := []netip.Prefix{{}}
	for p := range nets {
		others = append(others, p)
	}
	slices.SortFunc(others, func(a, b netip.Prefix) int { return cmp.Compare(a.String(), b.String()) })
	for _, p := range others {
		c, key, name := &class{}, "other:", "*"
		if p.IsValid() {
			name = "net:" + p.String()
		}
		for i := range x.views {
			for k, r := range x.rules[i] {
				if slices.ContainsFunc(r.Targets, func(t broker.RuleTarget) bool {
					return t.Anywhere || t.Net.IsValid() && p.IsValid() && t.Net.Bits() <= p.Bits() && t.Net.Contains(p.Addr())
				}) {
					c.rules[i] = append(c.rules[i], r)
					key += fmt.Sprint(k, ",")
				}
			}
			key += "|"
		}
		put(name, c, key)
	}
	return out
}

// compare gives f each difference for a class of users and a class of hosts.
func (x *comparison) compare(u, h *class, f func(Change)) {
	var both [2][]*broker.Rule
	for i := range 2 {
		for _, r := range u.rules[i] {
			if slices.Contains(h.rules[i], r) {
				both[i] = append(both[i], r)
			}
		}
	}
	if len(both[0])+len(both[1]) == 0 ||
		slices.EqualFunc(both[0], both[1], same) && u.shut[0] == u.shut[1] && u.from[0].Equal(u.from[1]) && u.until[0].Equal(u.until[1]) {
		return
	}
	own := ""
	if len(u.names) == 1 {
		own = string(u.names[0])
	}
	for _, door := range x.doors {
		for _, login := range x.logins {
			if login == own && own != "" { // told under self
				continue
			}
			if !x.spend(len(both[0])+len(both[1]), "not all combinations of users, hosts, doors and logins were compared") {
				return
			}
			var ways [2][]way
			for i := range 2 {
				for _, r := range both[i] {
					if opens(r, door, login, own) {
						ways[i] = append(ways[i], way{r, later(r.NotBefore, u.from[i]), earlier(r.Expires, u.until[i])})
					}
				}
			}
			kind := kindOf(ways)
			if kind == "" {
				continue
			}
			c := Change{Kind: kind, Users: u.names, Doors: []string{door}, Hosts: h.hosts, Logins: []string{login}}
			c.Before, c.After = texts(ways[0], u.shut[0]), texts(ways[1], u.shut[1])
			f(c)
		}
	}
}

// opens reports whether a rule is about a door and a login. A glob as door or login
// stands for names that no rule tells apart from it.
func opens(r *broker.Rule, door, login, own string) bool {
	if !slices.ContainsFunc(r.Doors, func(g string) bool { return covers(g, door) }) {
		return false
	}
	return slices.ContainsFunc(r.Logins, func(g string) bool {
		switch {
		case login == "root" || own == "root" && login == "self":
			return g == "root"
		case login == "self":
			return g == "self" || g == "*" || own != "" && covers(g, own)
		case g == "self":
			return false
		}
		return covers(g, login)
	})
}

func covers(glob, name string) bool {
	if glob == name || glob == "*" {
		return true
	}
	if strings.ContainsAny(name, `*?[\`) {
		return false
	}
	ok, err := path.Match(glob, name)
	return ok && err == nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func join[T ~string](xs []T) string {
	s := make([]string, len(xs))
	for i, x := range xs {
		s[i] = string(x)
	}
	return strings.Join(s, "\n")
}

// merge joins changes that differ in one list only.
func merge(all []Change, list func(*Change) *[]string) []Change {
	var out []Change
	at := map[string]int{}
	for _, c := range all {
		mine := *list(&c)
		*list(&c) = nil
		key := fmt.Sprintf("%q", []string{c.Kind, join(c.Users), join(c.Doors), join(c.Hosts), join(c.Logins), join(c.Before), join(c.After)})
		i, ok := at[key]
		if !ok {
			i = len(out)
			at[key] = i
			out = append(out, c)
		}
		l := list(&out[i])
		*l = append(slices.Clone(*l), mine...)
		slices.Sort(*l)
		*l = slices.Compact(*l)
	}
	return out
}

func mergeUsers(all []Change) []Change {
	var out []Change
	at := map[string]int{}
	for _, c := range all {
		key := fmt.Sprintf("%q", []string{c.Kind, join(c.Doors), join(c.Hosts), join(c.Logins), join(c.Before), join(c.After)})
		i, ok := at[key]
		if !ok {
			at[key] = len(out)
			c.Users = slices.Clone(c.Users)
			out = append(out, c)
			continue
		}
		out[i].Users = append(out[i].Users, c.Users...)
	}
	for i := range out {
		slices.Sort(out[i].Users)
	}
	return out
}
