package prove_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/otp"
	"github.com/sekisho/sekisho/otp/prove"
)

// oneToken is a directory with one enrolment.
type oneToken struct {
	mu   sync.Mutex
	e    otp.Enrolment
	fail error
}

func (o *oneToken) Read(_ context.Context, user broker.DN) (otp.Enrolment, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil || string(user) != o.e.User {
		return otp.Enrolment{}, o.fail
	}
	e := o.e
	e.Secret = append([]byte(nil), e.Secret...) // whoever asks wipes it
	return e, nil
}

func (o *oneToken) Spend(_ context.Context, e otp.Enrolment, step int64) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.e.Last >= step {
		return false, nil
	}
	o.e.Last = step
	return true, nil
}

func (o *oneToken) SpendRecovery(context.Context, otp.Enrolment, string) (bool, error) {
	return false, errors.New("not here")
}

// TestCheckBehind: the split follows the token, both parts count, and a code behind
// a wrong password can be used yet.
func TestCheckBehind(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	secret := []byte("12345678901234567890")
	for _, digits := range []int{6, 8} {
		params := otp.Params{Algorithm: otp.SHA1, Digits: digits, Period: 30 * time.Second}
		tokens := &oneToken{e: otp.Enrolment{User: "uid=alice", Token: "cn=token", Secret: secret, Params: params, Last: -1}}
		marks := map[string]bool{}
		log := logrus.New()
		log.SetOutput(io.Discard)
		k, err := prove.New(prove.Config{Tokens: tokens, Drift: 1, Floor: time.Millisecond, Now: func() time.Time { return now }, Log: logrus.NewEntry(log),
			Spend: func(_ context.Context, key string, _ time.Duration) (bool, error) {
				fresh := !marks[key]
				marks[key] = true
				return fresh, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		step, _ := params.Step(now)
		code, err := params.Code(secret, step)
		if err != nil {
			t.Fatal(err)
		}
		var down bool
		check := func(user broker.DN, typed string) broker.Proven {
			asked := 0
			p := k.CheckBehind(context.Background(), broker.Claim{User: "alice", DN: user}, typed, func(_ context.Context, text string) broker.Proven {
				asked++
				switch {
				case down:
					return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonProver}
				case text == "correct horse 7":
					return broker.Proven{Outcome: broker.Allow}
				}
				return broker.Proven{Reason: broker.ReasonWrongPassword}
			})
			if asked != 1 {
				t.Errorf("%q: the password was asked about %d times", typed, asked)
			}
			return p
		}
		want := func(what string, got broker.Proven, o broker.Outcome, r broker.Reason) {
			t.Helper()
			if got.Outcome != o || got.Reason != r {
				t.Errorf("%d digits, %s: %s %s", digits, what, got.Outcome, got.Reason)
			}
		}
		want("a wrong password", check("uid=alice", "correct horse"+code), broker.Deny, broker.ReasonWrongPassword)
		want("a wrong code", check("uid=alice", "correct horse 7"+"000000000"[:digits]), broker.Deny, broker.ReasonWrongPassword)
		want("a code alone", check("uid=alice", code), broker.Deny, broker.ReasonWrongPassword)
		want("a password alone", check("uid=alice", "correct horse 7"), broker.Deny, broker.ReasonWrongPassword)
		want("nothing", check("uid=alice", ""), broker.Deny, broker.ReasonWrongPassword)
		if p := check("", "correct horse 7"+code); p.Outcome != broker.Deny {
			t.Errorf("nobody: %s", p.Outcome)
		}
		down = true
		want("no answer about the password", check("uid=alice", "correct horse 7"+code), broker.Unknown, broker.ReasonProver)
		down = false
		tokens.fail = errors.New("down")
		p := k.CheckBehind(context.Background(), broker.Claim{DN: "uid=alice"}, "correct horse 7"+code, nil)
		want("no answer about the token", p, broker.Unknown, broker.ReasonUnreachable)
		tokens.fail = nil
		if len(marks) != 0 {
			t.Errorf("spent: %v", marks)
		}
		want("both", check("uid=alice", "correct horse 7"+code), broker.Allow, "")
		want("again", check("uid=alice", "correct horse 7"+code), broker.Deny, broker.ReasonUsedCode)
	}
}
