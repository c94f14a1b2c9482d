package accept

import (
	"encoding/binary"

	"github.com/sekisho/sekisho/krb/der"
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
func (got *Accepted) readAuthData(authn, ticket []der.Typed) *Error {
	for _, d := range authn {
		inner, refused := relevant(d)
		if refused != nil {
			return refused
		}
		for _, e := range inner {
			switch e.Type {
			case adEtypes:
				got.ETypes = readETypes(e.Value)
			case adAPOptions:
				got.ChannelBound = len(e.Value) == 4 && binary.LittleEndian.Uint32(e.Value)&optChannelBound != 0
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
func relevant(d der.Typed) ([]der.Typed, *Error) {
	if d.Type != adIfRelevant {
		return nil, refuse(NotAllowed, codePolicy, "authorization data of type %d must be understood, and is not", d.Type)
	}
	r := der.NewReader(d.Value)
	list := r.AuthData()
	if r.Err() != nil {
		return nil, refuse(Malformed, codeGeneric, "authorization data cannot be read")
	}
	for _, e := range list {
		if e.Type == adFXFastArmor {
			return nil, refuse(NotAllowed, codePolicy, "an authenticator that is only for FAST armour")
		}
	}
	return list, nil
}

// readETypes reads an EtypeList; what is wrong in it is no offer.
func readETypes(b []byte) (out []int32) {
	list := der.NewReader(b).Seq()
	for n := 0; list.More(n, maxETypes); n++ {
		if v := list.NextInt32(); v >= 17 && v <= 20 {
			out = append(out, v)
		}
	}
	if list.Done() != nil {
		return nil
	}
	return out
}
