// Package report is what sekishod tells sekisho over the local socket about a
// decision and about itself: one JSON document, the only line of the answer's
// body. Names and meanings here are what scripts read from `--json`, so that
// fields are added and never changed.
package report

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/sekisho/sekisho/wire"
)

// The fields of the verbs why and passwd, and the verb passwd itself, which
// only a sekishod with an embedded realm has.
const (
	FieldDoor   = "door"
	FieldTarget = "target"
	FieldFrom   = "from"
	FieldLogin  = "login"
	FieldAt     = "at"    // RFC 3339
	FieldProof  = "proof" // by comma

	VerbPasswd = "passwd"
	FieldOld   = "old"
	FieldNew   = "new"
)

// Why is a decision with its grounds.
type Why struct {
	User   string   `json:"user"`
	Door   string   `json:"door"`
	Target string   `json:"target"`
	Login  string   `json:"login"`
	From   string   `json:"from,omitempty"`
	At     string   `json:"at"` // RFC 3339: the time that was judged
	Proofs []string `json:"proofs"`
	Recent []Recent `json:"recent,omitempty"` // older proofs from the same address

	Outcome string   `json:"outcome"` // allow, deny, need-proof, unknown
	Reason  string   `json:"reason"`
	Grants  []Grant  `json:"grants,omitempty"`
	Need    []Need   `json:"need,omitempty"` // any one of them would do
	Rules   []Rule   `json:"rules"`
	Change  []string `json:"change,omitempty"` // what would make it a yes
	Until   string   `json:"until,omitempty"`  // RFC 3339: the answer may differ then
	Clock   string   `json:"clock,omitempty"`  // which clock makes passwords and tickets worthless now

	Generation uint64 `json:"generation"`
	AgeSeconds int64  `json:"age_seconds"`
}

// Recent is an older proof that counts for rules such as otp<12h.
type Recent struct {
	Proof      string `json:"proof"`
	AgeSeconds int64  `json:"age_seconds"`
}

// Need is a list of proofs that are all missing; in each, any kind will do.
type Need [][]string

// Grant is what would be given.
type Grant struct {
	Login  string   `json:"login"`
	From   string   `json:"from,omitempty"`
	Rules  []string `json:"rules"`
	Permit []string `json:"permit"`
	Until  string   `json:"until,omitempty"`
}

// Rule is how one rule fared.
type Rule struct {
	Name    string   `json:"name"`
	Matched bool     `json:"matched"`
	Miss    string   `json:"miss,omitempty"`
	Via     []string `json:"via,omitempty"`      // groups from the user's to the rule's
	HostVia []string `json:"host_via,omitempty"` // groups from the host's to the rule's
}

// Status is how a sekishod is doing. What only root is told is empty for
// others.
type Status struct {
	Host      string    `json:"host"`
	HostKnown bool      `json:"host_known"` // the directory has an entry for this host
	Embedded  bool      `json:"embedded"`
	PID       int       `json:"pid,omitempty"`
	Started   time.Time `json:"started"`
	Sync      Sync      `json:"sync"`
	Realm     []Child   `json:"realm,omitempty"`
	LDAPI     string    `json:"ldapi,omitempty"`
	Socket    *Socket   `json:"socket,omitempty"`
	Audit     *Audit    `json:"audit,omitempty"`
	UserDB    string    `json:"userdb"` // off, waiting (for a first snapshot), on
	PAM       *PAM      `json:"pam,omitempty"`
	Clock     *Clock    `json:"clock,omitempty"`
	Feed      *Feed     `json:"feed,omitempty"`
}

// Sync is the copy of the directory.
type Sync struct {
	State         string     `json:"state"`
	Loaded        bool       `json:"loaded"`
	Generation    uint64     `json:"generation"`
	AgeSeconds    int64      `json:"age_seconds"`
	MaxAgeSeconds int64      `json:"max_age_seconds"`
	Users         int        `json:"users"`
	Groups        int        `json:"groups"`
	Hosts         int        `json:"hosts"`
	Rules         int        `json:"rules"`
	LastChange    *time.Time `json:"last_change,omitempty"`

	Provider       string     `json:"provider,omitempty"`
	LastError      string     `json:"last_error,omitempty"`
	LastErrorAt    *time.Time `json:"last_error_at,omitempty"`
	RetryAt        *time.Time `json:"retry_at,omitempty"`
	DiskError      string     `json:"disk_error,omitempty"`
	DiskBytes      int64      `json:"disk_bytes,omitempty"`
	Held           *Held      `json:"held,omitempty"`
	SkippedEntries int        `json:"skipped_entries,omitempty"`
	SkippedValues  int        `json:"skipped_values,omitempty"`
	Skipped        []Skipped  `json:"skipped,omitempty"` // the first of them
}

// PAM is the door of pam_sekisho.so.
type PAM struct {
	Password string `json:"password"`      // who proves passwords: kdc, ldap, pam:SERVICE, none
	OTP      string `json:"otp,omitempty"` // who proves one-time codes
	Sessions int    `json:"sessions"`      // open
}

// Audit is the record of decisions.
type Audit struct {
	Seq        uint64 `json:"seq"` // of the last record on the disk
	File       string `json:"file"`
	Sealed     uint64 `json:"sealed"` // the last seal's
	Key        string `json:"key"`    // public
	Queued     int    `json:"queued"` // bytes that wait for the disk
	Error      string `json:"error,omitempty"`
	SyslogLost uint64 `json:"syslog_lost,omitempty"`
}

// Clock is what the clock guard knows.
type Clock struct {
	State string `json:"state"` // good, near, beyond, unknown
	Text  string `json:"text"`
}

// Held is a change that waits for `sekisho sync accept`.
type Held struct {
	Since time.Time `json:"since"`
	Why   string    `json:"why"`
	Users int       `json:"users"` // would go
	Of    int       `json:"of"`
	First []string  `json:"first"`
}

// Skipped is an entry, or a value of it, that could not be used.
type Skipped struct {
	DN    string `json:"dn"`
	Why   string `json:"why"`
	Whole bool   `json:"whole"` // the entry is not in use at all
}

// Child is slapd or krb5kdc.
type Child struct {
	Name      string    `json:"name"`
	PID       int       `json:"pid"` // 0: not running
	Ready     bool      `json:"ready"`
	Restarts  int       `json:"restarts"`
	Since     time.Time `json:"since"`
	LastError string    `json:"last_error,omitempty"`
}

// Socket counts what happened on the local socket.
type Socket struct {
	Open      int    `json:"open"`
	Requests  uint64 `json:"requests"`
	Denied    uint64 `json:"denied"`
	Malformed uint64 `json:"malformed"`
	Busy      uint64 `json:"busy"`
}

// Encode puts a document into an answer's body.
func Encode(doc any) ([]string, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("writing the answer: %w", err)
	}
	if len(b) > wire.MaxBodyLine {
		return nil, fmt.Errorf("the answer has %d bytes, and %d are allowed", len(b), wire.MaxBodyLine)
	}
	return []string{string(b)}, nil
}

// Decode reads what Encode wrote.
func Decode(a wire.Answer, doc any) error {
	if len(a.Body) != 1 {
		return fmt.Errorf("the answer has %d lines where one was expected: install the same release of sekisho and sekishod", len(a.Body))
	}
	if err := json.Unmarshal([]byte(a.Body[0]), doc); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}
