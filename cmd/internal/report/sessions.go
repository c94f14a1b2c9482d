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
	FieldHere    = "here"   // yes: without the sessions of other brokers
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
	// name or address, the proofs that were shown, the key's fingerprint, older proofs
	// as otp:3600 (seconds), and flags: remote, source-deferred, proofs-deferred, unconfined.
	Target string   `json:"target,omitempty"`
	Addr   string   `json:"addr,omitempty"`
	Proofs []string `json:"proofs,omitempty"`
	Key    string   `json:"key,omitempty"`
	Recent []string `json:"recent,omitempty"`
	Flags  []string `json:"flags,omitempty"`
	// Broker is which one has it, where several share what they know; Confirmed is
	// when another broker last said that it is open (RFC 3339).
	Broker    string `json:"broker,omitempty"`
	Confirmed string `json:"confirmed,omitempty"`
}

// SessionPage is one answer to the verb sessions.
type SessionPage struct {
	Sessions []Session
	// More says that there are others after the last of these.
	More bool
	// Broker is who answers, where several share what they know.
	Broker string
	// Problem is why the sessions of other brokers are not known, or not all.
	Problem string
}

// EncodeSessions puts a page's sessions, in the order of their ids, into a body.
func EncodeSessions(p SessionPage) ([]string, error) {
	return encodeFirst(pageHead{Broker: p.Broker, Problem: p.Problem}, p.Sessions)
}

// DecodeSessions reads what EncodeSessions wrote.
func DecodeSessions(a wire.Answer) (p SessionPage, err error) {
	var head pageHead
	p.Sessions, err = decodePage[Session](a, &head)
	p.More, p.Broker, p.Problem = head.More, head.Broker, head.Problem
	return p, err
}

// Killed is the answer to the verb kill: the sessions that are being ended.
type Killed struct {
	Sessions []string `json:"sessions"`
	// Others are those that other brokers were ordered to end.
	Others []KilledThere `json:"others,omitempty"`
	// Problem is why other brokers were not ordered, or not for all.
	Problem string `json:"problem,omitempty"`
}

// KilledThere is another broker's session.
type KilledThere struct {
	Session string `json:"session"`
	Host    string `json:"host"`
	Broker  string `json:"broker"`
}

// Revoked is the answer to the verb revoked: where a user is out.
type Revoked struct {
	User  string        `json:"user"`
	Hosts []RevokedHost `json:"hosts"`
}

// RevokedHost is one host's part.
type RevokedHost struct {
	Host string `json:"host"`
	// Broker is another one that has said it of its sessions on that host; empty:
	// the host itself has.
	Broker string `json:"broker,omitempty"`
	// Confirmed: it knows that the user is out, and has none of his sessions.
	Confirmed bool `json:"confirmed"`
	// Sessions had to end there.
	Sessions int `json:"sessions"`
	// Took is from the change in the directory to the host's word.
	Took time.Duration `json:"took_ns"`
	// Problem is why it is not confirmed.
	Problem string `json:"problem,omitempty"`
}
