package accept

import (
	"encoding/binary"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Types of authorization data.
const (
	adIfRelevant    = 1   // RFC 4120 §5.2.6.1
	adFXFastArmor   = 71  // RFC 6113 §5.4.1.1
	adPAC           = 128 // MS-PAC
	adEtypes        = 129 // RFC 4537 §3
	adAPOptions     = 143 // MS-KILE §2.2.5
	optChannelBound = 0x4000
	maxETypes       = 32
)

// readAuthData refuses data that we must understand and do not: all that is not
// within AD-IF-RELEVANT (RFC 4120 §5.2.6), whether the client wrote it into the
// authenticator or the KDC into the ticket. It takes from the authenticator what
// a GSS acceptor wants to know.
func (got *Accepted) readAuthData(authn, ticket []authData) *Error {
	for _, d := range authn {
		inner, refused := relevant(d)
		if refused != nil {
			return refused
		}
		for _, e := range inner {
			switch e.kind {
			case adEtypes:
				got.ETypes = readETypes(e.value)
			case adAPOptions:
				got.ChannelBound = len(e.value) == 4 && binary.LittleEndian.Uint32(e.value)&optChannelBound != 0
			}
		}
	}
	for _, d := range ticket {
		if _, refused := relevant(d); refused != nil {
			return refused
		}
	}
	return nil
}

// relevant is what an AD-IF-RELEVANT holds.
func relevant(d authData) ([]authData, *Error) {
	if d.kind != adIfRelevant {
		return nil, refuse(NotAllowed, codePolicy, "authorization data of type %d must be understood, and is not", d.kind)
	}
	list, ok := typedList(d.value, maxAuthData)
	if !ok {
		return nil, refuse(Malformed, codeGeneric, "authorization data cannot be read")
	}
	for _, e := range list {
		if e.kind == adFXFastArmor {
			return nil, refuse(NotAllowed, codePolicy, "an authenticator that is only for FAST armour")
		}
	}
	return list, nil
}

// readETypes reads an EtypeList; what is wrong in it is no offer.
func readETypes(b []byte) (out []int32) {
	in, list := cryptobyte.String(b), cryptobyte.String(nil)
	if !in.ReadASN1(&list, asn1.SEQUENCE) || !in.Empty() {
		return nil
	}
	for range maxETypes {
		var v int64
		if list.Empty() {
			return out
		}
		if !list.ReadASN1Integer(&v) {
			return nil
		}
		if v >= 17 && v <= 20 {
			out = append(out, int32(v))
		}
	}
	return nil
}
