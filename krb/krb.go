// Package krb speaks Kerberos for Sekisho. Here: the keys of principals as MIT
// Kerberos keeps them in a directory (krbPrincipalKey, sealed with the realm's
// master key), the stash file of the master key, and keytab files.
//
// No error and no printed form of a type here holds key bytes or passwords.
package krb

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jcmturner/gokrb5/v8/types"
)

// Principal is a Kerberos principal (RFC 4120 §6.2) with the restricted names
// that Sekisho makes: one or more components of printable ASCII without space,
// '/', '@', '\' and characters that have a meaning in LDAP or shells.
type Principal struct {
	// Components are the parts between the slashes, for example host, web1.
	Components []string
	// Realm is the Kerberos realm, for example SEKISHO.INTERNAL.
	Realm string
}

const (
	maxComponents = 8
	maxNamePart   = 255
)

// ParsePrincipal reads name[/name…]@REALM. Quoting with '\' is refused, for a
// name that needs it cannot be told apart reliably by all that will read it.
func ParsePrincipal(s string) (Principal, error) {
	name, realm, ok := strings.Cut(s, "@")
	if !ok {
		return Principal{}, fmt.Errorf("principal %.80q has no realm: write name@REALM", s)
	}
	return NewPrincipal(name, realm)
}

// NewPrincipal is ParsePrincipal with the realm given by itself.
func NewPrincipal(name, realm string) (Principal, error) {
	p := Principal{Components: strings.Split(name, "/"), Realm: realm}
	if err := p.validate(); err != nil {
		return Principal{}, fmt.Errorf("principal %.80q: %w", name+"@"+realm, err)
	}
	return p, nil
}

// String is the name as MIT prints it.
func (p Principal) String() string { return strings.Join(p.Components, "/") + "@" + p.Realm }

// salt is the default salt: the realm and all components run together (RFC 4120 §4).
func (p Principal) salt() string { return p.Realm + strings.Join(p.Components, "") }

func (p Principal) validate() error {
	if len(p.Components) == 0 || len(p.Components) > maxComponents {
		return fmt.Errorf("a name has 1 to %d components", maxComponents)
	}
	for _, c := range append([]string{p.Realm}, p.Components...) {
		if c == "" || len(c) > maxNamePart {
			return fmt.Errorf("each component and the realm have 1 to %d characters", maxNamePart)
		}
		for i := 0; i < len(c); i++ {
			if !nameByte(c[i]) {
				return errors.New("only letters, digits and . _ - + $ may be in a component and the realm")
			}
		}
	}
	return nil
}

func nameByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("._-+$", b) >= 0
}

// FromName is a principal in the form of a message (RFC 4120 §5.2.2), strictly
// read: names that NewPrincipal refuses are refused.
func FromName(name types.PrincipalName, realm string) (Principal, error) {
	p := Principal{Components: slices.Clone(name.NameString), Realm: realm}
	if err := p.Check(); err != nil {
		return Principal{}, err
	}
	return p, nil
}

// Check refuses what NewPrincipal refuses, in a name that came by another way.
func (p Principal) Check() error {
	if err := p.validate(); err != nil {
		return fmt.Errorf("principal %.80q: %w", p.String(), err)
	}
	return nil
}

// Name is the principal's name in the form of a message.
func (p Principal) Name() types.PrincipalName {
	return types.PrincipalName{NameType: int32(nameType(p)), NameString: slices.Clone(p.Components)}
}

// Equal reports whether name and realm are the same. The name type does not
// count (RFC 4120 §6.2).
func (p Principal) Equal(q Principal) bool {
	return p.Realm == q.Realm && slices.Equal(p.Components, q.Components)
}
