package state

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestCluster runs the suite on three nats-servers, and kills one that leads.
func TestCluster(t *testing.T) {
	t.Parallel()
	c, brokers := newBrokers(t)
	t.Run("conformance", func(t *testing.T) { conformance(t, brokers) })
	t.Run("leader killed", func(t *testing.T) { leaderKilled(t, c, brokers) })
	t.Run("strangers", func(t *testing.T) { strangers(t, c) })
	t.Run("unfit streams", func(t *testing.T) { unfit(t, c, brokers[0]) })
	t.Run("rolled back", func(t *testing.T) { rolledBack(t, brokers[0]) })
}

// TestOutage has one server hang, then kills so many that nothing can be written.
func TestOutage(t *testing.T) {
	t.Parallel()
	c, brokers := newBrokers(t)
	t.Run("leader hangs", func(t *testing.T) { leaderHangs(t, c, brokers) })
	t.Run("quorum lost", func(t *testing.T) { quorumLost(t, c, brokers) })
}

// newBrokers are three, each with a server of its own that it asks first.
func newBrokers(t *testing.T) (*cluster, []Store) {
	c := newCluster(t)
	var brokers []Store
	for i := range 3 {
		conf := c.config(i, (i+1)%3, (i+2)%3)
		conf.MaxKeys = small
		brokers = append(brokers, open(t, conf))
	}
	for began := time.Now(); ; {
		// The servers are just starting: nothing may be said but "could not find out".
		_, err := brokers[0].Get(t.Context(), BucketProofs, "k")
		if errors.Is(err, ErrNotFound) {
			return c, brokers
		}
		if !errors.Is(err, ErrUnavailable) || time.Since(began) > time.Minute {
			t.Fatal(err)
		}
	}
}

// load has two callers at two brokers spend each of many marks, until it is
// stopped: none may be told twice that it was first.
type load struct {
	bucket string
	mu     sync.Mutex
	won    map[string]int
	said   map[string]error // the last answer that was neither yes nor no
	slow   time.Duration    // over the deadline
	last   time.Time        // of a yes
	gap    time.Duration    // between two
	none   int              // calls that could not find out
}

const loadWait = 2 * time.Second

func (l *load) run(ctx context.Context, name string, brokers []Store) *sync.WaitGroup {
	l.won, l.last = map[string]int{}, time.Now()
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprint(name, w, "-", i)
				var pair sync.WaitGroup
				for _, st := range []Store{brokers[w%len(brokers)], brokers[(w+1)%len(brokers)]} {
					pair.Go(func() { l.spend(st, key) })
				}
				pair.Wait()
			}
		})
	}
	return &all
}

func (l *load) spend(st Store, key string) {
	ctx, cancel := context.WithTimeout(context.Background(), loadWait)
	defer cancel()
	began := time.Now()
	err := st.Create(ctx, l.bucket, key, nil, time.Hour)
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slow = max(l.slow, took-loadWait)
	switch {
	case err == nil:
		l.won[key]++
		l.gap = max(l.gap, time.Since(l.last))
		l.last = time.Now()
	case errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrExists):
		l.none++
	case !errors.Is(err, ErrExists):
		l.said = map[string]error{key: err}
	}
}

// check looks at all that was spent once more.
func (l *load) check(t *testing.T, st Store) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.said) > 0 {
		t.Error(l.said)
	}
	if l.slow > 10*time.Second { // a server that hangs does so for longer
		t.Errorf("a call went on for %s after its deadline", l.slow)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	all, err := st.List(ctx, l.bucket)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, e := range all {
		there[e.Key] = true
	}
	lost := 0
	for key, n := range l.won {
		if n > 1 {
			t.Errorf("%s was spent %d times", key, n)
		}
		if !there[key] {
			// A follower may lag behind.
			if err := st.Create(ctx, l.bucket, key, nil, time.Hour); !errors.Is(err, ErrExists) {
				t.Errorf("%s was spent and is not there: %v", key, err)
				if lost++; lost > 5 {
					break
				}
			}
		}
	}
	t.Logf("%d spent, %d times it could not be found out, no yes for %s", len(l.won), l.none, l.gap.Round(time.Millisecond))
}

// works waits until a broker can write again.
func works(t *testing.T, st Store) {
	t.Helper()
	began := time.Now()
	for i := 0; ; i++ {
		err := st.Create(t.Context(), BucketReplay, fmt.Sprint(t.Name(), i), nil, time.Minute)
		if err == nil {
			return
		}
		if !errors.Is(err, ErrUnavailable) || time.Since(began) > time.Minute {
			t.Fatalf("after %s: %v", time.Since(began), err)
		}
	}
}

// during runs f while there is load.
func during(t *testing.T, name string, brokers []Store, f func(l *load)) *load {
	l := &load{bucket: BucketReplay}
	ctx, cancel := context.WithCancel(t.Context())
	all := l.run(ctx, name, brokers)
	f(l)
	cancel()
	all.Wait()
	return l
}

// more waits for so many further marks.
func (l *load) more(t *testing.T, n int) {
	t.Helper()
	l.mu.Lock()
	want := len(l.won) + n
	l.mu.Unlock()
	const within = 2 * time.Minute
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		l.mu.Lock()
		have := len(l.won)
		l.mu.Unlock()
		if have >= want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %s: %d spent of %d", within, have, want)
		}
	}
}

func leaderKilled(t *testing.T, c *cluster, brokers []Store) {
	m := watched(t, brokers[1], BucketEnds)
	l := during(t, "kill", brokers, func(l *load) {
		l.more(t, 100)
		leader := c.leader(t, brokers[0], BucketReplay)
		c.kill(leader)
		l.more(t, 100)
		c.start(leader)
		l.more(t, 50)
	})
	l.check(t, brokers[0])
	// A Watch has gone on too.
	if err := insistent(t, func(ctx context.Context) error { return brokers[2].Put(ctx, BucketEnds, "5", []byte("after"), 0) }); err != nil {
		t.Fatal(err)
	}
	m.has(t, "5", "after")
}

// has waits until a Watch has told this.
func (m *mirror) has(t *testing.T, key, value string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		m.mu.Lock()
		v := m.now[key]
		m.mu.Unlock()
		if v == value {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("a Watch still has %q", v)
		}
	}
}

// insistent tries for as long as a leader may need.
func insistent(t *testing.T, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return f(ctx)
}

// leaderHangs: it holds its connections, and says nothing.
func leaderHangs(t *testing.T, c *cluster, brokers []Store) {
	works(t, brokers[0])
	leader := c.leader(t, brokers[0], BucketReplay)
	l := during(t, "hang", brokers, func(l *load) {
		l.more(t, 20)
		c.signal(leader, syscall.SIGSTOP)
		l.more(t, 50)
		c.signal(leader, syscall.SIGCONT)
		l.more(t, 20)
	})
	l.check(t, brokers[(leader+1)%3])
}

func quorumLost(t *testing.T, c *cluster, brokers []Store) {
	works(t, brokers[0])
	if err := insistent(t, func(ctx context.Context) error {
		return brokers[0].Create(ctx, BucketReplay, "before", nil, time.Hour)
	}); err != nil {
		t.Fatal(err)
	}
	before := listed(t, brokers[0], BucketReplay)
	m := watched(t, brokers[0], BucketSessions)
	if err := insistent(t, func(ctx context.Context) error { return brokers[0].Put(ctx, BucketSessions, "w", []byte("1"), 0) }); err != nil {
		t.Fatal(err)
	}
	c.kill(1)
	c.kill(2)
	// Each call ends with its context, and says that it could not find out.
	var all sync.WaitGroup
	for _, st := range brokers {
		for what, f := range map[string]func(context.Context) error{
			"create": func(ctx context.Context) error { return st.Create(ctx, BucketReplay, "gap", nil, time.Hour) },
			"put":    func(ctx context.Context) error { return st.Put(ctx, BucketProofs, "gap", nil, time.Hour) },
			"get":    func(ctx context.Context) error { _, err := st.Get(ctx, BucketReplay, "gap"); return err },
			"list":   func(ctx context.Context) error { _, err := st.List(ctx, BucketReplay); return err },
			"delete": func(ctx context.Context) error { return st.Delete(ctx, BucketSessions, "w") },
		} {
			all.Go(func() {
				// Else it would go on for ten minutes.
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				defer time.AfterFunc(300*time.Millisecond, cancel).Stop()
				began := time.Now()
				err := f(ctx)
				if took := time.Since(began); took > 20*time.Second {
					t.Errorf("%s took %s of 300ms", what, took)
				}
				// The server that is left may not know yet that it is alone: what it
				// has may be read for a moment, but nothing be written.
				if what != "get" && what != "list" && !errors.Is(err, ErrUnavailable) {
					t.Errorf("%s without a quorum: %v", what, err)
				}
			})
		}
	}
	all.Wait()
	began := time.Now()
	if err := brokers[0].Create(t.Context(), BucketReplay, "gap", nil, time.Hour); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without a quorum: %v", err)
	}
	if took := time.Since(began); took > callWait+20*time.Second {
		t.Errorf("a call without a deadline took %s", took)
	}
	// All gone, and all back: what was spent is.
	c.kill(0)
	for i := range 3 {
		c.start(i)
	}
	works(t, brokers[0])
	if err := insistent(t, func(ctx context.Context) error {
		return brokers[1].Create(ctx, BucketReplay, "before", nil, time.Hour)
	}); !errors.Is(err, ErrExists) {
		t.Errorf("spent before all servers were killed: %v", err)
	}
	var after map[string][]byte
	if err := insistent(t, func(ctx context.Context) error {
		all, err := brokers[1].List(ctx, BucketReplay)
		after = map[string][]byte{}
		for _, e := range all {
			after[e.Key] = e.Value
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for k := range maps.Keys(before) {
		if _, is := after[k]; !is && len(k) > 8 { // the suite's short ones have ended
			t.Errorf("%q is lost", k)
			break
		}
	}
	if err := insistent(t, func(ctx context.Context) error { return brokers[2].Put(ctx, BucketSessions, "w", []byte("2"), 0) }); err != nil {
		t.Fatal(err)
	}
	m.has(t, "w", "2")
}

// strangers: what is not ours by its certificate is not used, and does not use ours.
func strangers(t *testing.T, c *cluster) {
	dir := c.dir
	other := newAuthority(t, filepath.Join(c.dir, "other.crt"))
	other.issue(t, filepath.Join(c.dir, "stranger"), "")
	ask := func(conf Config) error {
		st, err := Open(t.Context(), conf)
		if err != nil {
			return err
		}
		defer st.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
		defer cancel()
		_, err = st.Get(ctx, BucketReplay, "k")
		if err == nil || errors.Is(err, ErrNotFound) {
			t.Error("it was answered")
		}
		return err
	}
	good := c.config(0, 1, 2)
	wrong := map[string]Config{}
	conf := good
	conf.CAFile = filepath.Join(c.dir, "other.crt")
	wrong["servers of another authority"] = conf
	conf = good
	conf.CertFile, conf.KeyFile = filepath.Join(c.dir, "stranger.crt"), filepath.Join(c.dir, "stranger.key")
	wrong["a broker of another authority"] = conf
	conf = good
	conf.Servers = nil
	for _, u := range good.Servers { // the certificate has only the address
		conf.Servers = append(conf.Servers, "tls://localhost"+u[len("tls://127.0.0.1"):])
	}
	wrong["servers of another name"] = conf
	var all sync.WaitGroup
	for what, conf := range wrong {
		all.Go(func() {
			if err := ask(conf); !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	all.Wait()
	// Faults of our own files end Open.
	key := filepath.Join(c.dir, "open.key")
	b, err := os.ReadFile(good.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, b, 0o644); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Config){
		"no authority":      func(c *Config) { c.CAFile = "/nonexistent" },
		"an empty one":      func(c *Config) { c.CAFile = "/dev/null" },
		"no certificate":    func(c *Config) { c.CertFile = "" },
		"another's key":     func(c *Config) { c.KeyFile = filepath.Join(dir, "stranger.key") },
		"a key for all":     func(c *Config) { c.KeyFile = key },
		"no TLS":            func(c *Config) { c.Servers = []string{"nats://127.0.0.1:4222"} },
		"two replicas":      func(c *Config) { c.Replicas = 2 },
		"a folder besides":  func(c *Config) { c.Dir = t.TempDir() },
		"a bucket too many": func(c *Config) { c.MaxKeys = map[string]int{"x": 1} },
	} {
		conf := good
		change(&conf)
		if st, err := Open(t.Context(), conf); err == nil {
			st.Close()
			t.Error("opened with " + what)
		} else if errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// unfit: a stream that keeps less well than ours is not used.
func unfit(t *testing.T, c *cluster, st Store) {
	e, err := st.(*store).engine()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, _ := bucketNamed(BucketCounters)
	if err := e.js.DeleteStream(ctx, b.stream()); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*jetstream.StreamConfig){
		"one replica": func(c *jetstream.StreamConfig) { c.Replicas = 1 },
		"in memory":   func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"max_age":     func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"direct":      func(c *jetstream.StreamConfig) { c.AllowDirect = true },
	} {
		sc := st.(*store).c.bucketConfig(b)
		change(&sc)
		for {
			_, err := e.js.CreateStream(ctx, sc)
			if err == nil {
				break
			}
			// The server that was killed before may not be seen by all yet.
			if !strings.Contains(err.Error(), "no suitable peers") || ctx.Err() != nil {
				t.Fatal(what, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		fresh := open(t, c.config(0, 1, 2))
		ctx1, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		if err := fresh.Put(ctx1, BucketCounters, "k", nil, 0); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
		cancel()
		if err := e.js.DeleteStream(ctx, b.stream()); err != nil {
			t.Fatal(err)
		}
	}
	// It is made anew, as it should be.
	if err := insistent(t, func(ctx context.Context) error {
		return open(t, c.config(0, 1, 2)).Put(ctx, BucketCounters, "k", nil, 0)
	}); err != nil {
		t.Error(err)
	}
}

// rolledBack: servers that have lost what they acknowledged are not trusted by who
// remembers it.
func rolledBack(t *testing.T, st Store) {
	works(t, st)
	e, err := st.(*store).engine()
	if err != nil {
		t.Fatal(err)
	}
	b, _ := bucketNamed(BucketReplay)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := e.js.DeleteStream(ctx, b.stream()); err != nil {
		t.Fatal(err)
	}
	if err := st.Create(ctx, BucketReplay, "before", nil, time.Hour); !errors.Is(err, errRolled) || !errors.Is(err, ErrUnavailable) {
		t.Errorf("spent again, as the servers have forgotten it: %v", err)
	}
}
