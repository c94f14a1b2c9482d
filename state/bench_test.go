package state

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// benchCreate spends marks, alone and by 32 at once.
func benchCreate(b *testing.B, st Store) {
	var n atomic.Int64
	one := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		return st.Create(ctx, BucketReplay, fmt.Sprintf("%s-%032d", b.Name(), n.Add(1)), nil, 10*time.Minute)
	}
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			if err := one(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("by 32", func(b *testing.B) {
		b.SetParallelism(16) // times GOMAXPROCS, which is two in CI
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := one(); err != nil {
					b.Error(err)
					return
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
	})
}

func BenchmarkCreateInside(b *testing.B) { benchCreate(b, open(b, inside(b))) }

// BenchmarkCreateInMemory has no disk to wait for: the difference is fsync.
func BenchmarkCreateInMemory(b *testing.B) {
	benchCreate(b, open(b, Config{Dir: filepath.Join(quickDir(b), "state"), Log: quiet()}))
}

func BenchmarkCreateCluster(b *testing.B) {
	c := newCluster(b)
	st := open(b, c.config(0, 1, 2))
	for {
		err := st.Create(b.Context(), BucketReplay, "first", nil, time.Minute)
		if err == nil || errors.Is(err, ErrExists) {
			break
		}
	}
	benchCreate(b, st)
}

// BenchmarkOpen opens a folder with 10,000 marks, and compares them with the count.
func BenchmarkOpen(b *testing.B) {
	c := Config{Dir: filepath.Join(quickDir(b), "state"), Log: quiet()}
	st := open(b, c)
	for i := range 10_000 {
		if err := st.Create(b.Context(), BucketReplay, fmt.Sprintf("%032d", i), nil, time.Hour); err != nil {
			b.Fatal(err)
		}
	}
	if err := st.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		st, err := Open(b.Context(), c)
		if err != nil {
			b.Fatal(err)
		}
		if err := st.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
