package broker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestSessionsModel: after any change of the directory, the clock and the
// snapshot's age, judging the touched sessions ends exactly those that judging
// all of them anew would end, for the same reasons.
func TestSessionsModel(t *testing.T) {
	seeds := uint64(120)
	if testing.Short() {
		seeds = 30
	}
	var total, touched, ended uint64
	reasons := map[Reason]int{}
	for seed := range seeds {
		w := newWorld(t, rand.New(rand.NewPCG(seed, 7)), Config{})
		r := w.r
		for range 60 {
			w.edit()
		}
		if r.IntN(4) == 0 { // sessions may be there before the first pass
			w.pass()
		}
		for step := range 80 {
			what := fmt.Sprintf("seed %d step %d", seed, step)
			saved, undo := w.saved(), r.IntN(15) == 0
			if undo {
				w.edit()
			}
			for range r.IntN(30) {
				s := w.session()
				err := w.b.OpenSession(s)
				d := Decide(w.view, s.Request, s.Proofs, w.now)
				if s.Basis == BasisRules && (err == nil) != (d.Outcome == Allow) {
					t.Fatalf("%s: open: %v, but Decide says %s %s", what, err, d.Outcome, d.Reason)
				}
				if err != nil && r.IntN(4) == 0 { // found again after a restart: then it may be late
					if err := w.b.ResumeSession(s); err != nil {
						t.Fatal(err)
					}
				}
			}
			if r.IntN(3) == 0 {
				w.b.Sessions(func(s *Session) bool { w.b.CloseSession(s.ID, ReasonNone); return r.IntN(2) == 0 })
			}
			switch k := r.IntN(20); {
			case undo:
				w.undo(saved)
			case k < 12:
				w.edit()
			case k == 12:
				w.edit()
				w.rebuild()
			case k == 13:
				w.rebuild()
			}
			switch r.IntN(10) {
			case 0, 1, 2: // the directory is lost for a while: the snapshot grows old
				w.now = w.now.Add(time.Duration(1+r.IntN(300)) * time.Minute)
			case 3:
				w.now = w.now.Add(time.Duration(1+r.IntN(80)) * time.Hour)
				w.view.AsOf = w.now
			case 4: // the clock is set back
				w.now = w.now.Add(-time.Duration(r.IntN(400)) * time.Minute)
			case 5:
				w.now = w.now.Add(time.Duration(r.IntN(5000)) * time.Millisecond)
			default:
				w.now = w.now.Add(time.Duration(1+r.IntN(200)) * time.Minute)
				if w.now.After(w.view.AsOf) {
					w.view.AsOf = w.now
				}
			}
			if r.IntN(4) == 0 {
				continue // the next pass sees two changes as one, or none when they undo each other
			}
			ends, n := w.expect()
			resumed := map[SessionID]Reason{} // told at once
			w.b.Sessions(func(s *Session) bool {
				if !s.Ending.IsZero() {
					resumed[s.ID] = s.Why
				}
				return true
			})
			before := w.b.SessionStats().JudgedAll
			w.pass()
			total, touched = total+uint64(n), touched+w.b.SessionStats().JudgedAll-before
			got := map[SessionID]Reason{}
			for _, e := range w.told {
				if _, was := resumed[e.Session.ID]; was {
					continue
				}
				if _, twice := got[e.Session.ID]; twice {
					t.Fatalf("%s: %s is ended twice", what, e.Session.ID)
				}
				got[e.Session.ID] = e.Reason
			}
			if !maps.Equal(got, ends) {
				t.Fatalf("%s: ended %v, want %v", what, got, ends)
			}
			if err := w.checkIndex(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			for _, why := range ends {
				reasons[why]++
			}
			for _, id := range slices.Concat(slices.Collect(maps.Keys(ends)), slices.Collect(maps.Keys(resumed))) {
				w.b.CloseSession(id, ReasonNone)
			}
			ended += uint64(len(ends))
		}
		w.b.Sessions(func(s *Session) bool { w.b.CloseSession(s.ID, ReasonNone); return true })
		if err := w.empty(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	t.Logf("%d judgements did for %d; %d sessions ended: %v", touched, total, ended, reasons)
	for _, why := range []Reason{ReasonNoRule, ReasonUnknownUser, ReasonAmbiguousUser, ReasonLocked, ReasonPolicyLocked, ReasonShadowExpired,
		ReasonKerberosExpired, ReasonNologin, ReasonUnknownHost, ReasonTime, ReasonRuleExpired, ReasonRuleNotYet, ReasonProof, ReasonConflict, ReasonSource} {
		if reasons[why] == 0 && !testing.Short() {
			t.Errorf("no session ended for %s: the test has lost its reach", why)
		}
	}
	if touched >= total {
		t.Errorf("%d judgements for %d: the index saves nothing", touched, total)
	}
}
