package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The garbage beside the snapshot may take a quarter of the snapshot's memory,
// or freeGarbage where that is more: a snapshot of a million users is large and
// lives long, but one of a hundred would have its few bytes collected at every
// turn.
const (
	freeGarbage = 64 << 20
	tuneEvery   = time.Minute
)

// gcPercent is the collector's setting (debug.SetGCPercent) for that many bytes
// in use.
func gcPercent(live uint64) int {
	return int(max(25, min(1000, freeGarbage*100/max(live, 1))))
}

// tune sets the collector by what is in use now. GOGC in the environment wins.
func tune() {
	if os.Getenv("GOGC") != "" {
		return
	}
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	if s[0].Value.Kind() == metrics.KindUint64 {
		debug.SetGCPercent(gcPercent(s[0].Value.Uint64()))
	}
}

// keepTuned tunes until ctx ends.
func keepTuned(ctx context.Context) {
	t := time.NewTicker(tuneEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			tune()
		}
	}
}
