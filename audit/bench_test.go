package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/door/local"
	"github.com/sekisho/sekisho/keys"
	"github.com/sekisho/sekisho/wire"
)

// snapshot has alice, who may enter web1 with her key.
func snapshot(b *testing.B) (*broker.Snapshot, keys.Key) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	k, err := ssh.NewPublicKey(public)
	if err != nil {
		b.Fatal(err)
	}
	line, err := keys.ParseLine(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))))
	if err != nil {
		b.Fatal(err)
	}
	e := (*broker.Snapshot)(nil).Edit()
	e.PutUser(broker.User{ID: broker.EntryID{1}, DN: "uid=alice", Name: "alice", UID: 2001, GID: 2001, Home: "/home/alice", Shell: "/bin/sh",
		Keys: []keys.Line{line}})
	e.PutHost(broker.Host{ID: broker.EntryID{2}, DN: "cn=web1", Names: []broker.HostName{"web1"}})
	rule, err := broker.ParseRule(broker.RuleAttributes{Name: "staff-web", Subject: []string{"user:alice"}, Door: []string{"keys"}, Target: []string{"host:web1"}})
	if err != nil {
		b.Fatal(err)
	}
	rule.ID = broker.EntryID{3}
	e.PutRule(rule)
	return e.Commit(), line.Key
}

// newBroker is one with a record or without.
func newBroker(b *testing.B, s *broker.Snapshot, on bool) *broker.Broker {
	record := func(broker.Request, broker.Decision) error { return nil }
	if on {
		var syncs atomic.Int64
		l := open(b, folder(b), func(c *Config) {
			c.sync = func(fd int) error { syncs.Add(1); return unix.Fdatasync(fd) }
		})
		record = l.Decision
		b.Cleanup(func() {
			b.ReportMetric(float64(l.Status().Seq)/float64(syncs.Load()), "records/sync")
		})
	}
	br, err := broker.New(broker.Config{Record: record, Now: time.Now,
		Directory: func() broker.View { return broker.View{Snapshot: s, AsOf: time.Now(), MaxAge: time.Hour} }})
	if err != nil {
		b.Fatal(err)
	}
	return br
}

// cpu is what this process has used: on a machine that others load, the only
// figure to compare by.
func cpu(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDoor is sshd's question for a key through the local socket, over many
// connections that stay open.
func BenchmarkDoor(b *testing.B) {
	s, key := snapshot(b)
	for _, n := range []int{32, 256, 1024} {
		for _, on := range []bool{false, true} {
			b.Run(fmt.Sprintf("connections=%d/audit=%t", n, on), func(b *testing.B) {
				server, err := local.New(local.Config{Broker: newBroker(b, s, on), Host: "web1", Log: quiet()})
				if err != nil {
					b.Fatal(err)
				}
				path := filepath.Join(b.TempDir(), "socket")
				listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
				if err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				var serving sync.WaitGroup
				serving.Go(func() { server.Serve(ctx, listener) })
				defer serving.Wait()
				defer cancel()
				q := wire.Request{Verb: wire.VerbKeys, Fields: []wire.Field{{Name: wire.FieldUser, Value: "alice"},
					{Name: wire.FieldFingerprint, Value: key.Fingerprint()}, {Name: wire.FieldType, Value: string(key.Type)}, {Name: wire.FieldKey, Value: key.Base64()}}}
				question, err := wire.AppendRequest(nil, q)
				if err != nil {
					b.Fatal(err)
				}
				conns := make([]net.Conn, n)
				size := 0
				for i := range conns {
					if conns[i], err = net.Dial("unix", path); err != nil {
						b.Fatal(err)
					}
					defer conns[i].Close()
					a, err := wire.Ask(conns[i], q)
					if err != nil || a.Outcome != wire.Yes {
						b.Fatal(err, a)
					}
					text, err := wire.AppendAnswer(nil, a)
					if err != nil {
						b.Fatal(err)
					}
					size = len(text)
				}
				var left atomic.Int64
				left.Store(int64(b.N))
				before := cpu(b)
				b.ResetTimer()
				var all sync.WaitGroup
				for _, c := range conns {
					all.Go(func() {
						answer := make([]byte, size)
						for left.Add(-1) >= 0 {
							if _, err := c.Write(question); err != nil {
								b.Error(err)
								return
							}
							if _, err := io.ReadFull(c, answer); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				all.Wait()
				b.StopTimer()
				b.ReportMetric((cpu(b)-before).Seconds()*1e6/float64(b.N), "cpu-µs/op")
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
			})
		}
	}
}

// BenchmarkDecisions is broker.Ask from many goroutines, each grant on the disk
// before its answer, and without a record.
func BenchmarkDecisions(b *testing.B) {
	s, _ := snapshot(b)
	for _, on := range []bool{false, true} {
		for _, n := range []int{1, 64, 512} {
			b.Run(fmt.Sprintf("audit=%t/goroutines=%d", on, n), func(b *testing.B) {
				br := newBroker(b, s, on)
				q := broker.Request{User: "alice", Door: "keys", Target: broker.Target{Host: "web1"}, From: netip.MustParseAddr("198.51.100.7")}
				if d := br.Ask(q, []broker.Proof{broker.ProofKey}); d.Outcome != broker.Allow {
					b.Fatal(d)
				}
				var left atomic.Int64
				left.Store(int64(b.N))
				before := cpu(b)
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
				b.ReportMetric((cpu(b)-before).Seconds()*1e6/float64(b.N), "cpu-µs/op")
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
	before := cpu(b)
	for range b.N {
		v, err := Verify(context.Background(), VerifyConfig{Dir: dir})
		if err != nil || !v.Good() || v.Records < records {
			b.Fatal(err, v)
		}
		b.ReportMetric((cpu(b)-before).Seconds()/float64(b.N), "cpu-s/op")
		b.ReportMetric(float64(v.Bytes)/float64(v.Records), "B/record")
		b.ReportMetric(float64(v.Seals), "seals")
	}
}
