package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/state"
)

// TestProofMemory: two brokers with one state remember the same, at once where it
// was shown and soon elsewhere, over a restart too; and each for its user and address.
func TestProofMemory(t *testing.T) {
	l := logrus.New()
	l.SetOutput(io.Discard)
	log := logrus.NewEntry(l)
	dir := t.TempDir() + "/state"
	open := func() state.Store {
		t.Helper()
		s, err := state.Open(t.Context(), state.Config{Dir: dir, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	begin := func(s state.Store) (m *proofMemory, end func()) {
		m = newProofMemory(s, now, log)
		ctx, cancel := context.WithCancel(context.Background())
		var all sync.WaitGroup
		all.Go(func() { m.run(ctx) })
		return m, func() { cancel(); all.Wait() }
	}
	home, cafe := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::7")
	knows := func(m *proofMemory, u broker.UserName, from netip.Addr) bool {
		r := m.recent(u, from)
		return len(r) == 1 && r[0].Proof == broker.ProofOTP && r[0].Age >= 0
	}
	soon := func(what string, f func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("never: " + what)
			}
		}
	}
	s := open()
	one, endOne := begin(s)
	two, endTwo := begin(s)
	one.remember("alice", home, broker.ProofOTP)
	if !knows(one, "alice", home) {
		t.Error("it is not known at once where it was shown")
	}
	soon("the other broker knows", func() bool { return knows(two, "alice", home) })
	for _, m := range []*proofMemory{one, two} {
		if knows(m, "alice", cafe) || knows(m, "bob", home) || knows(m, "alice\x00", home) {
			t.Error("somebody else's is taken for it")
		}
	}
	ahead.Store(int64(5 * time.Hour))
	if r := two.recent("alice", home); len(r) != 1 || r[0].Age < 5*time.Hour || r[0].Age > 5*time.Hour+time.Minute {
		t.Errorf("five hours later: %+v", r)
	}
	ahead.Store(int64(broker.MaxProofAge))
	if knows(two, "alice", home) {
		t.Error("it is known for longer than any rule can ask")
	}
	ahead.Store(-int64(time.Hour))
	if r := two.recent("alice", home); r != nil {
		t.Errorf("by a clock that went back: %+v", r)
	}
	ahead.Store(0)
	endOne()
	endTwo()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	defer s.Close()
	three, endThree := begin(s)
	defer endThree()
	soon("it is known after a restart", func() bool { return knows(three, "alice", home) })

	// However many there are, memory is bounded, and the newest is known.
	for i := range maxMarks + 100 {
		three.put(proofMark{fmt.Sprint("otp\x00", i), now()})
	}
	three.remember("carol", cafe, broker.ProofOTP)
	three.mu.Lock()
	n := len(three.marks)
	three.mu.Unlock()
	if n != maxMarks || !knows(three, "carol", cafe) {
		t.Errorf("%d are kept, carol's among them: %v", n, knows(three, "carol", cafe))
	}
}
