package main

import (
	"context"
	"encoding/binary"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/state"
)

// proofMemory knows who has lately shown a one-time code, and from where, for rules
// such as otp<12h. What brokers share is the truth; this is a copy of it that
// answers at once, and is told by a watch. What is forgotten opens nothing: he is
// asked again.
type proofMemory struct {
	store state.Store
	now   func() time.Time
	log   *logrus.Entry
	fresh chan proofMark // to be written to the store

	mu    sync.Mutex // guards all below
	marks map[string]time.Time
}

// proofMark is one proof: a key of the bucket proofs, and when.
type proofMark struct {
	key string
	at  time.Time
}

const (
	maxMarks     = 200_000
	maxUnwritten = 1024
)

func newProofMemory(store state.Store, now func() time.Time, log *logrus.Entry) *proofMemory {
	return &proofMemory{store: store, now: now, log: log, fresh: make(chan proofMark, maxUnwritten), marks: map[string]time.Time{}}
}

func markKey(u broker.UserName, from netip.Addr, p broker.Proof) string {
	return strings.Join([]string{string(p), from.String(), string(u)}, "\x00")
}

// recent is broker.Config.Recent.
func (m *proofMemory) recent(u broker.UserName, from netip.Addr) []broker.RecentProof {
	m.mu.Lock()
	at, ok := m.marks[markKey(u, from, broker.ProofOTP)]
	m.mu.Unlock()
	if age := m.now().Sub(at); ok && age >= 0 && age < broker.MaxProofAge {
		return []broker.RecentProof{{Proof: broker.ProofOTP, Age: age}}
	}
	return nil
}

// remember is broker.Config.Remember. The store gets it a moment later.
func (m *proofMemory) remember(u broker.UserName, from netip.Addr, p broker.Proof) {
	mark := proofMark{markKey(u, from, p), m.now()}
	if len(mark.key) > state.MaxKey {
		return
	}
	m.put(mark)
	select {
	case m.fresh <- mark:
	default:
		m.log.WithField("user", string(u)).Warn("a one-time code is remembered on this broker alone: what brokers share is slow")
	}
}

func (m *proofMemory) put(mark proofMark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.marks[mark.key]; ok && old.After(mark.at) {
		return
	}
	if _, ok := m.marks[mark.key]; !ok && len(m.marks) >= maxMarks {
		for k := range m.marks { // any one
			delete(m.marks, k)
			break
		}
	}
	m.marks[mark.key] = mark.at
}

// run keeps the copy and the store alike until ctx ends.
func (m *proofMemory) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() {
		for {
			select {
			case mark := <-m.fresh:
				m.write(ctx, mark)
			case <-ctx.Done():
				return
			}
		}
	})
	if err := m.store.Watch(ctx, state.BucketProofs, m.hear); err != nil && ctx.Err() == nil {
		m.log.WithError(err).Error("what brokers share does not tell of one-time codes: older ones count on the broker that saw them alone")
	}
}

func (m *proofMemory) write(ctx context.Context, mark proofMark) {
	value := binary.BigEndian.AppendUint64(nil, uint64(mark.at.Unix()))
	if err := m.store.Put(ctx, state.BucketProofs, mark.key, value, broker.MaxProofAge); err != nil && ctx.Err() == nil {
		m.log.WithError(err).Warn("a one-time code is remembered on this broker alone: what brokers share did not take it")
	}
}

func (m *proofMemory) hear(c state.Change) {
	if !strings.HasPrefix(c.Key, string(broker.ProofOTP)+"\x00") {
		return // what else is kept there
	}
	if c.Deleted {
		m.mu.Lock()
		delete(m.marks, c.Key)
		m.mu.Unlock()
		return
	}
	if len(c.Value) == 8 {
		m.put(proofMark{c.Key, time.Unix(int64(binary.BigEndian.Uint64(c.Value)), 0)})
	}
}
