package state

import (
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// bucket is how one is kept.
type bucket struct {
	name  string
	keys  int  // how many at most
	evict bool // when full, the least lately written goes; else nothing more is taken
	mark  bool // entries are spent for good: no Put, Update or Delete
}

// counts tells whether keys is enforced here. A stream enforces its own bound, but
// on a cluster a full one takes no change to what is in it either, and not even a
// tombstone. So where there are such its bound is higher, and the last quarter is
// for them.
func (b bucket) counts() bool { return !b.evict && !b.mark }

// buckets are all there are. A bucket may evict only if what is forgotten opens
// nothing: an attacker who fills it chooses what goes.
var buckets = []bucket{
	{name: BucketReplay, keys: 1_000_000, mark: true},
	{name: BucketCodes, keys: 1_000_000, mark: true},
	// To be forgotten, a counter must be the oldest of a million: a million wrong
	// passwords for each handful that is gained.
	{name: BucketCounters, keys: 1_000_000, evict: true},
	{name: BucketSessions, keys: 200_000},
	{name: BucketEnds, keys: 200_000},
	{name: BucketProofs, keys: 1_000_000, evict: true},
}

func bucketNamed(name string) (bucket, bool) {
	i := slices.IndexFunc(buckets, func(b bucket) bool { return b.name == name })
	if i < 0 {
		return bucket{}, false
	}
	return buckets[i], true
}

// graveTime is how long it is kept that an entry was removed, for those who watch.
// Whoever cannot hear for longer reads all anew.
const graveTime = 10 * time.Minute

func (b bucket) stream() string { return "KV_" + b.name }

func (b bucket) subject(key string) string { return "$KV." + b.name + "." + token(key) }

// keys is how many a bucket may have.
func (c *Config) keys(b bucket) int {
	if n, ok := c.MaxKeys[b.name]; ok {
		return n
	}
	return b.keys
}

// bucketConfig is the stream of a bucket, laid out like NATS's own key-value
// buckets, so that `nats kv` can look into it.
func (c *Config) bucketConfig(b bucket) jetstream.StreamConfig {
	sc := jetstream.StreamConfig{
		Name:              b.stream(),
		Subjects:          []string{"$KV." + b.name + ".>"},
		Storage:           jetstream.FileStorage,
		Replicas:          c.Replicas,
		Discard:           jetstream.DiscardNew,
		MaxMsgs:           int64(c.keys(b)),
		MaxMsgsPerSubject: 1,
		MaxBytes:          c.MaxDisk / 8,
		MaxMsgSize:        maxRecord + 1024, // and headers
		DenyDelete:        true,
		DenyPurge:         true,
		AllowMsgTTL:       true,
		// AllowDirect stays off: any replica would answer a Get then, however far
		// it lags behind.
	}
	if b.evict {
		sc.Discard = jetstream.DiscardOld
	}
	if b.counts() {
		sc.MaxMsgs += sc.MaxMsgs/3 + 1
	}
	return sc
}

// fits tells why a stream that was found is not good enough to keep what ours
// would.
func (c *Config) fits(b bucket, got jetstream.StreamConfig) error {
	want := c.bucketConfig(b)
	for _, f := range []struct {
		what      string
		want, got any
	}{
		{"subjects", fmt.Sprint(want.Subjects), fmt.Sprint(got.Subjects)},
		{"storage", want.Storage, got.Storage},
		{"retention", want.Retention, got.Retention},
		{"discard", want.Discard, got.Discard},
		{"max_age", want.MaxAge, got.MaxAge},
		{"max_msgs_per_subject", want.MaxMsgsPerSubject, got.MaxMsgsPerSubject},
		{"allow_msg_ttl", want.AllowMsgTTL, got.AllowMsgTTL},
		{"allow_direct", want.AllowDirect, got.AllowDirect},
		{"replicas below ours", false, got.Replicas < want.Replicas},
		{"mirror or sources", false, got.Mirror != nil || len(got.Sources) > 0},
	} {
		if f.want != f.got {
			return fmt.Errorf("the stream %s on the servers has %s %v where it needs %v: edit it, or set state.replicas as it is", want.Name, f.what, f.got, f.want)
		}
	}
	return nil
}
