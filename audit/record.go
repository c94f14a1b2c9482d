package audit

import (
	"time"
)

// Kind is what a record is of.
type Kind string

// The kinds of records.
const (
	// KindDecision is an answer to a broker.Request.
	KindDecision Kind = "decision"
	// KindSession is a step in a session's life.
	KindSession Kind = "session"
	// KindNote is an Event: what somebody did to sekishod or its users.
	KindNote Kind = "note"
	// KindSeal is a signature of all that stands before it.
	KindSeal Kind = "seal"
	// KindMend says that bytes at the end of an older file are not in the chain.
	KindMend Kind = "mend"
	// KindGap says that records could not be written for a time, and how many.
	KindGap Kind = "gap"
	// KindVoid says that an older decision was not given to anybody: its record
	// was on the disk too late; or that a delete was not sealed when its writer
	// ended, and does not count.
	KindVoid Kind = "void"
	// KindDelete says that an old file is deleted now.
	KindDelete Kind = "delete"
	// KindCut says that lines which had been sealed were gone when the record was
	// gone on with.
	KindCut Kind = "cut"
)

// Record is one line. Fields that a kind does not have are zero. Texts longer
// than MaxText, and those that are no UTF-8, are as Clip gives them.
type Record struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	Kind Kind      `json:"kind"`
	// Host is where the record was made.
	Host string `json:"host"`

	// Of decisions and sessions.
	Door   string `json:"door,omitempty"`
	User   string `json:"user,omitempty"`
	Login  string `json:"login,omitempty"` // empty: the user's own name
	From   string `json:"from,omitempty"`  // an address; empty: not known, or the host itself
	Target string `json:"target,omitempty"`
	// Rules are those that made it so; MoreRules is how many were left out after
	// the first MaxList.
	Rules     []string `json:"rules,omitempty"`
	MoreRules int      `json:"more_rules,omitempty"`
	// Shown are the proofs that it was decided on.
	Shown []string `json:"shown,omitempty"`
	// Reason is one of broker's.
	Reason string `json:"reason,omitempty"`
	// Until is when it is to be judged again.
	Until time.Time `json:"until,omitzero"`
	// Generation is the snapshot's, and Age how old it was, in seconds.
	Generation uint64 `json:"generation,omitempty"`
	Age        int64  `json:"age,omitempty"`

	// Of decisions.
	Outcome string     `json:"outcome,omitempty"`
	Need    [][]string `json:"need,omitempty"`   // any one list would do; a proof of several kinds is written key|otp
	Recent  []string   `json:"recent,omitempty"` // older proofs that could count, as otp:3600 (seconds)

	// Of sessions. Event is also that of a note: its kind.
	Event   string    `json:"event,omitempty"`
	Session string    `json:"session,omitempty"`
	Keeper  string    `json:"keeper,omitempty"`
	Place   string    `json:"place,omitempty"`
	Service string    `json:"service,omitempty"`
	TTY     string    `json:"tty,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	By      string    `json:"by,omitempty"`
	Took    float64   `json:"took,omitempty"` // seconds

	// Of notes.
	Actor   string `json:"actor,omitempty"`
	Subject string `json:"subject,omitempty"`
	Text    string `json:"text,omitempty"` // also of mend and gap: what happened

	// Of mend and delete: the file, and for mend where its good part ends (a byte
	// offset), how many bytes follow and their SHA-256; Bytes is -1 when that
	// could not be known.
	File  string `json:"file,omitempty"`
	At    int64  `json:"at,omitempty"`
	Bytes int64  `json:"bytes,omitempty"`
	Sum   string `json:"sum,omitempty"`
	// Of delete: the last record in the file. Of void: the decision. Of cut: the
	// seal that is gone.
	Of uint64 `json:"of,omitempty"`
	// Of gap: how many grants were refused and how many other records lost.
	Grants uint64 `json:"grants,omitempty"`
	Lost   uint64 `json:"lost,omitempty"`

	// Of seals: the public key and the signature.
	Key  string `json:"key,omitempty"`
	Prev string `json:"prev"`
	Sig  string `json:"sig,omitempty"`
}

// Event is what a note says.
type Event struct {
	// Kind is a word: lockout, unlock, passwd, sync-accept, host-refused, …
	Kind string
	// Actor did it, Subject had it done: names, hosts or addresses.
	Actor, Subject string
	// Text is more about it, in one line, without secrets.
	Text string
	// Sure has Note return only when the record is on the disk.
	Sure bool
}
