package broker

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

type trieEntry struct{ k, v int }

func newTestTrie() trie[int, trieEntry] {
	return trie[int, trieEntry]{key: func(e *trieEntry) int { return e.k }}
}

// sameAs compares a trie with the map that says what it must hold.
func sameAs(t *testing.T, tr trie[int, trieEntry], model map[int][]*trieEntry) {
	t.Helper()
	n := 0
	for k, want := range model {
		n += len(want)
		var got []*trieEntry
		tr.each(k, func(e *trieEntry) bool { got = append(got, e); return true })
		if len(got) != len(want) {
			t.Fatalf("key %d: %d values, want %d", k, len(got), len(want))
		}
		for _, e := range want {
			if !slices.Contains(got, e) {
				t.Fatalf("key %d: %v is missing", k, e)
			}
		}
		v, several := tr.get(k)
		if (v == nil) != (len(want) == 0) || several != (len(want) > 1) {
			t.Fatalf("get %d = %v, several %v, with %d values", k, v, several, len(want))
		}
	}
	walked := 0
	tr.walk(func(e *trieEntry) bool {
		if !slices.Contains(model[e.k], e) {
			t.Fatalf("walk gives %v, which was never put or was removed", e)
		}
		walked++
		return true
	})
	if tr.n != n || walked != n {
		t.Fatalf("n = %d, walked %d, want %d", tr.n, walked, n)
	}
}

// TestTrieModel puts and removes at random, over several editions, and checks
// each old version again at the end: none may have changed.
func TestTrieModel(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		tr, model := newTestTrie(), map[int][]*trieEntry{}
		type version struct {
			tr    trie[int, trieEntry]
			model map[int][]*trieEntry
		}
		var old []version
		keys := 1 + r.IntN(3000) // few keys: many values under each
		for range 30 {
			tok := new(editToken)
			for range r.IntN(300) {
				k := r.IntN(keys)
				switch vs := model[k]; {
				case r.IntN(3) > 0:
					e := &trieEntry{k, r.Int()}
					tr.put(tok, e)
					model[k] = append(slices.Clone(vs), e)
				case len(vs) > 0:
					i := r.IntN(len(vs))
					if !tr.remove(tok, vs[i]) {
						t.Fatal("remove did not find what is there")
					}
					if tr.remove(tok, vs[i]) {
						t.Fatal("removed twice")
					}
					model[k] = slices.Delete(slices.Clone(vs), i, i+1)
				default:
					if tr.remove(tok, &trieEntry{k, 0}) {
						t.Fatal("removed what is not there")
					}
				}
			}
			copied := map[int][]*trieEntry{}
			for k, v := range model {
				copied[k] = v
			}
			old = append(old, version{tr, copied})
		}
		for _, v := range old {
			sameAs(t, v.tr, v.model)
		}
		// Empty it: nothing stays.
		tok := new(editToken)
		for _, vs := range model {
			for _, e := range vs {
				tr.remove(tok, e)
			}
		}
		if tr.root != nil || tr.n != 0 {
			t.Fatal("an emptied trie keeps nodes")
		}
		sameAs(t, old[len(old)-1].tr, old[len(old)-1].model)
	}
}

// TestTrieOneKey: all values under one key, far beyond a bucket.
func TestTrieOneKey(t *testing.T) {
	tr, tok, model := newTestTrie(), new(editToken), map[int][]*trieEntry{}
	for i := range 500 {
		e := &trieEntry{7, i}
		tr.put(tok, e)
		model[7] = append(model[7], e)
	}
	sameAs(t, tr, model)
	for _, e := range model[7] {
		if !tr.remove(new(editToken), e) {
			t.Fatal("not found")
		}
	}
	if tr.root != nil {
		t.Fatal("not empty")
	}
}

// TestTrieReaders reads old versions while new ones are made: under -race it
// shows that an edit writes to nothing that is published.
func TestTrieReaders(t *testing.T) {
	tr, tok := newTestTrie(), new(editToken)
	for i := range 2000 {
		tr.put(tok, &trieEntry{i, i})
	}
	var wg sync.WaitGroup
	for round := range 20 {
		wg.Add(1)
		go func(tr trie[int, trieEntry]) {
			defer wg.Done()
			n := 0
			tr.walk(func(e *trieEntry) bool { n += min(1, e.v+1); return true })
			if v, _ := tr.get(1999); n != tr.n || v == nil {
				t.Errorf("walked %d of %d", n, tr.n)
			}
		}(tr)
		tok := new(editToken)
		for i := range 200 {
			tr.put(tok, &trieEntry{2000 + round*200 + i, i})
			if v, _ := tr.get(round*10 + i%10); v != nil {
				tr.remove(tok, v)
			}
		}
	}
	wg.Wait()
}
