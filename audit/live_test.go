package audit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// TestWhileWriting: verifying, reading and following a record that is being
// written, from file to file.
func TestWhileWriting(t *testing.T) {
	dir := folder(t)
	l := open(t, dir, func(c *Config) { c.FileSize = 20 << 10 })
	write(t, l, 1, 0)
	const grants = 2000
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var all, writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for k := range grants / 8 {
				q, d := grant()
				q.User = broker.UserName(fmt.Sprintf("w%d-%d", i, k))
				if err := l.Decision(q, d); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() {
		next, n := uint64(0), 0
		if err := Tail(ctx, dir, 1<<20, true, func(line []byte, r *Record) bool {
			if next > 0 && r.Seq != next {
				t.Errorf("record %d follows %d", r.Seq, next-1)
			}
			next = r.Seq + 1
			if r.Kind == KindDecision {
				n++
			}
			return r.Event != "stop"
		}); err != nil {
			t.Error(err)
		}
		if n != grants+1 {
			t.Errorf("of %d grants %d were seen", grants, n)
		}
	})
	all.Go(func() {
		for range 10 {
			if v := verify(t, VerifyConfig{Dir: dir}); !v.Good() {
				t.Error(v.Problems)
			}
			if err := Scan(ctx, dir, Query{}, func(*Record) bool { return true }); err != nil {
				t.Error(err)
			}
		}
	})
	writers.Wait()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
	good(t, dir)
}

// TestSealAge: a record does not stand unsealed for long, though nothing follows.
func TestSealAge(t *testing.T) {
	l := open(t, folder(t), nil)
	write(t, l, 1, 0)
	s := l.Status()
	for end := time.Now().Add(time.Minute); s.Sealed != s.Seq; s = l.Status() {
		if time.Now().After(end) {
			t.Fatal("it is not sealed")
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(2 * sealAge)
	if again := l.Status(); again.Seq != s.Seq {
		t.Errorf("without anything to seal there are new records: %d, then %d", s.Seq, again.Seq)
	}
}

func TestQuery(t *testing.T) {
	dir := folder(t)
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	l := open(t, dir, func(c *Config) {
		c.FileSize = 2000
		c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	long := strings.Repeat("l", 64<<10)
	for i := range 30 {
		q, d := grant()
		if q.User = broker.UserName(fmt.Sprintf("u%d", i)); i == 20 {
			q.User = broker.UserName(long)
		}
		if err := l.Decision(q, d); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		now = now.Add(time.Hour)
		mu.Unlock()
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	d := []Kind{KindDecision}
	for _, c := range []struct {
		name string
		q    Query
		want int
	}{
		{"decisions", Query{Kinds: d}, 30},
		{"since", Query{Kinds: d, Since: begin.Add(25 * time.Hour)}, 5},
		{"until", Query{Kinds: d, Until: begin.Add(25 * time.Hour)}, 25},
		{"both", Query{Kinds: d, Since: begin.Add(10 * time.Hour), Until: begin.Add(11 * time.Hour)}, 1},
		{"nothing", Query{Since: begin.AddDate(1, 0, 0)}, 0},
		{"has", Query{Has: []string{"u7"}}, 1},
		{"has a long name", Query{Has: []string{long, "web1.example.org"}}, 1},
		{"has none", Query{Has: []string{"u"}}, 0},
		{"notes", Query{Kinds: []Kind{KindNote}}, 2},
	} {
		if got := read(t, dir, c.q); len(got) != c.want {
			t.Errorf("%s: %d records, want %d", c.name, len(got), c.want)
		}
	}
	if got := read(t, dir, Query{Has: []string{long}}); got[0].User != Clip(long) {
		t.Errorf("%q", got[0].User)
	}
	n := 0
	if err := Scan(t.Context(), dir, Query{}, func(*Record) bool { n++; return n < 3 }); err != nil || n != 3 {
		t.Errorf("it stops after %d: %v", n, err)
	}
	all := read(t, dir, Query{})
	for _, want := range []int{0, 1, 5, 17, len(all), len(all) + 10} {
		var got []uint64
		if err := Tail(t.Context(), dir, want, false, func(_ []byte, r *Record) bool { got = append(got, r.Seq); return true }); err != nil {
			t.Fatal(err)
		}
		if len(got) != min(want, len(all)) || want > 0 && got[len(got)-1] != all[len(all)-1].Seq {
			t.Errorf("the last %d: %v", want, got)
		}
	}
}

// TestTailAfterRemoved: a file that is removed while it is followed, as one is whose
// first sync failed, does not bring the whole record again.
func TestTailAfterRemoved(t *testing.T) {
	dir, names := made(t)
	end := mustFiles(t, dir)[len(names)-1]
	h, err := parse(lastLine(t, filepath.Join(dir, end.name)))
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	file := func(after time.Duration, n int) string {
		path := filepath.Join(dir, nameOf(h.seq+1, begun.Add(after)))
		line := fmt.Sprintf(`{"seq":%d,"time":"%s","kind":"note","host":"h","event":"x%d","prev":"%s"}`+"\n", h.seq+1, h.time, n, genesis)
		if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
			t.Error(err)
		}
		return path
	}
	first := file(time.Second, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got []string
	if err := Tail(ctx, dir, 1, true, func(_ []byte, r *Record) bool {
		got = append(got, r.Event)
		if len(got) == 1 {
			os.Remove(first)
			// After Tail has seen that there is none, or before.
			time.AfterFunc(time.Second, func() { file(2*time.Second, 2) })
		}
		return r.Event != "x2"
	}); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != "[x1 x2]" {
		t.Errorf("%q", got)
	}
}
