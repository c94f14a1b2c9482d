package ldapsync

import (
	"time"

	"github.com/sekisho/sekisho/broker"
)

// State is what a Sync is doing.
type State string

// The states.
const (
	Loading    State = "loading"    // reading the last good snapshot from disk
	Connecting State = "connecting" // dialing, binding
	Refreshing State = "refreshing" // reading what changed, or everything
	Live       State = "live"       // following, and proven up to date a moment ago
	Lagging    State = "lagging"    // following, without a recent proof
	Waiting    State = "waiting"    // all providers failed; see LastError and RetryAt
	Stopped    State = "stopped"    // Run has not begun or has ended
)

// Status is how a Sync is doing, for `sekisho status`.
type Status struct {
	State State
	// Provider is the URL in use or last tried.
	Provider string
	// Generation, AsOf and the counts are those of the published snapshot;
	// Loaded says that there is one.
	Loaded                      bool
	Generation                  uint64
	AsOf                        time.Time
	Users, Groups, Hosts, Rules int
	// LastChange is when a snapshot was last published.
	LastChange time.Time
	// Held is the change that is held back; nil when none is.
	Held *Held
	// SkippedEntries and SkippedValues count what could not be used; Skipped
	// names the first of them, at most MaxSkipped.
	SkippedEntries, SkippedValues int
	Skipped                       []Skipped
	// LastError is why a provider was last left, at LastErrorAt; empty once
	// live again. RetryAt is the next try while Waiting.
	LastError   string
	LastErrorAt time.Time
	RetryAt     time.Time
	// DiskError is why the snapshot cannot be written; empty when it can.
	DiskError string
	// DiskBytes is the size of the snapshot on disk.
	DiskBytes int64
}

// Held is a change that waits for Accept.
type Held struct {
	Since time.Time
	// Why is one sentence.
	Why string
	// Users would go, of Of that are published; First are some of them, at
	// most 20, in the order of their names.
	Users, Of int
	First     []broker.UserName
}

// Skipped is an entry, or a value of it, that could not be used.
type Skipped struct {
	DN string
	// Why tells the attribute and the reason, never a secret.
	Why string
	// Whole says that the entry is not in the snapshot at all.
	Whole bool
}

// MaxSkipped bounds Status.Skipped.
const MaxSkipped = 200
