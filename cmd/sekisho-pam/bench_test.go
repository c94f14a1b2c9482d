package main

import (
	"runtime"
	"testing"

	"github.com/sekisho/sekisho/pamhelper"
	"github.com/sekisho/sekisho/wire"
)

// What a process for each conversation costs, against a thread of this one:
// conversation.go says why it is worth it.

func BenchmarkProcess(b *testing.B) {
	s := start(b)
	for _, at := range []int{1, 8} {
		b.Run("at once "+itoa(at), func(b *testing.B) {
			b.SetParallelism(max(at/runtime.GOMAXPROCS(0), 1))
			if at == 1 {
				for b.Loop() {
					benchOne(b, s)
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					benchOne(b, s)
				}
			})
		})
	}
}

func benchOne(b *testing.B, s *server) {
	got, err := s.stack.Run(b.Context(), pamhelper.Call{Service: "permit", User: "alice"}, (&replying{}).ask)
	if err != nil || got.Outcome != wire.Yes {
		b.Errorf("%+v, %v", got, err)
	}
}

func BenchmarkThread(b *testing.B) {
	h := start(b).host
	err := h.Inside(func() error {
		for b.Loop() {
			if a, _ := (&peer{}).stack(pamhelper.Call{Service: "permit", User: "alice"}); a.Outcome != wire.Yes {
				b.Errorf("%+v", a)
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
