// Package admin writes and reads the directory's users, groups, hosts and
// rules for the command line. It holds no right of its own: the Client is
// bound as whoever runs the command, and the directory's access rules decide.
package admin

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/keys"
	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/realm"
)

// Config is what a Directory is made of.
type Config struct {
	// Client is bound as the caller. Needed.
	Client *ldapsync.Client
	// Schema says how the directory names things, and Preset is its name.
	Schema ldapsync.Schema
	Preset string
	// Layout says where new entries go.
	Layout realm.Layout
	// Issuer makes Kerberos keys; nil where the master key is out of reach, and
	// then no password can be set.
	Issuer *realm.Issuer
	// Policy judges keys before they are written.
	Policy keys.Policy
	// UIDMin and UIDMax bound the numbers that the directory may give.
	UIDMin, UIDMax uint32
	// Taken reports whether a number is used outside of the directory; nil for
	// never.
	Taken func(uint32) bool
}

// Directory does the work of the commands. Not for concurrent use.
type Directory struct{ c Config }

// New makes a Directory.
func New(c Config) *Directory {
	if c.Taken == nil {
		c.Taken = func(uint32) bool { return false }
	}
	return &Directory{c}
}

// CanSetPasswords tells whether passwords can be set: one needs the Kerberos
// keys of the same password beside it.
func (d *Directory) CanSetPasswords() bool { return d.c.Issuer != nil }

// NoneError says that there is no entry of a name.
type NoneError struct{ Kind, Name string }

func (e *NoneError) Error() string {
	return fmt.Sprintf("there is no %s %s, or you may not see it", e.Kind, e.Name)
}

// RefusedError says that a request is wrong in itself; the directory was not
// asked to do it.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return e.Why }

func refuse(format string, a ...any) error { return &RefusedError{fmt.Sprintf(format, a...)} }

var (
	userName  = regexp.MustCompile(`^[a-z_][a-z0-9_.-]{0,31}$`)
	groupName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_.-]{0,63}$`)
	ruleName  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,63}$`)
	hostName  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
)

// CheckUserName tells what is wrong with a user's name.
func CheckUserName(name string) error {
	if !userName.MatchString(name) {
		return refuse("user name %.60q: write 1 to 32 of a-z 0-9 _ . - that begin with a letter or _", name)
	}
	return nil
}

// CheckGroupName tells what is wrong with a group's name.
func CheckGroupName(name string) error {
	if !groupName.MatchString(name) {
		return refuse("group name %.60q: write 1 to 64 letters, digits or _ . - that begin with a letter or _", name)
	}
	return nil
}

// kind is one kind of entry.
type kind struct {
	name    string // in messages
	classes []string
	attr    string // the naming attribute
	base    string // where such entries are looked for
	home    string // where new ones go
}

func (d *Directory) users() kind {
	s := d.c.Schema
	return kind{"user", s.UserClasses, s.UserName, or(s.UserBase, d.c.Layout.Base), or(s.UserBase, d.c.Layout.People())}
}

func (d *Directory) groups() kind {
	s := d.c.Schema
	return kind{"group", s.GroupClasses, s.GroupName, or(s.GroupBase, d.c.Layout.Base), or(s.GroupBase, d.c.Layout.Groups())}
}

func (d *Directory) hosts() kind {
	s := d.c.Schema
	attr := "cn"
	if len(s.HostNames) > 0 {
		attr = s.HostNames[0]
	}
	return kind{"host", s.HostClasses, attr, or(s.HostBase, d.c.Layout.Base), or(s.HostBase, d.c.Layout.Hosts())}
}

func (d *Directory) rules() kind {
	s := d.c.Schema
	return kind{"rule", s.RuleClasses, "cn", or(s.RuleBase, d.c.Layout.Base), or(s.RuleBase, d.c.Layout.Access())}
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// dn is where an entry of that name is made.
func (k kind) dn(name string) string { return k.attr + "=" + ldap.EscapeDN(name) + "," + k.home }

// filter finds entries of the kind whose name fits pattern, in which * stands
// for anything.
func (k kind) filter(pattern string) string {
	var b strings.Builder
	b.WriteString("(&(|")
	for _, c := range k.classes {
		b.WriteString("(objectClass=" + c + ")")
	}
	b.WriteString(")(" + k.attr + "=")
	for i, part := range strings.Split(pattern, "*") {
		if i > 0 {
			b.WriteByte('*')
		}
		b.WriteString(ldap.EscapeFilter(part))
	}
	b.WriteString("))")
	return b.String()
}

// find returns the one entry of that name; *NoneError when there is none.
func (d *Directory) find(ctx context.Context, k kind, name string, attrs ...string) (*ldap.Entry, error) {
	// A star would be a wildcard to filter.
	if name == "" || strings.Contains(name, "*") || len(name) > 255 {
		return nil, &NoneError{k.name, fmt.Sprintf("%.60q", name)}
	}
	es, err := d.search(ctx, k.base, k.filter(name), 2, attrs...)
	switch {
	case ldapsync.IsCode(err, ldap.LDAPResultNoSuchObject), err == nil && len(es) == 0:
		return nil, &NoneError{k.name, name}
	case ldapsync.IsCode(err, ldap.LDAPResultSizeLimitExceeded), err == nil && len(es) > 1:
		return nil, refuse("several entries are the %s %s: remove the others by their DN with ldapdelete", k.name, name)
	case err != nil:
		return nil, err
	}
	return es[0], nil
}

// list returns all entries of the kind that fit pattern.
func (d *Directory) list(ctx context.Context, k kind, pattern string, limit int, attrs ...string) ([]*ldap.Entry, error) {
	es, err := d.search(ctx, k.base, k.filter(or(pattern, "*")), limit, attrs...)
	if ldapsync.IsCode(err, ldap.LDAPResultSizeLimitExceeded) {
		return nil, refuse("there are more %ss than the directory shows you at once: give a pattern, such as 'a*'", k.name)
	}
	if ldapsync.IsCode(err, ldap.LDAPResultNoSuchObject) {
		return nil, nil
	}
	return es, err
}

func (d *Directory) search(ctx context.Context, base, filter string, limit int, attrs ...string) ([]*ldap.Entry, error) {
	if d.c.Schema.Filter != "" {
		filter = "(&" + filter + d.c.Schema.Filter + ")"
	}
	return d.c.Client.Search(ctx, ldap.NewSearchRequest(base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, limit, 0, false,
		filter, attrs, nil))
}

// writable refuses to make entries in trees that have tools of their own.
func (d *Directory) writable(what string) error {
	switch d.c.Preset {
	case "freeipa":
		return refuse("a %s of a FreeIPA directory is made and changed with the ipa command", what)
	case "ad":
		return refuse("a %s of an Active Directory tree is made and changed with its own tools", what)
	}
	return nil
}

// Names lists the names of the kind "user", "group", "host", "rule" or "service"
// that begin with prefix, at most limit, for completion.
func (d *Directory) Names(ctx context.Context, what, prefix string, limit int) ([]string, error) {
	k, ok := map[string]kind{"user": d.users(), "group": d.groups(), "host": d.hosts(), "rule": d.rules(), "service": d.services()}[what]
	if !ok || strings.Contains(prefix, "*") {
		return nil, nil
	}
	es, err := d.search(ctx, k.base, k.filter(prefix+"*"), limit, k.attr)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range es {
		if n := e.GetAttributeValue(k.attr); n != "" {
			out = append(out, n)
		}
	}
	return out, nil
}

// exists reports whether there is an entry of the kind.
func (d *Directory) exists(ctx context.Context, k kind, name string) (bool, error) {
	_, err := d.find(ctx, k, name, "1.1")
	var none *NoneError
	if errors.As(err, &none) {
		return false, nil
	}
	return err == nil, err
}

// generalized is t as generalizedTime (RFC 4517 §3.3.13).
func generalized(t time.Time) string { return t.UTC().Format("20060102150405Z") }

// parseGeneralized reads what generalized wrote; the zero time for anything
// else.
func parseGeneralized(s string) time.Time {
	t, err := time.Parse("20060102150405Z", s)
	if err != nil {
		return time.Time{}
	}
	return t
}
