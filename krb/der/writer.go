package der

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sekisho/sekisho/krb"
)

// The writers give encoded values, which are put into others. Times must lie in the
// years 0 to 9999.

// App is a message: [APPLICATION n] SEQUENCE of fields. A nil field is left out.
func App(n int, fields ...[]byte) []byte { return element(application(n), Seq(fields...)) }

// Field is [n] EXPLICIT.
func Field(n int, value []byte) []byte { return element(explicit(n), value) }

// Seq is a SEQUENCE of fields or elements. A nil one is left out.
func Seq(parts ...[]byte) []byte { return element(asn1.SEQUENCE, parts...) }

// Int is an INTEGER.
func Int(v int64) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(v))
	for len(b) > 1 && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80) {
		b = b[1:]
	}
	return element(asn1.INTEGER, b)
}

// Octets is an OCTET STRING.
func Octets(b []byte) []byte { return element(asn1.OCTET_STRING, b) }

// Text is a KerberosString (RFC 4120 §5.2.1).
func Text(s string) []byte { return element(tagGeneralString, []byte(s)) }

// Time is a KerberosTime (RFC 4120 §5.2.3); what is below the second is cut off.
func Time(t time.Time) []byte {
	return element(asn1.GeneralizedTime, t.UTC().AppendFormat(nil, "20060102150405Z"))
}

// Microseconds is what Time cuts off (RFC 4120 §5.2.4).
func Microseconds(t time.Time) []byte { return Int(int64(t.Nanosecond() / 1000)) }

// Flags are KerberosFlags (RFC 4120 §5.2.8), 32 of them.
func Flags(f uint32) []byte {
	return element(asn1.BIT_STRING, binary.BigEndian.AppendUint32([]byte{0}, f))
}

// Name is a PrincipalName (RFC 4120 §5.2.2).
func Name(p krb.Principal) []byte {
	var parts [][]byte
	for _, c := range p.Components {
		parts = append(parts, Text(c))
	}
	return Seq(Field(0, Int(int64(p.Name().NameType))), Field(1, Seq(parts...)))
}

// Value is SEQUENCE { [0] Int32, [1] OCTET STRING }: see [Typed].
func Value(t Typed) []byte {
	return Seq(Field(0, Int(int64(t.Type))), Field(1, Octets(t.Value)))
}

// PAData is SEQUENCE OF PA-DATA (RFC 4120 §5.2.7).
func PAData(list []Typed) []byte {
	var parts [][]byte
	for _, t := range list {
		parts = append(parts, Seq(Field(1, Int(int64(t.Type))), Field(2, Octets(t.Value))))
	}
	return Seq(parts...)
}

// Address is a HostAddress (RFC 4120 §5.2.5).
func Address(a netip.Addr) []byte {
	a = a.Unmap()
	return Value(Typed{addressType(a), a.AsSlice()})
}

// Addresses are HostAddresses (RFC 4120 §5.2.5).
func Addresses(list []netip.Addr) []byte {
	var parts [][]byte
	for _, a := range list {
		parts = append(parts, Address(a))
	}
	return Seq(parts...)
}

// Key is an EncryptionKey (RFC 4120 §5.2.9).
func Key(k krb.Key) []byte { return Value(Typed{k.EType, k.Value}) }

// Seal is EncryptedData (RFC 4120 §5.2.9) of plain, without a key version.
func Seal(k krb.Key, usage uint32, plain []byte) ([]byte, error) {
	c, err := k.Encrypt(usage, plain)
	if err != nil {
		return nil, err
	}
	return Seq(Field(0, Int(int64(k.EType))), Field(2, Octets(c))), nil
}

func element(tag asn1.Tag, parts ...[]byte) []byte {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	out := make([]byte, 0, 6+size)
	out = append(out, byte(tag))
	if size < 0x80 {
		out = append(out, byte(size))
	} else {
		n := binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(size))
		for n[0] == 0 {
			n = n[1:]
		}
		out = append(append(out, 0x80|byte(len(n))), n...)
	}
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
