package gss

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/sekisho/sekisho/krb"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// The parts of RFC 4120 §5 that AP-REQ, AP-REP, KRB-CRED and KRB-ERROR are made of.
// Readers take what they read off the string, strictly, and report whether it was there.

const tagGeneralString = cbasn1.Tag(27)

var errDER = errors.New("malformed message (RFC 4120 §5)")

func addInt(b *cryptobyte.Builder, n uint8, v int64) {
	b.AddASN1(tag(n), func(b *cryptobyte.Builder) { b.AddASN1Int64(v) })
}

func addBytes(b *cryptobyte.Builder, n uint8, v []byte) {
	b.AddASN1(tag(n), func(b *cryptobyte.Builder) { b.AddASN1OctetString(v) })
}

func addString(b *cryptobyte.Builder, s string) {
	b.AddASN1(tagGeneralString, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}

// addFlags writes KerberosFlags: 32 bits.
func addFlags(b *cryptobyte.Builder, n uint8, v uint32) {
	b.AddASN1(tag(n), func(b *cryptobyte.Builder) {
		b.AddASN1BitString([]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
	})
}

// addTime writes KerberosTime, to the second; a zero time is left out.
func addTime(b *cryptobyte.Builder, n uint8, t time.Time) {
	if t.IsZero() {
		return
	}
	b.AddASN1(tag(n), func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(t.UTC().Truncate(time.Second)) })
}

// addPrincipal writes the realm as [n] and the name as [n+1].
func addPrincipal(b *cryptobyte.Builder, n uint8, p krb.Principal) {
	b.AddASN1(tag(n), func(b *cryptobyte.Builder) { addString(b, p.Realm) })
	name := p.Name()
	b.AddASN1(tag(n+1), func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, int64(name.NameType))
			b.AddASN1(tag(1), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					for _, s := range name.NameString {
						addString(b, s)
					}
				})
			})
		})
	})
}

func addKey(b *cryptobyte.Builder, n uint8, k krb.Key) {
	b.AddASN1(tag(n), func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, int64(k.EType))
			addBytes(b, 1, k.Value)
		})
	})
}

// addSealed writes EncryptedData as [n].
func addSealed(b *cryptobyte.Builder, n uint8, k krb.Key, usage uint32, plain []byte) {
	sealed, err := k.Encrypt(usage, plain)
	if err != nil {
		b.SetError(err)
		return
	}
	b.AddASN1(tag(n), func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, int64(k.EType))
			addBytes(b, 2, sealed)
		})
	})
}

// message opens [APPLICATION n] SEQUENCE that is all of b.
func message(b []byte, n uint8) (cryptobyte.String, bool) {
	s := cryptobyte.String(b)
	var outer, seq cryptobyte.String
	ok := s.ReadASN1(&outer, app(n)) && s.Empty() && outer.ReadASN1(&seq, cbasn1.SEQUENCE) && outer.Empty()
	return seq, ok
}

// whole opens an element that is all of s.
func whole(s cryptobyte.String, t cbasn1.Tag) (cryptobyte.String, bool) {
	var in cryptobyte.String
	return in, s.ReadASN1(&in, t) && s.Empty()
}

// field takes [n], which must be there.
func field(s *cryptobyte.String, n uint8) (cryptobyte.String, bool) {
	var in cryptobyte.String
	return in, s.ReadASN1(&in, tag(n))
}

// optional takes [n] if it is next.
func optional(s *cryptobyte.String, n uint8) (in cryptobyte.String, there, ok bool) {
	ok = s.ReadOptionalASN1(&in, &there, tag(n))
	return in, there, ok
}

func readInt(s *cryptobyte.String, n uint8) (v int64, ok bool) {
	in, ok := field(s, n)
	return v, ok && in.ReadASN1Integer(&v) && in.Empty()
}

// readInt32 reads an Int32.
func readInt32(s *cryptobyte.String, n uint8) (int32, bool) {
	v, ok := readInt(s, n)
	return int32(v), ok && v >= math.MinInt32 && v <= math.MaxInt32
}

// readSeq reads an optional UInt32. Some write the upper half as negative numbers.
func readSeq(s *cryptobyte.String, n uint8) (uint32, bool) {
	in, there, ok := optional(s, n)
	if !ok || !there {
		return 0, ok
	}
	var v int64
	ok = in.ReadASN1Integer(&v) && in.Empty() && v >= math.MinInt32 && v <= math.MaxUint32
	return uint32(v), ok
}

func readTime(s *cryptobyte.String, n uint8) (t time.Time, ok bool) {
	in, ok := field(s, n)
	return t, ok && in.ReadASN1GeneralizedTime(&t) && in.Empty()
}

func readOptionalTime(s *cryptobyte.String, n uint8) (t time.Time, ok bool) {
	in, there, ok := optional(s, n)
	if !ok || !there {
		return t, ok
	}
	return t, in.ReadASN1GeneralizedTime(&t) && in.Empty()
}

func readFlags(s *cryptobyte.String, n uint8) (uint32, bool) {
	in, ok := field(s, n)
	if !ok {
		return 0, false
	}
	bits, ok := whole(in, cbasn1.BIT_STRING)
	if !ok || len(bits) != 5 || bits[0] != 0 {
		return 0, false
	}
	return uint32(bits[1])<<24 | uint32(bits[2])<<16 | uint32(bits[3])<<8 | uint32(bits[4]), true
}

func readString(s *cryptobyte.String) (string, bool) {
	var in cryptobyte.String
	ok := s.ReadASN1(&in, tagGeneralString)
	return string(in), ok
}

// readPrincipal reads the realm as [n] and the name as [n+1].
func readPrincipal(s *cryptobyte.String, n uint8) (krb.Principal, error) {
	realm, ok1 := field(s, n)
	r, ok2 := readString(&realm)
	name, ok3 := field(s, n+1)
	seq, ok4 := whole(name, cbasn1.SEQUENCE)
	if !ok1 || !ok2 || !realm.Empty() || !ok3 || !ok4 {
		return krb.Principal{}, errDER
	}
	p := krb.Principal{Realm: r}
	if _, ok := readInt32(&seq, 0); !ok {
		return krb.Principal{}, errDER
	}
	list, ok := field(&seq, 1)
	names, ok2 := whole(list, cbasn1.SEQUENCE)
	if !ok || !ok2 || !seq.Empty() {
		return krb.Principal{}, errDER
	}
	for !names.Empty() {
		c, ok := readString(&names)
		if !ok {
			return krb.Principal{}, errDER
		}
		p.Components = append(p.Components, c)
	}
	return checked(p)
}

// checked holds a principal to krb's rules for names.
func checked(p krb.Principal) (krb.Principal, error) {
	name := p.Name()
	return krb.FromName(name, p.Realm)
}

// readKey reads an EncryptionKey that is [n].
func readKey(s *cryptobyte.String, n uint8) (krb.Key, error) {
	in, ok := field(s, n)
	seq, ok2 := whole(in, cbasn1.SEQUENCE)
	if !ok || !ok2 {
		return krb.Key{}, errDER
	}
	et, ok := readInt32(&seq, 0)
	v, ok2 := field(&seq, 1)
	value, ok3 := whole(v, cbasn1.OCTET_STRING)
	if !ok || !ok2 || !ok3 || !seq.Empty() {
		return krb.Key{}, errDER
	}
	return krb.NewKey(et, value)
}

// openSealed reads EncryptedData that is [n] and decrypts it.
func openSealed(s *cryptobyte.String, n uint8, k krb.Key, usage uint32) ([]byte, error) {
	in, ok := field(s, n)
	seq, ok2 := whole(in, cbasn1.SEQUENCE)
	if !ok || !ok2 {
		return nil, errDER
	}
	et, ok := readInt32(&seq, 0)
	_, _, ok2 = optional(&seq, 1)
	v, ok3 := field(&seq, 2)
	sealed, ok4 := whole(v, cbasn1.OCTET_STRING)
	if !ok || !ok2 || !ok3 || !ok4 || !seq.Empty() {
		return nil, errDER
	}
	if et != k.EType {
		return nil, fmt.Errorf("sealed with a key of type %d, not %d", et, k.EType)
	}
	return k.Decrypt(usage, slices.Clone(sealed))
}
