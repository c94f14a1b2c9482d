package broker

import (
	"net/netip"
	"time"
)

// SessionID names a session for ever: 16 random bytes in base64url, 22
// characters.
type SessionID string

// Basis is what a session is judged by when something has changed.
type Basis uint8

const (
	// BasisNone is a session of somebody whom the directory did not have when
	// it began, such as root's own: it is shown, and never ended by a judgement.
	BasisNone Basis = iota
	// BasisAccount is one that no rule was asked for (su by root, cron): it
	// rests on the account alone.
	BasisAccount
	// BasisRules is one that rests on the answer to its Request.
	BasisRules
)

// Session is a live use of a decision. Broker.OpenSession tracks it, and has its
// keeper end it when the answer has become a no.
type Session struct {
	ID SessionID
	// Request is what was asked when it began, and Proofs what was shown: the
	// same question is asked again when something has changed that its answer
	// rested on.
	Request Request
	Proofs  []Proof
	Basis   Basis
	// Rules, Until and Generation are those of the last judgement that said yes. A
	// session that no change has touched is not judged: Generation stays, and Rules
	// that have come to fit since are not among them.
	Rules      []RuleName
	Until      time.Time
	Generation uint64
	// Keeper is who can end it: a name given to Broker.Keep.
	Keeper string
	// Place is the host on which it runs.
	Place HostName
	// Service and TTY are for people: sshd, ssh; /dev/pts/3.
	Service, TTY string
	Since        time.Time
	// Ending is when it was told to end, and why; zero while it may live.
	Ending time.Time
	Why    Reason
}

// Ending is a session that must end now.
type Ending struct {
	Session Session
	// Reason is why, and Text a line for the person in it, with nothing in it that
	// a terminal would take for more than text.
	Reason Reason
	Text   string
}

// EventKind is what happened to a session.
type EventKind string

const (
	SessionOpened EventKind = "opened"
	SessionEnding EventKind = "ending" // told to end
	SessionClosed EventKind = "closed" // it has ended, by itself or because it was told to
	SessionLost   EventKind = "lost"   // it was gone when we looked: a crash or a reboot
)

// SessionEvent is one step in a session's life, for the audit record.
type SessionEvent struct {
	Kind    EventKind
	Session Session
	Reason  Reason
	// By is who had it ended, a name or empty; Took is from the order to the
	// end.
	By   string
	Took time.Duration
}

// Attempt is one try to prove something, before anybody is asked whether it is
// right.
type Attempt struct {
	User UserName
	From netip.Addr // invalid: not known
	// Remote: he is not on the host itself, even when From is not known.
	Remote bool
	Host   HostName // the target
	Door   Door
	Proof  Proof
}

// Allowance is what a Limiter says of an attempt. The zero value refuses.
type Allowance struct {
	// OK: it may be tried.
	OK bool
	// Unknown: it could not be found out whether it may be; OK is false.
	Unknown bool
	// Until is when it may be tried again, when not OK.
	Until time.Time
}

// RecentProof is something that the same user has proved before, from the same
// address. Age is from then to the request.
type RecentProof struct {
	Proof Proof
	Age   time.Duration
}
