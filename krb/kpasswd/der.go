package kpasswd

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sekisho/sekisho/krb"
)

// Tags and message types of RFC 4120 §5.10, and key usages of §7.5.1.
const (
	typeAPReq   = 14
	typeAPRep   = 15
	typePriv    = 21
	partAPRep   = 27
	partPriv    = 28
	typeError   = 30
	partAuthent = 2

	usageAuthenticator = 11
	usageAPRep         = 12
	usagePriv          = 13

	addrIPv4 = 2
	addrIPv6 = 24
)

var errMalformed = errors.New("malformed")

func application(n int) asn1.Tag { return asn1.Tag(0x40 | n).Constructed() }
func field(n int) asn1.Tag       { return asn1.Tag(n).ContextSpecific().Constructed() }

// readField takes [n] EXPLICIT with one element of a tag.
func readField(s *cryptobyte.String, n int, out *cryptobyte.String, tag asn1.Tag) bool {
	var w cryptobyte.String
	return s.ReadASN1(&w, field(n)) && w.ReadASN1(out, tag) && w.Empty()
}

// hasField reports whether [n] comes next.
func hasField(s cryptobyte.String, n int) bool { return s.PeekASN1Tag(field(n)) }

// readInt takes [n] EXPLICIT INTEGER. RFC 4120 §5.2.4 bounds integers to 32 bits;
// whether a number of 32 bits is signed is not always agreed upon.
func readInt(s *cryptobyte.String, n int, out *int64) bool {
	var w cryptobyte.String
	return s.ReadASN1(&w, field(n)) && w.ReadASN1Integer(out) && w.Empty() && *out >= -1<<31 && *out < 1<<32
}

func readIs(s *cryptobyte.String, n int, want int64) bool {
	var v int64
	return readInt(s, n, &v) && v == want
}

func addField(b *cryptobyte.Builder, n int, f func(*cryptobyte.Builder)) { b.AddASN1(field(n), f) }

func addInt(b *cryptobyte.Builder, n int, v int64) {
	addField(b, n, func(b *cryptobyte.Builder) { b.AddASN1Int64(v) })
}

func addOctets(b *cryptobyte.Builder, n int, v []byte) {
	addField(b, n, func(b *cryptobyte.Builder) { b.AddASN1OctetString(v) })
}

// message builds [APPLICATION app] SEQUENCE.
func message(app int, f func(*cryptobyte.Builder)) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(application(app), func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, f) })
	return b.Bytes()
}

// open takes the outside of message off: nothing may follow it.
func open(raw []byte, app int) (cryptobyte.String, error) {
	in := cryptobyte.String(raw)
	var outer, seq cryptobyte.String
	if !in.ReadASN1(&outer, application(app)) || !in.Empty() || !outer.ReadASN1(&seq, asn1.SEQUENCE) || !outer.Empty() {
		return nil, errMalformed
	}
	return seq, nil
}

// addSealed puts EncryptedData (RFC 4120 §5.2.9) of plain in [n].
func addSealed(b *cryptobyte.Builder, n int, k krb.Key, cipher []byte) {
	addField(b, n, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, int64(k.EType))
			addOctets(b, 2, cipher)
		})
	})
}

// readSealed takes EncryptedData from [n] and opens it.
func readSealed(s *cryptobyte.String, n int, k krb.Key, usage uint32) ([]byte, error) {
	var data, cipher cryptobyte.String
	var etype, kvno int64
	if !readField(s, n, &data, asn1.SEQUENCE) || !readInt(&data, 0, &etype) {
		return nil, errMalformed
	}
	if hasField(data, 1) && !readInt(&data, 1, &kvno) {
		return nil, errMalformed
	}
	if !readField(&data, 2, &cipher, asn1.OCTET_STRING) || !data.Empty() {
		return nil, errMalformed
	}
	if etype != int64(k.EType) {
		return nil, fmt.Errorf("sealed with type %d, not with the %s", etype, k)
	}
	return k.Decrypt(usage, cipher)
}

// private is what a KRB-PRIV holds (RFC 4120 §5.7.1), as far as it is used here.
type private struct {
	data []byte
	seq  uint32 // 0 when there is none
}

// seal makes a KRB-PRIV. from is the sender's address.
func (p private) seal(k krb.Key, from netip.Addr) ([]byte, error) {
	part, err := message(partPriv, func(b *cryptobyte.Builder) {
		addOctets(b, 0, p.data)
		addInt(b, 3, int64(p.seq))
		addField(b, 4, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				from = from.Unmap()
				kind := int64(addrIPv4)
				if from.Is6() {
					kind = addrIPv6
				}
				addInt(b, 0, kind)
				addOctets(b, 1, from.AsSlice())
			})
		})
	})
	if err != nil {
		return nil, err
	}
	cipher, err := k.Encrypt(usagePriv, part)
	if err != nil {
		return nil, err
	}
	return message(typePriv, func(b *cryptobyte.Builder) {
		addInt(b, 0, 5)
		addInt(b, 1, typePriv)
		addSealed(b, 3, k, cipher)
	})
}

// openPrivate opens a KRB-PRIV. The addresses in it are not looked at: behind NAT
// they differ, and a message sent back to its sender is no answer, since the
// sequence numbers differ and what they mean does too.
func openPrivate(raw []byte, k krb.Key) (private, error) {
	s, err := open(raw, typePriv)
	if err != nil {
		return private{}, err
	}
	if !readIs(&s, 0, 5) || !readIs(&s, 1, typePriv) {
		return private{}, errMalformed
	}
	part, err := readSealed(&s, 3, k, usagePriv)
	if err != nil {
		return private{}, err
	}
	if !s.Empty() {
		return private{}, errMalformed
	}
	return parsePrivate(part)
}

// parsePrivate reads an EncKrbPrivPart.
func parsePrivate(part []byte) (private, error) {
	s, err := open(part, partPriv)
	if err != nil {
		return private{}, err
	}
	var data, skip cryptobyte.String
	if !readField(&s, 0, &data, asn1.OCTET_STRING) {
		return private{}, errMalformed
	}
	p := private{data: data}
	var n int64
	if hasField(s, 1) && !readField(&s, 1, &skip, asn1.GeneralizedTime) ||
		hasField(s, 2) && !readInt(&s, 2, &n) {
		return private{}, errMalformed
	}
	if hasField(s, 3) {
		if !readInt(&s, 3, &n) {
			return private{}, errMalformed
		}
		p.seq = uint32(n)
	}
	if !readField(&s, 4, &skip, asn1.SEQUENCE) ||
		hasField(s, 5) && !readField(&s, 5, &skip, asn1.SEQUENCE) || !s.Empty() {
		return private{}, errMalformed
	}
	return p, nil
}
