// Package accept is the server's side of a Kerberos sign-in: it judges an AP-REQ
// (RFC 4120 §3.2.3) with the keys of a keytab and makes the AP-REP.
//
// Whom it trusts: the KDC, by the service key that it shares with us, and
// nobody else. Client, realm, addresses, times and flags come from the part of
// the ticket that is sealed with that key; what the outside of the message says
// only chooses the key. Everything in the message is the peer's to write, so
// each size is bounded and each field read strictly (DER, no rest).
//
// An attacker who records a sign-in can send it again. The [Replay] cache
// refuses it, here and after a restart; what it has lost track of, it refuses too.
package accept

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

// DefaultSkew is the allowed difference of clocks (RFC 4120 §8.2).
const DefaultSkew = 5 * time.Minute

const maxSkew = time.Hour

// Config is what an Acceptor needs.
type Config struct {
	// Keytab holds the keys of our services. Needed.
	Keytab *Keytab
	// Service says which server names are ours; nil is any in the keytab.
	Service func(krb.Principal) bool
	// Realms are the realms other than the server's own whose clients are
	// accepted. Empty: none.
	Realms []string
	// Replay remembers authenticators. Needed.
	Replay Replay
	// Skew is the allowed difference of clocks, at most an hour; 0 is DefaultSkew.
	// It is also how long a ticket is honoured beyond its end.
	Skew time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Clock, if set, hears how far the client's clock is ahead of ours (negative:
	// behind), for each authenticator that is authentic, also beyond Skew. It has
	// not been looked up in Replay yet: an offset behind may be an old message
	// sent again. When it returns an error, the ticket is refused with that error
	// as the cause of an *Error of kind Clock.
	Clock func(clientAhead time.Duration) error
}

// Acceptor judges AP-REQs. It may be used by many goroutines at once.
type Acceptor struct{ c Config }

// New checks the configuration.
func New(c Config) (*Acceptor, error) {
	switch {
	case c.Keytab == nil:
		return nil, errors.New("ticket validation needs a keytab")
	case c.Replay == nil:
		return nil, errors.New("ticket validation needs a replay cache")
	}
	var err error
	if c.Skew, err = skew(c.Skew); err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Realms = slices.Clone(c.Realms)
	return &Acceptor{c}, nil
}

func skew(d time.Duration) (time.Duration, error) {
	if d == 0 {
		return DefaultSkew, nil
	}
	if d < time.Second || d > maxSkew {
		return 0, fmt.Errorf("an allowed clock skew of %s is not within 1s to 1h", d)
	}
	return d, nil
}

// Options are what a caller asks of one AP-REQ.
type Options struct {
	// From is the peer's address. A ticket that names addresses is refused when
	// From is none of them, or is not known.
	From netip.Addr
	// WantPAC asks for the ticket's PAC, its server signature verified. A ticket
	// without one is accepted; one with a bad one is refused.
	WantPAC bool
	// RequireInitial refuses tickets that were not got with the password itself
	// but by a TGT (RFC 4120 §2.1), as the change of a password needs it.
	RequireInitial bool
}

// Checksum is the authenticator's (RFC 4120 §5.5.1). GSS-API puts its flags,
// channel bindings and delegated credentials there (RFC 4121 §4.1.1).
type Checksum struct {
	// Type is 0 when there is none.
	Type  int32
	Value []byte
}

// Accepted is an AP-REQ that was believed.
type Accepted struct {
	// Client and Server are as the KDC sealed them.
	Client, Server krb.Principal
	Flags          krb.TicketFlags
	// The ticket's times, to the second. StartTime is AuthTime when the KDC
	// named none; RenewTill is zero for a ticket that cannot be renewed.
	AuthTime, StartTime, EndTime, RenewTill time.Time
	// SessionKey is the ticket's; Subkey is the initiator's own, nil if it sent none.
	SessionKey krb.Key
	Subkey     *krb.Key
	// Seq is the initiator's first sequence number, 0 if it sent none.
	Seq uint32
	// CTime is the client's clock, to the microsecond.
	CTime    time.Time
	Checksum Checksum
	// Mutual says that the client waits for an AP-REP: see Reply. It is not
	// sealed; a client notices when no reply comes.
	Mutual bool
	// ETypes are the types that the client takes for an acceptor's subkey, its
	// favourite first (RFC 4537); only those of package krb, none if it sent no list.
	ETypes []int32
	// ChannelBound says that the client asserts to have sent channel bindings
	// (KERB_AP_OPTIONS_CBT, MS-KILE §2.2.5): bindings of zeros are then no bindings.
	ChannelBound bool
	// KVNO and EType are of the key that opened the ticket.
	KVNO  int
	EType int32
	// PAC is set if Options.WantPAC asked for it and the ticket has one.
	PAC []byte
}

// Options of an AP-REQ, and flags that only this package looks at.
const (
	optUseSessionKey = 1 << (31 - 1)
	optMutual        = 1 << (31 - 2)

	flagTransitedChecked krb.TicketFlags = 1 << (31 - 12)
)

// Key usages (RFC 4120 §7.5.1).
const (
	usageTicket        = 2
	usageAuthenticator = 11
	usageAPRep         = 12
)

// Accept judges an AP-REQ. Every error is an *Error.
func (a *Acceptor) Accept(ctx context.Context, apReq []byte, o Options) (*Accepted, error) {
	now := a.c.Now()
	got, err := a.judge(ctx, apReq, o, now)
	if err != nil {
		err.stime = now
		if err.Server.Realm == "" {
			err.Server = a.c.Keytab.Principals()[0]
		}
		return nil, err
	}
	return got, nil
}

func (a *Acceptor) judge(ctx context.Context, raw []byte, o Options, now time.Time) (*Accepted, *Error) {
	m, ok := parseAPReq(raw)
	if !ok {
		return nil, refuse(Malformed, codeGeneric, "not an AP-REQ, or beyond the limits of one")
	}
	server := m.ticket.Server
	if err := server.Check(); err != nil {
		return nil, refuse(WrongService, codeNotUs, "the ticket's server: %w", err)
	}
	t, key, refused := a.open(m, server)
	if refused != nil {
		refused.Server = server
		return nil, refused
	}
	got := &Accepted{
		Server: server, Flags: t.Flags,
		AuthTime: t.Auth, StartTime: t.Start, EndTime: t.End, RenewTill: t.RenewTill,
		Mutual: m.options&optMutual != 0, KVNO: key.kvno, EType: m.ticket.Part.EType,
	}
	refused = a.believe(got, t, m.authn, now)
	if refused == nil {
		refused = a.allow(got, t, o, now)
	}
	if refused == nil && o.WantPAC {
		got.PAC, refused = findPAC(t.AuthData, key.Key)
	}
	if refused == nil {
		refused = a.spend(ctx, got, m.authn.Cipher)
	}
	if refused != nil {
		refused.Client, refused.Server = got.Client, server
		return nil, refused
	}
	return got, nil
}

// open finds the service key and opens the ticket with it.
func (a *Acceptor) open(m apReq, server krb.Principal) (der.TicketPart, serviceKey, *Error) {
	none := der.TicketPart{}
	if m.options&optUseSessionKey != 0 {
		return none, serviceKey{}, refuse(NotAllowed, codeNoKey, "a user-to-user ticket for %s: not served", server)
	}
	if a.c.Service != nil && !a.c.Service(server) {
		return none, serviceKey{}, refuse(WrongService, codeNotUs, "the ticket is for %s, which is not a service here", server)
	}
	keys, refused := a.c.Keytab.find(server, m.ticket.Part.KVNO, m.ticket.Part.EType)
	if refused != nil {
		return none, serviceKey{}, refused
	}
	for _, key := range keys {
		plain, err := key.ticket.Decrypt(m.ticket.Part.Cipher)
		if err != nil {
			continue
		}
		t, ok := parseTicketPart(plain)
		if !ok {
			return none, serviceKey{}, refuse(Malformed, codeGeneric, "the sealed part of a ticket for %s cannot be read", server)
		}
		return t, key, nil
	}
	return none, serviceKey{}, refuse(Forged, codeBadIntegrity, "a ticket for %s was not sealed with our key: forged, or the keytab is not the KDC's", server)
}

// believe checks that the peer holds the session key, now, and is the ticket's client.
func (a *Acceptor) believe(got *Accepted, t der.TicketPart, sealed der.Sealed, now time.Time) *Error {
	err := t.Client.Check()
	if err != nil {
		return refuse(NotAllowed, codePolicy, "the ticket's client: %w", err)
	}
	got.Client = t.Client
	if got.SessionKey, err = krb.NewKey(t.Key.Type, t.Key.Value); err != nil {
		return refuse(NoKey, codeETypeNoSupp, "the session key: %w", err)
	}
	plain, err := sealed.Open(got.SessionKey, usageAuthenticator)
	if err != nil {
		return refuse(Forged, codeBadIntegrity, "the authenticator of %s: %w", got.Client, err)
	}
	au, ok := parseAuthenticator(plain)
	if !ok {
		return refuse(Malformed, codeGeneric, "the authenticator of %s cannot be read", got.Client)
	}
	if !au.client.Equal(t.Client) {
		return refuse(Forged, codeBadMatch, "the authenticator with a ticket of %s names another client", got.Client)
	}
	if au.subkey != nil {
		sub, err := krb.NewKey(au.subkey.Type, au.subkey.Value)
		if err != nil {
			return refuse(NoKey, codeETypeNoSupp, "the subkey of %s: %w", got.Client, err)
		}
		got.Subkey = &sub
	}
	got.Seq, got.Checksum, got.CTime = au.seq, au.checksum, au.ctime
	if refused := a.clock(got, now); refused != nil {
		return refused
	}
	return got.readAuthData(au.data, t.AuthData)
}

func (a *Acceptor) clock(got *Accepted, now time.Time) *Error {
	ahead := got.CTime.Sub(now)
	var err error
	if a.c.Clock != nil {
		err = a.c.Clock(ahead)
	}
	if err == nil && (ahead > a.c.Skew || ahead < -a.c.Skew) {
		way, by := "ahead of", ahead
		if ahead < 0 {
			way, by = "behind", -ahead
		}
		err = fmt.Errorf("the clock of %s is %s %s ours, more than the %s that is allowed", got.Client, by.Round(time.Millisecond), way, a.c.Skew)
	}
	if err == nil {
		return nil
	}
	e := refuse(Clock, codeSkew, "%w", err)
	e.ClientAhead = ahead
	return e
}

// allow checks what the ticket itself says of where and when it holds.
func (a *Acceptor) allow(got *Accepted, t der.TicketPart, o Options, now time.Time) *Error {
	switch {
	case got.Flags&krb.FlagInvalid != 0:
		return refuse(NotYet, codeNotYet, "the ticket of %s is post-dated and was not validated", got.Client)
	case t.Start.Sub(now) > a.c.Skew:
		return refuse(NotYet, codeNotYet, "the ticket of %s begins at %s", got.Client, t.Start.Format(time.RFC3339))
	case now.Sub(t.End) > a.c.Skew:
		return refuse(Expired, codeExpired, "the ticket of %s ended at %s", got.Client, t.End.Format(time.RFC3339))
	case got.Client.Realm != got.Server.Realm && !slices.Contains(a.c.Realms, got.Client.Realm):
		return refuse(ForeignRealm, codePolicy, "clients of the realm %s are not accepted", got.Client.Realm)
	case len(t.Transited.Value) > 0 && got.Flags&flagTransitedChecked == 0:
		return refuse(ForeignRealm, codePathNotAccepted, "the ticket of %s came through other realms, and our KDC did not check them", got.Client)
	case got.Flags&krb.FlagAnonymous != 0 || got.Client.Components[0] == "WELLKNOWN":
		return refuse(NotAllowed, codePolicy, "an anonymous ticket")
	case o.RequireInitial && got.Flags&krb.FlagInitial == 0:
		return refuse(NotAllowed, codePolicy, "the ticket of %s was not got with the password itself", got.Client)
	case len(t.Addresses) > 0 && !(o.From.IsValid() && slices.Contains(t.Addresses, o.From.WithZone("").Unmap())):
		return refuse(Address, codeBadAddr, "the ticket of %s is for other addresses than the peer's", got.Client)
	}
	return nil
}

// spend marks the authenticator as used. The mark is over what the session key
// seals: nothing that can be rewritten, as the server's name outside, is in it.
func (a *Acceptor) spend(ctx context.Context, got *Accepted, sealed []byte) *Error {
	b := append([]byte("sekisho authenticator "), got.Client.String()...)
	b = binary.BigEndian.AppendUint64(append(b, 0), uint64(got.CTime.UnixMicro()))
	fresh, err := a.c.Replay.Spend(ctx, sha256.Sum256(append(b, sealed...)), got.CTime, got.CTime.Add(a.c.Skew))
	switch {
	case err != nil:
		return refuse(Unknown, codeGeneric, "whether the authenticator of %s was used before: %w", got.Client, err)
	case !fresh:
		return refuse(Replayed, codeRepeat, "the authenticator of %s was used before", got.Client)
	}
	return nil
}
