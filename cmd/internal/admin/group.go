package admin

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/ldapsync"
)

// Group is a group's entry.
type Group struct {
	Name        string   `json:"name"`
	DN          string   `json:"dn"`
	GID         uint32   `json:"gid,omitempty"` // 0: no group of the system's
	Description string   `json:"description,omitempty"`
	Users       []string `json:"users"` // direct members, by name
	Groups      []string `json:"groups"`
	Hosts       []string `json:"hosts"`
	Others      []string `json:"others,omitempty"` // members of another kind, by DN
}

// Members are names to put into a group, or to take out.
type Members struct{ Users, Groups, Hosts []string }

func (m Members) empty() bool { return len(m.Users)+len(m.Groups)+len(m.Hosts) == 0 }

// AddGroup makes a group. With posix it gets gid, or the next free number for
// 0. It returns the number.
func (d *Directory) AddGroup(ctx context.Context, name, description string, posix bool, gid uint32, m Members) (uint32, error) {
	if err := CheckGroupName(name); err != nil {
		return 0, err
	}
	if err := d.writable("group"); err != nil {
		return 0, err
	}
	if has, err := d.exists(ctx, d.groups(), name); err != nil {
		return 0, err
	} else if has {
		return 0, refuse("there is a group %s already: sekisho group set %s", name, name)
	}
	k := d.groups()
	dn := k.dn(name)
	byName := d.c.Preset == "rfc2307"
	if byName && (!posix || len(m.Groups)+len(m.Hosts) > 0) {
		return 0, refuse("a group of the schema rfc2307 has a number and no members but users")
	}
	members, err := d.memberDNs(ctx, m)
	if err != nil {
		return 0, err
	}
	for try := 1; ; try++ {
		n := gid
		if posix && n == 0 {
			if n, err = d.NextNumber(ctx, uint32(try-1)); err != nil {
				return 0, err
			}
		}
		a := ldap.NewAddRequest(dn, nil)
		a.Attribute("cn", []string{name})
		if description != "" {
			a.Attribute("description", []string{description})
		}
		classes := []string{"groupOfNames"}
		switch {
		case byName:
			classes = []string{"posixGroup"}
			if len(m.Users) > 0 {
				a.Attribute("memberUid", m.Users)
			}
		case len(members) == 0:
			a.Attribute("member", []string{dn}) // RFC 4519 §3.5 wants one; a loop does no harm
		default:
			a.Attribute("member", members)
		}
		if posix {
			if !byName {
				classes = append(classes, "posixGroup")
			}
			a.Attribute("gidNumber", []string{strconv.FormatUint(uint64(n), 10)})
		}
		a.Attribute("objectClass", classes)
		err = d.c.Client.Add(ctx, a)
		switch {
		case err == nil:
			return n, nil
		case ldapsync.IsCode(err, ldap.LDAPResultConstraintViolation) && gid == 0 && try < tries:
		case ldapsync.IsCode(err, ldap.LDAPResultConstraintViolation):
			return 0, refuse("the number %d is taken: give another one with --gid", n)
		default:
			return 0, err
		}
	}
}

// memberDNs finds the entries of the names.
func (d *Directory) memberDNs(ctx context.Context, m Members) ([]string, error) {
	var out []string
	for _, l := range []struct {
		k     kind
		names []string
	}{{d.users(), m.Users}, {d.groups(), m.Groups}, {d.hosts(), m.Hosts}} {
		for _, n := range l.names {
			e, err := d.find(ctx, l.k, n, "1.1")
			if err != nil {
				return nil, err
			}
			out = append(out, e.DN)
		}
	}
	return out, nil
}

// GroupChange is what SetGroup changes.
type GroupChange struct {
	Add, Remove Members
	GID         *uint32
	Description *string
}

// SetGroup changes a group in one modify. It tells how many members came and
// went: one that is there already, or not there, changes nothing.
func (d *Directory) SetGroup(ctx context.Context, name string, c GroupChange) (came, went int, err error) {
	if err := d.writable("group"); err != nil {
		return 0, 0, err
	}
	e, err := d.find(ctx, d.groups(), name, "objectClass", "member", "memberUid")
	if err != nil {
		return 0, 0, err
	}
	m := ldap.NewModifyRequest(e.DN, nil)
	if c.Description != nil {
		m.Replace("description", some(*c.Description))
	}
	if c.GID != nil {
		if !hasClass(e, "posixGroup") {
			m.Add("objectClass", []string{"posixGroup"})
		}
		m.Replace("gidNumber", []string{strconv.FormatUint(uint64(*c.GID), 10)})
	}
	if hasClass(e, "groupOfNames") {
		came, went, err = d.changeMembers(ctx, m, e, c)
	} else {
		came, went, err = changeNames(m, e, c)
	}
	if err != nil {
		return 0, 0, err
	}
	if len(m.Changes) == 0 {
		if c.Add.empty() && c.Remove.empty() {
			return 0, 0, refuse("nothing to change: see sekisho group set --help")
		}
		return 0, 0, nil
	}
	return came, went, d.c.Client.Modify(ctx, m)
}

// changeMembers keeps the rule that a groupOfNames has a member: its own DN
// stands in where there is no other.
func (d *Directory) changeMembers(ctx context.Context, m *ldap.ModifyRequest, e *ldap.Entry, c GroupChange) (came, went int, err error) {
	add, err := d.memberDNs(ctx, c.Add)
	if err != nil {
		return 0, 0, err
	}
	remove, err := d.leaving(ctx, e, c.Remove)
	if err != nil {
		return 0, 0, err
	}
	var stay, standIns []string
	for _, v := range e.GetAttributeValues("member") {
		switch {
		case isPlaceholder(v, e.DN, d.c.Layout.Base):
			standIns = append(standIns, v)
		case !contains(remove, v):
			stay = append(stay, v)
		}
	}
	var in []string
	for _, v := range add {
		if !contains(stay, v) && !contains(in, v) && !contains(remove, v) && !sameDN(v, e.DN) {
			in = append(in, v)
		}
	}
	out := remove
	switch {
	case len(stay)+len(in) > 0:
		out = append(out, standIns...)
	case len(standIns) == 0:
		in = append(in, e.DN)
	}
	came, went = len(in), len(remove)
	if len(stay)+len(in) > 0 && contains(in, e.DN) {
		came--
	}
	if len(in) > 0 { // before the removal: there is a member at every instant
		m.Add("member", in)
	}
	if len(out) > 0 {
		m.Delete("member", out)
	}
	return came, went, nil
}

// leaving are the present values of member that the names mean. The entries
// may be gone already.
func (d *Directory) leaving(ctx context.Context, e *ldap.Entry, m Members) ([]string, error) {
	var out []string
	for _, l := range []struct {
		k     kind
		names []string
	}{{d.users(), m.Users}, {d.groups(), m.Groups}, {d.hosts(), m.Hosts}} {
		for _, n := range l.names {
			dn := l.k.dn(n)
			if f, err := d.find(ctx, l.k, n, "1.1"); err == nil {
				dn = f.DN
			} else if _, none := err.(*NoneError); !none {
				return nil, err
			}
			for _, v := range e.GetAttributeValues("member") {
				if sameDN(v, dn) && !contains(out, v) {
					out = append(out, v)
				}
			}
		}
	}
	return out, nil
}

// changeNames is for rfc2307: members are user names.
func changeNames(m *ldap.ModifyRequest, e *ldap.Entry, c GroupChange) (came, went int, err error) {
	if len(c.Add.Groups)+len(c.Add.Hosts)+len(c.Remove.Groups)+len(c.Remove.Hosts) > 0 {
		return 0, 0, refuse("a group of the schema rfc2307 has no members but users")
	}
	have := e.GetAttributeValues("memberUid")
	var in, out []string
	for _, n := range c.Add.Users {
		if !slices.Contains(have, n) && !slices.Contains(in, n) {
			in = append(in, n)
		}
	}
	for _, n := range c.Remove.Users {
		if slices.Contains(have, n) && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	if len(in) > 0 {
		m.Add("memberUid", in)
	}
	if len(out) > 0 {
		m.Delete("memberUid", out)
	}
	return len(in), len(out), nil
}

// RemoveGroup takes a group out.
func (d *Directory) RemoveGroup(ctx context.Context, name string) error {
	if err := d.writable("group"); err != nil {
		return err
	}
	e, err := d.find(ctx, d.groups(), name, "gidNumber")
	if err != nil {
		return err
	}
	if gid := number(e, "gidNumber"); gid != 0 {
		// Somebody's primary group: his files would be nobody's.
		es, err := d.search(ctx, d.users().base, "(&(objectClass=posixAccount)(gidNumber="+strconv.FormatUint(uint64(gid), 10)+"))", 1, d.c.Schema.UserName)
		if err != nil && !ldapsync.IsCode(err, ldap.LDAPResultSizeLimitExceeded) {
			return err
		}
		if len(es) > 0 || err != nil {
			return refuse("group %s is the primary group of a user: give him another one first (sekisho user set NAME --gid N)", name)
		}
	}
	return d.c.Client.Delete(ctx, e.DN)
}

// Group shows one group.
func (d *Directory) Group(ctx context.Context, name string) (Group, error) {
	e, err := d.find(ctx, d.groups(), name, groupAttrs...)
	if err != nil {
		return Group{}, err
	}
	return d.readGroup(e), nil
}

// Groups shows all whose names fit pattern.
func (d *Directory) Groups(ctx context.Context, pattern string) ([]Group, error) {
	es, err := d.list(ctx, d.groups(), pattern, 0, groupAttrs...)
	if err != nil {
		return nil, err
	}
	out := make([]Group, len(es))
	for i, e := range es {
		out[i] = d.readGroup(e)
	}
	sortBy(out, func(g Group) string { return g.Name })
	return out, nil
}

// OwnGroup tells whether a group is only the group of one user's own.
func (g Group) OwnGroup() bool { return g.Description == ownGroupNote }

var groupAttrs = []string{"cn", "gidNumber", "description", "member", "uniqueMember", "memberUid"}

func (d *Directory) readGroup(e *ldap.Entry) Group {
	g := Group{Name: e.GetAttributeValue("cn"), DN: e.DN, GID: number(e, "gidNumber"), Description: e.GetAttributeValue("description"),
		Users: []string{}, Groups: []string{}, Hosts: []string{}}
	g.Users = append(g.Users, e.GetAttributeValues("memberUid")...)
	for _, v := range append(e.GetAttributeValues("member"), e.GetAttributeValues("uniqueMember")...) {
		name := rdnValue(v)
		switch {
		case isPlaceholder(v, e.DN, d.c.Layout.Base):
		case below(v, d.users().home):
			g.Users = append(g.Users, name)
		case below(v, d.groups().home):
			g.Groups = append(g.Groups, name)
		case below(v, d.hosts().home):
			g.Hosts = append(g.Hosts, name)
		default:
			g.Others = append(g.Others, v)
		}
	}
	for _, l := range [][]string{g.Users, g.Groups, g.Hosts, g.Others} {
		slices.Sort(l)
	}
	g.Users = slices.Compact(g.Users)
	return g
}

// directGroups are the groups that name an entry. memberOf would not do: slapd
// does not set it on an entry that was added after its group.
func (d *Directory) directGroups(ctx context.Context, dn, name string) ([]string, error) {
	k := d.groups()
	f := "(member=" + ldap.EscapeFilter(dn) + ")(uniqueMember=" + ldap.EscapeFilter(dn) + ")"
	if name != "" {
		f += "(memberUid=" + ldap.EscapeFilter(name) + ")"
	}
	f = "(|" + f + ")"
	es, err := d.search(ctx, k.base, f, 0, k.attr)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range es {
		out = append(out, e.GetAttributeValue(k.attr))
	}
	slices.Sort(out)
	return out, nil
}

// isPlaceholder tells whether a member only stands in for none: the group
// itself, or what the refint overlay leaves.
func isPlaceholder(member, group, base string) bool {
	return sameDN(member, group) || sameDN(member, "cn=nobody,"+base)
}

func sameDN(a, b string) bool {
	if a == b {
		return true
	}
	x, err := ldapsync.NormalizeDN(a)
	if err != nil {
		return false
	}
	y, err := ldapsync.NormalizeDN(b)
	return err == nil && x == y
}

func contains(dns []string, dn string) bool {
	return slices.ContainsFunc(dns, func(x string) bool { return sameDN(x, dn) })
}

// below tells whether dn is in the subtree of base.
func below(dn, base string) bool {
	x, err := ldap.ParseDN(dn)
	if err != nil {
		return false
	}
	y, err := ldap.ParseDN(base)
	return err == nil && y.AncestorOfFold(x)
}

// rdnValue is the first value of a DN: the entry's name, for people.
func rdnValue(dn string) string {
	p, err := ldap.ParseDN(dn)
	if err != nil || len(p.RDNs) == 0 || len(p.RDNs[0].Attributes) == 0 {
		return dn
	}
	return p.RDNs[0].Attributes[0].Value
}

func sortBy[T any](list []T, name func(T) string) {
	slices.SortFunc(list, func(a, b T) int { return strings.Compare(name(a), name(b)) })
}
