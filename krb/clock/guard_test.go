package clock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/sekisho/sekisho/broker"
)

// scene is a guard in a bubble of its own time, with servers that say what the
// test wants.
type scene struct {
	*Guard
	logs *logtest.Hook

	mu    sync.Mutex
	wall  time.Duration // of this host's clock against the true time
	says  map[string]func() (sample, error)
	asked map[string][]time.Duration // since the start
}

// honest is a server that tells the true time.
func (s *scene) honest(bound time.Duration) func() (sample, error) {
	return func() (sample, error) { return sample{offset: -s.wall, bound: bound}, nil }
}

func newScene(t *testing.T, c Config, servers ...string) *scene {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	s := &scene{logs: hook, says: map[string]func() (sample, error){}, asked: map[string][]time.Duration{}}
	c.Log = logrus.NewEntry(log)
	begin := time.Now()
	c.Servers = servers
	c.Now = func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		return time.Now().Add(s.wall).Round(0)
	}
	c.query = func(ctx context.Context, addr string, now func() time.Time) (sample, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		name := strings.TrimSuffix(addr, ":123")
		s.asked[name] = append(s.asked[name], time.Since(begin))
		return s.says[name]()
	}
	for _, name := range servers {
		s.says[name] = s.honest(8 * time.Millisecond)
	}
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.Guard = g
	return s
}

// times is when a server was asked, since the start.
func (s *scene) times(name string) []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked[name])
}

// run runs the guard in the background.
func (s *scene) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
}

func (s *scene) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// after waits and looks at the state.
func (s *scene) after(t *testing.T, d time.Duration, want State, text string) Status {
	t.Helper()
	time.Sleep(d)
	synctest.Wait()
	st := s.Status()
	if st.State != want || !strings.Contains(st.Text, text) {
		t.Fatalf("after %s: %s: %q, want %s: %q", d, st.State, st.Text, want, text)
	}
	refused := s.Check()
	if (refused != nil) != (want == Beyond) {
		t.Errorf("Check says %v", refused)
	}
	if refused != nil && (refused.Text != st.Text || refused.Reason != broker.ReasonClock || refused.Error() != st.Text) {
		t.Errorf("refusal %+v", refused)
	}
	return st
}

func TestUnknownUntilSomebodySaysSo(t *testing.T) {
	var zero Status
	if zero.State != Unknown {
		t.Error("the zero state is not unknown")
	}
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, Config{}, "ntp1", "ntp2")
		silent := func() (sample, error) { return sample{}, errors.New("no answer") }
		s.says["ntp1"], s.says["ntp2"] = silent, silent
		s.after(t, 0, Unknown, "nobody knows")
		s.run(t)
		s.after(t, time.Hour, Unknown, "no time server and no KDC has answered")
		// Asked soon at first, and rarer, but never given up.
		n := len(s.times("ntp1"))
		if n < 3*50 || n > 3*70 {
			t.Errorf("asked %d times in an hour", n)
		}
		if early := s.times("ntp1")[3]; early > 10*time.Second {
			t.Errorf("looked again after %s", early)
		}
		s.set(func() { s.says["ntp1"] = s.honest(8 * time.Millisecond) })
		s.after(t, 80*time.Second, Good, "by 1 time server")
	})
}

func TestLifeOfAGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, Config{}, "ntp1", "ntp2", "ntp3")
		s.run(t)
		s.after(t, 10*time.Millisecond, Good, "by 3 time servers")
		s.after(t, 30*time.Minute, Good, "")
		if n := len(s.times("ntp1")); n < 3*6 || n > 3*8 {
			t.Errorf("asked %d times in half an hour", n)
		}
		for i, at := range s.times("ntp1") {
			if i > 0 && at-s.times("ntp1")[i-1] < 2*time.Second {
				t.Errorf("asked after %s and after %s", s.times("ntp1")[i-1], at)
			}
		}
		// This host's clock goes wrong in one step: noticed within a second.
		s.set(func() { s.wall = -432 * time.Second })
		s.after(t, 1100*time.Millisecond, Beyond, "this host's clock is 7 min 12 s behind (+/- 8 ms, by 3 time servers)")
		// Mended.
		s.set(func() { s.wall = 0 })
		s.after(t, 1100*time.Millisecond, Good, "this host's clock is right")
		// One line for each change, and no more.
		var lines []string
		for _, e := range s.logs.AllEntries() {
			lines = append(lines, e.Level.String()+" "+e.Data["clock"].(string))
		}
		want := "info good, warning unknown, error beyond, warning unknown, info good"
		if got := strings.Join(lines, ", "); got != want {
			t.Errorf("logged %s, want %s", got, want)
		}
	})
}

// Between the step and the next answers nothing is known, not even with young
// answers of before.
func TestStepMakesUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, Config{}, "ntp1")
		s.run(t)
		s.after(t, time.Minute, Good, "")
		s.Observe("kdc1", 0, time.Second)
		s.set(func() {
			s.wall = time.Hour
			s.says["ntp1"] = func() (sample, error) { return sample{}, errors.New("no answer") }
		})
		st := s.after(t, 1500*time.Millisecond, Unknown, "this host's clock was just moved (1 h 0 min ahead of what it was)")
		if len(st.Sources) != 1 || st.Sources[0].Verdict != Silent {
			t.Errorf("sources %+v", st.Sources)
		}
		s.Observe("kdc1", -time.Hour, time.Second)
		s.after(t, 0, Beyond, "apart")
	})
}

// A step of a second or less is no reason to forget everything (a leap second).
func TestSmallStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, Config{}, "ntp1")
		s.run(t)
		s.after(t, time.Minute, Good, "")
		n := len(s.times("ntp1"))
		s.set(func() { s.wall = time.Second })
		s.after(t, 5*time.Second, Good, "")
		if len(s.times("ntp1")) != n {
			t.Error("asked anew")
		}
	})
}

// Without Run a step is noticed too, by whoever asks.
func TestStepWithoutRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, Config{}, "ntp1")
		s.Poll(context.Background())
		s.after(t, 0, Good, "")
		s.set(func() { s.wall = time.Hour })
		s.after(t, 1100*time.Millisecond, Unknown, "just moved")
	})
}

// An answer whose question was asked before a step counts for nothing.
func TestStepInMidQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, Config{}, "ntp1")
		s.says["ntp1"] = func() (sample, error) { // it steps while the answer is on its way
			defer func() { s.wall += time.Hour }()
			return sample{offset: -s.wall, bound: time.Millisecond}, nil
		}
		s.Poll(context.Background())
		s.after(t, 0, Unknown, "")
	})
}

func TestHysteresis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, Config{Interval: 10 * time.Second}, "ntp1")
		s.run(t)
		for _, step := range []struct {
			wall time.Duration // slewed, not stepped
			want State
		}{
			{0, Good}, {179 * time.Second, Good}, {181 * time.Second, Near}, {179 * time.Second, Near}, {166 * time.Second, Near},
			{164 * time.Second, Good}, {299 * time.Second, Near}, {301 * time.Second, Beyond}, {299 * time.Second, Beyond},
			{286 * time.Second, Beyond}, {284 * time.Second, Near}, {301 * time.Second, Beyond}, {0, Good},
		} {
			s.set(func() {
				s.says["ntp1"] = func() (sample, error) { return sample{offset: step.wall, bound: time.Millisecond}, nil }
			})
			s.after(t, 30*time.Second, step.want, "")
		}
	})
}

// While a clock is wrong it is looked at more often: the mend shall be seen.
func TestWrongClockIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *scene
		kdc := 10 * time.Minute
		s = newScene(t, Config{Probe: func(_ context.Context, g *Guard) {
			var offset time.Duration
			s.set(func() { offset = kdc })
			g.Observe("kdc1", offset, 20*time.Millisecond)
		}}, "ntp1")
		s.run(t)
		s.after(t, 10*time.Second, Beyond, "the clock of KDC kdc1 is 10 min 0 s ahead (+/- ")
		s.set(func() { kdc = 0 })
		s.after(t, 40*time.Second, Good, "by 1 time server and the KDC")
	})
}

func TestBestSampleCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, Config{}, "ntp1")
		bounds := []time.Duration{400, 3, 90, 70, 80, 75}
		s.says["ntp1"] = func() (sample, error) {
			b := bounds[0] * time.Millisecond
			bounds = bounds[1:]
			return sample{bound: b}, nil
		}
		s.Poll(context.Background())
		if got := s.Status().Sources[0].Bound; got < 3*time.Millisecond || got > 4*time.Millisecond {
			t.Errorf("± %s of the first look", got)
		}
		s.Poll(context.Background()) // the next look begins anew
		if got := s.Status().Sources[0].Bound; got < 70*time.Millisecond || got > 71*time.Millisecond {
			t.Errorf("± %s of the second look", got)
		}
	})
}

func TestAnswersAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, Config{}, "ntp1")
		s.run(t)
		s.after(t, time.Minute, Good, "")
		s.set(func() { s.says["ntp1"] = func() (sample, error) { return sample{}, errors.New("no answer") } })
		s.Observe("kdc1", 0, time.Second)
		st := s.after(t, 30*time.Minute, Good, "")
		if b := st.Sources[0].Bound; b < 8*time.Millisecond+150*time.Millisecond || b > 300*time.Millisecond {
			t.Errorf("after 30 minutes ± %s", b)
		}
		s.after(t, 31*time.Minute, Unknown, "no time server and no KDC")
	})
}

func TestObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, Config{})
		s.Observe("kdc1", time.Second, time.Minute) // too unsure
		s.Observe("kdc1", time.Second, -1)
		s.after(t, 0, Unknown, "nobody has told")
		s.Observe("kdc1", 0, 100*time.Millisecond)
		s.Observe("kdc1", 800*time.Millisecond, time.Second) // the same, less sure
		if got := s.Status().Sources[0]; got.Bound > 110*time.Millisecond || got.Offset != 0 {
			t.Errorf("%+v", got)
		}
		s.Observe("kdc1", 10*time.Minute, time.Second) // another: it was moved
		s.after(t, 0, Beyond, "10 min 0 s apart (the KDC's is ahead")
		s.Observe("kdc1", 0, 20*time.Millisecond)
		s.after(t, 0, Good, "agree")
		for i := range 1000 {
			s.Observe(fmt.Sprint("kdc", i), 0, time.Second)
			s.ObserveDirectory(fmt.Sprint("ldap", i), 0, time.Second)
		}
		if n := len(s.Status().Sources); n != 2*maxPeers {
			t.Errorf("%d sources", n)
		}
		b, err := json.Marshal(s.Status())
		if err != nil || !strings.Contains(string(b), `"state":"good"`) || !strings.Contains(string(b), `"verdict":"good"`) {
			t.Errorf("%s %v", b, err)
		}
	})
}

func TestKissOfDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, Config{}, "deny", "rstr", "rate", "good")
		for _, name := range []string{"deny", "rstr", "rate"} {
			s.says[name] = func() (sample, error) { return sample{}, kiss(strings.ToUpper(name)) }
		}
		s.run(t)
		s.after(t, 6*time.Hour, Good, "by 1 time server")
		for _, name := range []string{"deny", "rstr"} {
			if n := len(s.times(name)); n != 1 {
				t.Errorf("%s was asked %d times", name, n)
			}
		}
		// 10, 20, 40, 80, 160 minutes between, or more.
		if n := len(s.times("rate")); n < 5 || n > 6 {
			t.Errorf("rate was asked %d times: %v", n, s.times("rate"))
		}
		gap := 10 * time.Minute
		for i, at := range s.times("rate") {
			if i == 0 {
				continue
			}
			if at-s.times("rate")[i-1] < gap {
				t.Errorf("asked after %s, told to wait %s", at-s.times("rate")[i-1], gap)
			}
			gap *= 2
		}
		for _, o := range s.Status().Sources[:3] {
			want := Denied
			if o.Name == "rate" {
				want = Silent
			}
			if o.Verdict != want || !strings.Contains(o.Why, strings.ToUpper(o.Name)) {
				t.Errorf("%+v", o)
			}
		}
		// One that is appeased goes on slowly, one sample at a time.
		n := len(s.times("rate"))
		s.set(func() { s.says["rate"] = s.honest(time.Millisecond) })
		time.Sleep(20 * time.Hour)
		if more := len(s.times("rate")) - n; more < 2 || more > 6 {
			t.Errorf("asked %d times in 20 hours", more)
		}
	})
}

// A server that says it has no time loses its vote at once; one that is silent
// keeps it for a while.
func TestUnfitLosesItsVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, Config{}, "ntp1")
		s.run(t)
		s.after(t, time.Minute, Good, "")
		s.set(func() {
			s.says["ntp1"] = func() (sample, error) { return sample{}, unfitError{errors.New("not synchronised")} }
		})
		s.after(t, 6*time.Minute, Unknown, "")
	})
}

func TestOneVoteAMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, Config{}, "alias1", "alias2", "true")
		lie := func() (sample, error) {
			return sample{offset: time.Hour, bound: time.Millisecond, addr: "203.0.113.7:123"}, nil
		}
		s.says["alias1"], s.says["alias2"] = lie, lie
		s.Poll(context.Background())
		st := s.after(t, 0, Unknown, "contradict each other")
		if o := st.Sources[1]; o.Verdict != Silent || !strings.Contains(o.Why, "alias1") {
			t.Errorf("%+v", o)
		}
	})
}

func TestClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, Config{}, "ntp1")
		for _, d := range []time.Duration{0, 5 * time.Minute, -5 * time.Minute} {
			if r := s.Client(d); r != nil {
				t.Errorf("%s: %v", d, r)
			}
		}
		for _, d := range []time.Duration{5*time.Minute + 1, -5*time.Minute - 1, 1 << 62, -1 << 63} {
			if r := s.Client(d); r == nil || r.Reason != broker.ReasonClock {
				t.Errorf("%s: %v", d, r)
			}
		}
		if got := s.ClientText(602 * time.Second); got != "the clock of the client is 10 min 2 s ahead of this host's" {
			t.Errorf("%q", got)
		}
		s.Poll(context.Background())
		if got := s.ClientText(602 * time.Second); got != "the clock of the client is 10 min 2 s ahead" {
			t.Errorf("%q", got)
		}
		s.set(func() { s.wall = -10 * time.Minute })
		s.Poll(context.Background())
		if got := s.Client(600 * time.Second); got == nil || !strings.HasPrefix(got.Text, "this host's clock is 10 min 0 s behind") {
			t.Errorf("%v", got)
		}
	})
}

func TestConfig(t *testing.T) {
	log := quiet()
	many := make([]string, 17)
	for i := range many {
		many[i] = fmt.Sprint("ntp", i)
	}
	for name, c := range map[string]Config{
		"no log":    {},
		"skew":      {Log: log, Skew: -1},
		"long skew": {Log: log, Skew: 100 * time.Hour},
		"share":     {Log: log, NearShare: 1},
		"interval":  {Log: log, Interval: time.Millisecond},
		"twice":     {Log: log, Servers: []string{"ntp1", "ntp1"}},
		"empty":     {Log: log, Servers: []string{""}},
		"port":      {Log: log, Servers: []string{"ntp1:x y"}},
		"port 0":    {Log: log, Servers: []string{"ntp1:0"}},
		"too high":  {Log: log, Servers: []string{"ntp1:65536"}},
		"url":       {Log: log, Servers: []string{"ntp://ntp1"}},
		"control":   {Log: log, Servers: []string{"ntp\x01"}},
		"too many":  {Log: log, Servers: many},
		"no host":   {Log: log, Servers: []string{":123"}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	g, err := New(Config{Log: log, Servers: []string{"ntp1", "ntp2:1123", "203.0.113.1", "2001:db8::1", "[2001:db8::2]", "[2001:db8::3]:99"}})
	if err != nil {
		t.Fatal(err)
	}
	var addrs []string
	for _, s := range g.servers {
		addrs = append(addrs, s.addr)
	}
	want := "ntp1:123 ntp2:1123 203.0.113.1:123 [2001:db8::1]:123 [2001:db8::2]:123 [2001:db8::3]:99"
	if got := strings.Join(addrs, " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Run ends with its context, in the midst of whatever it does.
func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []Config{{}, {Probe: func(ctx context.Context, _ *Guard) { <-ctx.Done() }}} {
			for _, servers := range [][]string{nil, {"ntp1", "ntp2"}} {
				s := newScene(t, c, servers...)
				ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
				begin := time.Now()
				s.Run(ctx)
				cancel()
				if d := time.Since(begin); d != 1500*time.Millisecond {
					t.Errorf("ended after %s", d)
				}
			}
		}
	})
}

// All methods at once: for the race detector.
func TestAllAtOnce(t *testing.T) {
	l := logrus.New()
	l.SetOutput(io.Discard)
	c := Config{Log: logrus.NewEntry(l), Servers: []string{"ntp1", "ntp2"}, Interval: time.Second, spacing: time.Millisecond}
	c.query = func(context.Context, string, func() time.Time) (sample, error) {
		return sample{bound: time.Millisecond}, nil
	}
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { g.Run(ctx) })
	for i := range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				g.Observe(fmt.Sprint("kdc", i), time.Duration(i)*time.Minute, time.Second)
				g.ObserveDirectory("ldap1", 0, time.Second)
				g.Check()
				g.Client(time.Hour)
				g.Status()
			}
		})
	}
	wg.Wait()
}

func BenchmarkCheck(b *testing.B) {
	g, err := New(Config{Log: quiet(), Servers: []string{"a", "b", "c", "d"}})
	if err != nil {
		b.Fatal(err)
	}
	g.Observe("kdc", 0, time.Second)
	for b.Loop() {
		if g.Check() != nil {
			b.Fatal("refused")
		}
	}
}
