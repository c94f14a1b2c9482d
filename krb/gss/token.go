package gss

import (
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// MaxToken is the longest context token that is read or made, in bytes; package accept
// takes no longer AP-REQ.
const MaxToken = 64 << 10

// The object identifiers of the mechanism. Microsoft's lost the upper bits of a
// number; its tokens are the same (RFC 4178 appendix C).
var (
	OIDKrb5   = asn1.ObjectIdentifier{1, 2, 840, 113554, 1, 2, 2}
	OIDMSKrb5 = asn1.ObjectIdentifier{1, 2, 840, 48018, 1, 2, 2}
)

// framing is the tag of a token (RFC 2743 §3.1).
const framing = cbasn1.Tag(0x60)

// Token identifiers (RFC 4121 §4.1).
const (
	tokAPReq    = 0x0100
	tokAPRep    = 0x0200
	tokKRBError = 0x0300
)

var errFraming = errors.New("not a Kerberos context token (RFC 4121 §4.1)")

// Mechanism is the object identifier in a token's framing (RFC 2743 §3.1), so that a
// caller can tell a Kerberos token from another's; nil when there is no framing.
func Mechanism(token []byte) asn1.ObjectIdentifier {
	oid, _, err := unframe(token)
	if err != nil {
		return nil
	}
	return oid
}

func unframe(token []byte) (oid asn1.ObjectIdentifier, inner []byte, err error) {
	if len(token) > MaxToken {
		return nil, nil, fmt.Errorf("the token is longer than %d bytes", MaxToken)
	}
	s := cryptobyte.String(token)
	var body cryptobyte.String
	if !s.ReadASN1(&body, framing) || !s.Empty() || !body.ReadASN1ObjectIdentifier(&oid) {
		return nil, nil, errFraming
	}
	return oid, body, nil
}

// parseToken gives the message of a Kerberos context token, what it is, and the
// mechanism as it was named, for the answer to name it likewise.
func parseToken(token []byte) (id uint16, oid asn1.ObjectIdentifier, msg []byte, err error) {
	oid, inner, err := unframe(token)
	if err != nil {
		return 0, nil, nil, err
	}
	if !oid.Equal(OIDKrb5) && !oid.Equal(OIDMSKrb5) {
		return 0, nil, nil, fmt.Errorf("the token's mechanism is %s, not Kerberos", oid)
	}
	s := cryptobyte.String(inner)
	if !s.ReadUint16(&id) || s.Empty() {
		return 0, nil, nil, errFraming
	}
	switch id {
	case tokAPReq, tokAPRep, tokKRBError:
		return id, oid, s, nil
	}
	return 0, nil, nil, errFraming
}

func formatToken(id uint16, oid asn1.ObjectIdentifier, msg []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(framing, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		b.AddUint16(id)
		b.AddBytes(msg)
	})
	out, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("framing a token: %w", err)
	}
	if len(out) > MaxToken {
		return nil, fmt.Errorf("the token would be longer than %d bytes", MaxToken)
	}
	return out, nil
}
