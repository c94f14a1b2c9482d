package report

import (
	"time"

	"github.com/sekisho/sekisho/wire"
)

// The verbs about open sessions, and their fields.
const (
	VerbSessions = "sessions"
	VerbKill     = "kill"
	VerbRevoked  = "revoked"

	FieldHost    = "host"
	FieldSession = "session"
	FieldAfter   = "after"  // the last session of the page before
	FieldSince   = "since"  // RFC 3339, with nanoseconds
	FieldLocked  = "locked" // yes: the account must be seen to be shut first
)

// Session is one open session.
type Session struct {
	ID      string   `json:"id"`
	User    string   `json:"user"`
	Login   string   `json:"login"`
	Door    string   `json:"door"`
	Service string   `json:"service,omitempty"`
	TTY     string   `json:"tty,omitempty"`
	Host    string   `json:"host"`
	From    string   `json:"from,omitempty"`
	Since   string   `json:"since"` // RFC 3339
	Until   string   `json:"until,omitempty"`
	Rules   []string `json:"rules,omitempty"`
	// Basis is rules, account (it rests on the account alone) or none (it is
	// nobody's of the directory).
	Basis string `json:"basis"`
	// Ending is since when it is being ended, and Why the reason.
	Ending string `json:"ending,omitempty"`
	Why    string `json:"why,omitempty"`
	// What was asked when it began, so that it can be judged elsewhere: the target's
	// name or address, the proofs that were shown, older ones as otp:3600 (seconds),
	// and flags: remote, source-deferred, proofs-deferred, unconfined.
	Target string   `json:"target,omitempty"`
	Addr   string   `json:"addr,omitempty"`
	Proofs []string `json:"proofs,omitempty"`
	Recent []string `json:"recent,omitempty"`
	Flags  []string `json:"flags,omitempty"`
}

// SessionPage is one answer to the verb sessions.
type SessionPage struct {
	Sessions []Session
	// More says that there are others after the last of these.
	More bool
}

// EncodeSessions puts sessions, in the order of their ids, into a body.
func EncodeSessions(all []Session) ([]string, error) { return encodeFirst(all) }

// DecodeSessions reads what EncodeSessions wrote.
func DecodeSessions(a wire.Answer) (p SessionPage, err error) {
	var head pageHead
	p.Sessions, err = decodePage[Session](a, &head)
	p.More = head.More
	return p, err
}

// Killed is the answer to the verb kill: the sessions that are being ended.
type Killed struct {
	Sessions []string `json:"sessions"`
}

// Revoked is the answer to the verb revoked: where a user is out.
type Revoked struct {
	User  string        `json:"user"`
	Hosts []RevokedHost `json:"hosts"`
}

// RevokedHost is one host's part.
type RevokedHost struct {
	Host string `json:"host"`
	// Confirmed: it knows that the user is out, and has none of his sessions.
	Confirmed bool `json:"confirmed"`
	// Sessions had to end there.
	Sessions int `json:"sessions"`
	// Took is from the change in the directory to the host's word.
	Took time.Duration `json:"took_ns"`
	// Problem is why it is not confirmed.
	Problem string `json:"problem,omitempty"`
}
