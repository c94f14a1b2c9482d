package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/state"
)

const (
	// shareEvery is how often changed counters are told to other brokers: what
	// was counted since is lost by kill -9.
	shareEvery = time.Second
	// shareLast bounds the last time.
	shareLast = 2 * time.Second
	// shareMost bounds what is told in one go, in time.
	shareMost = 10 * time.Second
)

// knownPrefix marks what is known good in the bucket proofs.
const knownPrefix = "known/"

// countKey is the key of a broker's own count; what is known good is nobody's own.
func countKey(id string, n broker.GuessCount) string {
	if n.Kind == broker.GuessKnown {
		return knownPrefix + n.Name + "\x00" + n.Source + "\x00" + n.By
	}
	return id + "/" + string(n.Kind) + "/" + n.Name
}

// share tells other brokers what was counted here, and learns what they have
// counted, until ctx ends. What this process's predecessor had counted is learned
// the same way: each run counts in a name of its own. Without the store, counting
// goes on here alone.
func (g *guesses) share(ctx context.Context, store state.Store, c sharing) error {
	id := rand.Text()
	ended := make(chan error, 2)
	watching, stop := context.WithCancel(ctx)
	for _, bucket := range []string{state.BucketCounters, state.BucketProofs} {
		go func() { ended <- store.Watch(watching, bucket, func(ch state.Change) { g.learn(id, bucket, ch) }) }()
	}
	defer func() {
		stop()
		<-ended
		<-ended
	}()
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	well := true
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shareLast)
			defer cancel()
			return g.tell(last, store, id, c)
		case err := <-ended:
			ended <- err
			if ctx.Err() == nil {
				return err
			}
		case <-tick.C:
			some, cancel := context.WithTimeout(ctx, shareMost)
			err := g.tell(some, store, id, c)
			cancel()
			switch {
			case err != nil && well && ctx.Err() == nil:
				g.log.WithError(err).Warn("counters of wrong passwords are not shared: each broker counts alone until the store answers")
			case err == nil && !well:
				g.log.Info("counters of wrong passwords are shared again")
			}
			well = err == nil
		}
	}
}

// sharing is how counts are shared.
type sharing struct {
	every time.Duration
	// counters and known are how long they are kept.
	counters, known time.Duration
}

func (d *daemon) sharing() sharing {
	c := d.cfg.Guessing
	return sharing{every: shareEvery, known: max(time.Duration(c.KnownGood), time.Second),
		// Eight halvings leave of 100 less than one half.
		counters: 8 * broker.GuessHalving * time.Duration(c.LongestWait)}
}

// tell stores what has changed; after a fault the rest is left for the next time.
func (g *guesses) tell(ctx context.Context, store state.Store, id string, c sharing) error {
	changed := g.own.Changed()
	for i, n := range changed {
		bucket, ttl := state.BucketCounters, c.counters
		if n.Kind == broker.GuessKnown {
			bucket, ttl = state.BucketProofs, c.known
		}
		value, err := json.Marshal(n)
		if err == nil {
			err = store.Put(ctx, bucket, countKey(id, n), value, ttl)
		}
		if err != nil {
			for _, n := range changed[i:] {
				g.own.Again(n)
			}
			return err
		}
	}
	return nil
}

// learn takes over what the store tells. What it forgets has no weight any more.
func (g *guesses) learn(id, bucket string, ch state.Change) {
	from, _, ok := strings.Cut(ch.Key, "/")
	if ch.Deleted || !ok || from == id || bucket == state.BucketProofs && !strings.HasPrefix(ch.Key, knownPrefix) {
		return
	}
	var n broker.GuessCount
	if err := json.Unmarshal(ch.Value, &n); err != nil || countKey(from, n) != ch.Key {
		g.log.WithField("bucket", bucket).Debug("a counter of another broker cannot be read")
		return
	}
	g.own.Merge(from, n)
}
