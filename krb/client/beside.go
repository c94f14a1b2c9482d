package client

import (
	"context"
	"errors"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/krb"
)

// subject is one sign-in.
type subject struct {
	claim broker.Claim
	who   krb.Principal
	ask   broker.Asker
}

// TextNoTicket is what somebody is told who has signed in where the KDC wants more
// than his password.
const TextNoTicket = "No Kerberos ticket for this session: the KDC wants a one-time code with the password. See kinit -T."

// besideError is a prover's answer, on the way of an error.
type besideError struct{ proven broker.Proven }

func (e *besideError) Error() string { return "the password was judged without the KDC" }

// signIn is verify; where the KDC does not take a password alone, ProverConfig.Beside
// is asked, and the session has no ticket.
func (p prover) signIn(ctx context.Context, s subject, password string) (broker.Proven, error) {
	proven, err := p.verify(ctx, s.who, password)
	if !is(err, MoreThanPassword) || p.c.Beside == nil {
		return proven, err
	}
	if proven = p.beside(ctx, s, password); proven.Outcome == broker.Allow {
		if _, err := s.ask(ctx, broker.Prompt{Kind: broker.PromptInfo, Text: TextNoTicket}); err != nil {
			return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonConversation}, nil
		}
	}
	return proven, nil
}

// beside asks the other prover, who is told what was typed already.
func (p prover) beside(ctx context.Context, s subject, password string) broker.Proven {
	told := false
	return p.c.Beside(ctx, s.claim, func(ctx context.Context, ps ...broker.Prompt) ([]string, error) {
		if !told && len(ps) == 1 && ps[0].Kind == broker.PromptPassword {
			told = true
			return []string{password}, nil
		}
		return s.ask(ctx, ps...)
	})
}

// checkOldBeside is checkOld where the KDC does not take a password alone.
func (p prover) checkOldBeside(ctx context.Context, s subject, old string) error {
	if p.c.Beside == nil {
		return &Error{Kind: MoreThanPassword, Err: errors.New("an expired password")}
	}
	if proven := p.beside(ctx, s, old); proven.Outcome != broker.Allow {
		return &besideError{proven}
	}
	return nil
}
