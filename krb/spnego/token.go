package spnego

import (
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/sekisho/sekisho/krb/gss"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var oidSPNEGO = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 2}

// maxMechs bounds the list of mechanisms.
const maxMechs = 32

// negState of RFC 4178 §4.2.2.
type negState int

const (
	acceptCompleted negState = iota
	acceptIncomplete
	reject
	requestMIC
	// noState is a field that was left out.
	noState negState = -1
)

var errToken = errors.New("not a SPNEGO token (RFC 4178 §4.2)")

// initToken is NegTokenInit. Its reqFlags are not protected and not looked at.
type initToken struct {
	mechs []asn1.ObjectIdentifier
	// list is mechs as encoded, which a mechListMIC is made over.
	list []byte
	mech []byte // mechToken, nil for none
	mic  []byte // mechListMIC, nil for none
}

// respToken is NegTokenResp.
type respToken struct {
	state negState
	mech  asn1.ObjectIdentifier // supportedMech, nil for none
	token []byte                // responseToken, nil for none
	mic   []byte                // mechListMIC, nil for none
}

func explicit(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }

// octets takes an optional OCTET STRING that is [n].
func octets(s *cryptobyte.String, n uint8) (v []byte, ok bool) {
	var in, o cryptobyte.String
	var there bool
	if !s.ReadOptionalASN1(&in, &there, explicit(n)) {
		return nil, false
	}
	if !there {
		return nil, true
	}
	return o, in.ReadASN1(&o, cbasn1.OCTET_STRING) && in.Empty() && len(o) > 0
}

// parseInit reads a NegTokenInit with the framing of RFC 2743 §3.1.
func parseInit(token []byte) (initToken, error) {
	var t initToken
	if len(token) > gss.MaxToken {
		return t, fmt.Errorf("the token is longer than %d bytes", gss.MaxToken)
	}
	s := cryptobyte.String(token)
	var body, choice, seq cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !s.ReadASN1(&body, 0x60) || !s.Empty() || !body.ReadASN1ObjectIdentifier(&oid) || !oid.Equal(oidSPNEGO) ||
		!body.ReadASN1(&choice, explicit(0)) || !body.Empty() || !choice.ReadASN1(&seq, cbasn1.SEQUENCE) || !choice.Empty() {
		return initToken{}, errToken
	}
	var field, element, list, flags cryptobyte.String
	if !seq.ReadASN1(&field, explicit(0)) || !field.ReadASN1Element(&element, cbasn1.SEQUENCE) || !field.Empty() {
		return initToken{}, errToken
	}
	t.list = element
	if !element.ReadASN1(&list, cbasn1.SEQUENCE) || list.Empty() {
		return initToken{}, errToken
	}
	for !list.Empty() {
		var oid asn1.ObjectIdentifier
		if len(t.mechs) == maxMechs || !list.ReadASN1ObjectIdentifier(&oid) {
			return initToken{}, errToken
		}
		t.mechs = append(t.mechs, oid)
	}
	ok1 := seq.ReadOptionalASN1(&flags, nil, explicit(1))
	var ok2, ok3 bool
	t.mech, ok2 = octets(&seq, 2)
	t.mic, ok3 = octets(&seq, 3)
	if !ok1 || !ok2 || !ok3 || !seq.Empty() {
		return initToken{}, errToken
	}
	return t, nil
}

func formatMechs(mechs []asn1.ObjectIdentifier) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, m := range mechs {
			b.AddASN1ObjectIdentifier(m)
		}
	})
	return b.Bytes()
}

func addOctets(b *cryptobyte.Builder, n uint8, v []byte) {
	if v != nil {
		b.AddASN1(explicit(n), func(b *cryptobyte.Builder) { b.AddASN1OctetString(v) })
	}
}

// format writes list, mech and mic.
func (t initToken) format() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(0x60, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidSPNEGO)
		b.AddASN1(explicit(0), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddBytes(t.list) })
				addOctets(b, 2, t.mech)
				addOctets(b, 3, t.mic)
			})
		})
	})
	return b.Bytes()
}

// parseResp reads a NegTokenResp, which has no framing.
func parseResp(token []byte) (respToken, error) {
	t := respToken{state: noState}
	if len(token) > gss.MaxToken {
		return t, fmt.Errorf("the token is longer than %d bytes", gss.MaxToken)
	}
	bad := respToken{state: noState}
	s := cryptobyte.String(token)
	var choice, seq, field cryptobyte.String
	if !s.ReadASN1(&choice, explicit(1)) || !s.Empty() || !choice.ReadASN1(&seq, cbasn1.SEQUENCE) || !choice.Empty() {
		return bad, errToken
	}
	var there bool
	if !seq.ReadOptionalASN1(&field, &there, explicit(0)) {
		return bad, errToken
	}
	if there {
		var n int
		if !field.ReadASN1Enum(&n) || !field.Empty() || n < int(acceptCompleted) || n > int(requestMIC) {
			return bad, errToken
		}
		t.state = negState(n)
	}
	if !seq.ReadOptionalASN1(&field, &there, explicit(1)) ||
		there && (!field.ReadASN1ObjectIdentifier(&t.mech) || !field.Empty()) {
		return bad, errToken
	}
	var ok1, ok2 bool
	t.token, ok1 = octets(&seq, 2)
	t.mic, ok2 = octets(&seq, 3)
	if !ok1 || !ok2 || !seq.Empty() {
		return bad, errToken
	}
	return t, nil
}

func (t respToken) format() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(explicit(1), func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			if t.state != noState {
				b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1Enum(int64(t.state)) })
			}
			if t.mech != nil {
				b.AddASN1(explicit(1), func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(t.mech) })
			}
			addOctets(b, 2, t.token)
			addOctets(b, 3, t.mic)
		})
	})
	return b.Bytes()
}
