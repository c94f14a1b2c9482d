package feed

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// TestCrowd: many hosts, each a real client with a certificate of its own, on one
// broker, in this one process: a change is everywhere soon, and all are back soon
// after the broker's restart. FEED_HOSTS says how many; 1000 is what is promised.
func TestCrowd(t *testing.T) {
	n := 100
	if v := os.Getenv("FEED_HOSTS"); v != "" {
		if _, err := fmt.Sscan(v, &n); err != nil {
			t.Fatal(err)
		}
	}
	const users, changes = 500, 20
	e := (*broker.Snapshot)(nil).Edit()
	var members []broker.DN
	for i := range users {
		e.PutUser(testUser(i))
		members = append(members, testUser(i).DN)
	}
	var hosts []broker.DN
	for i := range n {
		e.PutHost(testHost(i))
		hosts = append(hosts, testHost(i).DN)
	}
	e.PutGroup(testGroup("ops", 0, members...))
	e.PutGroup(testGroup("fleet", 1, hosts...))
	e.PutRule(testRule(t, 0, broker.RuleAttributes{Subject: []string{"group:ops"}, Target: []string{"hostgroup:fleet"}}))
	x := newSite(t, e.Commit(), nil)

	dir := inMemory(t)
	var all []*host
	for i := range n {
		name := string(testHost(i).Names[0])
		cert := x.join(name)
		all = append(all, x.host(name, cert, func(c *ClientConfig) {
			c.StateDir = filepath.Join(dir, name)
			c.BackoffMin, c.BackoffMax = 0, 0 // the real ones
		}))
	}
	live := func() int {
		k := 0
		for _, h := range all {
			if h.Status().State == Live {
				k++
			}
		}
		return k
	}
	within := func(what string, d time.Duration) time.Duration {
		began := time.Now()
		for live() < n {
			if time.Since(began) > d {
				t.Fatalf("%s: %d of %d hosts after %s", what, live(), n, d)
			}
			time.Sleep(5 * time.Millisecond)
		}
		return time.Since(began)
	}
	within("first", 5*time.Minute)
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)

	idle := cpu()
	time.Sleep(4 * time.Second)
	perSecond := (cpu() - idle) / 4
	var took []time.Duration
	began := cpu()
	for i := range changes {
		gone := slices.Delete(slices.Clone(members), i, i+1)
		at := time.Now()
		g := x.src.edit(func(e *broker.Edit) { e.PutGroup(testGroup("ops", 0, gone...)) })
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		k := 0
		x.server.Confirm(ctx, g, func(c Confirmation) {
			if !c.OK {
				t.Errorf("%s: %s", c.Host, c.Why)
			}
			k++
		})
		cancel()
		if k != n {
			t.Errorf("%d of %d hosts", k, n)
		}
		took = append(took, time.Since(at))
		for _, h := range []*host{all[0], all[n-1]} {
			if allowed(h.View(), fmt.Sprintf("user%d", i), string(h.conf.Host)) {
				t.Errorf("user%d may still enter %s", i, h.conf.Host)
			}
		}
	}
	perChange := (cpu() - began) / changes
	slices.Sort(took)
	t.Logf("%d hosts, %d users each: memory of server and all clients %d MiB (%d KiB a host); keepalives %.1f ms of CPU a second",
		n, users, memory.HeapInuse>>20+memory.StackInuse>>20, (memory.HeapInuse+memory.StackInuse)>>10/uint64(n), float64(perSecond)/1e6)
	t.Logf("a change to the last host's confirmation: p50 %s, p99 %s; %s of CPU, server and clients", took[len(took)/2].Round(time.Millisecond),
		took[int(math.Ceil(0.99*float64(len(took))))-1].Round(time.Millisecond), perChange.Round(time.Millisecond))

	// The broker starts anew: all come back, spread over a time, and nothing that
	// they have is sent again.
	x.stop()
	until(t, "all notice", func() bool { return live() == 0 })
	var mu sync.Mutex
	var back []time.Duration
	restart := time.Now()
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		seen := map[*host]bool{}
		for {
			for _, h := range all {
				if !seen[h] && h.Status().State == Live {
					seen[h] = true
					mu.Lock()
					back = append(back, time.Since(restart))
					mu.Unlock()
				}
			}
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	used := cpu()
	x.start(x.addr)
	whole := within("after the restart", 5*time.Minute)
	close(stop)
	watch.Wait()
	t.Logf("after the broker's restart: all back in %s, half in %s; %s of CPU, server and clients", whole.Round(time.Millisecond),
		back[len(back)/2].Round(time.Millisecond), (cpu() - used).Round(time.Millisecond))
}

// cpu is what this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
