package client

import (
	"fmt"
	"strings"
	"time"
)

// Kind is what became of an exchange that failed. The zero Kind is BadReply.
type Kind uint8

// The kinds. The numbers are error codes of RFC 4120 §7.5.9.
const (
	// BadReply: no KDC gave an answer that can be made sense of.
	BadReply Kind = iota
	// WrongPassword: the password or key is not the principal's (24, or an answer
	// without pre-authentication that it does not open).
	WrongPassword
	// UnknownPrincipal: the KDC does not know the client (6).
	UnknownPrincipal
	// UnknownService: the KDC does not know the server (7).
	UnknownService
	// PasswordExpired: the password must be changed first (23).
	PasswordExpired
	// Locked: the client may not have tickets (18).
	Locked
	// AccountExpired: the client's entry has expired (1).
	AccountExpired
	// Skew: our clock and the KDC's are too far apart (37, 33; or seen from its
	// answer). Error.Skew says how far.
	Skew
	// Expired: the ticket that was shown has expired, or cannot be renewed any more.
	Expired
	// Refused: the KDC said no for another reason, which Error.Code and Error.Text tell.
	Refused
	// FalseKDC: what answered does not know the keys that the realm's KDC knows.
	FalseKDC
	// Unavailable: a KDC answered that it cannot serve now (29, 60), and no other served.
	Unavailable
	// Unreachable: no KDC answered at all.
	Unreachable
	// Busy: there were so many passwords to be made into keys that the time was up.
	Busy
	// MoreThanPassword: the KDC does not take a password alone for this principal; it
	// wants a one-time code, or he has no password.
	MoreThanPassword
)

var kindWords = [...]string{
	BadReply: "the answer makes no sense", WrongPassword: "wrong password", UnknownPrincipal: "unknown principal",
	UnknownService: "unknown service", PasswordExpired: "the password has expired", Locked: "the principal is locked",
	AccountExpired: "the principal has expired", Skew: "the clocks differ too much", Expired: "the ticket has expired",
	Refused: "refused", FalseKDC: "not the realm's KDC", Unavailable: "the KDC cannot serve", Unreachable: "no KDC answers",
	Busy: "too many sign-ins at once", MoreThanPassword: "the KDC does not take a password alone",
}

// String is a few words for people.
func (k Kind) String() string {
	if int(k) < len(kindWords) {
		return kindWords[k]
	}
	return "failed"
}

// Error is why an exchange failed. It holds no secret, and no unprintable byte of
// what the peer sent.
type Error struct {
	Kind Kind
	// KDC is who answered, host:port; empty when nobody did.
	KDC string
	// Code is the error code of the answer (RFC 4120 §7.5.9), 0 for none.
	Code int32
	// Text is what the KDC said to it (e-text), cleaned and cut.
	Text string
	// Skew is the KDC's clock minus ours, when the answer shows it, and SkewBound
	// how far that can be from the truth. SkewBound is 0 when nothing is known.
	Skew, SkewBound time.Duration
	// Err is the cause, if there is one.
	Err error
}

// Error names the kind, the KDC and the cause.
func (e *Error) Error() string {
	var b strings.Builder
	if e.KDC != "" {
		fmt.Fprintf(&b, "KDC %s: ", e.KDC)
	}
	b.WriteString(e.Kind.String())
	if e.Kind == Skew && e.SkewBound > 0 {
		fmt.Fprintf(&b, " (the KDC's minus ours: %s)", e.Skew.Round(time.Second))
	}
	if e.Code != 0 {
		fmt.Fprintf(&b, " (error %d", e.Code)
		if e.Text != "" {
			fmt.Fprintf(&b, ", %s", e.Text)
		}
		b.WriteString(")")
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }
