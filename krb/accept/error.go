package accept

import (
	"fmt"
	"time"

	"github.com/sekisho/sekisho/krb"
)

// Error codes (RFC 4120 §7.5.9).
const (
	codePolicy          = 12 // KDC_ERR_POLICY
	codeETypeNoSupp     = 14 // KDC_ERR_ETYPE_NOSUPP
	codePathNotAccepted = 28 // KDC_ERR_PATH_NOT_ACCEPTED
	codeBadIntegrity    = 31 // KRB_AP_ERR_BAD_INTEGRITY
	codeExpired         = 32 // KRB_AP_ERR_TKT_EXPIRED
	codeNotYet          = 33 // KRB_AP_ERR_TKT_NYV
	codeRepeat          = 34 // KRB_AP_ERR_REPEAT
	codeNotUs           = 35 // KRB_AP_ERR_NOT_US
	codeBadMatch        = 36 // KRB_AP_ERR_BADMATCH
	codeSkew            = 37 // KRB_AP_ERR_SKEW
	codeBadAddr         = 38 // KRB_AP_ERR_BADADDR
	codeBadKeyVersion   = 44 // KRB_AP_ERR_BADKEYVER
	codeNoKey           = 45 // KRB_AP_ERR_NOKEY
	codeGeneric         = 60 // KRB_ERR_GENERIC
)

// Kind says why a ticket was refused. The zero value is none of them.
type Kind string

// The kinds.
const (
	// Malformed: not an AP-REQ, or one beyond our limits.
	Malformed Kind = "malformed"
	// WrongService: the ticket is for a server that is not us.
	WrongService Kind = "wrong-service"
	// NoKey: we have no key of that version or type, or the type is not accepted.
	NoKey Kind = "no-key"
	// Forged: a seal does not fit, or the client in the authenticator is not the ticket's.
	Forged Kind = "forged"
	// Expired: the ticket's end is past.
	Expired Kind = "expired"
	// NotYet: the ticket's start is to come, or it is post-dated and not validated.
	NotYet Kind = "not-yet"
	// Clock: the client's clock and ours differ too much, or the clock guard refused.
	Clock Kind = "clock"
	// Replayed: this authenticator was sent before.
	Replayed Kind = "replayed"
	// Address: the ticket names addresses, and the peer has none of them.
	Address Kind = "address"
	// ForeignRealm: the client is of a realm that is not accepted here.
	ForeignRealm Kind = "foreign-realm"
	// NotAllowed: what the ticket or the request says forbids it here: it is anonymous, not
	// initial, user-to-user, or has authorization data that we do not know (RFC 4120 §5.2.6).
	NotAllowed Kind = "not-allowed"
	// Unknown: could not find out, for example since the replay cache is full or
	// has lost track.
	Unknown Kind = "unknown"
)

// Error is a refusal. Its text is for the log; it holds no secrets. The peer gets KRBError.
type Error struct {
	Kind Kind
	// Code is the error code of RFC 4120 §7.5.9.
	Code int32
	// Client and Server are as far as they are known. Server is what the ticket's
	// outside says; Client is only set if the ticket was opened.
	Client, Server krb.Principal
	// ClientAhead is how far the client's clock is ahead of ours, for Kind Clock.
	ClientAhead time.Duration
	// Err is the cause.
	Err error

	stime time.Time
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// refuse makes an Error; its text is the cause's.
func refuse(kind Kind, code int32, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Err: fmt.Errorf(format, args...)}
}
