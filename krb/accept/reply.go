package accept

import (
	"encoding/binary"
	"time"

	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sekisho/sekisho/krb"
)

const (
	appAPRep    = 15
	appEncAPRep = 27
	appKRBError = 30
	msgAPRep    = 15
	msgKRBError = 30
)

// Reply makes the AP-REP (RFC 4120 §3.2.4), with our subkey, or nil for none,
// and our first sequence number.
func (a *Accepted) Reply(subkey *krb.Key, seq uint32) ([]byte, error) {
	var sub []byte
	if subkey != nil {
		sub = field(2, element(asn1.SEQUENCE, integer(0, int64(subkey.EType)), field(1, element(asn1.OCTET_STRING, subkey.Value))))
	}
	sealed, err := a.SessionKey.Encrypt(usageAPRep, message(appEncAPRep,
		kerberosTime(0, a.CTime), integer(1, int64(a.CTime.Nanosecond()/1000)), sub, integer(3, int64(seq))))
	if err != nil {
		return nil, err
	}
	return message(appAPRep, integer(0, pvno), integer(1, msgAPRep),
		field(2, element(asn1.SEQUENCE, integer(0, int64(a.SessionKey.EType)), field(2, element(asn1.OCTET_STRING, sealed))))), nil
}

// KRBError is the KRB-ERROR message for the peer (RFC 4120 §5.9.1), DER: the
// code, our time and our name, and nothing of the cause.
func (e *Error) KRBError() []byte {
	var parts [][]byte
	for _, c := range e.Server.Components {
		parts = append(parts, element(tagGeneralString, []byte(c)))
	}
	name := element(asn1.SEQUENCE, integer(0, int64(e.Server.Name().NameType)), field(1, element(asn1.SEQUENCE, parts...)))
	return message(appKRBError, integer(0, pvno), integer(1, msgKRBError),
		kerberosTime(4, e.stime), integer(5, int64(e.stime.Nanosecond()/1000)), integer(6, int64(e.Code)),
		field(9, element(tagGeneralString, []byte(e.Server.Realm))), field(10, name))
}

// What the answers are built of, DER: [APPLICATION n] SEQUENCE of fields with
// explicit tags (RFC 4120 §5.1). None is longer than 64 KB.

func message(n uint8, fields ...[]byte) []byte {
	return element(asn1.Tag(0x60|n), element(asn1.SEQUENCE, fields...))
}

func field(n uint8, value []byte) []byte {
	return element(asn1.Tag(n).ContextSpecific().Constructed(), value)
}

// integer is a field of a number that is not negative.
func integer(n uint8, v int64) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(v))
	for len(b) > 1 && b[0] == 0 && b[1] < 0x80 {
		b = b[1:]
	}
	return field(n, element(asn1.INTEGER, b))
}

func kerberosTime(n uint8, t time.Time) []byte {
	return field(n, element(asn1.GeneralizedTime, t.UTC().AppendFormat(nil, "20060102150405Z")))
}

func element(tag asn1.Tag, parts ...[]byte) []byte {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	out := make([]byte, 0, 4+size)
	switch {
	case size < 0x80:
		out = append(out, byte(tag), byte(size))
	case size < 0x100:
		out = append(out, byte(tag), 0x81, byte(size))
	default:
		out = append(out, byte(tag), 0x82, byte(size>>8), byte(size))
	}
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
