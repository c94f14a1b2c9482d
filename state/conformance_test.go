package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// small are the bounds of the buckets that the suite fills.
var small = map[string]int{BucketCodes: 20, BucketEnds: 20, BucketCounters: 20}

// TestInside runs the suite on the store in the process.
func TestInside(t *testing.T) {
	t.Parallel()
	st := open(t, Config{Dir: t.TempDir() + "/state", MaxKeys: small, Log: quiet()})
	conformance(t, []Store{st, st, st})
}

func open(t testing.TB, c Config) Store {
	t.Helper()
	st, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// patient is the context of calls that must come to something, on however slow a disk.
func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// conformance is what every Store must do, to three brokers that share it.
func conformance(t *testing.T, brokers []Store) {
	st := brokers[0]
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"one of 200 creates", func(t *testing.T) { oneOf200(t, brokers) }},
		{"keys", func(t *testing.T) { anyKeys(t, st) }},
		{"bounds", func(t *testing.T) { bounds(t, st) }},
		{"compare and set", func(t *testing.T) { counting(t, brokers) }},
		{"delete", func(t *testing.T) { deleting(t, st) }},
		{"marks", func(t *testing.T) { marks(t, st) }},
		{"ttl", func(t *testing.T) { lifetimes(t, st) }},
		{"watch", func(t *testing.T) { watching(t, brokers) }},
		{"full", func(t *testing.T) { filling(t, st) }},
		{"contexts", func(t *testing.T) { contexts(t, st) }},
		{"replay", func(t *testing.T) { replaying(t, brokers) }},
	} {
		t.Run(test.name, test.run)
	}
}

func oneOf200(t *testing.T, brokers []Store) {
	for round := range 3 {
		key := fmt.Sprintf("%s-%d", t.Name(), round)
		var won atomic.Int32
		var all sync.WaitGroup
		start := make(chan struct{})
		for i := range 200 {
			all.Go(func() {
				<-start
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := brokers[i%len(brokers)].Create(ctx, BucketReplay, key, []byte{byte(i)}, time.Hour)
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, ErrExists):
					t.Error(err)
				}
			})
		}
		close(start)
		all.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d of 200 were told that they were first", won.Load())
		}
	}
}

func anyKeys(t *testing.T, st Store) {
	keys := []string{"a", "A", ".", "..", "*", ">", "a.b", "a b\r\n", "\x00", "\xff\xfe", "$KV.ends.x", "名", "k", "h",
		strings.Repeat("x", longKey), strings.Repeat("x", longKey+1), strings.Repeat(".", MaxKey), strings.Repeat(".", MaxKey-1)}
	for b := range 256 {
		keys = append(keys, string([]byte{'b', byte(b)}))
	}
	for k := range listed(t, st, BucketSessions) {
		if err := st.Delete(patient(t), BucketSessions, k); err != nil {
			t.Fatal(err)
		}
	}
	for i, k := range keys {
		if err := st.Create(patient(t), BucketSessions, k, fmt.Append(nil, i), time.Hour); err != nil {
			t.Fatalf("%q: %v", k, err)
		}
	}
	for i, k := range keys {
		e, err := st.Get(patient(t), BucketSessions, k)
		if err != nil || e.Key != k || string(e.Value) != fmt.Sprint(i) || e.Revision == 0 ||
			time.Since(e.Created).Abs() > 10*time.Minute {
			t.Fatalf("%q: %+v %v", k, e, err)
		}
	}
	got := listed(t, st, BucketSessions)
	for i, k := range keys {
		if string(got[k]) != fmt.Sprint(i) {
			t.Errorf("%q is listed as %q", k, got[k])
		}
	}
	for _, k := range keys {
		if err := st.Delete(patient(t), BucketSessions, k); err != nil {
			t.Fatal(err)
		}
	}
	if got := listed(t, st, BucketSessions); len(got) != 0 {
		t.Errorf("%d are there after all were deleted", len(got))
	}
}

func listed(t *testing.T, st Store, bucket string) map[string][]byte {
	t.Helper()
	// On a cluster a follower may answer that lags a little.
	var out map[string][]byte
	for range 2 {
		all, err := st.List(patient(t), bucket)
		if err != nil {
			t.Fatal(err)
		}
		out = map[string][]byte{}
		for _, e := range all {
			if _, twice := out[e.Key]; twice {
				t.Errorf("%q is listed twice", e.Key)
			}
			out[e.Key] = e.Value
		}
		time.Sleep(100 * time.Millisecond)
	}
	return out
}

func bounds(t *testing.T, st Store) {
	ctx := patient(t)
	big := bytes.Repeat([]byte{0, 1, 0xff, 'x'}, MaxValue/4)
	if err := st.Put(ctx, BucketProofs, strings.Repeat("k", MaxKey), big, time.Minute); err != nil {
		t.Fatal(err)
	}
	e, err := st.Get(ctx, BucketProofs, strings.Repeat("k", MaxKey))
	if err != nil || !bytes.Equal(e.Value, big) {
		t.Errorf("%d bytes came back: %v", len(e.Value), err)
	}
	for what, err := range map[string]error{
		"no key":             st.Create(ctx, BucketProofs, "", nil, 0),
		"a long key":         st.Create(ctx, BucketProofs, strings.Repeat("k", MaxKey+1), nil, 0),
		"a long value":       st.Put(ctx, BucketProofs, "k", make([]byte, MaxValue+1), 0),
		"a long update":      st.Update(ctx, BucketProofs, "k", make([]byte, MaxValue+1), 1),
		"a negative ttl":     st.Put(ctx, BucketProofs, "k", nil, -1),
		"a mark's long life": st.Create(ctx, BucketCodes, "k", nil, (maxLife+1)*time.Second),
		"no such bucket":     st.Put(ctx, "proof", "k", nil, 0),
		"a bucket's path":    st.Put(ctx, "proofs.x", "k", nil, 0),
	} {
		if err == nil || errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := st.List(ctx, "*"); err == nil {
		t.Error("a bucket * was listed")
	}
	if err := st.Watch(ctx, "*", func(Change) {}); err == nil {
		t.Error("a bucket * was watched")
	}
}

func counting(t *testing.T, brokers []Store) {
	st, key := brokers[0], t.Name()
	if err := st.Update(patient(t), BucketProofs, key, nil, 1); !errors.Is(err, ErrConflict) {
		t.Errorf("updating what is not there: %v", err)
	}
	if err := st.Create(patient(t), BucketProofs, key, []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	e, err := st.Get(patient(t), BucketProofs, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Update(patient(t), BucketProofs, key, []byte("0"), e.Revision+1); !errors.Is(err, ErrConflict) {
		t.Errorf("a wrong revision: %v", err)
	}
	var all sync.WaitGroup
	for i := range 6 {
		st := brokers[i%len(brokers)]
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for done := 0; done < 10; {
				e, err := st.Get(ctx, BucketProofs, key)
				if err != nil {
					t.Error(err)
					return
				}
				var n int
				fmt.Sscan(string(e.Value), &n)
				switch err := st.Update(ctx, BucketProofs, key, fmt.Append(nil, n+1), e.Revision); {
				case err == nil:
					done++
				case !errors.Is(err, ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if e, err := st.Get(patient(t), BucketProofs, key); err != nil || string(e.Value) != "60" {
		t.Errorf("60 updates counted to %s: %v", e.Value, err)
	}
}

func deleting(t *testing.T, st Store) {
	ctx, key := patient(t), t.Name()
	if err := st.Delete(ctx, BucketProofs, key); err != nil {
		t.Errorf("deleting what is not there: %v", err)
	}
	for i := range 3 {
		if err := st.Create(ctx, BucketProofs, key, fmt.Append(nil, i), 0); err != nil {
			t.Fatalf("created for the %dth time: %v", i+1, err)
		}
		if err := st.Create(ctx, BucketProofs, key, nil, 0); !errors.Is(err, ErrExists) {
			t.Errorf("created again: %v", err)
		}
		e, err := st.Get(ctx, BucketProofs, key)
		if err != nil || string(e.Value) != fmt.Sprint(i) {
			t.Errorf("%s %v", e.Value, err)
		}
		if err := st.Delete(ctx, BucketProofs, key); err != nil {
			t.Fatal(err)
		}
		if _, err := st.Get(ctx, BucketProofs, key); !errors.Is(err, ErrNotFound) {
			t.Errorf("after its deletion: %v", err)
		}
		if err := st.Update(ctx, BucketProofs, key, nil, e.Revision); !errors.Is(err, ErrConflict) {
			t.Errorf("updating what was deleted: %v", err)
		}
	}
	if err := st.Put(ctx, BucketProofs, key, []byte("put"), 0); err != nil {
		t.Fatal(err)
	}
	if e, err := st.Get(ctx, BucketProofs, key); err != nil || string(e.Value) != "put" {
		t.Errorf("%s %v", e.Value, err)
	}
}

// marks stay: nothing but their ttl makes them spendable.
func marks(t *testing.T, st Store) {
	ctx, key := patient(t), t.Name()
	if err := st.Create(ctx, BucketReplay, key, nil, time.Hour); err != nil {
		t.Fatal(err)
	}
	e, err := st.Get(ctx, BucketReplay, key)
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"put":    st.Put(ctx, BucketReplay, key, nil, time.Second),
		"update": st.Update(ctx, BucketReplay, key, nil, e.Revision),
		"delete": st.Delete(ctx, BucketReplay, key),
	} {
		if err == nil {
			t.Error(what + " was done to a mark")
		}
	}
	if err := st.Create(ctx, BucketReplay, key, nil, time.Hour); !errors.Is(err, ErrExists) {
		t.Errorf("the mark was spent again: %v", err)
	}
}

func lifetimes(t *testing.T, st Store) {
	ctx := patient(t)
	buckets := []string{BucketReplay, BucketProofs, BucketEnds}
	began := time.Now()
	for _, b := range buckets {
		if err := st.Create(ctx, b, "short", nil, 1100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Put(ctx, BucketProofs, "for ever", nil, 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(began.Add(1100 * time.Millisecond)))
	for _, b := range buckets {
		err := st.Create(ctx, b, "short", nil, time.Second)
		// Its ttl is whole seconds. After two of them it may have ended.
		if err != nil && !errors.Is(err, ErrExists) || err == nil && time.Since(began) < 2*time.Second {
			t.Errorf("%s: before its end: %v", b, err)
		}
	}
	for _, b := range buckets {
		for {
			err := st.Create(ctx, b, "short", nil, time.Second)
			if err == nil {
				break
			}
			if !errors.Is(err, ErrExists) || time.Since(began) > 30*time.Second {
				t.Fatalf("%s: %s after a ttl of two: %v", b, time.Since(began), err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	for end := time.Now().Add(time.Minute); !updating(t, st); {
		if time.Now().After(end) {
			t.Fatal("this machine is too slow to tell")
		}
	}
	if _, err := st.Get(ctx, BucketProofs, "for ever"); err != nil {
		t.Error(err)
	}
}

// updating: an update gives a key its ttl anew, and no more. It reports false when
// time has passed in which the key may have ended.
func updating(t *testing.T, st Store) bool {
	t.Helper()
	const key, ttl = "updated", 2 * time.Second
	ctx, began := patient(t), time.Now()
	if err := st.Put(ctx, BucketProofs, key, []byte("1"), ttl); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(began.Add(1100 * time.Millisecond)))
	e, err := st.Get(ctx, BucketProofs, key)
	updated := time.Now()
	if err == nil {
		err = st.Update(ctx, BucketProofs, key, []byte("2"), e.Revision)
	}
	if time.Since(began) >= ttl {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(updated.Add(1800 * time.Millisecond)))
	e, err = st.Get(ctx, BucketProofs, key)
	if time.Since(updated) >= ttl {
		return false
	}
	if err != nil || string(e.Value) != "2" {
		t.Errorf("updated: %s %v", e.Value, err)
	}
	for time.Since(updated) < 30*time.Second {
		if _, err = st.Get(ctx, BucketProofs, key); err != nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("updated, then left alone: %v", err)
	}
	return true
}

func filling(t *testing.T, st Store) {
	ctx := patient(t)
	for k := range listed(t, st, BucketEnds) {
		if err := st.Delete(ctx, BucketEnds, k); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range []string{BucketCodes, BucketEnds} {
		for i := range small[b] {
			if err := st.Create(ctx, b, fmt.Sprint(i), nil, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			began := time.Now()
			if err := st.Create(ctx, b, "more", nil, time.Hour); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrExists) {
				t.Errorf("%s: one more than there is room for: %v", b, err)
			}
			if time.Since(began) > 20*time.Second { // ctx has minutes
				t.Errorf("%s: that took %s", b, time.Since(began))
			}
		}
		for i := range small[b] {
			if err := st.Create(ctx, b, fmt.Sprint(i), nil, time.Hour); !errors.Is(err, ErrExists) {
				t.Errorf("%s: %d in a full bucket: %v", b, i, err)
			}
		}
	}
	// What is there can be changed, and taken away.
	if err := st.Put(ctx, BucketEnds, "more", nil, 0); !errors.Is(err, ErrUnavailable) {
		t.Errorf("putting one more: %v", err)
	}
	if err := st.Put(ctx, BucketEnds, "2", []byte("new"), 0); err != nil {
		t.Errorf("putting what is there: %v", err)
	}
	e, err := st.Get(ctx, BucketEnds, "3")
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Update(ctx, BucketEnds, "3", []byte("new"), e.Revision); err != nil {
		t.Errorf("updating in a full bucket: %v", err)
	}
	if err := st.Delete(ctx, BucketEnds, "3"); err != nil {
		t.Errorf("deleting in a full bucket: %v", err)
	}
	// Counters go, the least lately written first.
	for i := range small[BucketCounters] {
		if err := st.Create(ctx, BucketCounters, fmt.Sprint(i), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Put(ctx, BucketCounters, "0", []byte("again"), 0); err != nil {
		t.Fatal(err)
	}
	if err := st.Create(ctx, BucketCounters, "more", nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Get(ctx, BucketCounters, "1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the oldest counter: %v", err)
	}
	for _, k := range []string{"0", "2", "more"} {
		if _, err := st.Get(ctx, BucketCounters, k); err != nil {
			t.Errorf("counter %s: %v", k, err)
		}
	}
}

// mirror is what a Watch has told.
type mirror struct {
	mu  sync.Mutex
	now map[string]string
	bad []string
	rev map[string]uint64
}

func (m *mirror) take(c Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.now[c.Key]
	switch {
	case c.Deleted && !known:
		m.bad = append(m.bad, fmt.Sprintf("%q went, but was not there", c.Key))
	case c.Deleted:
		delete(m.now, c.Key)
	case c.Revision <= m.rev[c.Key]:
		m.bad = append(m.bad, fmt.Sprintf("%q came with revision %d after %d", c.Key, c.Revision, m.rev[c.Key]))
	default:
		m.now[c.Key], m.rev[c.Key] = string(c.Value), c.Revision
	}
}

// watched runs a Watch until the test ends.
func watched(t *testing.T, st Store, bucket string) *mirror {
	m := &mirror{now: map[string]string{}, rev: map[string]uint64{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- st.Watch(ctx, bucket, m.take) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("watching ended with %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("watching goes on without its context")
		}
		if len(m.bad) > 0 {
			t.Error(m.bad)
		}
	})
	return m
}

// becomes waits until a Watch has told just this.
func (m *mirror) becomes(t *testing.T, want map[string]string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		m.mu.Lock()
		same := maps.Equal(m.now, want)
		m.mu.Unlock()
		if same {
			return
		}
		if time.Now().After(end) {
			m.mu.Lock()
			defer m.mu.Unlock()
			t.Fatalf("told %v, and not %v", m.now, want)
		}
	}
}

// told waits until a Watch has told of a key, which may have ended by now.
func (m *mirror) told(t *testing.T, key string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		m.mu.Lock()
		_, told := m.rev[key]
		m.mu.Unlock()
		if told {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("nothing is told of %q", key)
		}
	}
}

func watching(t *testing.T, brokers []Store) {
	ctx, st := patient(t), brokers[0]
	for k := range listed(t, st, BucketSessions) {
		if err := st.Delete(ctx, BucketSessions, k); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{}
	put := func(k, v string, ttl time.Duration) {
		if err := st.Put(ctx, BucketSessions, k, []byte(v), ttl); err != nil {
			t.Fatal(err)
		}
		want[k] = v
	}
	for i := range 10 {
		put(fmt.Sprint(i), "before", 0)
	}
	var all []*mirror
	for _, b := range brokers {
		all = append(all, watched(t, b, BucketSessions))
	}
	for _, m := range all {
		m.becomes(t, want)
	}
	put("5", "after", 0)
	put("new", "", 0)
	if err := st.Delete(ctx, BucketSessions, "7"); err != nil {
		t.Fatal(err)
	}
	delete(want, "7")
	for _, m := range all {
		m.becomes(t, want)
	}
	put("ends", "soon", 3*time.Second)
	for _, m := range all {
		m.told(t, "ends")
	}
	delete(want, "ends")
	for _, m := range all {
		m.becomes(t, want)
	}
}

func contexts(t *testing.T, st Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	past, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, ctx := range []context.Context{ctx, past} {
		_, gerr := st.Get(ctx, BucketProofs, "k")
		_, lerr := st.List(ctx, BucketProofs)
		for i, err := range []error{st.Create(ctx, BucketProofs, "c", nil, 0), st.Put(ctx, BucketProofs, "c", nil, 0), gerr, lerr,
			st.Update(ctx, BucketProofs, "c", nil, 1), st.Delete(ctx, BucketProofs, "c")} {
			if !errors.Is(err, ErrUnavailable) || !errors.Is(err, ctx.Err()) {
				t.Errorf("call %d: %v", i, err)
			}
		}
	}
	if err := st.Watch(ctx, BucketProofs, func(Change) {}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func replaying(t *testing.T, brokers []Store) {
	var caches []*Replay
	for _, b := range brokers {
		r, err := NewReplay(b)
		if err != nil {
			t.Fatal(err)
		}
		caches = append(caches, r)
	}
	// The bucket is younger than that.
	made := time.Now().Add(-10 * time.Minute)
	if fresh, err := caches[0].Spend(patient(t), [32]byte{1}, made, time.Now().Add(time.Minute)); fresh || !errors.Is(err, ErrReplayLost) {
		t.Errorf("an authenticator older than the cache: %v %v", fresh, err)
	}
	var fresh atomic.Int32
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			yes, err := caches[i%len(caches)].Spend(patient(t), [32]byte{2}, time.Now(), time.Now().Add(time.Minute))
			if err != nil {
				t.Error(err)
			}
			if yes {
				fresh.Add(1)
			}
		})
	}
	all.Wait()
	if fresh.Load() != 1 {
		t.Errorf("an authenticator was fresh %d times", fresh.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if yes, err := caches[0].Spend(ctx, [32]byte{3}, time.Now(), time.Now().Add(time.Minute)); yes || !errors.Is(err, ErrUnavailable) {
		t.Errorf("without a context: %v %v", yes, err)
	}
	if yes, err := caches[0].Spend(patient(t), [32]byte{3}, time.Now(), time.Now().Add(-time.Second)); !yes || err != nil {
		t.Errorf("one that ends at once: %v %v", yes, err)
	}
}
