package broker

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestProve: an open account, room for the attempt and a right proof together make
// a yes that grants nothing; all else is recorded, settled and takes its time.
func TestProve(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	e := new(Snapshot).Edit()
	e.PutUser(User{ID: EntryID{1}, DN: "uid=alice", Name: "alice", UID: 2001, Shell: "/bin/sh"})
	e.PutUser(User{ID: EntryID{2}, DN: "uid=carol", Name: "carol", UID: 2003, Shell: "/bin/sh", State: AccountState{Locked: true}})
	good := View{Snapshot: e.Commit(), AsOf: now, MaxAge: time.Hour}
	stale := good
	stale.AsOf = now.Add(-2 * time.Hour)
	allow, wrong := Proven{Outcome: Allow}, Proven{Reason: ReasonWrongPassword}
	lost := Proven{Outcome: Unknown, Reason: ReasonUnreachable}
	room := Allowance{OK: true}
	for name, c := range map[string]struct {
		user            UserName
		view            View
		may             Allowance
		p               Proven
		full            bool // the record
		want            Outcome
		reason          Reason
		dn              DN
		settled         Outcome
		proved, settles bool
		pauses          bool
	}{
		"right":                 {"alice", good, room, allow, false, Allow, ReasonDeferred, "uid=alice", Allow, true, true, false},
		"wrong":                 {"alice", good, room, wrong, false, Deny, ReasonWrongPassword, "uid=alice", Deny, true, true, true},
		"not found out":         {"alice", good, room, lost, false, Unknown, ReasonUnreachable, "uid=alice", Unknown, true, true, false},
		"locked":                {"carol", good, room, allow, false, Deny, ReasonLocked, "uid=carol", Deny, true, true, true},
		"locked and wrong":      {"carol", good, room, wrong, false, Deny, ReasonLocked, "uid=carol", Deny, true, true, true},
		"locked, not found out": {"carol", good, room, lost, false, Unknown, ReasonUnreachable, "uid=carol", Unknown, true, true, false},
		"nobody":                {"mallory", good, room, wrong, false, Deny, ReasonUnknownUser, "", Deny, true, true, true},
		"must wait":             {"alice", good, Allowance{}, allow, false, Deny, ReasonThrottled, "", 0, false, false, true},
		"may be or not":         {"alice", good, Allowance{Unknown: true}, allow, false, Unknown, ReasonState, "", 0, false, false, false},
		"an old snapshot":       {"alice", stale, room, allow, false, Unknown, ReasonStale, "", 0, false, false, false},
		"no snapshot":           {"alice", View{}, room, allow, false, Unknown, ReasonNoSnapshot, "", 0, false, false, false},
		"no record":             {"alice", good, room, allow, true, Unknown, ReasonRecorder, "uid=alice", Unknown, true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			var recorded []Decision
			var settled []Outcome
			var paused time.Duration
			var claims []Claim
			br, err := New(Config{Directory: func() View { return c.view }, Now: func() time.Time { return now },
				Record: func(r Request, d Decision) error {
					recorded = append(recorded, d)
					if c.full {
						return errors.New("the disk is full")
					}
					return nil
				},
				Take: func(_ context.Context, a Attempt) Allowance {
					if !a.Remote || a.Door != "kdc" || a.Proof != ProofOTP || a.User != c.user {
						t.Errorf("%+v", a)
					}
					return c.may
				},
				Settle: func(_ context.Context, _ Attempt, o Outcome) { settled = append(settled, o) },
				Pause:  func(_ context.Context, d time.Duration) { paused += d },
			})
			if err != nil {
				t.Fatal(err)
			}
			d := br.Prove(context.Background(), Request{User: c.user, Door: "kdc", Remote: true}, ProofOTP,
				func(_ context.Context, cl Claim) Proven { claims = append(claims, cl); return c.p })
			if d.Outcome != c.want || d.Reason != c.reason || len(d.Grants) > 0 {
				t.Errorf("%s %s", d.Outcome, d.Reason)
			}
			if len(recorded) != 1 || !c.full && recorded[0].Reason != c.reason {
				t.Errorf("recorded %v", recorded)
			}
			if proved := len(claims) == 1; proved != c.proved || proved && claims[0].DN != c.dn {
				t.Errorf("claims %v", claims)
			}
			if len(settled) == 1 != c.settles || c.settles && settled[0] != c.settled {
				t.Errorf("settled %v", settled)
			}
			if (paused > 0) != c.pauses {
				t.Errorf("paused %v", paused)
			}
		})
	}
}
