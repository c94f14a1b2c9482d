package der

import (
	encasn1 "encoding/asn1"
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sekisho/sekisho/krb"
)

// Limits of lists. A name has no more components than krb takes.
const (
	MaxName      = 8
	MaxAddresses = 64
	MaxAuthData  = 64
)

const tagGeneralString = asn1.Tag(27)

// ErrMalformed says that bytes are not what they should be.
var ErrMalformed = errors.New("malformed")

// Reader reads a value, or the fields of one, in their order. All readers that were
// got from one share its state: once something is wrong all give zeros, and Err
// and Done report it, so that a whole message is read without a look at each step.
//
// Methods that read a field or an element take it off the reader. Those that read a
// value, from Seq on, have it be all of the reader, which stays as it is.
type Reader struct {
	s   cryptobyte.String
	bad *bool
}

// NewReader reads b, which it does not copy.
func NewReader(b []byte) Reader { return Reader{b, new(bool)} }

// Open reads the fields of a message that is all of b: [APPLICATION n] SEQUENCE.
func Open(b []byte, n int) Reader { return NewReader(b).App(n) }

// Is reports whether b claims to be [APPLICATION n].
func Is(b []byte, n int) bool { return len(b) > 0 && b[0] == byte(application(n)) }

func application(n int) asn1.Tag { return asn1.Tag(0x60 | n) }
func explicit(n int) asn1.Tag    { return asn1.Tag(n).ContextSpecific().Constructed() }

// Must notes a further condition.
func (r Reader) Must(good bool) bool {
	if !good {
		*r.bad = true
	}
	return !*r.bad
}

// End notes that all must have been read by now.
func (r Reader) End() { r.Must(r.s.Empty()) }

// Err is ErrMalformed if anything was wrong so far, or nil.
func (r Reader) Err() error {
	if *r.bad {
		return ErrMalformed
	}
	return nil
}

// Done is End and Err, for the reader of a whole message.
func (r Reader) Done() error {
	r.End()
	return r.Err()
}

// Rest is what has not been read yet, as it stands.
func (r Reader) Rest() []byte {
	if *r.bad {
		return nil
	}
	return r.s
}

func (r *Reader) value(tag asn1.Tag) Reader {
	var in cryptobyte.String
	if *r.bad || !r.s.ReadASN1(&in, tag) {
		*r.bad, in = true, nil
	}
	return Reader{in, r.bad}
}

// whole is the inside of a value that is all of r.
func (r Reader) whole(tag asn1.Tag) Reader {
	in := r.value(tag)
	r.End()
	return in
}

// Field takes [n] EXPLICIT and reads its inside.
func (r *Reader) Field(n int) Reader { return r.value(explicit(n)) }

// Has reports whether [n] comes next.
func (r Reader) Has(n int) bool { return !*r.bad && r.s.PeekASN1Tag(explicit(n)) }

// More reports whether a list goes on; n elements were read, and most may be.
func (r Reader) More(n, most int) bool { return !*r.bad && !r.s.Empty() && r.Must(n < most) }

// Element takes a SEQUENCE off a list and reads its fields.
func (r *Reader) Element() Reader { return r.value(asn1.SEQUENCE) }

// Message takes [APPLICATION n] off a list, with its tag and length.
func (r *Reader) Message(n int) []byte {
	var out cryptobyte.String
	if *r.bad || !r.s.ReadASN1Element(&out, application(n)) {
		*r.bad = true
		return nil
	}
	return out
}

// NextInt32 takes an Int32 off a list.
func (r *Reader) NextInt32() int32 {
	var v int64
	if *r.bad || !r.s.ReadASN1Integer(&v) || int64(int32(v)) != v {
		*r.bad = true
		return 0
	}
	return int32(v)
}

// Seq reads the fields or elements of a SEQUENCE.
func (r Reader) Seq() Reader { return r.whole(asn1.SEQUENCE) }

// App reads the fields of [APPLICATION n] SEQUENCE.
func (r Reader) App(n int) Reader { return r.whole(application(n)).Seq() }

// Int is an INTEGER within lo and hi.
func (r Reader) Int(lo, hi int64) int64 {
	var v int64
	if *r.bad || !r.s.ReadASN1Integer(&v) || !r.s.Empty() || v < lo || v > hi {
		*r.bad = true
		return 0
	}
	return v
}

// Is notes that an INTEGER must have a value, as pvno and msg-type.
func (r Reader) Is(v int64) { r.Int(v, v) }

// Int32 is an Int32 (RFC 4120 §5.2.4).
func (r Reader) Int32() int32 { return int32(r.Int(math.MinInt32, math.MaxInt32)) }

// Uint32 is a UInt32 (RFC 4120 §5.2.4): a sequence number, a nonce, a key version.
// Older programs send the same 32 bits with a sign (§5.5.1, of sequence numbers).
func (r Reader) Uint32() uint32 { return uint32(r.Int(math.MinInt32, math.MaxUint32)) }

// Microseconds is a part of a second (RFC 4120 §5.2.4).
func (r Reader) Microseconds() time.Duration {
	return time.Duration(r.Int(0, 999_999)) * time.Microsecond
}

// Octets is an OCTET STRING; it is part of what is read, not a copy. It is nil only
// if something was wrong.
func (r Reader) Octets() []byte {
	b := r.whole(asn1.OCTET_STRING)
	if *r.bad {
		return nil
	}
	if b.s == nil {
		return []byte{}
	}
	return b.s
}

// Text is a KerberosString (RFC 4120 §5.2.1), of any bytes.
func (r Reader) Text() string { return string(r.whole(tagGeneralString).s) }

// Time is a KerberosTime: to the second, in UTC (RFC 4120 §5.2.3). It lies between
// 1970 and 2106, for that is what others read right.
func (r Reader) Time() time.Time {
	b := r.whole(asn1.GeneralizedTime).s
	if *r.bad || len(b) != len("20060102150405Z") || b[14] != 'Z' {
		*r.bad = true
		return time.Time{}
	}
	var pair [7]int // 20 06 01 02 15 04 05
	for i := range 14 {
		if b[i] < '0' || b[i] > '9' {
			*r.bad = true
			return time.Time{}
		}
		pair[i/2] = pair[i/2]*10 + int(b[i]-'0')
	}
	year, month, day := 100*pair[0]+pair[1], time.Month(pair[2]), pair[3]
	t := time.Date(year, month, day, pair[4], pair[5], pair[6], 0, time.UTC)
	// Date takes the 32nd for the 1st of the next month.
	if t.Month() != month || t.Day() != day || pair[4] > 23 || pair[5] > 59 || pair[6] > 59 ||
		t.Unix() < 0 || t.Unix() > math.MaxUint32 {
		*r.bad = true
		return time.Time{}
	}
	return t
}

// Flags are KerberosFlags, the first in the highest bit. There are at least 32; those
// after have no meaning (RFC 4120 §5.2.8).
func (r Reader) Flags() uint32 {
	var bits encasn1.BitString
	if *r.bad || !r.s.ReadASN1BitString(&bits) || !r.s.Empty() || bits.BitLength < 32 {
		*r.bad = true
		return 0
	}
	return binary.BigEndian.Uint32(bits.Bytes)
}

// Name are the components of a PrincipalName (RFC 4120 §5.2.2): at most 8, maybe
// none, and not nil unless something was wrong. The type of a name has no meaning (§6.2).
func (r Reader) Name() []string {
	in := r.Seq()
	in.Field(0).Int32()
	list := in.Field(1).Seq()
	in.End()
	out := make([]string, 0, 2)
	for list.More(len(out), MaxName) {
		out = append(out, string(list.value(tagGeneralString).s))
	}
	if *r.bad {
		return nil
	}
	return out
}

// Principal takes the realm as [n] and the name as [n+1]. Neither is checked.
func (r *Reader) Principal(n int) krb.Principal {
	p := krb.Principal{Realm: r.Field(n).Text()}
	p.Components = r.Field(n + 1).Name()
	return p
}

// Typed is a value with its type: a checksum, a key, an address, an entry of
// authorization data (RFC 4120 §5.2.5 to §5.2.9) or of pre-authentication data.
type Typed struct {
	Type  int32
	Value []byte
}

// Typed is SEQUENCE { [0] Int32, [1] OCTET STRING }.
func (r Reader) Typed() Typed { return r.Seq().typed(0) }

func (r Reader) typed(n int) Typed {
	t := Typed{Type: r.Field(n).Int32()}
	t.Value = r.Field(n + 1).Octets()
	r.End()
	return t
}

func (r Reader) list(n, most int) (out []Typed) {
	for list := r.Seq(); list.More(len(out), most); {
		out = append(out, list.Element().typed(n))
	}
	if *r.bad {
		return nil
	}
	return out
}

// AuthData is AuthorizationData (RFC 4120 §5.2.6), of at most 64 entries.
func (r Reader) AuthData() []Typed { return r.list(0, MaxAuthData) }

// PAData is METHOD-DATA or another SEQUENCE OF PA-DATA (RFC 4120 §5.2.7), whose
// tags begin with 1.
func (r Reader) PAData(most int) []Typed { return r.list(1, most) }

// Addresses are HostAddresses (RFC 4120 §5.2.5), at most 64. One that is no IP
// address is the invalid netip.Addr: a list of such must not look like an empty one,
// which means any address.
func (r Reader) Addresses() []netip.Addr {
	var out []netip.Addr
	for _, t := range r.list(0, MaxAddresses) {
		a, ok := netip.AddrFromSlice(t.Value)
		if !ok || t.Type != addressType(a) {
			a = netip.Addr{}
		}
		out = append(out, a.Unmap())
	}
	return out
}

// addressType is the number of RFC 4120 §7.5.3.
func addressType(a netip.Addr) int32 {
	if a.Is4() {
		return 2
	}
	return 24
}

// Key is an EncryptionKey (RFC 4120 §5.2.9) of a type that krb takes.
func (r Reader) Key() krb.Key {
	t := r.Typed()
	k, err := krb.NewKey(t.Type, t.Value)
	r.Must(err == nil)
	return k
}

// Sealed is EncryptedData (RFC 4120 §5.2.9).
type Sealed struct {
	EType int32
	// KVNO is -1 when there is none. It is not authenticated.
	KVNO   int64
	Cipher []byte
}

// Sealed is EncryptedData.
func (r Reader) Sealed() Sealed {
	in := r.Seq()
	s := Sealed{EType: in.Field(0).Int32(), KVNO: -1}
	if in.Has(1) {
		s.KVNO = int64(in.Field(1).Uint32())
	}
	s.Cipher = in.Field(2).Octets()
	in.End()
	return s
}
