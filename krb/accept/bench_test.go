package accept

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// gssTokens are MIT's initial context tokens for a service of a real KDC, with
// mutual authentication, and the file that has them.
func gssTokens(b *testing.B, n int) (k *kdc, path string, reqs [][]byte) {
	k = startKDC(b)
	host := "host/web1.sekisho.internal@" + testRealm
	k.addService(host)
	k.kinit("alice")
	path = filepath.Join(k.dir, "tokens")
	k.run("", mit(b), "tokens", host, fmt.Sprint(n), path)
	raw, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	for len(raw) > 0 {
		size := binary.NativeEndian.Uint32(raw)
		token := raw[4 : 4+size]
		raw = raw[4+size:]
		// [APPLICATION 0] { OID, 01 00, AP-REQ } (RFC 4121 §4.1)
		_, body, _, ok := split(token)
		if !ok {
			b.Fatal("not a token")
		}
		_, _, body, _ = split(body)
		reqs = append(reqs, body[2:])
	}
	return k, path, reqs
}

// BenchmarkAccept is one AP-REQ judged and answered, on one core, with the replay
// cache in a file; beside it MIT's gss_accept_sec_context with its own default
// replay cache, on the same requests. The times are of the CPU.
func BenchmarkAccept(b *testing.B) {
	const n = 20000
	k, path, reqs := gssTokens(b, n)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	b.ResetTimer()
	var ours, theirs, ourWall, theirWall float64
	rounds := 0
	for b.Loop() {
		rounds++
		a := k.acceptor(nil)
		a.c.Replay.(*FileReplay).h.barrier -= time.Hour // the requests are older than the file
		begin, wall := cpuTime(b), time.Now()
		for _, req := range reqs {
			got, err := a.Accept(context.Background(), req, Options{})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := got.Reply(got.Subkey, got.Seq); err != nil {
				b.Fatal(err)
			}
		}
		ours += float64(cpuTime(b)-begin) / n
		ourWall += float64(time.Since(wall)) / n
		var count int
		var cpu, took float64
		if _, err := fmt.Sscan(k.run("", mit(b), "bench", path), &count, &cpu, &took); err != nil || count != n {
			b.Fatal(count, err)
		}
		os.Remove(filepath.Join(k.dir, fmt.Sprintf("krb5_%d.rcache2", os.Geteuid())))
		theirs += cpu
		theirWall += took
	}
	b.ReportMetric(ours/float64(rounds), "ns/ours")
	b.ReportMetric(theirs/float64(rounds), "ns/MIT")
	b.ReportMetric(theirs/ours, "times")
	b.ReportMetric(ourWall/float64(rounds), "wall-ns/ours")
	b.ReportMetric(theirWall/float64(rounds), "wall-ns/MIT")
}

// cpuTime is what this process has used.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}
