package prove

import (
	"context"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/otp"
)

// CheckBehind says whether typed is the user's password with a one-time code right
// behind it, as people type it where there is one prompt for both; password finds
// out about the first part. The code is the last characters, as many as the user's
// codes have digits; recovery codes are not taken here.
//
// Both parts are always looked at, and which one was wrong is for the record alone.
// A code behind a wrong password is not spent.
func (k *Checker) CheckBehind(ctx context.Context, c broker.Claim, typed string, password func(ctx context.Context, text string) broker.Proven) broker.Proven {
	read, cancel := context.WithTimeout(ctx, k.c.Total)
	e, err := k.c.Tokens.Read(read, c.DN)
	cancel()
	if err != nil {
		k.c.Log.WithError(err).WithField("user", string(c.User)).Warn("a one-time code could not be checked: the directory does not tell of the token")
		return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonUnreachable}
	}
	clear(e.Secret)
	digits := otp.Default().Digits
	if e.Enrolled() {
		digits = e.Params.Digits
	}
	at := max(len(typed)-digits, 0)
	first, code := password(ctx, typed[:at]), typed[at:]
	if first.Outcome != broker.Allow {
		c.DN, code = "", "" // as much work, for nobody's code
	}
	second := k.Check(ctx, c, code)
	if first.Outcome != broker.Allow && second.Outcome != broker.Unknown {
		return first
	}
	return second
}
