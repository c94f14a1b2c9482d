package accept

import (
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

// The messages of RFC 4120 that come from the peer, read strictly by package der.
// gokrb5's codec is not used here: it drops what follows a message or a SEQUENCE,
// and cannot tell a missing field from one that is zero.

// maxMessage bounds one message. A ticket with a PAC of a large directory has some
// 20 KB.
const maxMessage = 64 << 10

const (
	appAuthenticator = 2
	appAPReq         = 14

	trX500 = 1 // DOMAIN-X500-COMPRESS, RFC 4120 §3.3.3.2
)

type apReq struct {
	options uint32
	ticket  der.Ticket
	authn   der.Sealed
}

type authenticator struct {
	client   krb.Principal
	checksum Checksum
	ctime    time.Time  // to the microsecond
	subkey   *der.Typed // nil for none
	seq      uint32
	data     []der.Typed
}

// parseAPReq reads an AP-REQ (RFC 4120 §5.5.1) with its Ticket.
func parseAPReq(b []byte) (m apReq, ok bool) {
	if len(b) > maxMessage {
		return apReq{}, false
	}
	r := der.Open(b, appAPReq)
	r.Head(0, appAPReq)
	m.options = r.Field(2).Flags()
	m.ticket = r.Field(3).Ticket()
	m.authn = r.Field(4).Sealed()
	return m, r.Done() == nil
}

// parseTicketPart reads an EncTicketPart (RFC 4120 §5.3). Of the ways to tell the
// realms on the ticket's way it takes the one that is known, and none.
func parseTicketPart(b []byte) (der.TicketPart, bool) {
	t, err := der.ParseTicketPart(b)
	way := t.Transited
	return t, err == nil && (way.Type == trX500 || way.Type == 0 && len(way.Value) == 0)
}

// parseAuthenticator reads an Authenticator (RFC 4120 §5.5.1).
func parseAuthenticator(b []byte) (a authenticator, ok bool) {
	r := der.Open(b, appAuthenticator)
	r.Field(0).Is(der.Version)
	a.client = r.Principal(1)
	if r.Has(3) {
		a.checksum = Checksum(r.Field(3).Typed())
		r.Must(a.checksum.Type != 0)
	}
	usec := r.Field(4).Microseconds()
	a.ctime = r.Field(5).Time().Add(usec)
	if r.Has(6) {
		k := r.Field(6).Typed()
		a.subkey = &k
	}
	if r.Has(7) {
		a.seq = r.Field(7).Uint32()
	}
	if r.Has(8) {
		a.data = r.Field(8).AuthData()
	}
	return a, r.Done() == nil
}
