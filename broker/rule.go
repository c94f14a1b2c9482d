package broker

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Rule allows subjects through doors to targets as logins, under conditions.
// A rule only allows; there are no priorities and no deny rules. All lists are
// "any of"; a list of Subjects, Doors or Targets that is empty matches nothing.
type Rule struct {
	ID          EntryID
	DN          DN
	Name        RuleName
	Description string
	Disabled    bool
	Subjects    []Subject
	Doors       []string // globs over door names
	Targets     []RuleTarget
	Logins      []string       // globs over account names; "self" is the user's own
	From        []netip.Prefix // empty: from anywhere
	Times       []Window       // empty: at any time
	Proofs      []ProofNeed    // all of them are needed
	NotBefore   time.Time
	Expires     time.Time
	MaxAge      time.Duration // the snapshot must be younger; 0: no limit of its own
	Permit      Permissions
}

// Subject is whom a rule is for. Exactly one field is set.
type Subject struct {
	Anyone bool
	User   UserName
	Group  GroupName
}

// RuleTarget is where a rule leads. Exactly one field is set.
type RuleTarget struct {
	Anywhere  bool
	Host      string // glob over the target's names
	HostGroup GroupName
	Net       netip.Prefix
}

// RuleAttributes are a sekishoRule entry's values, as the directory holds
// them; the names of the fields are those of the attributes without their
// prefix.
type RuleAttributes struct {
	Name, Description                                       string
	Subject, Door, Target, Login, From, Time, Proof, Permit []string
	NotBefore, Expires, MaxAge, Enabled                     string
}

const (
	maxValue  = 1024
	maxValues = 1000
)

// ParseRule reads a rule. Any value that it cannot read makes the whole rule
// an error: a condition that nobody understands must not open a door.
func ParseRule(a RuleAttributes) (Rule, error) {
	r := Rule{Name: RuleName(a.Name), Description: a.Description}
	fail := func(attr, value string, err error) (Rule, error) {
		return Rule{}, fmt.Errorf("%s %q: %w", attr, clip(value), err)
	}
	if a.Name == "" {
		return Rule{}, fmt.Errorf("a rule needs a cn")
	}
	if err := checkText(a.Name); err != nil {
		return fail("cn", a.Name, err)
	}
	lists := []struct {
		attr   string
		values []string
		need   bool
		add    func(string) error
	}{
		{"sekishoSubject", a.Subject, true, r.addSubject},
		{"sekishoDoor", a.Door, true, func(v string) error { return addGlob(&r.Doors, v) }},
		{"sekishoTarget", a.Target, true, r.addTarget},
		{"sekishoLogin", a.Login, false, func(v string) error { return addGlob(&r.Logins, v) }},
		{"sekishoFrom", a.From, false, r.addFrom},
		{"sekishoTime", a.Time, false, r.addTime},
		{"sekishoProof", a.Proof, false, r.addProof},
	}
	for _, l := range lists {
		if l.need && len(l.values) == 0 {
			return Rule{}, fmt.Errorf("%s is missing: the rule would be for nobody", l.attr)
		}
		if len(l.values) > maxValues {
			return Rule{}, fmt.Errorf("%s has %d values; at most %d are read", l.attr, len(l.values), maxValues)
		}
		for _, v := range l.values {
			if err := checkText(v); err != nil {
				return fail(l.attr, v, err)
			}
			if err := l.add(v); err != nil {
				return fail(l.attr, v, err)
			}
		}
	}
	if len(r.Logins) == 0 {
		r.Logins = []string{loginSelf}
	}
	var err error
	if r.Permit, err = ParsePermissions(a.Permit); err != nil {
		return Rule{}, fmt.Errorf("sekishoPermit: %w", err)
	}
	if r.NotBefore, err = parseGeneralized(a.NotBefore); err != nil {
		return fail("sekishoNotBefore", a.NotBefore, err)
	}
	if r.Expires, err = parseGeneralized(a.Expires); err != nil {
		return fail("sekishoExpires", a.Expires, err)
	}
	if a.MaxAge != "" {
		if r.MaxAge, err = time.ParseDuration(a.MaxAge); err != nil || r.MaxAge <= 0 {
			return fail("sekishoMaxAge", a.MaxAge, fmt.Errorf("want a duration like 12h or 30m"))
		}
	}
	switch strings.ToUpper(a.Enabled) {
	case "", "TRUE":
	case "FALSE":
		r.Disabled = true
	default:
		return fail("sekishoEnabled", a.Enabled, fmt.Errorf("want TRUE or FALSE"))
	}
	return r, nil
}

const loginSelf = "self"

func (r *Rule) addSubject(v string) error {
	kind, name, _ := strings.Cut(v, ":")
	switch {
	case v == "*":
		r.Subjects = append(r.Subjects, Subject{Anyone: true})
	case kind == "user" && name != "":
		r.Subjects = append(r.Subjects, Subject{User: UserName(name)})
	case kind == "group" && name != "":
		r.Subjects = append(r.Subjects, Subject{Group: GroupName(name)})
	default:
		return fmt.Errorf("want user:NAME, group:NAME or *")
	}
	return nil
}

func (r *Rule) addTarget(v string) error {
	kind, name, _ := strings.Cut(v, ":")
	switch {
	case v == "*":
		r.Targets = append(r.Targets, RuleTarget{Anywhere: true})
	case kind == "host" && name != "":
		var globs []string
		if err := addGlob(&globs, strings.ToLower(name)); err != nil {
			return err
		}
		r.Targets = append(r.Targets, RuleTarget{Host: globs[0]})
	case kind == "hostgroup" && name != "":
		r.Targets = append(r.Targets, RuleTarget{HostGroup: GroupName(name)})
	case kind == "net":
		p, err := parsePrefix(name)
		if err != nil {
			return err
		}
		r.Targets = append(r.Targets, RuleTarget{Net: p})
	default:
		return fmt.Errorf("want host:GLOB, hostgroup:NAME, net:CIDR or *")
	}
	return nil
}

func (r *Rule) addFrom(v string) error {
	p, err := parsePrefix(v)
	if err == nil {
		r.From = append(r.From, p)
	}
	return err
}

func (r *Rule) addTime(v string) error {
	w, err := ParseWindow(v)
	if err == nil {
		r.Times = append(r.Times, w)
	}
	return err
}

func (r *Rule) addProof(v string) error {
	need, err := parseNeed(v)
	if err == nil {
		r.Proofs = append(r.Proofs, need)
	}
	return err
}

func addGlob(to *[]string, v string) error {
	if _, err := path.Match(v, ""); err != nil || v == "" || strings.Contains(v, "/") {
		return fmt.Errorf("want a name or a glob of *, ? and [a-z]")
	}
	*to = append(*to, v)
	return nil
}

// glob matches a pattern that addGlob took.
func glob(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// parsePrefix reads a network or a single address. Bits behind the prefix are
// refused: 198.51.100.7/24 may be a typing error for /32.
func parsePrefix(v string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(v); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(v)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("want a network like 198.51.100.0/24 or 2001:db8::/32, or one address")
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("write an IPv4 network in its own form, without ::ffff")
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("has bits behind its prefix; did you mean %s?", p.Masked())
	}
	return p, nil
}

// parseGeneralized reads generalizedTime (RFC 4517 §3.3.13) in UTC, to the second.
func parseGeneralized(v string) (time.Time, error) {
	if v == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse("20060102150405Z", v)
	if err != nil {
		return time.Time{}, fmt.Errorf("want UTC as YYYYMMDDHHMMSSZ")
	}
	return t, nil
}

// checkText refuses what no value of a rule may hold.
func checkText(v string) error {
	if len(v) > maxValue {
		return fmt.Errorf("longer than %d bytes", maxValue)
	}
	if !utf8.ValidString(v) {
		return fmt.Errorf("not UTF-8")
	}
	for _, c := range v {
		if c < 0x20 || c == 0x7f {
			return fmt.Errorf("holds a control character")
		}
	}
	return nil
}

// clip keeps a bad value short in an error.
func clip(v string) string {
	if len(v) > 40 {
		return strings.ToValidUTF8(v[:40], "?") + "…"
	}
	return v
}

// rules are all rules: by ID, and in the order of names for Decide.
type rules struct {
	byID   trie[EntryID, Rule]
	sorted []*Rule
}

func (r *rules) sort() {
	r.sorted = make([]*Rule, 0, r.byID.n)
	r.byID.walk(func(x *Rule) bool { r.sorted = append(r.sorted, x); return true })
	slices.SortFunc(r.sorted, func(a, b *Rule) int {
		if c := strings.Compare(string(a.Name), string(b.Name)); c != 0 {
			return c
		}
		return strings.Compare(string(a.DN), string(b.DN))
	})
}
