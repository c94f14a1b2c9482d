package signon

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/wire"
)

// refused is one kind of caller who is refused, whatever he types.
type refused struct {
	kind   string
	reason string   // that the record and the module have of him
	users  []string // each is tried four times at most: the fifth would be another kind
	took   []time.Duration
	texts  map[string]bool
}

const triesEach = 4

// crowd makes the callers whose answers must be one: with a wrong password; whom
// the directory does not have; locked; whom no rule lets in; who must wait.
func crowd(t *testing.T, v *site, prefix string, samples int) []*refused {
	t.Helper()
	var all []*refused
	rule := []string{"rule", "add", prefix, "--door", "pam", "--target", "host:" + v.Name}
	for _, k := range []struct{ kind, reason string }{
		{"wrong", "wrong-password"}, {"unknown", "unknown-user"}, {"locked", "locked"}, {"norule", "no-rule"}, {"waits", "throttled"},
	} {
		c := &refused{kind: k.kind, reason: k.reason, texts: map[string]bool{}}
		for i := range samples / triesEach {
			name := fmt.Sprintf("%s-%s-%d", prefix, k.kind, i)
			if k.kind == "waits" {
				name = fmt.Sprintf("%s-%s", prefix, k.kind)
			}
			c.users = append(c.users, name)
			if k.kind == "unknown" || k.kind == "waits" && i > 0 {
				continue
			}
			need(t, addPatiently(v, name))
			if k.kind == "waits" { // or the directory's own policy locks him when it is asked by binds
				need(t, v.r.modify(name, "pwdPolicySubentry", "cn=services,ou=policies,"+baseDN))
			}
			if k.kind == "locked" {
				need(t, v.r.sekisho("", "user", "set", name, "--lock"))
			}
			if k.kind != "norule" {
				rule = append(rule, "--subject", "user:"+name)
			}
		}
		all = append(all, c)
	}
	need(t, v.r.sekisho("", rule...))
	need(t, v.r.caughtUp(v))
	// Who must wait has been wrong so often that he waits for most of the test.
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(time.Second) {
		began := time.Now()
		a, err := v.signIn(all[4].users[0], "wrong")
		need(t, err)
		if a.Reason == "throttled" && time.Since(began) < 10*time.Second {
			if l := locked(t, v, all[4].users[0]); l > 12*time.Second {
				return all
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody has to wait for long")
		}
	}
}

// addPatiently adds a user. A machine that has much to do lets the directory's
// deadline pass at times, and leaves the user's group.
func addPatiently(v *site, name string) (err error) {
	for range 4 {
		if err = v.r.sekisho(newSecret()+"\n", "user", "add", name, "--password-stdin"); err == nil {
			return nil
		}
		time.Sleep(2 * time.Second)
		_ = v.r.sekisho("", "user", "rm", name, "--yes") // it may be there after all
		_ = v.r.sekisho("", "group", "rm", name)
	}
	return err
}

// locked is how long `sekisho lockouts ls` says that a user must wait.
func locked(t *testing.T, v *site, user string) time.Duration {
	t.Helper()
	a, err := v.ask("lockouts")
	need(t, err)
	for _, part := range strings.Split(strings.Join(a.Body, ""), "{")[1:] {
		if !strings.Contains(part, `"kind":"user","user":"`+user+`"`) {
			continue
		}
		_, until, _ := strings.Cut(part, `"until":"`)
		until, _, _ = strings.Cut(until, `"`)
		at, err := time.Parse(time.RFC3339, until)
		need(t, err)
		return time.Until(at)
	}
	return 0
}

// measure is one sign-in with a wrong password: how long after the reply the
// answer comes.
func measure(v *site, user string) (wire.Answer, time.Duration, error) {
	c, err := v.dial(pamSocket)
	if err != nil {
		return wire.Answer{}, 0, err
	}
	defer c.Close()
	a, err := wire.Ask(c, request("auth", "user", user, "service", "test", "rhost", "203.0.113.200"))
	if err != nil || a.Reason != "prompt" || len(a.Body) != 1 || a.Body[0] != "password Password: " {
		return a, 0, fmt.Errorf("%s is asked %v %s %q: %w", user, a.Outcome, a.Reason, a.Body, err)
	}
	began := time.Now()
	a, err = wire.Ask(c, request("answer", "a1", "not it"))
	return a, time.Since(began), err
}

// distance is Kolmogorov and Smirnov's of two samples: the greatest difference
// between their distributions.
func distance(a, b []time.Duration) float64 {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	d := 0.0
	for i, j := 0, 0; i < len(a) && j < len(b); {
		x := min(a[i], b[j])
		for i < len(a) && a[i] == x {
			i++
		}
		for j < len(b) && b[j] == x {
			j++
		}
		d = max(d, math.Abs(float64(i)/float64(len(a))-float64(j)/float64(len(b))))
	}
	return d
}

// critical is the distance that two samples of one distribution have with the
// probability alpha (Smirnov's approximation).
func critical(n, m int, alpha float64) float64 {
	return math.Sqrt(-math.Log(alpha/2)/2) * math.Sqrt(float64(n+m)/float64(n*m))
}

// The test itself can tell apart what differs.
func TestDistance(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	sample := func(mean time.Duration) (out []time.Duration) {
		for range 40 {
			out = append(out, mean+time.Duration(rnd.NormFloat64()*float64(2*time.Millisecond)))
		}
		return out
	}
	limit := critical(40, 40, 0.001)
	if d := distance(sample(time.Second), sample(time.Second)); d > limit {
		t.Errorf("two samples of one thing are %.2f apart, beyond %.2f", d, limit)
	}
	if d := distance(sample(time.Second), sample(time.Second+4*time.Millisecond)); d <= limit {
		t.Errorf("4 ms with 2 ms of noise are only %.2f apart", d)
	}
}

// Nobody who is refused is told why, by words or by time: with a wrong password, as
// somebody whom the directory does not have, locked, without a rule, or because he
// must wait; by the KDC and by a bind. The times of the five are compared pairwise
// by Kolmogorov and Smirnov's test, at the level 0.001 for each of the ten pairs;
// a pair that fails is measured once more, on its own samples, before it counts.
// An answer for which RefusalTime was too short tells who is asked for and who is
// not: one that a stalled machine delays so is left out, and a kind of which they
// are most has failed.
func TestRefusalsAreAlike(t *testing.T) {
	t.Parallel()
	const samples, workers, alpha = 40, 8, 0.001
	for _, prover := range []string{"kdc", "ldap"} {
		t.Run(prover, func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 0))
			v, err := calm.join(t.Context(), joining{name: "alike-" + prover, prover: prover, conf: "[guessing]\nper_source = 100000\n"})
			need(t, err)
			var suspects []string
			for round := range 2 {
				all := crowd(t, v, fmt.Sprintf("alike-%s-%d", prover, round), samples)
				runRefused(t, v, all, workers, rnd)
				var now []string
				for i, a := range all {
					if len(a.texts) != 1 || !a.texts["no "+a.reason+" "] {
						t.Errorf("%s: the answers are %v", a.kind, a.texts)
					}
					slices.Sort(a.took)
					if n := len(a.took); n < samples*3/4 {
						t.Fatalf("%s: only %d of %d were measured", a.kind, n, samples)
					} else {
						t.Logf("%s: %v to %v, the median %v, of %d", a.kind, a.took[0], a.took[n-1], a.took[n/2], n)
					}
					if a.took[0] < broker.RefusalTime {
						t.Errorf("%s: an answer came after %v", a.kind, a.took[0])
					}
					late, _ := slices.BinarySearch(a.took, 2*broker.RefusalTime)
					if a.took = a.took[:late]; late < samples/4 {
						now = append(now, a.kind)
						t.Logf("%s: only %d of %d answers were in time", a.kind, late, samples)
						continue
					}
					for _, b := range all[:i] {
						if slices.Contains(now, b.kind) {
							continue
						}
						if d, limit := distance(a.took, b.took), critical(len(a.took), len(b.took), alpha); d > limit {
							now = append(now, a.kind+" and "+b.kind)
							t.Logf("%s and %s are %.2f apart, beyond %.2f", a.kind, b.kind, d, limit)
						}
					}
				}
				for _, s := range now {
					if round == 1 && slices.Contains(suspects, s) {
						t.Errorf("%s can be told apart by the time", s)
					}
				}
				if suspects = now; len(suspects) == 0 {
					break
				}
			}
		})
	}
}

// runRefused measures all kinds, interleaved.
func runRefused(t *testing.T, v *site, all []*refused, workers int, rnd *rand.Rand) {
	t.Helper()
	type try struct {
		c    *refused
		user string
	}
	var tries []try
	for _, c := range all {
		for _, u := range c.users {
			for range triesEach {
				tries = append(tries, try{c, u})
			}
		}
	}
	rnd.Shuffle(len(tries), func(i, j int) { tries[i], tries[j] = tries[j], tries[i] })
	next := make(chan try)
	var mu sync.Mutex
	var crew sync.WaitGroup
	for range workers {
		crew.Go(func() {
			for x := range next {
				a, took, err := measure(v, x.user)
				mu.Lock()
				if err != nil {
					t.Errorf("%s: %v", x.user, err)
				} else if x.c.kind != "waits" || a.Reason == x.c.reason { // his wait may be over for once
					x.c.took = append(x.c.took, took)
					x.c.texts[fmt.Sprintf("%v %s %s", a.Outcome, a.Reason, a.Text)] = true
				}
				mu.Unlock()
			}
		})
	}
	for _, x := range tries {
		next <- x
	}
	close(next)
	crew.Wait()
}

// What the person at the other end sees is one and the same: of ssh to the letter,
// of PAM's own code too, but that a stack is told whom we do not know.
func TestRefusalsLookAlike(t *testing.T) {
	t.Parallel()
	v, err := calm.join(t.Context(), joining{name: "looks", prover: "kdc", conf: "[guessing]\nper_user = 2\nper_source = 100000\n"})
	need(t, err)
	all := crowd(t, v, "looks", triesEach)
	seen := map[string]string{}
	pam := map[string]string{}
	for _, c := range all {
		p := &person{r: calm.realm, name: c.users[0]}
		out := p.out(t, byPassword.on(v).saying("not it"))
		seen[c.kind] = strings.ReplaceAll(out, p.name, "USER")
		said, err := v.pamtester(t.Context(), "not it\n", "alone", p.name, "authenticate")
		if err == nil {
			t.Errorf("%s is let in: %s", c.kind, said)
		}
		pam[c.kind] = strings.ReplaceAll(said, p.name, "USER")
	}
	for kind := range seen {
		if seen[kind] != seen["wrong"] {
			t.Errorf("ssh tells %s from a wrong password:\n%s\n%s", kind, seen[kind], seen["wrong"])
		}
		if kind != "unknown" && pam[kind] != pam["wrong"] {
			t.Errorf("PAM tells %s from a wrong password:\n%s\n%s", kind, pam[kind], pam["wrong"])
		}
	}
	says(t, pam["wrong"], saysAuthErr)
	says(t, pam["unknown"], "User not known to the underlying authentication module")
}

// An attacker elsewhere locks nobody out at home, and an administrator can let him
// in there too.
func TestLockedOutElsewhereAlone(t *testing.T) {
	t.Parallel()
	v, err := calm.join(t.Context(), joining{name: "fort", prover: "kdc"})
	need(t, err)
	p := calm.someone(t, "besieged", v)
	p.in(t, byPassword.on(v).with(p)) // from the client's network
	for i := range 12 {
		c, err := v.dial(pamSocket)
		need(t, err)
		a, err := converse(c, request("auth", "user", p.name, "service", "test", "rhost", fmt.Sprintf("198.51.%d.7", i)), p.password+"x")
		c.Close()
		need(t, err)
		if want := map[bool]string{true: "wrong-password", false: "throttled"}[i < 5]; a.Reason != want {
			// After two seconds one more is looked at.
			if i < 5 || a.Reason != "wrong-password" {
				t.Errorf("number %d is told %s", i, a.Reason)
			}
		}
	}
	if out, err := v.Command(t.Context(), "/usr/local/bin/sekisho", "lockouts", "ls").CombinedOutput(); err != nil {
		t.Errorf("lockouts ls: %v: %s", err, out)
	} else {
		says(t, string(out), "user", p.name)
	}
	p.in(t, byPassword.on(v).with(p))
	if out, err := v.Command(t.Context(), "/usr/local/bin/sekisho", "lockouts", "clear", p.name).CombinedOutput(); err != nil {
		t.Errorf("lockouts clear: %v: %s", err, out)
	} else {
		says(t, string(out), "cleared")
	}
	c, err := v.dial(pamSocket)
	need(t, err)
	defer c.Close()
	if a, err := converse(c, request("auth", "user", p.name, "service", "test", "rhost", "198.51.100.7"), p.password); err != nil || a.Outcome != wire.Yes {
		t.Errorf("after it was cleared, elsewhere: %v %s %v", a.Outcome, a.Reason, err)
	}
}
