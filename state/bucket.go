package state

// bucket is how one is kept.
type bucket struct {
	keys  int  // how many at most
	evict bool // when full, the least lately written goes; else nothing more is taken
	mark  bool // entries are spent for good: no Put, Update or Delete
	tell  bool // Watch is told when an entry's ttl is past; each such costs a write
}

// buckets are all there are. A bucket may evict only if what is forgotten opens
// nothing: an attacker who fills it chooses what goes.
var buckets = map[string]bucket{
	BucketReplay: {keys: 1_000_000, mark: true},
	BucketCodes:  {keys: 1_000_000, mark: true},
	// To be forgotten, a counter must be the oldest of a million: a million wrong
	// passwords for each handful that is gained.
	BucketCounters: {keys: 1_000_000, evict: true},
	BucketSessions: {keys: 200_000, tell: true},
	BucketEnds:     {keys: 200_000, tell: true},
	BucketProofs:   {keys: 1_000_000, evict: true},
}
