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
	"errors"
	"net/netip"
	"time"

	"github.com/sekisho/sekisho/krb"
)

// DefaultSkew is the allowed difference of clocks (RFC 4120 §8.2).
const DefaultSkew = 5 * time.Minute

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
func New(c Config) (*Acceptor, error) { return nil, errors.New("not yet written") }

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

	cusec int
}

// Accept judges an AP-REQ. Every error is an *Error.
func (a *Acceptor) Accept(ctx context.Context, apReq []byte, o Options) (*Accepted, error) {
	return nil, errors.New("not yet written")
}

// Reply makes the AP-REP (RFC 4120 §3.2.4), with our subkey, or nil for none,
// and our first sequence number.
func (a *Accepted) Reply(subkey *krb.Key, seq uint32) ([]byte, error) {
	return nil, errors.New("not yet written")
}
