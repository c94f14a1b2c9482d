package main

import (
	"context"
	"errors"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/pamhelper"
	"github.com/sekisho/sekisho/wire"
)

// fdStacks is the end of a socket pair that sekisho-pam, which runs PAM stacks
// of this host as root, has the other end of.
const fdStacks = "stacks"

// proveByPAM has a PAM stack of this host say whether somebody is who he
// claims. Its first question without echo is for the password when that is
// what it proves.
func (d *daemon) proveByPAM(in inherited, service string, proof broker.Proof) (broker.Prover, error) {
	if d.stacks == nil {
		f := in[fdStacks]
		if f == nil {
			return nil, errors.New("a PAM stack is run by sekisho-pam, which only root can start: start sekishod as root")
		}
		delete(in, fdStacks)
		var err error
		if d.stacks, err = pamhelper.Hold(f); err != nil {
			return nil, err
		}
	}
	stack := pamhelper.Stack{Dial: d.stacks.Dial}
	log := d.log.WithField("part", "stacks").WithField("service", service)
	return func(ctx context.Context, c broker.Claim, ask broker.Asker) broker.Proven {
		call := pamhelper.Call{Service: service, User: string(c.User)}
		if c.From.IsValid() {
			call.RHost = c.From.String()
		}
		asked, left := false, false
		r, err := stack.Run(ctx, call, func(ctx context.Context, ps []pamhelper.Prompt) ([]string, error) {
			replies, err := ask(ctx, prompts(ps, proof == broker.ProofPassword && !asked)...)
			asked, left = asked || len(replies) > 0, err != nil
			return replies, err
		})
		switch {
		case left:
			return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonConversation}
		case err != nil:
			log.WithError(err).Warn("a PAM stack could not be run")
			return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonProver}
		}
		out := broker.Proven{Reason: broker.ReasonWrongPassword}
		switch r.Outcome {
		case wire.Yes:
			out = broker.Proven{Outcome: broker.Allow}
		case wire.No:
			log.WithField("user", string(c.User)).WithField("code", r.Reason).Info("a PAM stack says no")
		default:
			log.WithField("user", string(c.User)).WithField("code", r.Reason).WithField("said", r.Text).Warn("a PAM stack could not find out")
			out = broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonProver}
		}
		if len(r.Messages) > 0 {
			if _, err := ask(ctx, prompts(r.Messages, false)...); err != nil {
				return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonConversation}
			}
		}
		return out
	}, nil
}

// prompts are a module's messages for the caller of a door.
func prompts(ps []pamhelper.Prompt, password bool) []broker.Prompt {
	var out []broker.Prompt
	for _, p := range ps {
		q := broker.Prompt{Kind: broker.PromptInfo, Text: p.Text}
		switch p.Kind {
		case pamhelper.Error:
			q.Kind = broker.PromptError
		case pamhelper.Visible:
			q.Kind = broker.PromptVisible
		case pamhelper.Secret:
			q.Kind = broker.PromptSecret
			if password {
				q.Kind, password = broker.PromptPassword, false
			}
		}
		out = append(out, q)
	}
	return out
}
