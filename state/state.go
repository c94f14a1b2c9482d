// Package state keeps what brokers share and what must outlive a restart: spent
// tickets and codes, failure counters, sessions and orders to end them. One small
// interface over NATS JetStream: inside the process, in one folder and with no
// listening socket, or on a cluster of nats-servers.
//
// Something is spent by Create alone, one test-and-set. Whoever reads first and
// writes then lets two in.
//
// Whom it trusts: in the process, whoever may write its folder; on a cluster, the
// servers' administrators and everybody with a certificate that the servers
// accept. They can forget marks and make up sessions; they cannot sign in by it.
package state

import (
	"context"
	"errors"
	"time"
)

// The buckets.
const (
	// Replay has a mark for each authenticator seen. Full: no more are taken.
	BucketReplay = "replay"
	// Codes has a mark for each one-time code used. Full: no more are taken.
	BucketCodes = "codes"
	// Counters are wrong passwords. Full: the one least lately written goes.
	BucketCounters = "counters"
	// Sessions are open logins. Full: no more are taken.
	BucketSessions = "sessions"
	// Ends are orders to end sessions. Full: no more are taken.
	BucketEnds = "ends"
	// Proofs say when who last proved himself. Full: the one least lately written
	// goes, and he proves himself again.
	BucketProofs = "proofs"
)

// The bounds of one entry.
const (
	MaxKey   = 1 << 10  // bytes
	MaxValue = 64 << 10 // bytes
)

var (
	// ErrExists: somebody else's Create came first.
	ErrExists = errors.New("it is there already")
	// ErrNotFound: there is no such key, or no more.
	ErrNotFound = errors.New("there is no such entry")
	// ErrConflict: the entry has another revision than the one to be replaced.
	ErrConflict = errors.New("it was changed meanwhile")
	// ErrUnavailable: could not find out. What was to be written may be written
	// or not, now or soon. It is the answer to all faults of disk and network, of
	// a full bucket, and of a context that ended.
	ErrUnavailable = errors.New("the state store could not tell")
)

// Entry is one key with its value.
type Entry struct {
	// Key and Value are the bytes that were given.
	Key   string
	Value []byte
	// Revision grows with each change in the bucket. Update compares it.
	Revision uint64
	// Created is when this value was written, by the clock of the server that
	// took it.
	Created time.Time
}

// Change is what Watch tells.
type Change struct {
	// Entry is the new value. Of one that is gone, it has the Key alone.
	Entry
	Deleted bool
}

// Store is safe for use by many goroutines. A key is any 1 to MaxKey bytes, a
// value any up to MaxValue.
//
// A ttl of 0 is for ever; others are rounded up to whole seconds, those of marks
// (replay, codes) are up to 42 days. An entry is gone not before its ttl is past, and
// mostly within two seconds after.
//
// A call ends with its context, or after three seconds where that has no deadline,
// with ErrUnavailable. On a cluster whose leader was lost all writes may need ten
// seconds; who can wait for that long says so by his deadline.
type Store interface {
	// Create writes a key that is not there: of any number of callers, at any
	// number of brokers, one at most is told nil. The others are told ErrExists.
	Create(ctx context.Context, bucket, key string, value []byte, ttl time.Duration) error
	// Put writes a key whether or not it is there.
	Put(ctx context.Context, bucket, key string, value []byte, ttl time.Duration) error
	// Get reads what was last written, as the leader of the bucket has it. It is
	// no ground to spend anything.
	Get(ctx context.Context, bucket, key string) (Entry, error)
	// Update writes a key that has this revision, else it says ErrConflict, also
	// when the key is gone. The ttl that the key was written with begins anew.
	Update(ctx context.Context, bucket, key string, value []byte, revision uint64) error
	// Delete removes a key; one that is not there is no error. Marks in the buckets
	// replay and codes cannot be removed.
	Delete(ctx context.Context, bucket, key string) error
	// List reads a bucket. On a cluster it may lag some milliseconds behind.
	List(ctx context.Context, bucket string) ([]Entry, error)
	// Watch calls f with all that is there, then with each change, one at a time,
	// until ctx ends; that is its only error, but for a bucket that there is not.
	// It outlasts all faults: what changed meanwhile is told when they are over,
	// each key's last state once. f must not block for long.
	Watch(ctx context.Context, bucket string, f func(Change)) error
	// Close ends all calls. It may be called twice.
	Close() error
}
