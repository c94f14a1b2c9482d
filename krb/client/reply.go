package client

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/sekisho/sekisho/krb"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Message types, RFC 4120 §7.5.7.
const (
	msgASReq  = 10
	msgASRep  = 11
	msgTGSReq = 12
	msgTGSRep = 13
	msgAPReq  = 14
	msgError  = 30
)

// kdcRep is KDC-REP (RFC 4120 §5.4.2). Only what is in sealed is authenticated.
type kdcRep struct {
	pa     []paData
	crealm string
	cname  []string
	raw    []byte // the ticket, DER
	ticket ticket
	part   sealed
}

// ticket is Ticket (RFC 4120 §5.3).
type ticket struct {
	realm string
	sname []string
	part  sealed
}

// parseKDCRep reads an AS-REP or TGS-REP, tag and msgType being its numbers.
func parseKDCRep(b []byte, tag, msgType int) (kdcRep, error) {
	if len(b) > maxReply {
		return kdcRep{}, errDER
	}
	d := open(b, app(tag))
	d.field(0).is(version)
	d.field(1).is(int64(msgType))
	var r kdcRep
	if d.has(2) {
		r.pa = d.field(2).paData()
	}
	r.crealm, r.cname = d.field(3).text(), d.field(4).name()
	t := d.field(5)
	r.raw = []byte(t.s)
	r.part = d.field(6).sealed()
	if err := d.end(); err != nil {
		return kdcRep{}, fmt.Errorf("the reply is %w", err)
	}
	var err error
	if r.ticket, err = parseTicket(r.raw); err != nil {
		return kdcRep{}, err
	}
	return r, nil
}

func parseTicket(b []byte) (ticket, error) {
	d := open(b, app(appTicket))
	d.field(0).is(version)
	t := ticket{realm: d.field(1).text(), sname: d.field(2).name(), part: d.field(3).sealed()}
	if err := d.end(); err != nil {
		return ticket{}, fmt.Errorf("the ticket is %w", err)
	}
	return t, nil
}

// repPart is EncKDCRepPart (RFC 4120 §5.4.2).
type repPart struct {
	key                         krb.Key
	nonce                       int64
	flags                       krb.TicketFlags
	auth, start, end, renewTill time.Time // start is auth when there is none
	srealm                      string
	sname                       []string
	addrs                       []netip.Addr
}

// parseRepPart takes the tag of an AS-REP in a TGS-REP too and the other way round,
// for there are KDCs that use one for both (RFC 4120 §5.4.2).
func parseRepPart(b []byte) (repPart, error) {
	tag := app(appEncTGSRep)
	if s := cryptobyte.String(b); s.PeekASN1Tag(app(appEncASRep)) {
		tag = app(appEncASRep)
	}
	d := open(b, tag)
	var p repPart
	p.key = d.field(0).key()
	n := 0
	last := d.field(1)
	for s := last.seq(); len(s.s) > 0 && s.ok(n < maxLastReq); n++ {
		in := s.value(asn1.SEQUENCE)
		in.field(0).int32()
		in.field(1).time()
		in.whole()
	}
	p.nonce = d.field(2).int64()
	if d.has(3) {
		d.field(3).time()
	}
	p.flags = krb.TicketFlags(d.field(4).flags())
	p.auth = d.field(5).time()
	p.start = p.auth
	if d.has(6) {
		p.start = d.field(6).time()
	}
	p.end = d.field(7).time()
	if d.has(8) {
		p.renewTill = d.field(8).time()
	}
	p.srealm, p.sname = d.field(9).text(), d.field(10).name()
	if d.has(11) {
		p.addrs = d.field(11).addresses()
	}
	if d.has(12) { // RFC 6806 §11
		d.field(12).paData()
	}
	if err := d.end(); err != nil {
		clear(p.key.Value)
		return repPart{}, fmt.Errorf("the sealed part of the reply is %w", err)
	}
	return p, nil
}

// ticketPart is what of EncTicketPart (RFC 4120 §5.3) tells whom a ticket is about.
type ticketPart struct {
	flags     krb.TicketFlags
	key       krb.Key
	client    krb.Principal
	auth, end time.Time
}

func parseTicketPart(b []byte) (ticketPart, error) {
	d := open(b, app(appEncTicket))
	p := ticketPart{flags: krb.TicketFlags(d.field(0).flags()), key: d.field(1).key()}
	p.client = krb.Principal{Realm: d.field(2).text(), Components: d.field(3).name()}
	transited := d.field(4)
	in := transited.seq()
	in.field(0).int32()
	in.field(1).octets()
	in.whole()
	p.auth = d.field(5).time()
	if d.has(6) {
		d.field(6).time()
	}
	p.end = d.field(7).time()
	if d.has(8) {
		d.field(8).time()
	}
	if d.has(9) {
		d.field(9).addresses()
	}
	if d.has(10) { // authorization data says what may be done, not who he is
		data := d.field(10)
		data.seq()
	}
	if err := d.end(); err != nil {
		clear(p.key.Value)
		return ticketPart{}, fmt.Errorf("the sealed part of the ticket is %w", err)
	}
	return p, nil
}

// krbError is KRB-ERROR (RFC 4120 §5.9.1). Nothing in it is authenticated.
type krbError struct {
	code   int32
	at     time.Time     // the KDC's clock, to
	within time.Duration // this
	cname  []string      // nil when the error names no client
	realm  string
	text   string
	data   []byte
}

func parseError(b []byte) (krbError, error) {
	if len(b) > maxReply {
		return krbError{}, errDER
	}
	d := open(b, app(appError))
	d.field(0).is(version)
	d.field(1).is(msgError)
	if d.has(2) {
		d.field(2).time()
	}
	if d.has(3) {
		d.field(3).int64()
	}
	var e krbError
	e.at, e.within = d.field(4).time(), time.Microsecond
	usec := d.field(5).int64()
	d.ok(usec >= 0 && usec <= 999_999)
	if usec == 0 { // a KDC that knows its clock to the second only
		e.at, e.within = e.at.Add(time.Second/2), time.Second/2
	}
	e.at = e.at.Add(time.Duration(usec) * time.Microsecond)
	e.code = d.field(6).int32()
	if d.has(7) {
		d.field(7).text()
	}
	if d.has(8) {
		e.cname = d.field(8).name()
	}
	e.realm = d.field(9).text()
	d.field(10).name()
	if d.has(11) {
		e.text = clean(d.field(11).text())
	}
	if d.has(12) {
		e.data = d.field(12).octets()
	}
	if err := d.end(); err != nil {
		return krbError{}, fmt.Errorf("the error message is %w", err)
	}
	return e, nil
}

// isError says whether a reply claims to be a KRB-ERROR.
func isError(b []byte) bool { return len(b) > 0 && b[0] == byte(app(appError)) }

// clean makes the peer's text fit for a log: printable ASCII, at most 120 bytes.
func clean(s string) string {
	b := []byte(s[:min(len(s), 120)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}

// parseMethodData reads the e-data of KDC_ERR_PREAUTH_REQUIRED (RFC 4120 §5.9.1).
func parseMethodData(b []byte) ([]paData, error) {
	d := der{cryptobyte.String(b), new(bool)}
	pa := d.paData()
	if err := d.err(); err != nil {
		return nil, fmt.Errorf("the list of pre-authentications is %w", err)
	}
	return pa, nil
}
