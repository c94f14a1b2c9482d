package krb

import (
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Limits of a record. MIT keeps kvno in 16 bits.
const (
	maxRecord   = 64 << 10
	maxKeys     = 64
	maxKVNO     = 1<<16 - 1
	maxKeyValue = 1024
	maxSalt     = 1024
)

// KeySet is one value of krbPrincipalKey: the keys of one key version, each
// sealed with the master key (KrbKeySet of MIT's LDAP back end, version 1.1).
type KeySet struct {
	// KVNO is the version of the principal's keys, MKVNO of the master key that
	// sealed them; 0 is written by MIT's tools before the master key has one.
	KVNO, MKVNO int
	Keys        []SealedKey
}

// SealedKey is one key of a KeySet.
type SealedKey struct {
	// Salt is nil when the record names none.
	Salt *Salt
	// EType is the encryption type of the key.
	EType int32
	// Value is the length of the plain key (16 bits, little endian) and the
	// ciphertext.
	Value []byte
}

// Salt says how a key's salt is made: type 0 is the default one of RFC 4120.
type Salt struct {
	Type int32
	// Value is nil when the record names none.
	Value []byte
}

var errRecord = errors.New("not a KrbKeySet")

func badRecord(what string) error { return fmt.Errorf("%w: %s", errRecord, what) }

// DecodeKeySet reads a value of krbPrincipalKey. It takes DER only, with nothing
// behind it, so that Encode gives the same bytes again.
func DecodeKeySet(b []byte) (KeySet, error) {
	if len(b) > maxRecord {
		return KeySet{}, badRecord("too long")
	}
	in := cryptobyte.String(b)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !in.Empty() {
		return KeySet{}, badRecord("not one sequence")
	}
	var n [4]int
	for i, what := range []string{"major version", "minor version", "kvno", "mkvno"} {
		if !readInt(&seq, i, &n[i]) {
			return KeySet{}, badRecord("bad " + what)
		}
	}
	if n[0] != 1 || n[1] != 1 {
		return KeySet{}, badRecord("version is not 1.1")
	}
	set := KeySet{KVNO: n[2], MKVNO: n[3]}
	var keys cryptobyte.String
	if !readExplicit(&seq, 4, &keys, asn1.SEQUENCE) || !seq.Empty() {
		return KeySet{}, badRecord("bad list of keys")
	}
	for !keys.Empty() {
		if len(set.Keys) == maxKeys {
			return KeySet{}, badRecord("too many keys")
		}
		k, err := readKey(&keys)
		if err != nil {
			return KeySet{}, err
		}
		set.Keys = append(set.Keys, k)
	}
	if len(set.Keys) == 0 {
		return KeySet{}, badRecord("no keys")
	}
	return set, nil
}

func readKey(keys *cryptobyte.String) (SealedKey, error) {
	var key, wrapped, enc cryptobyte.String
	var k SealedKey
	if !keys.ReadASN1(&key, asn1.SEQUENCE) {
		return k, badRecord("bad key")
	}
	var hasSalt bool
	if !key.ReadOptionalASN1(&wrapped, &hasSalt, contextTag(0)) {
		return k, badRecord("bad salt")
	}
	if hasSalt {
		salt, err := readSalt(wrapped)
		if err != nil {
			return k, err
		}
		k.Salt = &salt
	}
	if !readExplicit(&key, 1, &enc, asn1.SEQUENCE) || !key.Empty() {
		return k, badRecord("bad key")
	}
	var etype int
	var value cryptobyte.String
	if !readInt(&enc, 0, &etype) || etype > 1<<15-1 ||
		!readExplicit(&enc, 1, &value, asn1.OCTET_STRING) || !enc.Empty() || len(value) > maxKeyValue {
		return k, badRecord("bad key value")
	}
	k.EType, k.Value = int32(etype), append([]byte{}, value...)
	return k, nil
}

func readSalt(wrapped cryptobyte.String) (Salt, error) {
	var s, value cryptobyte.String
	var typ int
	if !wrapped.ReadASN1(&s, asn1.SEQUENCE) || !wrapped.Empty() || !readInt(&s, 0, &typ) || typ > 1<<15-1 {
		return Salt{}, badRecord("bad salt")
	}
	salt := Salt{Type: int32(typ)}
	if !s.Empty() {
		if !readExplicit(&s, 1, &value, asn1.OCTET_STRING) || !s.Empty() || len(value) > maxSalt {
			return Salt{}, badRecord("bad salt value")
		}
		salt.Value = append([]byte{}, value...)
	}
	return salt, nil
}

func contextTag(n int) asn1.Tag { return asn1.Tag(n).ContextSpecific().Constructed() }

// readExplicit reads [n] EXPLICIT of one element with the given tag.
func readExplicit(s *cryptobyte.String, n int, out *cryptobyte.String, tag asn1.Tag) bool {
	var w cryptobyte.String
	return s.ReadASN1(&w, contextTag(n)) && w.ReadASN1(out, tag) && w.Empty()
}

// readInt reads [n] EXPLICIT INTEGER from 0 to 65535.
func readInt(s *cryptobyte.String, n int, out *int) bool {
	var w cryptobyte.String
	return s.ReadASN1(&w, contextTag(n)) && w.ReadASN1Integer(out) && w.Empty() && *out >= 0 && *out <= maxKVNO
}

// Encode gives the DER value for krbPrincipalKey, or an error when DecodeKeySet
// would not take it back.
func (s KeySet) Encode() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for i, n := range []int{1, 1, s.KVNO, s.MKVNO} {
			addInt(b, i, n)
		}
		b.AddASN1(contextTag(4), func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, k := range s.Keys {
					b.AddASN1(asn1.SEQUENCE, k.add)
				}
			})
		})
	})
	out, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding a KrbKeySet: %w", err)
	}
	if _, err := DecodeKeySet(out); err != nil {
		return nil, fmt.Errorf("encoding a KrbKeySet: %w", err)
	}
	return out, nil
}

func (k SealedKey) add(b *cryptobyte.Builder) {
	if k.Salt != nil {
		b.AddASN1(contextTag(0), func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addInt(b, 0, int(k.Salt.Type))
				if k.Salt.Value != nil {
					addOctets(b, 1, k.Salt.Value)
				}
			})
		})
	}
	b.AddASN1(contextTag(1), func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, int(k.EType))
			addOctets(b, 1, k.Value)
		})
	})
}

func addInt(b *cryptobyte.Builder, n, v int) {
	b.AddASN1(contextTag(n), func(b *cryptobyte.Builder) { b.AddASN1Int64(int64(v)) })
}

func addOctets(b *cryptobyte.Builder, n int, v []byte) {
	b.AddASN1(contextTag(n), func(b *cryptobyte.Builder) { b.AddASN1OctetString(v) })
}
