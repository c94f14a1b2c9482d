package broker

import (
	"encoding/json"
	"testing"
	"time"
)

// tell carries what one broker has counted to another, as JSON, like the store.
func tell(t *testing.T, name string, from, to *guessing) {
	t.Helper()
	for _, n := range from.Changed() {
		raw, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		var back GuessCount
		if err := json.Unmarshal(raw, &back); err != nil {
			t.Fatal(err)
		}
		to.Merge(name, back)
		to.Merge(name, back) // it may come twice
	}
}

func TestGuessesAreAddedUp(t *testing.T) {
	a, b := newGuessing(t), newGuessing(t)
	alice := from("alice", "203.0.113.7")
	if a.passed(3, alice) != 3 {
		t.Fatal("refused")
	}
	tell(t, "a", a, b)
	if got := b.passed(100, alice); got != 2 {
		t.Errorf("after 3 at one broker %d are let through at the other, not 2", got)
	}
	tell(t, "b", b, a)
	if got := a.passed(100, alice); got != 0 {
		t.Errorf("after 5 at both %d are let through at the first", got)
	}
	if n := len(a.Changed()); n != 0 {
		t.Errorf("%d counts of another broker are told as one's own", n)
	}
	// Each decays alike everywhere, and the last one at any counts.
	for _, w := range []*guessing{a, b} {
		w.now = w.now.Add(3 * time.Second)
	}
	va, vb := a.value(a.counters[GuessUser]["alice"], a.now), b.value(b.counters[GuessUser]["alice"], b.now)
	if d := va - vb; d < -1e-6 || d > 1e-6 || va < 4.9 {
		t.Errorf("one counts %g, the other %g", va, vb)
	}
	if !a.guess(alice, Deny) {
		t.Error("refused after the wait")
	}
	tell(t, "a", a, b)
	if b.guess(alice, Deny) {
		t.Error("the other broker lets one through after the same wait")
	}
}

func TestAClearedCounterIsClearedEverywhere(t *testing.T) {
	a, b := newGuessing(t), newGuessing(t)
	alice := from("alice", "203.0.113.7")
	a.passed(3, alice)
	tell(t, "a", a, b)
	b.passed(3, alice)
	tell(t, "b", b, a)
	stale := a.Changed()
	a.now = a.now.Add(time.Second)
	b.now = a.now
	if a.Clear(GuessClear{User: "alice"}) != 1 {
		t.Fatal("nothing was cleared")
	}
	tell(t, "a", a, b)
	for _, n := range stale { // what was on its way
		b.Merge("a", n)
	}
	b.Merge("c", GuessCount{Kind: GuessUser, Name: "alice", Wrong: 5, At: b.now.Add(-time.Millisecond)})
	if got := b.passed(100, alice); got != 5 {
		t.Errorf("after all was cleared elsewhere %d are let through, not 5", got)
	}
}

func TestWhatIsKnownIsShared(t *testing.T) {
	a, b := newGuessing(t), newGuessing(t)
	alice := from("alice", "203.0.113.7")
	a.guess(alice, Allow)
	lost := a.Changed() // the store does not answer
	for _, n := range lost {
		a.Again(n)
	}
	tell(t, "a", a, b)
	b.passed(100, from("alice", "198.51.100.7"))
	if !b.guess(alice, Allow) {
		t.Error("at another broker the network is unknown")
	}
	if a.guess(alice, Allow); len(a.Changed()) != 0 {
		t.Error("each sign-in is told, also within the same hour")
	}
	a.now = a.now.Add(2 * time.Hour)
	if a.guess(alice, Allow); len(a.Changed()) != 2 {
		t.Error("a later one is not told")
	}
}

// What comes from the store is checked like anything from outside.
func TestMergeTakesNoNonsense(t *testing.T) {
	w := newGuessing(t)
	long := string(make([]byte, 10_000))
	for _, n := range []GuessCount{
		{},
		{Kind: "other", Name: "alice", Wrong: 9, At: w.now},
		{Kind: GuessUser, Name: "alice", Wrong: -9, At: w.now},
		{Kind: GuessUser, Name: "alice", Wrong: 1e300, At: w.now},
		{Kind: GuessUser, Name: long, Wrong: 9, At: w.now},
		{Kind: GuessKnown, Name: "alice", Source: long, By: "web1", At: w.now},
		{Kind: GuessKnown, Name: "alice", Source: "203.0.113.0/24", By: "web1", At: w.now.Add(-31 * 24 * time.Hour)},
		{Kind: GuessUser, Name: "alice", Wrong: 9, At: w.now.Add(-31 * 24 * time.Hour)},
	} {
		w.Merge("evil", n)
	}
	for kind, all := range w.counters {
		if len(all) != 0 {
			t.Errorf("%d counters of the kind %s", len(all), kind)
		}
	}
	if w.known.size != 0 {
		t.Errorf("%d networks are known", w.known.size)
	}
	// A clock that is a day ahead locks nobody out for a day.
	w.Merge("fast", GuessCount{Kind: GuessUser, Name: "alice", Wrong: 40, At: w.now.Add(24 * time.Hour), Cleared: w.now.Add(23 * time.Hour)})
	w.Merge("fast", GuessCount{Kind: GuessUser, Name: "bob", Wrong: 40, At: w.now.Add(24 * time.Hour)})
	for _, user := range []UserName{"alice", "bob"} {
		al := w.Take(t.Context(), from(user, "203.0.113.7"))
		if al.Until.Sub(w.now) > 15*time.Minute {
			t.Errorf("%s waits until %v", user, al.Until)
		}
	}
	for i := range 1000 {
		w.Merge(string(rune('a'+i%26))+string(rune('a'+i/26)), GuessCount{Kind: GuessUser, Name: "carol", Wrong: 1, At: w.now})
	}
	if n := len(w.counters[GuessUser]["carol"].others); n != maxBrokers {
		t.Errorf("the counts of %d brokers are kept", n)
	}
}
