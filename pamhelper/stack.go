package pamhelper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/sekisho/sekisho/wire"
)

// StackTime is how long sekisho-pam lets the modules run between two replies
// before it kills them; AnswerTime, which is more, is how long Run waits for an
// answer of sekisho-pam. The time that a person takes to reply counts in
// neither: it is the asker's.
const (
	StackTime  = 7 * time.Second
	AnswerTime = 8 * time.Second
)

// Dial makes a connection to sekisho-pam for one conversation.
type Dial func(ctx context.Context) (net.Conn, error)

// Stack runs PAM stacks in sekisho-pam. It is safe for any number of
// goroutines.
type Stack struct {
	Dial Dial // Socket, or Held.Dial
}

// Ask puts a module's messages to somebody, together, and returns the replies
// to those that want one, in order. The error says that he has gone.
type Ask func(ctx context.Context, ps []Prompt) ([]string, error)

// Result is how a stack answered. The zero value is "could not find out".
type Result struct {
	Outcome  wire.Outcome
	Reason   string   // PAM's code, or one of ours; "" after a yes
	Text     string   // a sentence for the log, mostly empty
	Messages []Prompt // Info and Error that nobody was shown yet
	Env      []string // after a yes: PAM's environment, "NAME=value"
}

// Run has the stack say whether the user can prove himself and his account is
// good. The error, beside which the result is the zero Result, says that
// sekisho-pam could not be asked or broke off: "could not find out" as well.
// It is ask's own when that failed, and ctx's when that ended.
func (s Stack) Run(ctx context.Context, c Call, ask Ask) (Result, error) {
	r, err := s.run(ctx, c, ask)
	if err == nil {
		return r, nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return Result{}, fmt.Errorf("running the PAM stack %s: %w", c.Service, err)
}

func (s Stack) run(ctx context.Context, c Call, ask Ask) (Result, error) {
	req, err := c.Request()
	if err != nil {
		return Result{}, err
	}
	conn, err := s.Dial(ctx)
	if err != nil {
		return Result{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for round := 0; ; round++ {
		if err := conn.SetDeadline(time.Now().Add(AnswerTime)); err != nil {
			return Result{}, err
		}
		a, err := wire.Ask(conn, req)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return Result{}, errors.New("sekisho-pam has ended in the middle: see its log")
		}
		if err != nil {
			return Result{}, err
		}
		if a.Reason != ReasonPrompt {
			return result(a)
		}
		ps, err := readPrompts(a)
		if err != nil {
			return Result{}, fmt.Errorf("reading a prompt: %w", err)
		}
		if round == MaxRounds {
			return Result{}, errors.New("it asks without end")
		}
		replies, err := ask(ctx, ps)
		if err != nil {
			return Result{}, err
		}
		if n := wanted(ps); len(replies) != n {
			return Result{}, fmt.Errorf("it asked %d times and got %d replies", n, len(replies))
		}
		req = Replies(replies)
		for _, reply := range replies {
			if !fits(reply) {
				return Result{Outcome: wire.No, Reason: ReasonReply, Text: "a reply has a NUL byte or is too long for PAM"}, nil
			}
		}
	}
}

// fits reports whether a module can take a reply as it is: C cuts it at a NUL,
// and then another password than was typed would count.
func fits(reply string) bool {
	for i := range len(reply) {
		if reply[i] == 0 {
			return false
		}
	}
	return len(reply) <= MaxReply
}

// result reads a last answer.
func result(a wire.Answer) (Result, error) {
	ps, env, err := readBody(a.Body)
	switch {
	case err != nil:
		return Result{}, fmt.Errorf("reading the answer: %w", err)
	case wanted(ps) > 0, a.Outcome != wire.Yes && len(env) > 0, (a.Outcome == wire.Yes) != (a.Reason == ""):
		return Result{}, errors.New("reading the answer: it contradicts itself")
	}
	return Result{Outcome: a.Outcome, Reason: a.Reason, Text: a.Text, Messages: ps, Env: env}, nil
}
