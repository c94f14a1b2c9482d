package accept

import (
	encasn1 "encoding/asn1"
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/jcmturner/gokrb5/v8/types"
)

// The messages of RFC 4120 that come from the peer, read strictly: DER, each
// field in its place, nothing left over. gokrb5's codec is not used here: it
// drops what follows a message or a SEQUENCE, and cannot tell a missing field
// from one that is zero.

// Limits of one message. A ticket with a PAC of a large directory has some 20 KB.
const (
	maxMessage   = 64 << 10
	maxAddresses = 64
	maxAuthData  = 64
	maxName      = 8
)

const (
	appTicket        = 1
	appAuthenticator = 2
	appEncTicketPart = 3
	appAPReq         = 14

	msgAPReq = 14
	pvno     = 5

	trX500 = 1 // DOMAIN-X500-COMPRESS, RFC 4120 §3.3.3.2

	tagGeneralString = asn1.Tag(27)
)

type apReq struct {
	options       uint32
	realm         string
	sname         types.PrincipalName
	ticket, authn encrypted
}

type encrypted struct {
	etype int32
	// kvno is -1 when there is none.
	kvno   int64
	cipher []byte
}

type encTicket struct {
	flags            uint32
	keyType          int32
	keyValue         []byte
	crealm           string
	cname            types.PrincipalName
	transited        []byte
	auth, start, end time.Time
	renewTill        time.Time
	addresses        []netip.Addr
	hasAddresses     bool
	data             []authData
}

type authenticator struct {
	crealm   string
	cname    types.PrincipalName
	checksum Checksum
	cusec    int
	ctime    time.Time
	keyType  int32
	keyValue []byte // nil: no subkey
	seq      uint32
	data     []authData
}

type authData struct {
	kind  int32
	value []byte
}

// seq is a SEQUENCE of fields with explicit tags, read in order. Once something
// is wrong it is bad and gives zeros.
type seq struct {
	in  cryptobyte.String
	bad bool
}

// application opens [APPLICATION n] SEQUENCE that fills b.
func application(b []byte, n uint8) seq {
	in, body := cryptobyte.String(b), cryptobyte.String(nil)
	if !in.ReadASN1(&body, asn1.Tag(0x60|n)) || !in.Empty() {
		return seq{bad: true}
	}
	return sequence(body)
}

// sequence opens a SEQUENCE that fills in.
func sequence(in cryptobyte.String) seq {
	var s seq
	s.bad = !in.ReadASN1(&s.in, asn1.SEQUENCE) || !in.Empty()
	return s
}

// end reports whether all was well and nothing is left.
func (s *seq) end() bool { return !s.bad && s.in.Empty() }

func (s *seq) field(n uint8) (out cryptobyte.String) {
	if s.bad || !s.in.ReadASN1(&out, asn1.Tag(n).ContextSpecific().Constructed()) {
		s.bad = true
		return nil
	}
	return out
}

func (s *seq) has(n uint8) bool {
	return !s.bad && s.in.PeekASN1Tag(asn1.Tag(n).ContextSpecific().Constructed())
}

// integer reads an INTEGER within lo and hi.
func (s *seq) integer(n uint8, lo, hi int64) int64 {
	var v int64
	f := s.field(n)
	if s.bad || !f.ReadASN1Integer(&v) || !f.Empty() || v < lo || v > hi {
		s.bad = true
		return 0
	}
	return v
}

func (s *seq) int32(n uint8) int32 { return int32(s.integer(n, -1<<31, 1<<31-1)) }

// uint32 also takes what older programs send: the same 32 bits with a sign.
func (s *seq) uint32(n uint8) uint32 { return uint32(s.integer(n, -1<<31, 1<<32-1)) }

func (s *seq) bytes(n uint8, tag asn1.Tag) []byte {
	var v cryptobyte.String
	f := s.field(n)
	if s.bad || !f.ReadASN1(&v, tag) || !f.Empty() {
		s.bad = true
		return nil
	}
	return v
}

func (s *seq) octets(n uint8) []byte  { return s.bytes(n, asn1.OCTET_STRING) }
func (s *seq) general(n uint8) string { return string(s.bytes(n, tagGeneralString)) }

// time reads a KerberosTime: to the second, in UTC (RFC 4120 §5.2.3). It lies
// between 1970 and 2106, for that is what others read right.
func (s *seq) time(n uint8) time.Time {
	b := s.bytes(n, asn1.GeneralizedTime)
	if s.bad || len(b) != len("20060102150405Z") || b[14] != 'Z' {
		s.bad = true
		return time.Time{}
	}
	var pair [7]int // 20 06 01 02 15 04 05
	for i := range 14 {
		if b[i] < '0' || b[i] > '9' {
			s.bad = true
			return time.Time{}
		}
		pair[i/2] = pair[i/2]*10 + int(b[i]-'0')
	}
	year, month, day := 100*pair[0]+pair[1], time.Month(pair[2]), pair[3]
	t := time.Date(year, month, day, pair[4], pair[5], pair[6], 0, time.UTC)
	// Date takes the 32nd for the 1st of the next month.
	s.bad = t.Month() != month || t.Day() != day || pair[4] > 23 || pair[5] > 59 || pair[6] > 59 ||
		t.Unix() < 0 || t.Unix() > math.MaxUint32
	return t
}

// flags reads KerberosFlags, the first in the highest bit. There are at least 32;
// those after have no meaning (RFC 4120 §5.2.8).
func (s *seq) flags(n uint8) uint32 {
	var bits encasn1.BitString
	f := s.field(n)
	if s.bad || !f.ReadASN1BitString(&bits) || !f.Empty() || bits.BitLength < 32 {
		s.bad = true
		return 0
	}
	return binary.BigEndian.Uint32(bits.Bytes)
}

func (s *seq) name(n uint8) (p types.PrincipalName) {
	in := sequence(s.field(n))
	p.NameType = in.int32(0)
	list := sequence(in.field(1))
	for !list.bad && !list.in.Empty() && len(p.NameString) < maxName {
		var v cryptobyte.String
		list.bad = !list.in.ReadASN1(&v, tagGeneralString)
		p.NameString = append(p.NameString, string(v))
	}
	if !list.end() || !in.end() {
		s.bad = true
	}
	return p
}

// typed reads SEQUENCE { [0] Int32, [1] OCTET STRING }, the form of keys,
// checksums, addresses and authorization data.
func typed(in cryptobyte.String) (kind int32, value []byte, ok bool) {
	s := sequence(in)
	kind, value = s.int32(0), s.octets(1)
	return kind, value, s.end()
}

func (s *seq) typed(n uint8) (int32, []byte) {
	f := s.field(n)
	if s.bad {
		return 0, nil
	}
	kind, value, ok := typed(f)
	s.bad = !ok
	return kind, value
}

func (s *seq) encrypted(n uint8) encrypted {
	in := sequence(s.field(n))
	e := encrypted{etype: in.int32(0), kvno: -1}
	if in.has(1) {
		e.kvno = int64(in.uint32(1))
	}
	e.cipher = in.octets(2)
	if !in.end() {
		s.bad = true
	}
	return e
}

// typedList reads SEQUENCE OF typed.
func typedList(b []byte, most int) (list []authData, ok bool) {
	s := sequence(b)
	for !s.bad && !s.in.Empty() {
		var element cryptobyte.String
		if len(list) == most || !s.in.ReadASN1Element(&element, asn1.SEQUENCE) {
			return nil, false
		}
		kind, value, ok := typed(element)
		if !ok {
			return nil, false
		}
		list = append(list, authData{kind, value})
	}
	return list, s.end()
}

func (s *seq) typedList(n uint8, most int) []authData {
	f := s.field(n)
	if s.bad {
		return nil
	}
	list, ok := typedList(f, most)
	s.bad = !ok
	return list
}

// parseAPReq reads an AP-REQ (RFC 4120 §5.5.1) with its Ticket (§5.3).
func parseAPReq(b []byte) (m apReq, ok bool) {
	if len(b) > maxMessage {
		return apReq{}, false
	}
	s := application(b, appAPReq)
	s.integer(0, pvno, pvno)
	s.integer(1, msgAPReq, msgAPReq)
	m.options = s.flags(2)
	t := application(s.field(3), appTicket)
	t.integer(0, pvno, pvno)
	m.realm, m.sname, m.ticket = t.general(1), t.name(2), t.encrypted(3)
	m.authn = s.encrypted(4)
	return m, t.end() && s.end()
}

// parseEncTicket reads an EncTicketPart (RFC 4120 §5.3).
func parseEncTicket(b []byte) (t encTicket, ok bool) {
	s := application(b, appEncTicketPart)
	t.flags = s.flags(0)
	t.keyType, t.keyValue = s.typed(1)
	t.crealm, t.cname = s.general(2), s.name(3)
	var encoding int32
	encoding, t.transited = s.typed(4)
	if encoding != trX500 && (encoding != 0 || len(t.transited) > 0) {
		s.bad = true
	}
	t.auth = s.time(5)
	t.start = t.auth
	if s.has(6) {
		t.start = s.time(6)
	}
	t.end = s.time(7)
	if s.has(8) {
		t.renewTill = s.time(8)
	}
	if s.has(9) {
		list := s.typedList(9, maxAddresses)
		t.hasAddresses = len(list) > 0
		for _, a := range list {
			if addr, ok := address(a); ok {
				t.addresses = append(t.addresses, addr)
			}
		}
	}
	if s.has(10) {
		t.data = s.typedList(10, maxAuthData)
	}
	return t, s.end()
}

// address is a HostAddress of IPv4 or IPv6 (RFC 4120 §7.5.3).
func address(a authData) (netip.Addr, bool) {
	addr, ok := netip.AddrFromSlice(a.value)
	if !ok || a.kind != 2 && a.kind != 24 || (a.kind == 2) != addr.Is4() {
		return netip.Addr{}, false
	}
	return addr.Unmap(), true
}

// parseAuthenticator reads an Authenticator (RFC 4120 §5.5.1).
func parseAuthenticator(b []byte) (a authenticator, ok bool) {
	s := application(b, appAuthenticator)
	s.integer(0, pvno, pvno)
	a.crealm, a.cname = s.general(1), s.name(2)
	if s.has(3) {
		a.checksum.Type, a.checksum.Value = s.typed(3)
		s.bad = s.bad || a.checksum.Type == 0
	}
	a.cusec = int(s.integer(4, 0, 999999))
	a.ctime = s.time(5)
	if s.has(6) {
		a.keyType, a.keyValue = s.typed(6)
		if a.keyValue == nil {
			a.keyValue = []byte{}
		}
	}
	if s.has(7) {
		a.seq = s.uint32(7)
	}
	if s.has(8) {
		a.data = s.typedList(8, maxAuthData)
	}
	return a, s.end()
}
