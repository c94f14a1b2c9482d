package ccache

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/sekisho/sekisho/krb"
)

// Limits of a cache. A ticket with a large PAC has some 64 KiB.
const (
	maxCache      = 16 << 20
	maxEntries    = 1 << 14
	maxComponents = 32
	maxPart       = 64 << 10
	maxTicket     = 1 << 20
	maxKey        = 1 << 10
	maxListed     = 1 << 10 // addresses, or elements of authorization data
)

// Parse reads the bytes of a FILE cache of version 4. Nothing may stand behind
// the last whole credential.
func Parse(b []byte) (Cache, error) {
	c, err := parse(b)
	if err != nil {
		return Cache{}, err
	}
	return c, nil
}

func parse(b []byte) (Cache, error) {
	var c Cache
	if len(b) > maxCache {
		return c, fmt.Errorf("the credential cache is larger than %d MiB", maxCache>>20)
	}
	if err := checkVersion(b); err != nil {
		return c, err
	}
	s := cryptobyte.String(b[2:])
	var header cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&header) {
		return c, errShort("the header")
	}
	for !header.Empty() {
		var f Field
		var v cryptobyte.String
		if !header.ReadUint16(&f.Tag) || !header.ReadUint16LengthPrefixed(&v) {
			return c, errShort("the header")
		}
		if f.Tag == tagOffset && len(v) != 8 {
			return c, errors.New("the header's clock offset has not 8 bytes: not a sound credential cache")
		}
		f.Value = append([]byte{}, v...)
		c.Header = append(c.Header, f)
	}
	r := reader{s: s}
	c.Principal = r.name("the principal")
	if r.err == nil && c.Principal.Realm == "" {
		r.fail("the principal has no realm")
	}
	for r.err == nil && !r.s.Empty() {
		if len(c.Entries) == maxEntries {
			return c, fmt.Errorf("the credential cache holds more than %d credentials", maxEntries)
		}
		e := r.entry()
		if r.err != nil {
			return c, fmt.Errorf("credential %d: %w", len(c.Entries)+1, r.err)
		}
		c.Entries = append(c.Entries, e)
	}
	return c, r.err
}

// checkVersion looks at the first two bytes.
func checkVersion(b []byte) error {
	switch {
	case len(b) == 0:
		return errors.New("the credential cache is empty: log in again")
	case len(b) < 2 || b[0] != 5 || b[1] < 1 || b[1] > 4:
		return errors.New("not a credential cache")
	case b[1] != 4:
		return fmt.Errorf("a credential cache of version %d, which is not read: write it anew with version 4 (in krb5.conf, remove ccache_type)", b[1])
	}
	return nil
}

func errShort(what string) error {
	return fmt.Errorf("the credential cache ends within %s, or a length in it is wrong", what)
}

// reader reads the parts of a cache; after the first fault it reads nothing.
type reader struct {
	s   cryptobyte.String
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = errors.New(what + ": not a sound credential cache")
	}
}

func (r *reader) short(what string) {
	if r.err == nil {
		r.err = errShort(what)
	}
}

func (r *reader) u16(what string) (v uint16) {
	if r.err == nil && !r.s.ReadUint16(&v) {
		r.short(what)
	}
	return v
}

func (r *reader) u32(what string) (v uint32) {
	if r.err == nil && !r.s.ReadUint32(&v) {
		r.short(what)
	}
	return v
}

// data reads a length of 32 bits and that many bytes, in memory of its own.
func (r *reader) data(what string, limit int) []byte {
	n := r.u32(what)
	if r.err != nil {
		return nil
	}
	var v []byte
	if uint64(n) > uint64(len(r.s)) {
		r.short(what)
		return nil
	}
	if uint64(n) > uint64(limit) {
		r.fail(fmt.Sprintf("%s has more than %d bytes", what, limit))
		return nil
	}
	r.s.ReadBytes(&v, int(n))
	return append([]byte{}, v...)
}

func (r *reader) name(what string) Name {
	n := Name{Type: r.u32(what)}
	count := r.u32(what)
	if r.err == nil && (count < 1 || count > maxComponents) {
		r.fail(fmt.Sprintf("%s has %d components, not 1 to %d", what, count, maxComponents))
	}
	n.Realm = string(r.data(what, maxPart))
	for range count {
		if r.err != nil {
			return Name{}
		}
		n.Components = append(n.Components, string(r.data(what, maxPart)))
	}
	return n
}

func (r *reader) list(what string) []Typed {
	count := r.u32(what)
	if r.err == nil && count > maxListed {
		r.fail(fmt.Sprintf("more than %d of %s", maxListed, what))
	}
	var out []Typed
	for range count {
		if r.err != nil {
			return nil
		}
		out = append(out, Typed{r.u16(what), r.data(what, maxPart)})
	}
	return out
}

func (r *reader) entry() Entry {
	var e Entry
	e.Client = r.name("the client")
	e.Server = r.name("the server")
	e.EType = r.u16("the key")
	e.Key = r.data("the key", maxKey)
	if r.err == nil && !soundKey(e.EType, e.Key) {
		r.fail(fmt.Sprintf("a key of type %d has a wrong length", e.EType))
	}
	for _, t := range []*uint32{&e.AuthTime, &e.StartTime, &e.EndTime, &e.RenewTill} {
		*t = r.u32("the times")
	}
	var skey uint8
	if r.err == nil && !r.s.ReadUint8(&skey) {
		r.short("is_skey")
	}
	if skey > 1 {
		r.fail("is_skey is neither 0 nor 1")
	}
	e.IsSKey = skey == 1
	e.Flags = krb.TicketFlags(r.u32("the flags"))
	e.Addresses = r.list("the addresses")
	e.AuthData = r.list("the authorization data")
	e.Ticket = r.data("the ticket", maxTicket)
	e.SecondTicket = r.data("the second ticket", maxTicket)
	return e
}

// soundKey reports whether a key of a type that we know has its length: a damaged
// one must not be taken for a key.
func soundKey(etype uint16, key []byte) bool {
	switch int32(etype) {
	case krb.AES128SHA1, krb.AES256SHA1, krb.AES128SHA2, krb.AES256SHA2:
		_, err := krb.NewKey(int32(etype), key)
		return err == nil
	case 0:
		return len(key) == 0
	}
	return true
}

// Format gives the bytes of a FILE cache, or an error when Parse would not take
// them back.
func Format(c Cache) ([]byte, error) {
	b, err := format(c)
	if err == nil {
		_, err = parse(b)
	}
	if err != nil {
		return nil, fmt.Errorf("writing a credential cache: %w", err)
	}
	return b, nil
}

func format(c Cache) ([]byte, error) {
	var header []byte
	for _, f := range c.Header {
		if len(f.Value) > 1<<16-1 {
			return nil, errors.New("a field of the header is too long")
		}
		header = binary.BigEndian.AppendUint16(header, f.Tag)
		header = binary.BigEndian.AppendUint16(header, uint16(len(f.Value)))
		header = append(header, f.Value...)
	}
	if len(header) > 1<<16-1 {
		return nil, errors.New("the header is too long")
	}
	b := []byte{5, 4}
	b = binary.BigEndian.AppendUint16(b, uint16(len(header)))
	b = append(b, header...)
	b = putName(b, c.Principal)
	for _, e := range c.Entries {
		b = putEntry(b, e)
	}
	return b, nil
}

func be32(b []byte) uint32              { return binary.BigEndian.Uint32(b) }
func put32(b []byte, v uint32) []byte   { return binary.BigEndian.AppendUint32(b, v) }
func putData(b []byte, v string) []byte { return append(put32(b, uint32(len(v))), v...) }

func putName(b []byte, n Name) []byte {
	b = put32(b, n.Type)
	b = put32(b, uint32(len(n.Components)))
	b = putData(b, n.Realm)
	for _, c := range n.Components {
		b = putData(b, c)
	}
	return b
}

func putList(b []byte, list []Typed) []byte {
	b = put32(b, uint32(len(list)))
	for _, t := range list {
		b = binary.BigEndian.AppendUint16(b, t.Type)
		b = putData(b, string(t.Data))
	}
	return b
}

func putEntry(b []byte, e Entry) []byte {
	b = putName(b, e.Client)
	b = putName(b, e.Server)
	b = binary.BigEndian.AppendUint16(b, e.EType)
	b = putData(b, string(e.Key))
	for _, t := range []uint32{e.AuthTime, e.StartTime, e.EndTime, e.RenewTill} {
		b = put32(b, t)
	}
	if e.IsSKey {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = put32(b, uint32(e.Flags))
	b = putList(b, e.Addresses)
	b = putList(b, e.AuthData)
	b = putData(b, string(e.Ticket))
	return putData(b, string(e.SecondTicket))
}
