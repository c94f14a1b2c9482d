package client

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

// Messages, by their application tags; those with a number of 10 to 15 have it as
// their message type too (RFC 4120 §5.10, §7.5.7).
const (
	appASReq     = 10
	appASRep     = 11
	appTGSReq    = 12
	appTGSRep    = 13
	appEncASRep  = 25
	appEncTGSRep = 26
)

// Limits of lists.
const (
	maxPAData     = 32
	maxLastReq    = 16
	maxEtypeInfos = 16
)

// kdcRep is KDC-REP (RFC 4120 §5.4.2). Only what is in sealed is authenticated.
type kdcRep struct {
	pa     []der.Typed
	client krb.Principal // as it stands
	raw    []byte        // the ticket, DER
	ticket der.Ticket
	part   der.Sealed
}

// parseKDCRep reads an AS-REP or TGS-REP, app being its number.
func parseKDCRep(b []byte, app int) (kdcRep, error) {
	if len(b) > maxReply {
		return kdcRep{}, der.ErrMalformed
	}
	r := der.Open(b, app)
	r.Head(0, app)
	var rep kdcRep
	if r.Has(2) {
		rep.pa = r.Field(2).PAData(maxPAData)
	}
	rep.client = r.Principal(3)
	t := r.Field(5)
	rep.raw, rep.ticket = t.Rest(), t.Ticket()
	rep.part = r.Field(6).Sealed()
	if err := r.Done(); err != nil {
		return kdcRep{}, fmt.Errorf("the reply is %w", err)
	}
	return rep, nil
}

func parseTicket(b []byte) (der.Ticket, error) {
	r := der.NewReader(b)
	t := r.Ticket()
	if err := r.Err(); err != nil {
		return der.Ticket{}, fmt.Errorf("the ticket is %w", err)
	}
	return t, nil
}

// repPart is EncKDCRepPart (RFC 4120 §5.4.2).
type repPart struct {
	key                         krb.Key
	nonce                       uint32
	flags                       krb.TicketFlags
	auth, start, end, renewTill time.Time // start is auth when there is none
	server                      krb.Principal
	addrs                       []netip.Addr
}

// parseRepPart takes the tag of an AS-REP in a TGS-REP too and the other way round,
// for there are KDCs that use one for both (RFC 4120 §5.4.2).
func parseRepPart(b []byte) (repPart, error) {
	app := appEncTGSRep
	if der.Is(b, appEncASRep) {
		app = appEncASRep
	}
	r := der.Open(b, app)
	p := repPart{key: r.Field(0).Key()}
	last := r.Field(1).Seq()
	for n := 0; last.More(n, maxLastReq); n++ {
		in := last.Element()
		in.Field(0).Int32()
		in.Field(1).Time()
		in.End()
	}
	p.nonce = r.Field(2).Uint32()
	if r.Has(3) {
		r.Field(3).Time()
	}
	p.flags = krb.TicketFlags(r.Field(4).Flags())
	p.auth = r.Field(5).Time()
	p.start = p.auth
	if r.Has(6) {
		p.start = r.Field(6).Time()
	}
	p.end = r.Field(7).Time()
	if r.Has(8) {
		p.renewTill = r.Field(8).Time()
	}
	p.server = r.Principal(9)
	if r.Has(11) {
		p.addrs = r.Field(11).Addresses()
	}
	if r.Has(12) { // RFC 6806 §11
		r.Field(12).PAData(maxPAData)
	}
	if err := r.Done(); err != nil {
		clear(p.key.Value)
		return repPart{}, fmt.Errorf("the sealed part of the reply is %w", err)
	}
	return p, nil
}

// krbError is KRB-ERROR. Nothing in it is authenticated.
type krbError struct {
	der.Error // its Text is clean
	// within is how far At can be from the KDC's clock.
	within time.Duration
}

func parseError(b []byte) (krbError, error) {
	if len(b) > maxReply {
		return krbError{}, der.ErrMalformed
	}
	d, err := der.ParseError(b)
	if err != nil {
		return krbError{}, fmt.Errorf("the error message is %w", err)
	}
	e := krbError{d, time.Microsecond}
	if d.At.Nanosecond() == 0 { // a KDC that knows its clock to the second only
		e.At, e.within = d.At.Add(time.Second/2), time.Second/2
	}
	e.Text = clean(e.Text)
	return e, nil
}

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
func parseMethodData(b []byte) ([]der.Typed, error) {
	r := der.NewReader(b)
	pa := r.PAData(maxPAData)
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("the list of pre-authentications is %w", err)
	}
	return pa, nil
}
