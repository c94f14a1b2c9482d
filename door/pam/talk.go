package pam

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/door/gate"
	"github.com/sekisho/sekisho/wire"
)

// Limits of a conversation.
const (
	maxRounds  = 16
	maxReplies = 8
	maxPrompt  = 512 // bytes of a prompt's text
)

// reasonPrompt marks an answer that asks for more. Its outcome is no, so that
// whoever does not understand it lets nobody in.
const reasonPrompt = "prompt"

// peer is one connection.
type peer struct {
	*gate.Conn
	user   broker.UserName // the directory's user with the caller's uid, if there is just one
	buf    []byte          // what was read; holds passwords
	rounds int
}

// talk answers requests until the peer hangs up, breaks the protocol or takes
// too long, or the door shuts.
func (s *Server) talk(ctx context.Context, c *gate.Conn) {
	p := &peer{Conn: c, buf: make([]byte, 0, wire.MaxLine)}
	defer func() { clear(p.buf[:cap(p.buf)]) }()
	if v := s.c.Broker.View(); v.Snapshot != nil {
		if u, ambiguous := v.UserByUID(c.UID); u != nil && !ambiguous {
			p.user = u.Name
		}
	}
	for {
		r, ok := s.read(p)
		if !ok || !s.write(p, s.answer(ctx, p, r)) {
			return
		}
		clear(p.buf[:cap(p.buf)])
	}
}

// read reports false when the connection is of no further use.
func (s *Server) read(p *peer) (wire.Request, bool) {
	if !p.Next(false) {
		return wire.Request{}, false
	}
	r, err := wire.ReadRequest(p, p.buf)
	var version *wire.VersionError
	switch {
	case err == nil:
		return r, true
	case err == io.EOF, errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ECONNRESET):
	case errors.As(err, &version):
		s.write(p, unknown(wire.ReasonVersion, version.Error()))
	default:
		s.c.Log.WithError(err).WithField("uid", p.UID).Debug("a request was refused")
		s.write(p, unknown(wire.ReasonMalformed, "the request cannot be read: install the same sekisho release on both sides"))
	}
	return wire.Request{}, false
}

func (s *Server) write(p *peer, a wire.Answer) bool {
	out, err := wire.AppendAnswer(nil, a)
	if err != nil {
		s.c.Log.WithError(err).WithField("uid", p.UID).Error("an answer could not be written")
		if out, err = wire.AppendAnswer(nil, unknown("answer", "the answer does not fit the protocol: see sekishod's log")); err != nil {
			return false
		}
	}
	_, err = p.Write(out)
	clear(out) // it may hold tickets
	return err == nil
}

// verb is one verb of the door.
type verb struct {
	fields []string
	needs  []string // must not be empty
	do     func(*Server, context.Context, *peer, wire.Request) wire.Answer
}

var (
	about = []string{"user", "service", "tty", "rhost", "ruser"}
	verbs = map[string]verb{
		"auth":        {append([]string{"authinfo"}, about...), []string{"user", "service"}, (*Server).auth},
		"account":     {append([]string{"authinfo", "login"}, about...), []string{"user", "service"}, (*Server).account},
		"credentials": {[]string{"user", "op", "login", "session", "ccname"}, []string{"user", "op"}, (*Server).credentials},
		"session":     {append([]string{"authinfo", "op", "login", "session", "pid"}, about...), []string{"user", "service", "op"}, (*Server).session},
		"passwd":      {append([]string{"phase"}, about...), []string{"user", "service", "phase"}, (*Server).passwd},
	}
)

// maxValue bounds each field but the secrets; authinfo may hold some keys.
const maxValue = 1 << 10

func (s *Server) answer(ctx context.Context, p *peer, r wire.Request) wire.Answer {
	v, ok := verbs[r.Verb]
	if !ok {
		return unknown(wire.ReasonVerb, "sekishod has no such verb here: install the same sekisho release on both sides")
	}
	if err := r.Only(v.fields...); err != nil {
		return unknown(wire.ReasonMalformed, err.Error())
	}
	for _, f := range v.needs {
		if r.Get(f) == "" {
			return unknown(wire.ReasonMalformed, r.Verb+" needs the field "+f)
		}
	}
	for _, f := range r.Fields {
		if len(f.Value) > maxValue && f.Name != "authinfo" || !utf8.ValidString(f.Value) {
			return unknown(wire.ReasonMalformed, "the field "+f.Name+" is too long, or no UTF-8")
		}
	}
	if p.UID != 0 && (p.user == "" || broker.UserName(r.Get("user")) != p.user) {
		s.c.Log.WithField("uid", p.UID).WithField("verb", r.Verb).Debug("not for this caller")
		return unknown(wire.ReasonCaller, "this is not for you to ask: ask about your own user, or as root")
	}
	if p.UID != 0 && r.Has("authinfo") {
		s.c.Log.WithField("uid", p.UID).WithField("verb", r.Verb).Warn("somebody other than root says what sshd has verified: refused")
		return unknown(wire.ReasonCaller, "only root's sshd says what it has verified")
	}
	p.rounds = 0
	return v.do(s, ctx, p, r)
}

// converse runs f with an Asker that talks to p. f's context ends when the
// broker has worked for longer than Config.Step; what the caller takes for his
// replies does not count.
func (s *Server) converse(ctx context.Context, p *peer, f func(context.Context, broker.Asker)) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	working := time.AfterFunc(s.c.Step, func() { cancel(context.DeadlineExceeded) })
	defer working.Stop()
	f(ctx, func(_ context.Context, ps ...broker.Prompt) ([]string, error) {
		if !working.Stop() {
			return nil, fmt.Errorf("%w: sekishod took longer than %s", broker.ErrConversation, s.c.Step)
		}
		replies, err := s.ask(p, ps)
		working.Reset(s.c.Step)
		return replies, err
	})
}

// ask puts prompts to the module and reads the replies.
func (s *Server) ask(p *peer, ps []broker.Prompt) ([]string, error) {
	a := wire.Answer{Outcome: wire.No, Reason: reasonPrompt}
	var want []string
	for _, q := range ps {
		a.Body = append(a.Body, kind(q.Kind)+" "+line(q.Text))
		if q.Kind.WantsReply() {
			want = append(want, "a"+strconv.Itoa(len(want)+1))
		}
	}
	if p.rounds++; p.rounds > maxRounds || len(want) > maxReplies || len(ps) > 2*maxReplies {
		return nil, fmt.Errorf("%w: too many questions", broker.ErrConversation)
	}
	if !s.write(p, a) {
		return nil, broker.ErrConversation
	}
	r, ok := s.read(p)
	if !ok || r.Verb != "answer" || r.Only(want...) != nil || len(r.Fields) != len(want) {
		return nil, broker.ErrConversation
	}
	replies := make([]string, len(want))
	for i, name := range want {
		replies[i] = r.Get(name)
	}
	clear(p.buf[:cap(p.buf)])
	return replies, nil
}

func kind(k broker.PromptKind) string {
	switch k {
	case broker.PromptPassword:
		return "password"
	case broker.PromptNewPassword:
		return "new-password"
	case broker.PromptSecret:
		return "secret"
	case broker.PromptVisible:
		return "visible"
	case broker.PromptError:
		return "error"
	default:
		return "info"
	}
}

// line makes text fit for one line of a body, and for a terminal: a prover may
// have it from a server.
func line(text string) string {
	out := make([]rune, 0, len(text))
	size := 0
	for _, r := range text {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == utf8.RuneError {
			r = '?'
		}
		if size += utf8.RuneLen(r); size > maxPrompt {
			break
		}
		out = append(out, r)
	}
	return string(out)
}

var errAuthInfo = errors.New("the field authinfo cannot be read: it is SSH_AUTH_INFO_0 of sshd")
