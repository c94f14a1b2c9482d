package prove

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/otp"
)

// maxCode is the longest code that is looked at, in bytes.
const maxCode = 64

// Check says whether a code, or a recovery code, is the user's and has not been
// used, and spends it. A refusal's reason is for the record alone: wrong, used and
// not enrolled are one to the caller, in words and in time.
func (k *Checker) Check(ctx context.Context, c broker.Claim, typed string) broker.Proven {
	began := time.Now()
	work, cancel := context.WithTimeout(ctx, k.c.Total)
	defer cancel()
	out := k.check(work, c, strings.TrimSpace(typed))
	if out.Outcome != broker.Allow {
		wait(ctx, k.c.Floor-time.Since(began))
	}
	return out
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// nobody is an enrolment that no code fits, for those who have none.
var nobody = otp.Enrolment{Secret: make([]byte, 20), Params: otp.Default(), Last: -1}

func (k *Checker) check(ctx context.Context, c broker.Claim, code string) broker.Proven {
	if len(code) > maxCode {
		code = "" // it is nobody's
	}
	e, err := k.c.Tokens.Read(ctx, c.DN)
	if err != nil {
		k.c.Log.WithError(err).WithField("user", string(c.User)).Warn("a one-time code could not be checked: the directory does not tell of the token")
		return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonUnreachable}
	}
	enrolled := e.Enrolled()
	defer clear(e.Secret)
	if !enrolled {
		e = nobody
	}
	step, right, err := e.Params.Verify(e.Secret, code, otp.Window{Now: k.c.Now(), Drift: k.c.Drift, Shift: e.Shift})
	if err != nil {
		k.c.Log.WithError(err).WithField("user", string(c.User)).Warn("a one-time code could not be checked: mend the token, or enrol the user again")
		return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonProver}
	}
	recovery := otp.MatchRecovery(e.Recovery, code)
	switch {
	case !enrolled:
		return broker.Proven{Reason: broker.ReasonNotEnrolled}
	case right:
		return k.spend(ctx, c, e, int64(step))
	case recovery >= 0:
		return k.spendRecovery(ctx, c, e, e.Recovery[recovery])
	}
	return broker.Proven{Reason: broker.ReasonWrongPassword}
}

// spend makes sure that a code of this step is used once: by one caller of one
// broker, and not in slapd.
func (k *Checker) spend(ctx context.Context, c broker.Claim, e otp.Enrolment, step int64) broker.Proven {
	if step <= e.Last {
		return broker.Proven{Reason: broker.ReasonUsedCode}
	}
	// As long as a clock that is as wrong as Drift allows may still take it.
	ttl := time.Duration(2*k.c.Drift+2) * e.Params.Period
	return k.both(ctx, c, fmt.Sprintf("totp\x00%s\x00%s\x00%d", e.User, e.Token, step), ttl, func() (bool, error) {
		return k.c.Tokens.Spend(ctx, e, step)
	})
}

// recoveryTTL is how long a replica of the directory may lag before a recovery
// code that was used could be taken there again.
const recoveryTTL = 31 * 24 * time.Hour

func (k *Checker) spendRecovery(ctx context.Context, c broker.Claim, e otp.Enrolment, value string) broker.Proven {
	out := k.both(ctx, c, fmt.Sprintf("recovery\x00%s\x00%s", e.User, value), recoveryTTL, func() (bool, error) {
		return k.c.Tokens.SpendRecovery(ctx, e, value)
	})
	if out.Outcome == broker.Allow {
		k.c.Log.WithField("user", string(c.User)).WithField("left", len(e.Recovery)-1).Warn("a recovery code was used")
	}
	return out
}

// both spends in the state first: a mark there that nobody uses costs one code, a
// code spent in the directory alone would be taken by a broker whose replica lags.
func (k *Checker) both(ctx context.Context, c broker.Claim, key string, ttl time.Duration, directory func() (bool, error)) broker.Proven {
	fresh, err := k.c.Spend(ctx, key, ttl)
	if err != nil {
		k.c.Log.WithError(err).WithField("user", string(c.User)).Warn("a one-time code could not be spent: what brokers share cannot be reached")
		return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonState}
	}
	if fresh {
		fresh, err = directory()
	}
	switch {
	case err != nil:
		k.c.Log.WithError(err).WithField("user", string(c.User)).Warn("a one-time code could not be spent: the directory does not take it")
		return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonUnreachable}
	case !fresh:
		return broker.Proven{Reason: broker.ReasonUsedCode}
	}
	return broker.Proven{Outcome: broker.Allow}
}
