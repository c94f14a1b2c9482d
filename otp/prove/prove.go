// Package prove has callers prove a one-time code: it asks for it, finds it among
// those of the user's token, and spends it so that no broker and no slapd takes it
// again.
//
// A code is spent in two places, and counts only when both say that it was new: in
// the state that brokers share, by a mark that can be made once, and in the
// directory, where oathTOTPLastTimeStep is raised by a guarded modify, by which
// slapo-otp knows it too. If either cannot be asked, nobody has been proved.
package prove

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/otp"
)

// Tokens is the directory, see ldapsync.Tokens.
type Tokens interface {
	// Read gives a user's enrolment, the zero value when he has none. The work is
	// the same for an empty DN, which is nobody's.
	Read(ctx context.Context, user broker.DN) (otp.Enrolment, error)
	// Spend raises the token's last step to step; false when it is there already.
	Spend(ctx context.Context, e otp.Enrolment, step int64) (fresh bool, err error)
	// SpendRecovery deletes the value of a recovery code; false when it is gone.
	SpendRecovery(ctx context.Context, e otp.Enrolment, value string) (fresh bool, err error)
}

// Config is what a Checker is made of. Tokens, Spend and Log must be set.
type Config struct {
	Tokens Tokens
	// Spend makes a mark of that key in what brokers share (state.Store.Create in
	// the bucket "codes"); false when it is there already.
	Spend func(ctx context.Context, key string, ttl time.Duration) (fresh bool, err error)
	// Drift is how many steps before and after now a code may be of, 0 to
	// otp.MaxDrift.
	Drift int
	// Floor is how long every refusal takes at least, counted from the reply;
	// default 150 ms, far more than the work, so that its time tells nothing.
	Floor time.Duration
	// Total bounds the work; default 8 s.
	Total time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Log hears of what an administrator must mend; never of a code.
	Log *logrus.Entry
}

func (c *Config) validate() error {
	if c.Tokens == nil || c.Spend == nil || c.Log == nil {
		return errors.New("one-time codes: Tokens, Spend and Log must be set")
	}
	if c.Drift < 0 || c.Drift > otp.MaxDrift || c.Floor < 0 || c.Total < 0 {
		return errors.New("one-time codes: Drift, Floor or Total is out of range")
	}
	if c.Floor == 0 {
		c.Floor = 150 * time.Millisecond
	}
	if c.Total == 0 {
		c.Total = 8 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// Checker finds out whether codes are right. Its methods may be called from any
// goroutine.
type Checker struct{ c Config } // immutable

// New makes a Checker; the error names what is wrong in c.
func New(c Config) (*Checker, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	return &Checker{c}, nil
}

// Prove asks for a code and checks it: a broker.Prover.
func (k *Checker) Prove(ctx context.Context, c broker.Claim, ask broker.Asker) broker.Proven {
	typed, err := ask(ctx, broker.Prompt{Kind: broker.PromptSecret, Text: "One-time code: "})
	if err != nil || len(typed) != 1 {
		return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonConversation}
	}
	return k.Check(ctx, c, typed[0])
}
