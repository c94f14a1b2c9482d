package client

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

// Types of pre-authentication data, RFC 4120 §7.5.2.
const (
	paTGSReq       = 1
	paEncTimestamp = 2
	paEtypeInfo2   = 19
)

// Key usage numbers, RFC 4120 §7.5.1.
const (
	usageTimestamp   = 1
	usageTicket      = 2
	usageASRep       = 3
	usageTGSChecksum = 6
	usageTGSAuth     = 7
	usageTGSRep      = 8
)

// optRenew is the KDC option that no ticket flag stands for (RFC 4120 §5.4.1); the
// others have the bits of the flags.
const optRenew krb.TicketFlags = 1 << (31 - 30)

// kdcReq is KDC-REQ (RFC 4120 §5.4.1).
type kdcReq struct {
	app         int
	pa          []der.Typed
	options     krb.TicketFlags
	client      krb.Principal // none in a TGS-REQ
	server      krb.Principal
	till, rtime time.Time // the zero till is as long as possible; the zero rtime is left out
	nonce       uint32
	etypes      []int32
	addrs       []netip.Addr
}

// newNonce is a random number of 31 bits, which old KDCs understand too.
func newNonce() uint32 {
	var b [4]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint32(b[:]) >> 1
}

// body is KDC-REQ-BODY.
func (r kdcReq) body() []byte {
	var client, rtime, addrs []byte
	if len(r.client.Components) > 0 {
		client = der.Field(1, der.Name(r.client))
	}
	till := r.till
	if till.IsZero() {
		till = time.Unix(0, 0)
	}
	if !r.rtime.IsZero() {
		rtime = der.Field(6, der.Time(r.rtime))
	}
	if len(r.addrs) > 0 {
		addrs = der.Field(9, der.Addresses(r.addrs))
	}
	var types [][]byte
	for _, t := range r.etypes {
		types = append(types, der.Int(int64(t)))
	}
	return der.Seq(der.Field(0, der.Flags(uint32(r.options))), client,
		der.Field(2, der.Text(r.server.Realm)), der.Field(3, der.Name(r.server)),
		der.Field(5, der.Time(till)), rtime, der.Field(7, der.Int(int64(r.nonce))),
		der.Field(8, der.Seq(types...)), addrs)
}

// encode gives the message, around a body that body has made.
func (r kdcReq) encode(body []byte) []byte {
	var pa []byte
	if len(r.pa) > 0 {
		pa = der.Field(3, der.PAData(r.pa))
	}
	return der.App(r.app, der.Field(1, der.Int(der.Version)), der.Field(2, der.Int(int64(r.app))), pa, der.Field(4, body))
}

// timestamp is PA-ENC-TIMESTAMP (RFC 4120 §5.2.7.2).
func timestamp(k krb.Key, now time.Time) (der.Typed, error) {
	v, err := der.Seal(k, usageTimestamp, der.Seq(der.Field(0, der.Time(now)), der.Field(1, der.Microseconds(now))))
	return der.Typed{Type: paEncTimestamp, Value: v}, err
}

// tgsProof is PA-TGS-REQ (RFC 4120 §5.2.7.1): an AP-REQ whose authenticator has a
// checksum of the request's body.
func tgsProof(tgt krb.Credential, body []byte, now time.Time) (der.Typed, error) {
	if _, err := parseTicket(tgt.Ticket); err != nil {
		return der.Typed{}, err
	}
	sum, err := tgt.Key.Checksum(usageTGSChecksum, body)
	if err != nil {
		return der.Typed{}, err
	}
	v, err := der.APReq{Ticket: tgt, Usage: usageTGSAuth, Checksum: der.Typed{Type: tgt.Key.ChecksumType(), Value: sum}, At: now}.Encode()
	return der.Typed{Type: paTGSReq, Value: v}, err
}
