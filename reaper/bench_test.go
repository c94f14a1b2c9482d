package reaper

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkEnd ends real sessions, each with a terminal, a shell, a job and one
// that has left it: one after the other, and all at once. The time is from the
// order to the answer, after the last process's end.
func BenchmarkEnd(b *testing.B) {
	const sessions = 100
	for _, k := range kinds {
		for _, at := range []string{"one by one", "at once"} {
			b.Run(k.name+"/"+at, func(b *testing.B) {
				s := newSite(b, k)
				var ls []*login
				var adopted []time.Duration
				for range sessions {
					l := s.log("alice", "sleep 1000 & (setsid sleep 1000 >/dev/null 2>&1 &); echo ready; exec bash -i", "RequestTTY=force")
					ls, adopted = append(ls, l), append(adopted, l.Opened.Took)
				}
				took := make([]time.Duration, sessions)
				var all sync.WaitGroup
				b.ResetTimer()
				for i, l := range ls {
					one := func() {
						begin := time.Now()
						if _, err := try[Ended](s, "End", Order{ID: l.Opened.ID, Text: why}); err != nil {
							b.Error(err)
						}
						took[i] = time.Since(begin)
					}
					if at == "at once" {
						all.Go(one)
					} else {
						one()
					}
				}
				all.Wait()
				b.StopTimer()
				slices.Sort(took)
				slices.Sort(adopted)
				b.ReportMetric(0, "ns/op")
				for name, d := range map[string]time.Duration{"p50-ms": took[sessions/2], "p99-ms": took[sessions*99/100], "adopt-p50-ms": adopted[sessions/2], "adopt-p99-ms": adopted[sessions*99/100]} {
					b.ReportMetric(float64(d.Microseconds())/1000, name)
				}
			})
		}
	}
}
