//go:build !race

package broker

import (
	"runtime"
	"testing"
)

// TestSessionMemory: a tracked session costs at most 1.5 KB with its place in
// the index, even if each is another user's.
func TestSessionMemory(t *testing.T) {
	const n = 50_000
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	k, _ := trackMany(t, n)
	with := heap()
	for i := range n {
		k.CloseSession(manySession(i).ID, ReasonNone)
	}
	if err := (&world{b: k}).empty(); err != nil {
		t.Fatal(err)
	}
	k.live = newLive() // maps keep their size
	without := heap()
	runtime.KeepAlive(k)
	each := (with - without) / n
	t.Logf("%d bytes a session", each)
	if each > 1536 || each < 300 {
		t.Errorf("%d bytes a session, want at most 1536", each)
	}
}
