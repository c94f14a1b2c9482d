package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/keys"
	"github.com/sekisho/sekisho/ldapsync"
)

// Key is one sshPublicKey value.
type Key struct {
	// ID is the fingerprint, or bad: and eight digits for a value that is no key.
	ID      string `json:"id"`
	Type    string `json:"type,omitempty"`
	Bits    int    `json:"bits,omitempty"`
	Comment string `json:"comment,omitempty"`
	Options string `json:"options,omitempty"`
	// Fault is why the broker does not use the key; empty when it does.
	Fault string `json:"fault,omitempty"`

	value string
	key   keys.Key
}

// ReadKey reads a value as the broker would.
func ReadKey(value string, p keys.Policy) Key {
	l, err := keys.ParseLine(value)
	if err != nil {
		sum := sha256.Sum256([]byte(value))
		return Key{ID: "bad:" + hex.EncodeToString(sum[:4]), Fault: err.Error(), value: value}
	}
	k := Key{ID: l.Key.Fingerprint(), Type: l.Key.Type, Bits: l.Key.Bits(), Comment: l.Comment, value: value, key: l.Key}
	if l.Options != nil {
		bare := keys.Line{Key: l.Key, Comment: l.Comment}
		if whole, err := l.Format(); err == nil {
			k.Options = strings.TrimSuffix(strings.TrimSuffix(whole, bare.String()), " ")
		}
	}
	if err := p.Check(l.Key); err != nil {
		k.Fault = err.Error()
	}
	return k
}

// Keys lists a user's keys.
func (d *Directory) Keys(ctx context.Context, user string) ([]Key, error) {
	_, ks, err := d.keys(ctx, user)
	return ks, err
}

func (d *Directory) keys(ctx context.Context, user string) (*ldap.Entry, []Key, error) {
	e, err := d.find(ctx, d.users(), user, d.c.Schema.UserKeys, "objectClass")
	if err != nil {
		return nil, nil, err
	}
	out := []Key{}
	for _, v := range e.GetEqualFoldAttributeValues(d.c.Schema.UserKeys) {
		out = append(out, ReadKey(v, d.c.Policy))
	}
	sortBy(out, func(k Key) string { return k.ID })
	return e, out, nil
}

// AddKeys adds lines of authorized_keys to a user. All must be good, or none
// is written; those whose key the user has already are left out. It returns
// the ones that were added.
func (d *Directory) AddKeys(ctx context.Context, user string, lines []string) ([]Key, error) {
	e, have, err := d.keys(ctx, user)
	if err != nil {
		return nil, err
	}
	var added []Key
	var values []string
next:
	for _, line := range lines {
		k := ReadKey(line, d.c.Policy)
		if k.Fault != "" {
			return nil, refuse("%s", k.Fault)
		}
		for _, h := range append(have, added...) {
			if h.key == k.key {
				continue next
			}
		}
		added, values = append(added, k), append(values, line)
	}
	if len(values) == 0 {
		return nil, nil
	}
	m := ldap.NewModifyRequest(e.DN, nil)
	if strings.EqualFold(d.c.Schema.UserKeys, "sshPublicKey") && !hasClass(e, "ldapPublicKey") {
		m.Add("objectClass", []string{"ldapPublicKey"})
	}
	m.Add(d.c.Schema.UserKeys, values)
	if err := d.c.Client.Modify(ctx, m); err != nil {
		return nil, err
	}
	return added, nil
}

// RemoveKey removes the key with that ID, or the only one with that comment.
func (d *Directory) RemoveKey(ctx context.Context, user, which string) (Key, error) {
	e, have, err := d.keys(ctx, user)
	if err != nil {
		return Key{}, err
	}
	var found []Key
	for _, k := range have {
		if k.ID == which || which != "" && k.Comment == which {
			found = append(found, k)
		}
	}
	byID := len(found) > 0 && found[0].ID == which
	switch {
	case len(found) == 0:
		return Key{}, &NoneError{"key", which + " of " + user}
	case len(found) > 1 && !byID:
		return Key{}, refuse("%d keys of %s have the comment %q: name one by its fingerprint (sekisho key ls %s)", len(found), user, which, user)
	}
	m := ldap.NewModifyRequest(e.DN, nil)
	var values []string
	for _, k := range found { // one key may stand there with several options
		values = append(values, k.value)
	}
	m.Delete(d.c.Schema.UserKeys, values)
	err = d.c.Client.Modify(ctx, m)
	if ldapsync.IsCode(err, ldap.LDAPResultNoSuchAttribute) {
		return Key{}, &NoneError{"key", which + " of " + user}
	}
	return found[0], err
}
