package der

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/sekisho/sekisho/krb"
)

// Application tags, which are the message types too where there is one (RFC 4120
// §5.10, §7.5.7).
const (
	tagTicket        = 1
	tagAuthenticator = 2
	tagEncTicketPart = 3
	tagAPReq         = 14
	tagAPRep         = 15
	tagEncAPRepPart  = 27
	tagError         = 30
)

// Version is pvno.
const Version = 5

// usageAPRep is the key usage of an AP-REP (RFC 4120 §7.5.1).
const usageAPRep = 12

// Open decrypts, with a key that must be of the type that is named.
func (s Sealed) Open(k krb.Key, usage uint32) ([]byte, error) {
	if s.EType != k.EType {
		return nil, fmt.Errorf("sealed with a key of type %d, not %d", s.EType, k.EType)
	}
	return k.Decrypt(usage, s.Cipher)
}

// Head reads pvno as [n] and the message's type as [n+1].
func (r *Reader) Head(n, msgType int) {
	r.Field(n).Is(Version)
	r.Field(n + 1).Is(int64(msgType))
}

// Ticket is a Ticket (RFC 4120 §5.3).
type Ticket struct {
	Server krb.Principal // as it stands
	Part   Sealed
}

// Ticket is a Ticket.
func (r Reader) Ticket() Ticket {
	in := r.App(tagTicket)
	in.Field(0).Is(Version)
	t := Ticket{Server: in.Principal(1)}
	t.Part = in.Field(3).Sealed()
	in.End()
	return t
}

// TicketPart is the sealed EncTicketPart (RFC 4120 §5.3).
type TicketPart struct {
	Flags     krb.TicketFlags
	Key       Typed
	Client    krb.Principal // as it stands
	Transited Typed
	// Start is Auth when there is none; RenewTill may be zero.
	Auth, Start, End, RenewTill time.Time
	// Addresses are as Reader.Addresses gives them; none: any.
	Addresses []netip.Addr
	AuthData  []Typed
}

// ParseTicketPart reads an EncTicketPart.
func ParseTicketPart(b []byte) (TicketPart, error) {
	r := Open(b, tagEncTicketPart)
	t := TicketPart{Flags: krb.TicketFlags(r.Field(0).Flags())}
	t.Key = r.Field(1).Typed()
	t.Client = r.Principal(2)
	t.Transited = r.Field(4).Typed()
	t.Auth = r.Field(5).Time()
	t.Start = t.Auth
	if r.Has(6) {
		t.Start = r.Field(6).Time()
	}
	t.End = r.Field(7).Time()
	if r.Has(8) {
		t.RenewTill = r.Field(8).Time()
	}
	if r.Has(9) {
		t.Addresses = r.Field(9).Addresses()
	}
	if r.Has(10) {
		t.AuthData = r.Field(10).AuthData()
	}
	if err := r.Done(); err != nil {
		return TicketPart{}, err
	}
	return t, nil
}

// APReq is what a client says of itself in an AP-REQ (RFC 4120 §5.5.1).
type APReq struct {
	// Options are AP options, the first in the highest bit.
	Options uint32
	// Ticket is the credential that is shown.
	Ticket krb.Credential
	// Usage is the key usage of the authenticator: 7 in a TGS-REQ, else 11.
	Usage uint32
	// Checksum is left out when its Type is 0.
	Checksum Typed
	// At is the client's clock, to the microsecond.
	At time.Time
	// Subkey and Seq are left out when nil.
	Subkey *krb.Key
	Seq    *uint32
}

// Encode seals the authenticator and gives the message.
func (a APReq) Encode() ([]byte, error) {
	var sum, subkey, seq []byte
	if a.Checksum.Type != 0 {
		sum = Field(3, Value(a.Checksum))
	}
	if a.Subkey != nil {
		subkey = Field(6, Key(*a.Subkey))
	}
	if a.Seq != nil {
		seq = Field(7, Int(int64(*a.Seq)))
	}
	c := a.Ticket
	part, err := Seal(c.Key, a.Usage, App(tagAuthenticator, Field(0, Int(Version)),
		Field(1, Text(c.Client.Realm)), Field(2, Name(c.Client)), sum,
		Field(4, Microseconds(a.At)), Field(5, Time(a.At)), subkey, seq))
	if err != nil {
		return nil, fmt.Errorf("sealing an authenticator: %w", err)
	}
	return App(tagAPReq, Field(0, Int(Version)), Field(1, Int(tagAPReq)),
		Field(2, Flags(a.Options)), Field(3, c.Ticket), Field(4, part)), nil
}

// APRep is what a server says of itself in an AP-REP (RFC 4120 §5.5.2).
type APRep struct {
	// At is the client's clock, as the authenticator had it.
	At     time.Time
	Subkey *krb.Key // nil for none
	Seq    uint32   // 0 for none
}

// OpenAPRep opens an AP-REP with the ticket's session key. Whoever made it has that
// key; that it answers a request is for the caller to see, by At.
func OpenAPRep(b []byte, session krb.Key) (APRep, error) {
	r := Open(b, tagAPRep)
	r.Head(0, tagAPRep)
	sealed := r.Field(2).Sealed()
	if err := r.Done(); err != nil {
		return APRep{}, err
	}
	plain, err := sealed.Open(session, usageAPRep)
	if err != nil {
		return APRep{}, err
	}
	return parseAPRepPart(plain)
}

// parseAPRepPart reads an EncAPRepPart.
func parseAPRepPart(b []byte) (APRep, error) {
	r := Open(b, tagEncAPRepPart)
	a := APRep{At: r.Field(0).Time()}
	a.At = a.At.Add(r.Field(1).Microseconds())
	if r.Has(2) {
		k := r.Field(2).Key()
		a.Subkey = &k
	}
	if r.Has(3) {
		a.Seq = r.Field(3).Uint32()
	}
	if err := r.Done(); err != nil {
		return APRep{}, err
	}
	return a, nil
}

// Error is a KRB-ERROR (RFC 4120 §5.9.1). Nothing in it is authenticated.
type Error struct {
	Code int32
	// At is the clock of who made it, to the microsecond.
	At time.Time
	// Client are the components of the client's name, nil when it names none.
	Client []string
	Server krb.Principal // as it stands, at least one component
	Text   string
	Data   []byte // nil for none
}

// IsError reports whether b claims to be a KRB-ERROR.
func IsError(b []byte) bool { return Is(b, tagError) }

// ParseError reads a KRB-ERROR.
func ParseError(b []byte) (Error, error) {
	r := Open(b, tagError)
	r.Head(0, tagError)
	if r.Has(2) {
		r.Field(2).Time()
	}
	if r.Has(3) {
		r.Field(3).Microseconds()
	}
	e := Error{At: r.Field(4).Time()}
	e.At = e.At.Add(r.Field(5).Microseconds())
	e.Code = r.Field(6).Int32()
	if r.Has(7) {
		r.Field(7).Text()
	}
	if r.Has(8) {
		e.Client = r.Field(8).Name()
		r.Must(len(e.Client) > 0)
	}
	e.Server = r.Principal(9)
	r.Must(len(e.Server.Components) > 0)
	if r.Has(11) {
		e.Text = r.Field(11).Text()
	}
	if r.Has(12) {
		e.Data = r.Field(12).Octets()
	}
	if err := r.Done(); err != nil {
		return Error{}, err
	}
	return e, nil
}

// Encode gives the message, of all but Client.
func (e Error) Encode() []byte {
	var text, data []byte
	if e.Text != "" {
		text = Field(11, Text(e.Text))
	}
	if e.Data != nil {
		data = Field(12, Octets(e.Data))
	}
	return App(tagError, Field(0, Int(Version)), Field(1, Int(tagError)),
		Field(4, Time(e.At)), Field(5, Microseconds(e.At)), Field(6, Int(int64(e.Code))),
		Field(9, Text(e.Server.Realm)), Field(10, Name(e.Server)), text, data)
}
