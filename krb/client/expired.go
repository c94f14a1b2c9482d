package client

import (
	"context"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/krb"
)

// maxRefusals is how many new passwords one conversation may try.
const maxRefusals = 3

// renew has somebody whose password has expired choose a new one, and signs him in
// with it. The KDC says "expired" before it has looked at a password: so the old one
// is checked first, with the one service that it still opens.
func (p prover) renew(ctx context.Context, s subject, old string) (broker.Proven, error) {
	if err := p.checkOld(ctx, s, old); err != nil {
		return broker.Proven{}, err
	}
	if p.c.Change == nil {
		return broker.Proven{Reason: broker.ReasonPasswordExpired, Text: "the password has expired and cannot be changed here"}, nil
	}
	note := broker.Prompt{Kind: broker.PromptInfo, Text: "Your password has expired: choose a new one."}
	for try := 1; ; try++ {
		said := false
		typed, proven := broker.AskNewPassword(ctx, func(ctx context.Context, ps ...broker.Prompt) ([]string, error) {
			if !said {
				said, ps = true, append([]broker.Prompt{note}, ps...)
			}
			return s.ask(ctx, ps...)
		})
		if proven.Outcome == broker.Allow {
			cctx, cancel := context.WithTimeout(ctx, p.c.Client.c.Total)
			proven = p.c.Change(cctx, s.claim, old, typed)
			cancel()
			if proven.Outcome == broker.Allow {
				return p.signIn(ctx, s, typed)
			}
		}
		if proven.Reason != broker.ReasonPasswordRefused || try == maxRefusals {
			return proven, nil
		}
		note = broker.Prompt{Kind: broker.PromptError, Text: "The new password was not taken."}
		if proven.Text != "" {
			note.Text = proven.Text
		}
	}
}

// checkOld gets a ticket for the password service, of which nothing is used but
// that there is one.
func (p prover) checkOld(ctx context.Context, s subject, old string) error {
	service := krb.Principal{Components: []string{"kadmin", "changepw"}, Realm: s.who.Realm}
	cred, err := p.c.Client.Login(ctx, s.who, old, LoginOptions{Service: service, Life: 5 * time.Minute})
	clear(cred.Key.Value)
	if is(err, MoreThanPassword) {
		return p.checkOldBeside(ctx, s, old)
	}
	if is(err, UnknownService) {
		return nil // a realm without it: Change checks the old password
	}
	return err
}

// learn remembers how passwords become keys in this realm.
func (c *Client) learn(info etypeInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.habit = etypeInfo{etype: info.etype, salt: "nobody", iterations: info.iterations}
}

// pretend takes as long as making a key of a password, so that a refusal without
// one is not known by its speed.
func (c *Client) pretend(ctx context.Context) {
	c.mu.Lock()
	info := c.habit
	c.mu.Unlock()
	if info.etype == 0 {
		info = etypeInfo{etype: etypes[0], salt: "nobody", iterations: usualIterations(etypes[0])}
	}
	p := &password{text: "nobody's", turns: c.turns}
	p.key(ctx, info)
	p.forget()
}
