package kpasswd

import (
	"net/netip"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

// Tags and message types of RFC 4120 §5.10, and key usages of §7.5.1.
const (
	typeAPReq = 14
	typePriv  = 21
	partPriv  = 28

	usageAuthenticator = 11
	usagePriv          = 13
)

// private is what a KRB-PRIV holds (RFC 4120 §5.7.1), as far as it is used here.
type private struct {
	data []byte
	seq  uint32 // 0 when there is none
}

// seal makes a KRB-PRIV. from is the sender's address.
func (p private) seal(k krb.Key, from netip.Addr) ([]byte, error) {
	sealed, err := der.Seal(k, usagePriv, der.App(partPriv, der.Field(0, der.Octets(p.data)),
		der.Field(3, der.Int(int64(p.seq))), der.Field(4, der.Address(from))))
	if err != nil {
		return nil, err
	}
	return der.App(typePriv, der.Field(0, der.Int(der.Version)), der.Field(1, der.Int(typePriv)), der.Field(3, sealed)), nil
}

// openPrivate opens a KRB-PRIV. The addresses in it are not looked at: behind NAT
// they differ, and a message sent back to its sender is no answer, since the
// sequence numbers differ and what they mean does too.
func openPrivate(raw []byte, k krb.Key) (private, error) {
	r := der.Open(raw, typePriv)
	r.Head(0, typePriv)
	sealed := r.Field(3).Sealed()
	if err := r.Done(); err != nil {
		return private{}, err
	}
	part, err := sealed.Open(k, usagePriv)
	if err != nil {
		return private{}, err
	}
	return parsePrivate(part)
}

// parsePrivate reads an EncKrbPrivPart.
func parsePrivate(part []byte) (private, error) {
	r := der.Open(part, partPriv)
	p := private{data: r.Field(0).Octets()}
	if r.Has(1) {
		r.Field(1).Time()
	}
	if r.Has(2) {
		r.Field(2).Microseconds()
	}
	if r.Has(3) {
		p.seq = r.Field(3).Uint32()
	}
	r.Field(4).Typed()
	if r.Has(5) {
		r.Field(5).Typed()
	}
	if err := r.Done(); err != nil {
		return private{}, err
	}
	return p, nil
}
