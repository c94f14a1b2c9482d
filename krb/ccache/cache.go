// Package ccache keeps Kerberos tickets where MIT's programs look for them:
// credential caches of the types FILE, DIR and KEYRING, in version 4 of the file
// format (doc/formats/ccache_file_format in MIT krb5).
//
// A cache is read strictly: nothing is returned beside an error, every size is
// bounded by what is really there, and what Parse takes Format gives back byte
// for byte. Names and keys are kept as they are in the file, since other programs
// put there what Sekisho would not make; [Entry.Credential] is the strict door
// from there to a [krb.Credential].
//
// No error and no printed form of a type here holds key bytes.
package ccache

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/sekisho/sekisho/krb"
)

// ErrNone is the answer of Read and Destroy when there is no such cache. It is
// also an fs.ErrNotExist.
var ErrNone = fmt.Errorf("there is no credential cache: %w", fs.ErrNotExist)

// Name is a principal as a cache holds it: any bytes in the components and the
// realm, and the name type of RFC 4120 §6.2.
type Name struct {
	Type       uint32
	Realm      string
	Components []string
}

// NameOf is the Name of a principal.
func NameOf(p krb.Principal) Name {
	return Name{uint32(p.Name().NameType), p.Realm, slices.Clone(p.Components)}
}

// Principal is the strict form; it fails for names that Sekisho does not make.
func (n Name) Principal() (krb.Principal, error) {
	return krb.FromName(types.PrincipalName{NameType: int32(n.Type), NameString: n.Components}, n.Realm)
}

// Equal reports whether realm and components are the same; the type does not
// count (RFC 4120 §6.2).
func (n Name) Equal(m Name) bool {
	return n.Realm == m.Realm && slices.Equal(n.Components, m.Components)
}

// escapes are those of MIT's krb5_unparse_name.
var escapes = strings.NewReplacer(`\`, `\\`, "/", `\/`, "@", `\@`, "\n", `\n`, "\t", `\t`, "\b", `\b`, "\x00", `\0`)

// String is the name as MIT prints it, with its escapes.
func (n Name) String() string {
	parts := make([]string, len(n.Components))
	for i, c := range n.Components {
		parts[i] = escapes.Replace(c)
	}
	// In a realm MIT leaves a slash as it is.
	return strings.Join(parts, "/") + "@" + strings.ReplaceAll(escapes.Replace(n.Realm), `\/`, "/")
}

// Cache is the content of one credential cache.
type Cache struct {
	// Header are the fields of the file's header; see Offset.
	Header []Field
	// Principal is whose cache it is.
	Principal Name
	Entries   []Entry
}

// Field is one field of the header.
type Field struct {
	Tag   uint16
	Value []byte
}

// tagOffset is the header field that holds the KDC's clock, relative to ours.
const tagOffset = 1

// New makes a cache of tickets; the first one's client is the cache's principal.
func New(c krb.Credential, more ...krb.Credential) Cache {
	out := Cache{Principal: NameOf(c.Client), Entries: []Entry{NewEntry(c)}}
	for _, m := range more {
		out.Entries = append(out.Entries, NewEntry(m))
	}
	return out
}

// Offset is what must be added to this machine's clock to have the KDC's, when
// the cache says so.
func (c Cache) Offset() (time.Duration, bool) {
	for _, f := range c.Header {
		if f.Tag == tagOffset && len(f.Value) == 8 {
			sec, usec := int32(be32(f.Value)), int32(be32(f.Value[4:]))
			return time.Duration(sec)*time.Second + time.Duration(usec)*time.Microsecond, true
		}
	}
	return 0, false
}

// SetOffset notes the KDC's clock relative to this machine's.
func (c *Cache) SetOffset(d time.Duration) {
	c.Header = slices.DeleteFunc(slices.Clone(c.Header), func(f Field) bool { return f.Tag == tagOffset })
	v := put32(nil, uint32(int32(d/time.Second)))
	v = put32(v, uint32(int32(d%time.Second/time.Microsecond)))
	c.Header = append(c.Header, Field{tagOffset, v})
}

// Tickets are the entries that are tickets: no configuration, nothing removed.
func (c Cache) Tickets() []Entry {
	var out []Entry
	for _, e := range c.Entries {
		if _, _, config := e.Config(); !config && !e.Removed() {
			out = append(out, e)
		}
	}
	return out
}

// TGT is the ticket for the principal's own ticket-granting service, the last of
// several; it fails when there is none that Sekisho can use.
func (c Cache) TGT() (krb.Credential, error) {
	err := errors.New("the cache holds no ticket-granting ticket: log in again")
	for _, e := range slices.Backward(c.Tickets()) {
		if e.IsTGT(c.Principal.Realm) && e.Client.Equal(c.Principal) {
			return e.Credential()
		}
	}
	return krb.Credential{}, err
}
