package client

import (
	"errors"
	"net/netip"
	"time"

	"github.com/sekisho/sekisho/krb"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Tags of RFC 4120 §5.10.
const (
	appTicket    = 1
	appAuth      = 2
	appEncTicket = 3
	appASReq     = 10
	appASRep     = 11
	appTGSReq    = 12
	appTGSRep    = 13
	appAPReq     = 14
	appEncASRep  = 25
	appEncTGSRep = 26
	appError     = 30

	tagString = asn1.Tag(27) // GeneralString
)

const (
	version       = 5 // pvno
	maxNames      = 16
	maxPAData     = 32
	maxHosts      = 64
	maxLastReq    = 16
	maxEtypeInfos = 16
)

var errDER = errors.New("malformed")

// app is the tag [APPLICATION n], for n below 31.
func app(n int) asn1.Tag { return asn1.Tag(0x60 | n) }

func specific(n int) asn1.Tag { return asn1.Tag(n).ContextSpecific().Constructed() }

// der reads DER strictly. What is read after something did not fit is zero, and
// end reports it: so a whole structure is read without a look at each step.
type der struct {
	s   cryptobyte.String
	bad *bool
}

// open begins to read b, which must hold one value of the tag and nothing else, and
// in it a sequence.
func open(b []byte, tag asn1.Tag) der {
	d := der{cryptobyte.String(b), new(bool)}
	in := d.value(tag)
	d.whole()
	return in.seq()
}

func (d der) ok(good bool) bool {
	if !good {
		*d.bad = true
	}
	return !*d.bad
}

// whole notes that all must have been read.
func (d *der) whole() { d.ok(d.s.Empty()) }

// end is whole and err.
func (d *der) end() error {
	d.whole()
	return d.err()
}

// err says whether everything of the structure did fit.
func (d der) err() error {
	if *d.bad {
		return errDER
	}
	return nil
}

func (d *der) value(tag asn1.Tag) der {
	var in cryptobyte.String
	if !d.ok(d.s.ReadASN1(&in, tag)) {
		in = nil
	}
	return der{in, d.bad}
}

func (d *der) seq() der {
	in := d.value(asn1.SEQUENCE)
	d.whole()
	return in
}

// field is the inside of [n] EXPLICIT.
func (d *der) field(n int) der { return d.value(specific(n)) }

// has says whether [n] comes next.
func (d *der) has(n int) bool { return !*d.bad && d.s.PeekASN1Tag(specific(n)) }

func (d der) int64() int64 {
	var n int64
	if !d.ok(d.s.ReadASN1Integer(&n) && d.s.Empty()) {
		return 0
	}
	return n
}

// int32 is Int32 of RFC 4120 §5.2.4.
func (d der) int32() int32 {
	n := d.int64()
	if !d.ok(int64(int32(n)) == n) {
		return 0
	}
	return int32(n)
}

func (d der) is(want int64) { d.ok(d.int64() == want) }

func (d der) primitive(tag asn1.Tag) []byte {
	in := d.value(tag)
	d.whole()
	return []byte(in.s)
}

func (d der) octets() []byte { return d.primitive(asn1.OCTET_STRING) }

func (d der) text() string { return string(d.primitive(tagString)) }

// time is KerberosTime, to the second.
func (d der) time() time.Time {
	var t time.Time
	if !d.ok(d.s.ReadASN1GeneralizedTime(&t) && d.s.Empty()) {
		return time.Time{}
	}
	return t.UTC()
}

// flags are the first 32 bits of KerberosFlags.
func (d der) flags() uint32 {
	b := d.primitive(asn1.BIT_STRING)
	if !d.ok(len(b) >= 5 && b[0] < 8) {
		return 0
	}
	return uint32(b[1])<<24 | uint32(b[2])<<16 | uint32(b[3])<<8 | uint32(b[4])
}

// name is a PrincipalName. The caller compares it with one that is known to be good.
func (d der) name() []string {
	in := d.seq()
	typ := in.field(0)
	typ.int32()
	list := in.field(1)
	in.whole()
	var out []string
	for s := list.seq(); len(s.s) > 0 && s.ok(len(out) < maxNames); {
		c := s.value(tagString)
		out = append(out, string(c.s))
	}
	d.ok(len(out) > 0)
	return out
}

func (d der) key() krb.Key {
	in := d.seq()
	etype, value := in.field(0).int32(), in.field(1).octets()
	in.whole()
	k, err := krb.NewKey(etype, value)
	d.ok(err == nil)
	return k
}

// sealed is EncryptedData. The key version is not authenticated and not kept.
type sealed struct {
	etype  int32
	cipher []byte
}

func (d der) sealed() sealed {
	in := d.seq()
	s := sealed{etype: in.field(0).int32()}
	if in.has(1) {
		in.field(1).int64()
	}
	s.cipher = in.field(2).octets()
	in.whole()
	return s
}

// addresses are HostAddresses; those of other kinds than IP are invalid ones.
func (d der) addresses() []netip.Addr {
	var out []netip.Addr
	for s := d.seq(); len(s.s) > 0 && s.ok(len(out) < maxHosts); {
		in := s.value(asn1.SEQUENCE)
		typ, b := in.field(0).int32(), in.field(1).octets()
		in.whole()
		a, ok := netip.AddrFromSlice(b)
		if !ok || typ != addrType(a) {
			a = netip.Addr{}
		}
		out = append(out, a)
	}
	return out
}

// addrType is the number of RFC 4120 §7.5.3.
func addrType(a netip.Addr) int32 {
	if a.Is4() {
		return 2
	}
	return 24
}

// paData is one element of pre-authentication data.
type paData struct {
	typ   int32
	value []byte
}

func (d der) paData() []paData {
	var out []paData
	for s := d.seq(); len(s.s) > 0 && s.ok(len(out) < maxPAData); {
		in := s.value(asn1.SEQUENCE)
		out = append(out, paData{in.field(1).int32(), in.field(2).octets()})
		in.whole()
	}
	return out
}
