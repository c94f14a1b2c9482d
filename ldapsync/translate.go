package ldapsync

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/keys"
)

// Bounds of one entry. What lies beyond is skipped and named in Status.
const (
	maxKeys     = 200  // keys of one user
	maxName     = 64   // bytes of an account's or group's name
	maxPasswd   = 1024 // bytes of gecos, home or shell
	maxHostName = 253
	maxHostVals = 256 // names or addresses of one host
	maxFeedKeys = 16  // sekishoHostKey values of one host
)

// problems collects what could not be used of one entry.
type problems struct {
	list  []string
	more  int
	whole bool // the entry is not used at all
}

func (p *problems) value(attr string, err error) {
	if len(p.list) >= 20 {
		p.more++
		return
	}
	p.list = append(p.list, attr+": "+err.Error())
}

// entry makes the whole entry unusable.
func (p *problems) entry(err error) {
	p.whole = true
	p.list = append(p.list, err.Error())
}

func (p *problems) reset() { p.list, p.more, p.whole = p.list[:0], 0, false }

func (p *problems) String() string {
	s := strings.Join(p.list, "; ")
	if p.more > 0 {
		s += fmt.Sprintf("; and %d more", p.more)
	}
	return s
}

// translator makes broker's types out of entries; for one goroutine.
type translator struct {
	*plan
	floor  uint32
	policy keys.Policy
	dn     []byte // the entry's normalized DN, reused
	probs  problems
	keyBuf []keys.Line
}

// within reports whether dn is base or below it; all is below the empty base.
func within(dn, base string) bool {
	return base == "" || dn == base || strings.HasSuffix(dn, base) && dn[len(dn)-len(base)-1] == ','
}

// isName tells whether v can be the name of an account or group: a letter,
// digit or underscore first, then also dots and dashes, and not only digits.
func isName(v []byte) bool {
	if len(v) == 0 || len(v) > maxName {
		return false
	}
	digits := 0
	for i, c := range v {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_':
		case '0' <= c && c <= '9':
			digits++
		case i > 0 && (c == '.' || c == '-'):
		default:
			return false
		}
	}
	return digits < len(v)
}

// own is the value of an attribute that names the entry: the only one, or of
// several the one that stands in the RDN.
func (t *translator) own(e *entry, attr int) ([]byte, error) {
	vs := e.values(attr)
	switch len(vs) {
	case 0:
		return nil, fmt.Errorf("has no %s", t.names[attr])
	case 1:
		return vs[0], nil
	}
	rdn := t.dn
	typ := append([]byte(strings.ToLower(t.names[attr])), '=')
	for _, v := range vs {
		ava := appendValue(bytes.Clone(typ), foldValue(v))
		if rest, ok := bytes.CutPrefix(rdn, ava); ok && (len(rest) == 0 || rest[0] == ',' || rest[0] == '+') {
			return v, nil
		}
	}
	return nil, fmt.Errorf("has %d values of %s, and none of them in its RDN", len(vs), t.names[attr])
}

// passwdText takes a value for a passwd field.
func passwdText(v []byte) error {
	switch {
	case len(v) > maxPasswd:
		return fmt.Errorf("%d bytes, at most %d are read", len(v), maxPasswd)
	case !utf8.Valid(v):
		return errors.New("is not UTF-8")
	}
	for _, c := range string(v) {
		if c < 0x20 || c >= 0x7f && c < 0xa0 || c == ':' {
			return errors.New("holds a colon or a control character")
		}
	}
	return nil
}

// path takes a value for home or shell. None of these is ever replaced by a
// default when it is bad: that could open what was meant to be shut.
func path(v []byte) error {
	if err := passwdText(v); err != nil {
		return err
	}
	if len(v) == 0 || v[0] != '/' {
		return errors.New("is no absolute path")
	}
	return nil
}

// user translates; its strings point into e and t.dn, which PutUser copies.
func (t *translator) user(e *entry, u *broker.User) (l *lock, err error) {
	name, err := t.own(e, t.plan.user.name)
	if err != nil {
		return nil, err
	}
	if !isName(name) {
		return nil, fmt.Errorf("%s %q is no account name", t.schema.UserName, printable(string(name), maxName))
	}
	uid, err := t.id(e, t.plan.user.uid)
	if err != nil {
		return nil, err
	}
	if uid < t.floor {
		return nil, fmt.Errorf("%s %d is below the floor of %d", t.schema.UserUID, uid, t.floor)
	}
	gid, err := t.id(e, t.plan.user.gid)
	if err != nil {
		return nil, err
	}
	const users = 100 // the one system group that is everybody's, on every Linux
	if gid < t.floor && gid != users {
		return nil, fmt.Errorf("%s %d is below the floor of %d: it may be a system group", t.schema.UserGID, gid, t.floor)
	}
	home := e.first(t.plan.user.home)
	if home == nil && t.schema.DefaultHome != "" {
		home = []byte(strings.ReplaceAll(t.schema.DefaultHome, "%u", string(name)))
	}
	if err := path(home); err != nil {
		return nil, fmt.Errorf("%s %w", t.schema.UserHome, err)
	}
	shell := e.first(t.plan.user.shell)
	if shell == nil {
		shell = []byte(t.schema.DefaultShell)
	}
	if err := path(shell); err != nil {
		return nil, fmt.Errorf("%s %w", t.schema.UserShell, err)
	}
	var gecos []byte
	for _, i := range []int{t.plan.user.gecos, t.plan.user.common} {
		v := e.first(i)
		if v == nil {
			continue
		}
		if err := passwdText(v); err != nil {
			t.probs.value(t.names[i], err)
			continue
		}
		gecos = v
		break
	}
	*u = broker.User{ID: e.id, DN: broker.DN(str(t.dn)), Name: broker.UserName(str(name)), UID: uid, GID: gid,
		Gecos: str(gecos), Home: str(home), Shell: str(shell)}
	u.State, l, err = t.account(e)
	if err != nil {
		t.probs.value("account", err)
	}
	u.Keys = t.userKeys(e)
	return l, nil
}

// userKeys are the usable keys, in a slice of their own.
func (t *translator) userKeys(e *entry) []keys.Line {
	vs := e.values(t.plan.user.keys)
	if len(vs) == 0 {
		return nil
	}
	lines := t.keyBuf[:0]
	for _, v := range vs {
		if len(lines) == maxKeys {
			t.probs.value(t.schema.UserKeys, fmt.Errorf("more than %d keys; the rest is not used", maxKeys))
			break
		}
		line, err := keys.ParseLine(string(bytes.TrimRight(v[:min(len(v), keys.MaxLine+1)], "\r\n")))
		if err == nil {
			err = t.policy.Check(line.Key)
		}
		if err != nil {
			t.probs.value(t.schema.UserKeys, err)
			continue
		}
		lines = append(lines, line)
	}
	t.keyBuf = lines
	if len(lines) == 0 {
		return nil
	}
	return append(make([]keys.Line, 0, len(lines)), lines...)
}

// id reads a uid or gid number. The numbers that mean "none" to the kernel and
// to older programs are nobody's.
func (t *translator) id(e *entry, attr int) (uint32, error) {
	vs := e.values(attr)
	if len(vs) != 1 {
		return 0, fmt.Errorf("has %d values of %s, not one", len(vs), t.names[attr])
	}
	n, err := strconv.ParseUint(str(vs[0]), 10, 32)
	if err != nil || n == 1<<32-1 || n == 1<<16-1 || n == 1<<16-2 {
		return 0, fmt.Errorf("%s %q is no usable number", t.names[attr], printable(string(vs[0]), 20))
	}
	return uint32(n), nil
}

func (t *translator) group(e *entry) (broker.Group, error) {
	name, err := t.own(e, t.plan.group.name)
	if err != nil {
		return broker.Group{}, err
	}
	if !isGroupName(name) {
		return broker.Group{}, fmt.Errorf("%s %q is no group name", t.schema.GroupName, printable(string(name), maxName))
	}
	g := broker.Group{ID: e.id, DN: broker.DN(t.dn), Name: broker.GroupName(name)}
	if len(e.values(t.plan.group.gid)) > 0 {
		if g.GID, err = t.id(e, t.plan.group.gid); err == nil && g.GID < t.floor {
			err = fmt.Errorf("%d is below the floor of %d; the group has no number", g.GID, t.floor)
		}
		if err != nil {
			g.GID = 0
			t.probs.value(t.schema.GroupGID, err)
		}
	}
	for _, attr := range t.plan.group.memberDN {
		vs := e.values(attr)
		if g.Members == nil {
			g.Members = make([]broker.DN, 0, len(vs))
		}
		var buf []byte
		for _, v := range vs {
			if strings.EqualFold(t.names[attr], "uniqueMember") {
				v = cutUniqueID(v)
			}
			if buf, err = appendDN(buf[:0], v); err != nil {
				t.probs.value(t.names[attr], fmt.Errorf("%q: %w", printable(string(v), 60), err))
				continue
			}
			if len(buf) > 0 && string(buf) != string(g.DN) { // its own DN is only a placeholder
				g.Members = append(g.Members, broker.DN(buf))
			}
		}
	}
	for _, v := range e.values(t.plan.group.memberUID) {
		if !isName(v) {
			t.probs.value(t.schema.GroupMemberUID, fmt.Errorf("%q is no account name", printable(string(v), maxName)))
			continue
		}
		g.MemberUsers = append(g.MemberUsers, broker.UserName(v))
	}
	return g, nil
}

// isGroupName is isName, or a name with spaces or other printable characters:
// groups of people often have those. What rules and passwd files part fields
// with stays out.
func isGroupName(v []byte) bool {
	if isName(v) {
		return true
	}
	if len(v) == 0 || len(v) > 4*maxName || !utf8.Valid(v) || v[0] == ' ' || v[len(v)-1] == ' ' || v[0] == '-' ||
		len(bytes.Trim(v, "0123456789")) == 0 {
		return false
	}
	for _, c := range string(v) {
		if c < 0x20 || c >= 0x7f && c < 0xa0 || strings.ContainsRune(":,/*\\", c) {
			return false
		}
	}
	return true
}

// cutUniqueID takes off the optional bit string of a Name and Optional UID
// (RFC 4517 §3.3.21): dn#'0101'B.
func cutUniqueID(v []byte) []byte {
	if bytes.HasSuffix(v, []byte("'B")) {
		if i := bytes.LastIndexByte(v, '#'); i >= 0 {
			return v[:i]
		}
	}
	return v
}

// netgroupDN is the name under which netgroups hold each other, since they
// nest by name. It has no =, so it is nobody else's DN.
func netgroupDN(name []byte) broker.DN { return broker.DN("netgroup:" + string(name)) }

// netgroup translates a nisNetgroup (RFC 2307 §5.5): its triples name users
// and hosts. The domain is not looked at. An empty field of a triple, which
// means "any" to some, names nobody here.
func (t *translator) netgroup(e *entry) (broker.Group, error) {
	name, err := t.own(e, t.cn)
	if err != nil {
		return broker.Group{}, err
	}
	if !isGroupName(name) {
		return broker.Group{}, fmt.Errorf("cn %q is no group name", printable(string(name), maxName))
	}
	g := broker.Group{ID: e.id, DN: netgroupDN(name), Name: broker.GroupName(name)}
	for _, v := range e.values(t.plan.group.triple) {
		s := strings.TrimSpace(string(v))
		s, ok1 := strings.CutPrefix(s, "(")
		s, ok2 := strings.CutSuffix(s, ")")
		f := strings.Split(s, ",")
		if !ok1 || !ok2 || len(f) != 3 {
			t.probs.value(t.schema.NetgroupTriple, fmt.Errorf("%q: want (host,user,domain)", printable(string(v), 60)))
			continue
		}
		host, user := strings.TrimSpace(f[0]), strings.TrimSpace(f[1])
		if user != "" && user != "-" {
			if isName([]byte(user)) {
				g.MemberUsers = append(g.MemberUsers, broker.UserName(user))
			} else {
				t.probs.value(t.schema.NetgroupTriple, fmt.Errorf("%q is no account name", printable(user, maxName)))
			}
		}
		if host != "" && host != "-" {
			if h, ok := hostName([]byte(host)); ok {
				g.MemberHosts = append(g.MemberHosts, h)
			} else {
				t.probs.value(t.schema.NetgroupTriple, fmt.Errorf("%q is no host name", printable(host, maxName)))
			}
		}
	}
	for _, v := range e.values(t.plan.group.nested) {
		g.Members = append(g.Members, netgroupDN(v))
	}
	return g, nil
}

// hostName takes a DNS name in lower case, without a dot at its end.
func hostName(v []byte) (broker.HostName, bool) {
	v = bytes.TrimSuffix(v, []byte("."))
	if len(v) == 0 || len(v) > maxHostName || v[0] == '-' || v[0] == '.' {
		return "", false
	}
	b := make([]byte, len(v))
	for i, c := range v {
		c = lower(c)
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return "", false
		}
		b[i] = c
	}
	return broker.HostName(b), true
}

func (t *translator) host(e *entry) (broker.Host, error) {
	h := broker.Host{ID: e.id, DN: broker.DN(t.dn)}
	for _, attr := range t.plan.host.names {
		main, _ := t.own(e, attr)
		for _, v := range e.values(attr) {
			n, ok := hostName(v)
			switch {
			case !ok:
				t.probs.value(t.names[attr], fmt.Errorf("%q is no host name", printable(string(v), maxName)))
			case len(h.Names) == maxHostVals:
				t.probs.value(t.names[attr], fmt.Errorf("more than %d names; the rest is not used", maxHostVals))
			case len(main) > 0 && &v[0] == &main[0] && len(h.Names) > 0:
				h.Names = append([]broker.HostName{n}, h.Names...) // the canonical name comes first
			default:
				h.Names = append(h.Names, n)
			}
		}
	}
	if len(h.Names) == 0 {
		return broker.Host{}, errors.New("has no host name")
	}
	for _, v := range e.values(t.plan.host.addrs) {
		a, err := netip.ParseAddr(string(v))
		switch {
		case err != nil || a.Zone() != "":
			t.probs.value(t.schema.HostAddrs, fmt.Errorf("%q is no address", printable(string(v), maxName)))
		case len(h.Addrs) == maxHostVals:
			t.probs.value(t.schema.HostAddrs, fmt.Errorf("more than %d addresses; the rest is not used", maxHostVals))
		default:
			h.Addrs = append(h.Addrs, a)
		}
	}
	for _, v := range e.values(t.plan.host.keys) {
		k, ok := feedKey(v)
		switch {
		case !ok:
			t.probs.value(t.schema.HostKeys, fmt.Errorf("%q is no SHA256:… of a public key", printable(string(v), maxName)))
		case len(h.FeedKeys) == maxFeedKeys:
			t.probs.value(t.schema.HostKeys, fmt.Errorf("more than %d keys; the rest is not used", maxFeedKeys))
		default:
			h.FeedKeys = append(h.FeedKeys, k)
		}
	}
	return h, nil
}

// feedKey reads a sekishoHostKey: SHA256: and the hash in base64, with or
// without its padding.
func feedKey(v []byte) (k [32]byte, ok bool) {
	text, ok := bytes.CutPrefix(v, []byte("SHA256:"))
	if !ok || len(text) > 44 {
		return k, false
	}
	sum, err := base64.RawStdEncoding.Strict().DecodeString(strings.TrimSuffix(string(text), "="))
	return [32]byte(append(sum, k[:]...)), err == nil && len(sum) == len(k)
}

// ruleOf translates a sekishoRule; broker judges its values.
func (t *translator) ruleOf(e *entry) (broker.Rule, error) {
	name, err := t.own(e, t.cn)
	if err != nil {
		return broker.Rule{}, err
	}
	if err := passwdText(name); err != nil {
		return broker.Rule{}, fmt.Errorf("cn %w", err)
	}
	a := broker.RuleAttributes{Name: string(name)}
	if d := e.first(t.description); showable(d) {
		a.Description = string(d)
	}
	for i, to := range []*[]string{&a.Subject, &a.Door, &a.Target, &a.Login, &a.From, &a.Time, &a.Proof, &a.Permit} {
		for _, v := range e.values(t.rule.multi[i]) {
			*to = append(*to, string(v))
		}
	}
	for i, to := range []*string{&a.NotBefore, &a.Expires, &a.MaxAge, &a.Enabled} {
		switch vs := e.values(t.rule.single[i]); {
		case len(vs) > 1 || len(vs) == 1 && len(vs[0]) == 0:
			return broker.Rule{}, fmt.Errorf("%s: want one value", ruleSingle[i])
		case len(vs) == 1:
			*to = string(vs[0])
		}
	}
	r, err := broker.ParseRule(a)
	if err != nil {
		return broker.Rule{}, err
	}
	r.ID, r.DN = e.id, broker.DN(t.dn)
	return r, nil
}

// showable tells whether a description can be shown as it is.
func showable(v []byte) bool {
	return len(v) <= 4*maxPasswd && utf8.Valid(v) && bytes.IndexFunc(v, func(c rune) bool { return c < 0x20 || c == 0x7f }) < 0
}
