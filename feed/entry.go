package feed

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/keys"
)

// id is an entryUUID as text: 32 hexadecimal digits.
type id broker.EntryID

func (i id) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, i[:]), nil }

func (i *id) UnmarshalText(b []byte) error {
	if len(b) != 32 {
		return nonsense("an ID of %d digits", len(b))
	}
	_, err := hex.Decode(i[:], b)
	return err
}

// digest is that of a view: the sum of the hashes of its parts, whatever their
// order, so that it changes with what changes.
type digest [4]uint64

func (d digest) MarshalText() ([]byte, error) {
	var b [32]byte
	for i, v := range d {
		binary.BigEndian.PutUint64(b[8*i:], v)
	}
	return hex.AppendEncode(nil, b[:]), nil
}

func (d *digest) UnmarshalText(t []byte) error {
	var b [32]byte
	if len(t) != 64 {
		return nonsense("a digest of %d digits", len(t))
	}
	if _, err := hex.Decode(b[:], t); err != nil {
		return err
	}
	for i := range d {
		d[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return nil
}

func (d *digest) add(part [32]byte) {
	for i := range d {
		d[i] += binary.BigEndian.Uint64(part[8*i:])
	}
}

func (d *digest) sub(part [32]byte) {
	for i := range d {
		d[i] -= binary.BigEndian.Uint64(part[8*i:])
	}
}

// hash is that of one part: what it is, and its bytes.
func hash(what byte, parts ...[]byte) (out [32]byte) {
	h := sha256.New()
	h.Write([]byte{what})
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(out[:0])
	return out
}

func memberHash(g id, what byte, name string) [32]byte { return hash(what, g[:], []byte(name)) }

// wireUser is a user. Shared says that another entry has its name or its
// number, so that it lets nobody in.
type wireUser struct {
	ID     id       `json:"id"`
	DN     string   `json:"dn"`
	Name   string   `json:"name"`
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Gecos  string   `json:"gecos,omitempty"`
	Home   string   `json:"home,omitempty"`
	Shell  string   `json:"shell,omitempty"`
	Keys   []string `json:"keys,omitempty"`
	Locked bool     `json:"locked,omitempty"`
	Shadow int64    `json:"shadow_expires,omitempty"`
	Krb    int64    `json:"kerberos_expires,omitempty"`
	Policy int64    `json:"policy_locked_until,omitempty"`
	Shared bool     `json:"shared,omitempty"`
}

// maxEntry bounds the JSON of one entry, with room for a frame around it.
const maxEntry = maxFrame - 4096

// encodeUser gives nil for one that cannot be sent: it lets nobody in there. Keys
// for which there is no room are left out.
func encodeUser(u *broker.User, shared bool) []byte {
	w := wireUser{ID: id(u.ID), DN: string(u.DN), Name: string(u.Name), UID: u.UID, GID: u.GID, Gecos: u.Gecos, Home: u.Home,
		Shell: u.Shell, Locked: u.State.Locked, Shadow: u.State.ShadowExpires, Krb: u.State.KerberosExpires,
		Policy: u.State.PolicyLockedUntil, Shared: shared}
	if !valid(w.DN, w.Name, w.Gecos, w.Home, w.Shell) {
		return nil
	}
	size := 0
	for _, l := range u.Keys {
		text, err := l.Format()
		if err != nil || !utf8.ValidString(text) || size+2*len(text) > maxEntry/2 {
			continue
		}
		size += 2 * len(text)
		w.Keys = append(w.Keys, text)
	}
	return encodeEntry(w)
}

func encodeEntry(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil || len(b) > maxEntry {
		return nil
	}
	return b
}

func valid(list ...string) bool {
	for _, s := range list {
		if !utf8.ValidString(s) {
			return false
		}
	}
	return true
}

func (w *wireUser) user() (broker.User, error) {
	u := broker.User{ID: broker.EntryID(w.ID), DN: broker.DN(w.DN), Name: broker.UserName(w.Name), UID: w.UID, GID: w.GID,
		Gecos: w.Gecos, Home: w.Home, Shell: w.Shell, State: broker.AccountState{Locked: w.Locked, ShadowExpires: w.Shadow,
			KerberosExpires: w.Krb, PolicyLockedUntil: w.Policy}}
	if w.Name == "" || w.DN == "" || w.UID == 0 {
		return u, nonsense("a user without a name, or with the number 0")
	}
	for _, text := range w.Keys {
		l, err := keys.ParseLine(text)
		if err != nil {
			return u, nonsense("a key of %.64q: %v", w.Name, err)
		}
		u.Keys = append(u.Keys, l)
	}
	return u, nil
}

// wireGroup is a group without its members. SharedName and SharedGID say that
// another group has its name or number.
type wireGroup struct {
	DN         string `json:"dn"`
	Name       string `json:"name"`
	GID        uint32 `json:"gid,omitempty"`
	SharedName bool   `json:"shared_name,omitempty"`
	SharedGID  bool   `json:"shared_gid,omitempty"`
}

func headHash(g id, head []byte) [32]byte { return hash('g', g[:], head) }

// groupOp changes a group: a new Head, and members that come and go.
type groupOp struct {
	ID       id         `json:"id"`
	Head     *wireGroup `json:"head,omitempty"`
	Add      []string   `json:"add,omitempty"`
	Cut      []string   `json:"cut,omitempty"`
	AddNames []string   `json:"add_names,omitempty"`
	CutNames []string   `json:"cut_names,omitempty"`
}

// wireRule is a rule, by the values of its entry; its targets are those alone
// that lead to the host.
type wireRule struct {
	ID        id       `json:"id"`
	DN        string   `json:"dn"`
	Name      string   `json:"name"`
	Subject   []string `json:"subject"`
	Door      []string `json:"door"`
	Target    []string `json:"target"`
	Login     []string `json:"login,omitempty"`
	From      []string `json:"from,omitempty"`
	Time      []string `json:"time,omitempty"`
	Proof     []string `json:"proof,omitempty"`
	Permit    []string `json:"permit,omitempty"`
	NotBefore string   `json:"not_before,omitempty"`
	Expires   string   `json:"expires,omitempty"`
	MaxAge    string   `json:"max_age,omitempty"`
}

// encodeRule gives nil for one that cannot be sent: it lets nobody in there.
func encodeRule(t *broker.TargetRule) []byte {
	r := *t.Rule
	r.Targets = t.Targets
	a := r.Attributes()
	w := wireRule{id(r.ID), string(r.DN), a.Name, a.Subject, a.Door, a.Target, a.Login, a.From, a.Time, a.Proof, a.Permit,
		a.NotBefore, a.Expires, a.MaxAge}
	if !valid(w.DN, w.Name) {
		return nil
	}
	return encodeEntry(w)
}

func (w *wireRule) rule() (broker.Rule, error) {
	r, err := broker.ParseRule(broker.RuleAttributes{Name: w.Name, Subject: w.Subject, Door: w.Door, Target: w.Target, Login: w.Login,
		From: w.From, Time: w.Time, Proof: w.Proof, Permit: w.Permit, NotBefore: w.NotBefore, Expires: w.Expires, MaxAge: w.MaxAge})
	if err != nil {
		return r, nonsense("the rule %.64q: %v", w.Name, err)
	}
	r.ID, r.DN = broker.EntryID(w.ID), broker.DN(w.DN)
	return r, nil
}

// ops are changes of a view, valid with the commit that follows. Reset says
// that they begin a whole new view.
type ops struct {
	Reset      bool       `json:"reset,omitempty"`
	Users      []wireUser `json:"users,omitempty"`
	GoneUsers  []id       `json:"gone_users,omitempty"`
	Groups     []groupOp  `json:"groups,omitempty"`
	GoneGroups []id       `json:"gone_groups,omitempty"`
	Rules      []wireRule `json:"rules,omitempty"`
	GoneRules  []id       `json:"gone_rules,omitempty"`
}

func (m *ops) check() error {
	for i := range m.Groups {
		if h := m.Groups[i].Head; h != nil && (h.Name == "" || h.DN == "") {
			return nonsense("a group without a name")
		}
	}
	return nil
}

// self is the host's own entry, and the groups that name it.
type self struct {
	ID    id                `json:"id"`
	DN    string            `json:"dn"`
	Names []broker.HostName `json:"names"`
	Addrs []netip.Addr      `json:"addrs,omitempty"`
	// SharedNames and SharedAddrs are the places of those that other hosts have
	// too.
	SharedNames []int `json:"shared_names,omitempty"`
	SharedAddrs []int `json:"shared_addrs,omitempty"`
	Groups      []id  `json:"groups,omitempty"`
}

func (m *self) check() error {
	if m.DN == "" || len(m.Names) == 0 || len(m.Names) > maxList || len(m.Addrs) > maxList {
		return nonsense("a host without a name, or with too many")
	}
	for _, n := range m.Names {
		if n == "" || strings.ToLower(string(n)) != string(n) {
			return nonsense("a host's name")
		}
		if err := texts(string(n)); err != nil {
			return err
		}
	}
	for _, a := range m.Addrs {
		if !a.IsValid() {
			return nonsense("a host's address")
		}
	}
	for _, i := range m.SharedNames {
		if i < 0 || i >= len(m.Names) {
			return nonsense("a name that is not there")
		}
	}
	for _, i := range m.SharedAddrs {
		if i < 0 || i >= len(m.Addrs) {
			return nonsense("an address that is not there")
		}
	}
	return nil
}
