package broker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// guessing is Guesses with a clock that the test moves.
type guessing struct {
	*Guesses
	t     *testing.T
	now   time.Time
	notes []string
}

func newGuessing(t *testing.T) *guessing {
	t.Helper()
	w := &guessing{t: t, now: time.Unix(1_800_000_000, 0)}
	g, err := NewGuesses(GuessConfig{PerUser: 5, PerSource: 20, LongestWait: 15 * time.Minute, KnownGood: 30 * 24 * time.Hour,
		Now:  func() time.Time { return w.now },
		Note: func(e LockoutEvent) { w.notes = append(w.notes, fmt.Sprint(e.Begin, " ", e.Lockout, " ", e.By)) }})
	if err != nil {
		t.Fatal(err)
	}
	w.Guesses = g
	return w
}

func from(user UserName, addr string) Attempt {
	a := Attempt{User: user, Host: "web1", Door: "pam", Proof: ProofPassword}
	if addr != "" {
		a.From = netip.MustParseAddr(addr)
	}
	return a
}

// guess is one attempt to its end; it says whether it was let through.
func (w *guessing) guess(a Attempt, o Outcome) bool {
	w.t.Helper()
	al := w.Take(w.t.Context(), a)
	if al.Unknown {
		w.t.Fatalf("%v could not be judged", a)
	}
	if al.OK {
		w.Settle(w.t.Context(), a, o)
	}
	return al.OK
}

// passed is how many of n wrong ones are let through.
func (w *guessing) passed(n int, a Attempt) (passed int) {
	for range n {
		if w.guess(a, Deny) {
			passed++
		}
	}
	return passed
}

func TestGuessesOfOneUser(t *testing.T) {
	w := newGuessing(t)
	alice := func(i int) Attempt { return from("alice", fmt.Sprintf("203.0.%d.9", i)) }
	passed := 0
	for i := range 100 { // each from a network of its own
		if w.guess(alice(i), Deny) {
			passed++
		}
	}
	if passed != 5 {
		t.Fatalf("%d of 100 were let through, not 5", passed)
	}
	if got := w.notes; len(got) != 1 || got[0] != "true user alice " {
		t.Errorf("noted was %q", got)
	}
	// The waits double up to the longest.
	var waits []time.Duration
	for i := range 15 {
		al := w.Take(t.Context(), alice(100+i))
		if al.OK || !al.Until.After(w.now) {
			t.Fatalf("after %v: %+v at %v", waits, al, w.now)
		}
		waits = append(waits, al.Until.Sub(w.now).Round(time.Second))
		w.now = al.Until
		if !w.guess(alice(100+i), Deny) {
			t.Fatalf("the wait of %v is over, and it is refused", waits[i])
		}
		if w.guess(alice(100+i), Deny) {
			t.Fatal("two were let through after one wait")
		}
	}
	for i, w := range waits {
		if i > 0 && w < waits[i-1] || i < 4 && (w < time.Duration(2<<i)*time.Second*9/10 || w > time.Duration(2<<i)*time.Second) {
			t.Errorf("the waits are %v", waits)
		}
	}
	if last := waits[len(waits)-1]; last < 10*time.Minute || last > 15*time.Minute {
		t.Errorf("the longest wait is %v", last)
	}
	// A right one of his own from a fresh network does not wipe out the count.
	w.now = w.now.Add(15 * time.Minute)
	if !w.guess(alice(200), Allow) {
		t.Fatal("alice is refused after the longest wait")
	}
	if w.guess(alice(201), Deny) && w.guess(alice(202), Deny) {
		t.Error("after a right one from elsewhere all is free again")
	}
	w.now = w.now.Add(10 * 8 * 15 * time.Minute)
	if got := w.passed(100, alice(203)); got != 5 {
		t.Errorf("when all was forgotten %d of 100 are let through", got)
	}
}

// What can be guessed in a day by somebody who never stops: at one user from
// everywhere, at all users from one network, and at one user from a network that is
// known for him.
func TestGuessesADay(t *testing.T) {
	any := func() int { return rand.IntN(256) }
	for _, c := range []struct {
		name     string
		attempt  func() Attempt
		min, max int // docs/guessing.md says 130, 260 and 130
	}{
		{"user", func() Attempt { return from("alice", fmt.Sprintf("203.%d.%d.9", any(), any())) }, 100, 140},
		{"source", func() Attempt { return from(UserName(fmt.Sprint("u", any(), any())), "203.0.113.9") }, 200, 280},
		{"pair", func() Attempt { return from("alice", "198.51.100.9") }, 100, 140},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newGuessing(t)
			w.guess(from("alice", "198.51.100.7"), Allow)
			n := 0
			for end := w.now.Add(24 * time.Hour); w.now.Before(end); w.now = w.now.Add(500 * time.Millisecond) {
				if w.guess(c.attempt(), Deny) {
					n++
				}
			}
			if n < c.min || n > c.max {
				t.Errorf("%d guesses a day are let through", n)
			}
			t.Logf("%d guesses a day", n)
		})
	}
}

func TestGuessesOfOneSource(t *testing.T) {
	for _, c := range []struct{ name, addr string }{
		{"an IPv4 /24", "198.51.100.%d"}, {"an IPv6 /64", "2001:db8::%x"}, {"mapped IPv4", "::ffff:203.0.113.%d"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newGuessing(t)
			passed := 0
			for i := range 200 {
				if w.guess(from(UserName(fmt.Sprint("user", i)), fmt.Sprintf(c.addr, i)), Deny) {
					passed++
				}
			}
			if passed != 20 {
				t.Errorf("%d of 200 were let through, not 20", passed)
			}
		})
	}
}

func TestSource(t *testing.T) {
	for _, c := range []struct {
		a    Attempt
		want string
	}{
		{from("a", "203.0.113.7"), "203.0.113.0/24"},
		{from("a", "::ffff:203.0.113.7"), "203.0.113.0/24"},
		{from("a", "2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64"},
		{from("a", "127.0.0.1"), "on web1"},
		{from("a", "::1"), "on web1"},
		{from("a", ""), "on web1"},
		{Attempt{User: "a", Host: "web1", Remote: true}, "to web1"},
		{Attempt{User: "a", Host: "web1", Remote: true, From: netip.MustParseAddr("203.0.113.7")}, "203.0.113.0/24"},
		{Attempt{User: "a", Host: HostName(strings.Repeat("h", 200))}, "on " + bounded(strings.Repeat("h", 200))},
	} {
		if got := c.a.Source(); got != c.want {
			t.Errorf("%+v is from %q, not %q", c.a, got, c.want)
		}
		source, user := splitPair(keyOf(c.a).pair())
		if source != c.want || user != "a" {
			t.Errorf("the pair %q is parted into %q and %q", keyOf(c.a).pair(), source, user)
		}
	}
}

// Attackers can do what they like, from other networks and with other users: at
// home nobody is kept waiting. And at home nobody can guess for ever.
func TestKnownGoodIsLeftAlone(t *testing.T) {
	w := newGuessing(t)
	home := from("alice", "203.0.113.7")
	if !w.guess(home, Allow) {
		t.Fatal("the first sign-in is refused")
	}
	for i := range 20_000 {
		w.now = w.now.Add(time.Millisecond)
		w.guess(from("alice", fmt.Sprintf("198.18.%d.%d", i/256%256, i%256)), Deny)
		w.guess(from(UserName(fmt.Sprint("u", i)), "203.0.113.99"), Deny) // her neighbour
		w.guess(from(UserName(fmt.Sprint("v", i)), fmt.Sprintf("198.19.%d.%d", i/256%256, i%256)), Deny)
		if i%100 == 0 && !w.guess(from("alice", "203.0.113.8"), Allow) {
			t.Fatalf("alice is locked out at home after %d", i)
		}
	}
	if w.guess(from("bob", "203.0.114.1"), Deny) {
		t.Error("the spray is over while it goes on")
	}
	if got := w.passed(100, home); got != 5 {
		t.Errorf("%d of 100 wrong ones at home were let through, not 5", got)
	}
	w.now = w.now.Add(3 * time.Second)
	if !w.guess(home, Allow) {
		t.Error("after a short wait alice is refused at home")
	}
	if got := w.passed(100, home); got != 5 {
		t.Errorf("after a sign-in %d wrong ones are let through, not 5", got)
	}
	w.now = w.now.Add(31 * 24 * time.Hour)
	if w.guess(home, Deny); w.counters[GuessUser]["alice"] == nil {
		t.Error("a network counts as known for ever")
	}
}

func TestSprayLeavesATrickle(t *testing.T) {
	w := newGuessing(t)
	const tries, seconds = 50_000, 60
	passed := 0
	for i := range tries {
		w.now = w.now.Add(seconds * time.Second / tries)
		if w.guess(from(UserName(fmt.Sprint("user", i%5000)), fmt.Sprintf("198.%d.%d.9", 18+i/256%4, i%256)), Deny) {
			passed++
		}
	}
	if passed > tries*2/100 || passed < sprayFree {
		t.Errorf("%d of %d reach the directory", passed, tries)
	}
	if n := slices.ContainsFunc(w.notes, func(s string) bool { return strings.HasPrefix(s, "true spray") }); !n {
		t.Errorf("of %d notes none is about the spray", len(w.notes))
	}
	if n := len(w.counters[GuessUser]); n > passed {
		t.Errorf("%d users are remembered for %d that were let through", n, passed)
	}
	w.now = w.now.Add(5 * time.Minute)
	if !w.guess(from("newcomer", "192.0.2.1"), Deny) {
		t.Error("five minutes after the spray a newcomer is refused")
	}
}

// Newcomers on a quiet day notice nothing, however many they are.
func TestNewcomers(t *testing.T) {
	w := newGuessing(t)
	for i := range 5000 {
		if !w.guess(from(UserName(fmt.Sprint("user", i)), fmt.Sprintf("198.%d.%d.9", 18+i/256%4, i%256)), Allow) {
			t.Fatalf("the sign-in of number %d is refused", i)
		}
	}
	for n, c := range w.counters {
		if len(c) > 0 {
			t.Errorf("%d counters of the kind %s are left", len(c), n)
		}
	}
}

// Two hundred at once on one user: only the budget passes, whoever is first.
func TestAllAtOnce(t *testing.T) {
	for _, c := range []struct {
		name   string
		user   func(int) UserName
		right  bool
		passed int64
	}{
		{"wrong, one user", func(int) UserName { return "alice" }, false, 5},
		{"wrong, many users of one network", func(i int) UserName { return UserName(fmt.Sprint("user", i)) }, false, 20},
		{"right, one user", func(int) UserName { return "alice" }, true, 200},
		{"right, many users of one network", func(i int) UserName { return UserName(fmt.Sprint("user", i)) }, true, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, err := NewGuesses(GuessConfig{PerUser: 5, PerSource: 20, LongestWait: time.Minute, KnownGood: 0, Now: time.Now})
				if err != nil {
					t.Fatal(err)
				}
				var passed, unknown, flying, most atomic.Int64
				var all sync.WaitGroup
				for i := range 200 {
					all.Go(func() {
						a := from(c.user(i), "203.0.113.7")
						al := g.Take(t.Context(), a)
						if al.Unknown {
							unknown.Add(1)
						}
						if !al.OK {
							return
						}
						passed.Add(1)
						if n := flying.Add(1); n > most.Load() {
							most.Store(n)
						}
						time.Sleep(10 * time.Millisecond) // the directory
						flying.Add(-1)
						o := Deny
						if c.right {
							o = Allow
						}
						g.Settle(t.Context(), a, o)
					})
				}
				all.Wait()
				if passed.Load() != c.passed || unknown.Load() != 0 || most.Load() > 20 {
					t.Errorf("%d were let through, not %d; %d could not be judged; %d at once", passed.Load(), c.passed, unknown.Load(), most.Load())
				}
			})
		})
	}
}

// A turn that never comes is "could not find out", and what nobody settles is
// wrong in the end.
func TestUnsettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := NewGuesses(GuessConfig{PerUser: 5, PerSource: 20, LongestWait: 10 * time.Minute, KnownGood: time.Hour, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		a := from("alice", "203.0.113.7")
		for range 5 {
			if al := g.Take(t.Context(), a); !al.OK {
				t.Fatalf("%+v", al)
			}
		}
		began := time.Now()
		if al := g.Take(t.Context(), a); al.OK || !al.Unknown || time.Since(began) != turnWait {
			t.Errorf("after %v: %+v", time.Since(began), al)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if al := g.Take(ctx, a); al.OK || !al.Unknown || time.Since(began) != time.Second {
			t.Errorf("after %v: %+v", time.Since(began), al)
		}
		if n := len(g.counters[GuessUser]["alice"].waiting); n != 0 {
			t.Errorf("%d wait who have gone", n)
		}
		time.Sleep(flightTime)
		if al := g.Take(t.Context(), a); al.OK || al.Unknown {
			t.Errorf("unsettled ones do not count: %+v", al)
		}
		g.Settle(t.Context(), a, Unknown) // too late
		if al := g.Take(t.Context(), a); al.OK {
			t.Error("what is settled too late is given back")
		}
	})
}

func TestSettle(t *testing.T) {
	w := newGuessing(t)
	a := from("alice", "203.0.113.7")
	for range 100 {
		if !w.guess(a, Unknown) || !w.guess(a, NeedProof) {
			t.Fatal("what could not be found out counts")
		}
	}
	if w.known.size != 0 {
		t.Error("a password without its code makes a network known")
	}
	w.Settle(t.Context(), a, Allow) // the sign-in as a whole
	if w.known.size != 2 || !w.known.has("alice", "on web1", w.now, time.Hour) {
		t.Error("a sign-in makes nothing known")
	}
	away := Attempt{User: "alice", Host: "web1", Remote: true}
	w.guess(away, Allow)
	if w.known.size != 2 {
		t.Error("any place at all is known good")
	}
}

// Somebody elsewhere of unknown address is held back for the user alone: others
// who come the same way do not wait for him.
func TestElsewhere(t *testing.T) {
	w := newGuessing(t)
	away := func(user UserName) Attempt { return Attempt{User: user, Host: "kdc", Door: "kdc", Remote: true} }
	for i := range 100 {
		if !w.guess(away(UserName(fmt.Sprint("user", i))), Deny) {
			t.Fatalf("number %d waits for the others", i)
		}
	}
	if got := w.passed(100, away("alice")); got != 5 {
		t.Errorf("%d of 100 for one user were let through, not 5", got)
	}
}

// The clock goes back by a day: nobody waits longer than the longest wait.
func TestGuessesAndAClockSetBack(t *testing.T) {
	w := newGuessing(t)
	a := from("alice", "203.0.113.7")
	w.passed(10, a)
	w.Take(t.Context(), from("bob", "203.0.114.7")) // not settled
	w.now = w.now.Add(-24 * time.Hour)
	al := w.Take(t.Context(), a)
	if al.OK || al.Until.Sub(w.now) > 15*time.Minute {
		t.Errorf("%+v at %v", al, w.now)
	}
	w.now = al.Until
	if !w.guess(a, Deny) {
		t.Error("refused after the wait")
	}
	w.now = w.now.Add(flightTime)
	w.guess(a, Unknown)
	if w.flights.Len() != 0 {
		t.Error("an attempt stays unsettled")
	}
}

// A million forged pairs fill no memory, and wash nobody's counter away.
func TestAMillionForged(t *testing.T) {
	w := newGuessing(t)
	w.c.Note = nil
	victim := from("alice", "203.0.113.7")
	w.passed(10, victim)
	before := heapBytes()
	name := strings.Repeat("x", 200)
	for i := range 1_000_000 {
		a := Attempt{User: UserName(fmt.Sprintf("%s%d", name, i)), Host: "web1", Door: "pam", Proof: ProofPassword,
			From: netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})}
		if i%100 == 0 { // twenty minutes in all
			w.now = w.now.Add(120 * time.Millisecond)
		}
		w.guess(a, Deny)
	}
	if got := heapBytes() - before; got > 64<<20 {
		t.Errorf("a million forged ones take %d MiB", got>>20)
	}
	if n := w.value(w.counters[GuessUser]["alice"], w.now); n < 4 {
		t.Errorf("the victim's counter has %.1f left", n)
	}
	runtime.KeepAlive(w)
}

// The memory is full of counters, as after a long time without a limit for all:
// the bound holds, and none that counts for more than one goes.
func TestFullOfCounters(t *testing.T) {
	w := newGuessing(t)
	w.c.Note = nil
	victim := from("alice", "203.0.113.7")
	w.passed(2, victim)
	before := heapBytes()
	refused := 0
	for i := range 200_000 {
		a := Attempt{User: UserName(fmt.Sprintf("%d%s", i, strings.Repeat("x", 60))), Host: "web1",
			From: netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})}
		w.now = w.now.Add(10 * time.Millisecond)
		if c := w.counters[GuessSpray][""]; c != nil { // nothing else holds them back
			c.own = share{}
		}
		if !w.guess(a, Deny) {
			refused++
		}
	}
	for kind, all := range w.counters {
		if len(all) > maxCounters {
			t.Errorf("there are %d counters of the kind %s", len(all), kind)
		}
	}
	if got := heapBytes() - before; got > 64<<20 {
		t.Errorf("the counters take %d MiB", got>>20)
	}
	if n := w.value(w.counters[GuessUser]["alice"], w.now); n < 1.5 {
		t.Errorf("the victim's counter has %.1f left", n)
	}
	if refused == 200_000 {
		t.Error("nobody is let through any more")
	}
	runtime.KeepAlive(w)
}

func heapBytes() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// One who has an account fills no memory with networks, and a host that lies
// makes only some good, and drives out none of another's.
func TestKnownNetworksAreBounded(t *testing.T) {
	w := newGuessing(t)
	w.guess(from("alice", "203.0.113.7"), Allow)
	forged := func(i int) Attempt {
		a := from("alice", fmt.Sprintf("198.18.%d.1", i%256))
		a.Host = "stolen"
		return a
	}
	for i := range 1000 {
		w.Settle(t.Context(), forged(i), Allow)
	}
	if w.known.size != 2+knownPerHost {
		t.Errorf("%d networks are known", w.known.size)
	}
	if !w.known.has("alice", "203.0.113.0/24", w.now, w.c.KnownGood) {
		t.Error("her own is not")
	}
	w.now = w.now.Add(25 * time.Hour)
	w.Settle(t.Context(), forged(200), Allow)
	if !w.known.has("alice", "198.18.200.0/24", w.now, w.c.KnownGood) || w.known.size != 2+knownPerHost {
		t.Error("a day later no new one is learned")
	}
	for i := range 200 {
		a := from("alice", fmt.Sprintf("198.19.%d.1", i))
		a.Host = HostName(fmt.Sprint("host", i))
		w.Settle(t.Context(), a, Allow)
	}
	if n := len(w.known.of["alice"]); n != knownPerUser {
		t.Errorf("of one user %d networks are known", n)
	}
	w.now = w.now.Add(w.c.KnownGood)
	w.guess(from("bob", "203.0.113.7"), Unknown)
	if w.known.size != 0 || len(w.known.of) != 0 {
		t.Errorf("%d are known for ever", w.known.size)
	}
}

func TestLockoutsAndClear(t *testing.T) {
	w := newGuessing(t)
	w.guess(from("alice", "203.0.113.7"), Allow)
	w.passed(10, from("alice", "203.0.113.7"))
	w.passed(10, from("alice", "198.51.100.7"))
	w.passed(10, from("bob", "198.51.100.7"))
	for i := range 30 {
		w.guess(from(UserName(fmt.Sprint("u", i)), "198.51.100.8"), Deny)
	}
	show := func() string {
		var out []string
		for _, l := range w.Lockouts(100) {
			out = append(out, l.String())
			if l.Wrong < 4.9 || !l.Until.After(w.now) || l.Last != w.now {
				t.Errorf("%+v", l)
			}
		}
		slices.Sort(out)
		return strings.Join(out, ", ")
	}
	if got, want := show(), "pair 203.0.113.0/24 alice, source 198.51.100.0/24, user alice, user bob"; got != want {
		t.Errorf("locked are %q, not %q", got, want)
	}
	if got := len(w.Lockouts(2)); got != 2 {
		t.Errorf("%d are listed, not 2", got)
	}
	w.notes = nil
	if n := w.Clear(GuessClear{}); n != 0 || len(w.notes) != 0 {
		t.Errorf("nothing to be cleared cleared %d", n)
	}
	if n := w.Clear(GuessClear{User: "alice", By: "root"}); n != 2 {
		t.Errorf("alice has %d counters", n)
	}
	slices.Sort(w.notes)
	if got := strings.Join(w.notes, ", "); got != "false pair 203.0.113.0/24 alice root, false user alice root" {
		t.Errorf("noted was %s", got)
	}
	if !w.guess(from("alice", "203.0.113.7"), Deny) {
		t.Error("alice is still locked at home")
	}
	if w.guess(from("alice", "198.51.100.7"), Deny) {
		t.Error("the network is cleared with her")
	}
	w.Clear(GuessClear{Source: "198.51.100.0/24"})
	if !w.guess(from("alice", "198.51.100.7"), Deny) {
		t.Error("the network is not cleared")
	}
	w.Clear(GuessClear{All: true})
	if got := show(); got != "" {
		t.Errorf("after all was cleared there is %s", got)
	}
	if !w.known.has("alice", "203.0.113.0/24", w.now, w.c.KnownGood) {
		t.Error("what was good is not")
	}
}
