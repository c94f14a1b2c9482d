package ldapsync

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"unsafe"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/keys"
)

// plan is a Schema made ready: which attributes are asked for, by number, and
// what each entry's classes make of it. Immutable after newPlan, but for seen.
type plan struct {
	schema Schema
	names  []string       // of the attributes asked for; the first is objectClass
	index  map[string]int // lower case name to its place in names
	seen   map[string]int // the same by the server's spelling; used by one goroutine

	classes                                           map[string]kind // lower case
	userBase, groupBase, hostBase, ruleBase, policyDN broker.DN

	user struct {
		name, uid, gid, gecos, common, home, shell, keys                         int
		shadow, locked, policy, krbExpires, krbFlags, accountLock, adUAC, adExpy int
	}
	group struct {
		name, gid, memberUID, triple, nested int
		memberDN                             []int
	}
	host struct {
		names []int
		addrs int
		keys  int
	}
	rule   struct{ single, multi []int }
	policy struct{ lockout int }
	// cn is of rules, netgroups and hosts; the kinds that do not configure it.
	cn, description int
}

// kind is a set of what an entry may be.
type kind uint8

const (
	kindUser kind = 1 << iota
	kindGroup
	kindNetgroup
	kindHost
	kindRule
	kindPolicy
)

// The attributes of sekishoRule, in the order of ruleAttributes' fields.
var (
	ruleMulti = []string{"sekishoSubject", "sekishoDoor", "sekishoTarget", "sekishoLogin", "sekishoFrom",
		"sekishoTime", "sekishoProof", "sekishoPermit"}
	ruleSingle = []string{"sekishoNotBefore", "sekishoExpires", "sekishoMaxAge", "sekishoEnabled"}
)

func newPlan(s Schema) (*plan, error) {
	p := &plan{schema: s, index: map[string]int{}, seen: map[string]int{}, classes: map[string]kind{}}
	want := func(name string) int {
		if name == "" {
			return -1
		}
		l := strings.ToLower(name)
		i, ok := p.index[l]
		if !ok {
			i = len(p.names)
			p.index[l], p.names = i, append(p.names, name)
		}
		return i
	}
	all := func(names []string) (is []int) {
		for _, n := range names {
			is = append(is, want(n))
		}
		return is
	}
	want("objectClass")
	p.user.name, p.user.uid, p.user.gid = want(s.UserName), want(s.UserUID), want(s.UserGID)
	p.user.gecos, p.user.common = want(s.UserGecos), want(s.UserCommon)
	p.user.home, p.user.shell, p.user.keys = want(s.UserHome), want(s.UserShell), want(s.UserKeys)
	p.user.shadow, p.user.locked, p.user.policy = want(s.ShadowExpire), want(s.LockedTime), want(s.PolicySubentry)
	p.user.krbExpires, p.user.krbFlags = want(s.KrbExpiration), want(s.KrbFlags)
	p.user.accountLock, p.user.adUAC, p.user.adExpy = want(s.AccountLock), want(s.ADControl), want(s.ADExpires)
	p.group.name, p.group.gid, p.group.memberUID = want(s.GroupName), want(s.GroupGID), want(s.GroupMemberUID)
	p.group.memberDN = all(s.GroupMemberDN)
	p.group.triple, p.group.nested = -1, -1
	if len(s.NetgroupClasses) > 0 {
		p.group.triple, p.group.nested = want(s.NetgroupTriple), want(s.NetgroupMember)
	}
	p.host.addrs, p.host.keys = -1, -1
	if len(s.HostClasses) > 0 {
		p.host.names, p.host.addrs, p.host.keys = all(s.HostNames), want(s.HostAddrs), want(s.HostKeys)
	}
	p.policy.lockout = -1
	if len(s.PolicyClasses) > 0 {
		p.policy.lockout = want(s.PolicyLockout)
	}
	p.cn, p.description = want("cn"), -1
	if len(s.RuleClasses) > 0 {
		p.description = want("description")
		p.rule.multi, p.rule.single = all(ruleMulti), all(ruleSingle)
	}
	for k, cs := range map[kind][]string{kindUser: s.UserClasses, kindGroup: s.GroupClasses, kindNetgroup: s.NetgroupClasses,
		kindHost: s.HostClasses, kindRule: s.RuleClasses, kindPolicy: s.PolicyClasses} {
		for _, c := range cs {
			p.classes[strings.ToLower(c)] |= k
		}
	}
	var err error
	for _, b := range []struct {
		to   *broker.DN
		from string
	}{{&p.userBase, s.UserBase}, {&p.groupBase, s.GroupBase}, {&p.hostBase, s.HostBase}, {&p.ruleBase, s.RuleBase},
		{&p.policyDN, s.PolicyDefaultDN}} {
		if *b.to, err = NormalizeDN(b.from); err != nil {
			return nil, fmt.Errorf("%q: %w", b.from, err)
		}
	}
	if _, err := ldap.CompileFilter(p.filter()); err != nil {
		return nil, fmt.Errorf("filter %q: %w", s.Filter, err)
	}
	return p, nil
}

// filter asks for every entry of one of the classes.
func (p *plan) filter() string {
	names := make([]string, 0, len(p.classes))
	for c := range p.classes {
		names = append(names, c)
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString("(|")
	for _, c := range names {
		b.WriteString("(objectClass=" + c + ")")
	}
	b.WriteString(")")
	if f := p.schema.Filter; f != "" {
		return "(&" + b.String() + f + ")"
	}
	return b.String()
}

// fingerprint changes with anything that changes which entries and values the
// provider is asked for, or that a stored snapshot would lack.
func (p *plan) fingerprint() uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %q", p.filter(), p.names)
	return h.Sum64()
}

// entry is one directory entry: of its attributes those that the plan asks
// for. Its slices point into the message or record it was read from.
type entry struct {
	id    broker.EntryID
	dn    []byte
	attrs [][][]byte // values, by the plan's numbers
	large int        // bytes of a message that was too long to be read; attrs is empty then
}

func (p *plan) newEntry() *entry { return &entry{attrs: make([][][]byte, len(p.names))} }

func (e *entry) reset() {
	e.dn, e.large = nil, 0
	for i := range e.attrs {
		e.attrs[i] = e.attrs[i][:0]
	}
}

// values of an attribute by its number; none for -1.
func (e *entry) values(i int) [][]byte {
	if i < 0 {
		return nil
	}
	return e.attrs[i]
}

// first value of an attribute, nil when it has none.
func (e *entry) first(i int) []byte {
	if i < 0 || len(e.attrs[i]) == 0 {
		return nil
	}
	return e.attrs[i][0]
}

// longest is the longest value that is kept, in bytes: one more than the
// longest that is of any use, so that a cut one is still seen to be too long.
const longest = keys.MaxLine + 1

// lookup is an attribute's number, -1 when it was not asked for.
func (p *plan) lookup(name []byte) int {
	if i, ok := p.seen[string(name)]; ok {
		return i
	}
	i, ok := p.index[strings.ToLower(string(name))]
	if !ok {
		return -1
	}
	p.seen[string(name)] = i // at most a few spellings of a few names
	return i
}

// decodeEntry reads a SearchResultEntry (RFC 4511 §4.5.2) into e, without what
// could not be used and would only fill the disk: the rest of values that are
// too long, and keys that are too many.
func (p *plan) decodeEntry(body ber, e *entry) error {
	e.reset()
	dn, err := body.expect(tagOctetString)
	if err != nil {
		return err
	}
	e.dn = dn
	list, err := body.expect(tagSequence)
	if err != nil {
		return err
	}
	for len(list) > 0 {
		name, vals, err := list.attribute()
		if err != nil {
			return err
		}
		i := p.lookup(name)
		for len(vals) > 0 {
			v, err := vals.expect(tagOctetString)
			if err != nil {
				return err
			}
			if i < 0 || i == 0 && p.class(v) == 0 || i == p.user.keys && len(e.attrs[i]) > maxKeys {
				continue
			}
			e.attrs[i] = append(e.attrs[i], v[:min(len(v), longest)])
		}
	}
	return nil
}

// class is what an object class makes of its entry; 0 for all the classes that
// mean nothing to us.
func (p *plan) class(v []byte) kind {
	if k, ok := p.classes[string(v)]; ok {
		return k
	}
	var low [64]byte
	if len(v) > len(low) {
		return 0
	}
	for i, c := range v {
		low[i] = lower(c)
	}
	return p.classes[string(low[:len(v)])]
}

// kinds is what the entry's classes make of it.
func (p *plan) kinds(e *entry) (k kind) {
	for _, v := range e.attrs[0] {
		k |= p.class(v)
	}
	return k
}

// appendEntry appends e in the form in which segments keep it: the id, the DN,
// and for each attribute with values its number, the count and the values;
// all numbers and lengths are uvarints.
func appendEntry(b []byte, e *entry) []byte {
	b = append(b, e.id[:]...)
	b = appendBytes(b, e.dn)
	for i, vs := range e.attrs {
		if len(vs) == 0 {
			continue
		}
		b = binary.AppendUvarint(b, uint64(i))
		b = binary.AppendUvarint(b, uint64(len(vs)))
		for _, v := range vs {
			b = appendBytes(b, v)
		}
	}
	return b
}

func appendBytes(b, v []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

var errRecord = errors.New("malformed record")

// readEntry reads what appendEntry wrote; columns maps the numbers in the
// record to those of the plan, -1 for what is no longer asked for.
func readEntry(b []byte, columns []int, e *entry) error {
	e.reset()
	if len(b) < len(e.id) {
		return errRecord
	}
	e.id, b = broker.EntryID(b[:len(e.id)]), b[len(e.id):]
	var ok bool
	if e.dn, b, ok = cutBytes(b); !ok {
		return errRecord
	}
	for len(b) > 0 {
		i, n := binary.Uvarint(b)
		if n <= 0 || i >= uint64(len(columns)) {
			return errRecord
		}
		b = b[n:]
		count, n := binary.Uvarint(b)
		if n <= 0 || count > uint64(len(b)) {
			return errRecord
		}
		b = b[n:]
		for ; count > 0; count-- {
			var v []byte
			if v, b, ok = cutBytes(b); !ok {
				return errRecord
			}
			if c := columns[i]; c >= 0 {
				e.attrs[c] = append(e.attrs[c], v)
			}
		}
	}
	return nil
}

func cutBytes(b []byte) (v, rest []byte, ok bool) {
	l, n := binary.Uvarint(b)
	if n <= 0 || l > uint64(len(b)-n) {
		return nil, nil, false
	}
	return b[n : n+int(l)], b[n+int(l):], true
}

// str is b as a string without a copy: for values that are only looked at, or
// that broker copies (PutUser does), while b stays as it is.
func str(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	return unsafe.String(&b[0], len(b))
}
