package audit

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// BenchmarkDecisions is broker.Ask from many goroutines, each grant on the disk
// before its answer, and without a record.
func BenchmarkDecisions(b *testing.B) {
	e := (*broker.Snapshot)(nil).Edit()
	e.PutUser(broker.User{ID: broker.EntryID{1}, DN: "uid=alice", Name: "alice", UID: 2001, GID: 2001, Home: "/home/alice", Shell: "/bin/sh"})
	e.PutHost(broker.Host{ID: broker.EntryID{2}, DN: "cn=web1", Names: []broker.HostName{"web1"}})
	rule, err := broker.ParseRule(broker.RuleAttributes{Name: "staff-web", Subject: []string{"user:alice"}, Door: []string{"keys"}, Target: []string{"host:web1"}})
	if err != nil {
		b.Fatal(err)
	}
	rule.ID = broker.EntryID{3}
	e.PutRule(rule)
	s := e.Commit()
	for _, on := range []bool{false, true} {
		for _, n := range []int{1, 64, 512} {
			b.Run(fmt.Sprintf("audit=%t/goroutines=%d", on, n), func(b *testing.B) {
				record := func(broker.Request, broker.Decision) error { return nil }
				if on {
					l := open(b, folder(b), nil)
					record = l.Decision
				}
				br, err := broker.New(broker.Config{Record: record, Now: time.Now,
					Directory: func() broker.View { return broker.View{Snapshot: s, AsOf: time.Now(), MaxAge: time.Hour} }})
				if err != nil {
					b.Fatal(err)
				}
				q := broker.Request{User: "alice", Door: "keys", Target: broker.Target{Host: "web1"}, From: netip.MustParseAddr("198.51.100.7")}
				if d := br.Ask(q, []broker.Proof{broker.ProofKey}); d.Outcome != broker.Allow {
					b.Fatal(d)
				}
				var left atomic.Int64
				left.Store(int64(b.N))
				b.ResetTimer()
				var all sync.WaitGroup
				for range n {
					all.Go(func() {
						for left.Add(-1) >= 0 {
							if d := br.Ask(q, []broker.Proof{broker.ProofKey}); d.Outcome != broker.Allow {
								b.Error(d.Reason)
								return
							}
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
			})
		}
	}
}

// BenchmarkVerify verifies a million records in one run.
func BenchmarkVerify(b *testing.B) {
	const records = 1_000_000
	dir := folder(b)
	l := open(b, dir, func(c *Config) { c.FileSize = 64 << 20 })
	for range records {
		q, d := grant()
		d.Outcome = broker.Deny // not one sync each
		if err := l.Decision(q, d); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		v, err := Verify(context.Background(), VerifyConfig{Dir: dir})
		if err != nil || !v.Good() || v.Records < records {
			b.Fatal(err, v)
		}
		b.ReportMetric(float64(v.Bytes)/float64(v.Records), "B/record")
		b.ReportMetric(float64(v.Seals), "seals")
	}
}
