package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"github.com/msteinert/pam/v2"
	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/pamhelper"
	"github.com/sekisho/sekisho/wire"
)

// conversationArg makes this program the process of one conversation, which is
// on descriptor 3.
const conversationArg = "--conversation"

// A conversation is a process: modules are other people's C. One that hangs or
// crashes costs its own sign-in; a thread could be neither killed nor survived,
// and modules set ids, umask and signals of the whole process. It costs 5 ms and
// 1.3 MB of memory; a thread, 1.5 ms, most of it libpam loading modules (the
// benchmarks here; 256 stand at their first prompt after 0.8 s, on 2 cores).

// converse is all that such a process does. The error is for the exit code:
// the supervisor has the last answer, or takes its lack for a crash.
func converse() error {
	runtime.LockOSThread() // modules keep state by thread
	unix.CloseOnExec(3)
	if err := harden(); err != nil {
		return err
	}
	// Processes that modules leave to themselves stay ours while we live.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming a subreaper: %w", err)
	}
	p := &peer{f: os.NewFile(3, "supervisor")}
	r, err := wire.ReadRequest(p.f, nil)
	if err != nil {
		return err
	}
	call, err := pamhelper.ReadCall(r)
	if err != nil {
		return err
	}
	a, env := p.stack(call)
	if p.err != nil {
		return p.err
	}
	for _, m := range p.pending {
		a.Body = append(a.Body, m.Line())
	}
	a.Body = append(a.Body, env...)
	return p.send(a)
}

// peer is the supervisor, as this process sees it.
type peer struct {
	f       *os.File
	pending []pamhelper.Prompt // messages not shown yet
	err     error              // what ended the conversation
}

func (p *peer) send(a wire.Answer) error {
	b, err := wire.AppendAnswer(nil, a)
	if err != nil {
		return err
	}
	_, err = p.f.Write(b)
	return err
}

// RespondPAM is what modules call (pam_conv(3)), on our thread.
func (p *peer) RespondPAM(style pam.Style, text string) (string, error) {
	kind, ok := kinds[style]
	if !ok || p.err != nil {
		return "", errors.New("there is no such message")
	}
	more := pamhelper.Prompts(kind, text)
	if kind.WantsReply() {
		p.pending = append(p.pending, more...)
		return p.ask()
	}
	// One place stays free for a prompt; people are not shown what is beyond.
	if room := pamhelper.MaxPrompts - 1 - len(p.pending); len(more) > room {
		more = more[:room]
	}
	p.pending = append(p.pending, more...)
	return "", nil
}

var kinds = map[pam.Style]pamhelper.Kind{
	pam.TextInfo: pamhelper.Info, pam.ErrorMsg: pamhelper.Error,
	pam.PromptEchoOff: pamhelper.Secret, pam.PromptEchoOn: pamhelper.Visible,
}

// ask sends what is pending and waits for the reply to the last of it.
func (p *peer) ask() (string, error) {
	a := wire.Answer{Outcome: wire.No, Reason: pamhelper.ReasonPrompt}
	for _, m := range p.pending {
		a.Body = append(a.Body, m.Line())
	}
	p.pending = nil
	if p.err = p.send(a); p.err != nil {
		return "", p.err
	}
	r, err := wire.ReadRequest(p.f, nil)
	var replies []string
	if err == nil {
		replies, err = pamhelper.ReadReplies(r, 1)
	}
	if p.err = err; err != nil {
		return "", err
	}
	return replies[0], nil
}

// stack runs authenticate and acct_mgmt. The answer is complete but for the
// body, to which env, lines of it, belong.
func (p *peer) stack(c pamhelper.Call) (a wire.Answer, env []string) {
	t, err := pam.Start(c.Service, c.User, p)
	if err != nil {
		return verdict(err), nil
	}
	err = prepare(t, c)
	if err == nil {
		err = t.Authenticate(pam.DisallowNullAuthtok)
	}
	if err == nil {
		err = t.AcctMgmt(0)
	}
	var proved string
	var list map[string]string
	if err == nil {
		proved, err = t.GetItem(pam.User)
	}
	if err == nil {
		list, err = t.GetEnvList()
	}
	// Modules clean up here, and may crash: nothing is said before.
	if endErr := t.End(); err == nil {
		err = endErr
	}
	if err != nil {
		return verdict(err), nil
	}
	if proved != c.User {
		return wire.Answer{Outcome: wire.No, Reason: pamhelper.ReasonOtherUser, Text: "the host's PAM stack has proved another user than was asked for"}, nil
	}
	for name, value := range list {
		line, err := pamhelper.FormatEnv(name + "=" + value)
		if err != nil || len(env) == pamhelper.MaxEnvOut {
			return unknown(pamhelper.ReasonMany, "the host's PAM stack leaves more environment than can be taken"), nil
		}
		env = append(env, line)
	}
	slices.Sort(env)
	return wire.Answer{Outcome: wire.Yes}, env
}

// prepare sets items and environment.
func prepare(t *pam.Transaction, c pamhelper.Call) error {
	for _, i := range []struct {
		item  pam.Item
		value string
	}{{pam.Tty, c.TTY}, {pam.Rhost, c.RHost}, {pam.Ruser, c.RUser}} {
		if i.value == "" {
			continue
		}
		if err := t.SetItem(i.item, i.value); err != nil {
			return err
		}
	}
	for _, e := range c.Env {
		if err := t.PutEnv(e); err != nil {
			return err
		}
	}
	return nil
}

// verdict is the answer to a PAM code that is not success. Only the codes by
// which a stack says no are a no.
func verdict(err error) wire.Answer {
	var code pam.Error
	if !errors.As(err, &code) {
		return unknown(codes[pam.ErrSystem], "")
	}
	a := unknown(codes[code], code.Error())
	if a.Reason == "" {
		a.Reason = codes[pam.ErrSystem]
	}
	if slices.Contains(refusals, code) {
		a.Outcome = wire.No
	}
	return a
}

// refusals are the codes that pam_authenticate(3) and pam_acct_mgmt(3) name for
// a no, and those that modules use for an account or password past its time.
var refusals = []pam.Error{
	pam.ErrAuth, pam.ErrUserUnknown, pam.ErrMaxtries, pam.ErrPermDenied, pam.ErrAcctExpired,
	pam.ErrNewAuthtokReqd, pam.ErrAuthtokExpired, pam.ErrCredExpired,
}

// codes are PAM's names of its codes, as reasons.
var codes = map[pam.Error]string{
	pam.ErrOpen: "open-err", pam.ErrSymbol: "symbol-err", pam.ErrService: "service-err", pam.ErrSystem: "system-err",
	pam.ErrBuf: "buf-err", pam.ErrPermDenied: "perm-denied", pam.ErrAuth: "auth-err",
	pam.ErrCredInsufficient: "cred-insufficient", pam.ErrAuthinfoUnavail: "authinfo-unavail",
	pam.ErrUserUnknown: "user-unknown", pam.ErrMaxtries: "maxtries", pam.ErrNewAuthtokReqd: "new-authtok-reqd",
	pam.ErrAcctExpired: "acct-expired", pam.ErrSession: "session-err", pam.ErrCredUnavail: "cred-unavail",
	pam.ErrCredExpired: "cred-expired", pam.ErrCred: "cred-err", pam.ErrNoModuleData: "no-module-data",
	pam.ErrConv: "conv-err", pam.ErrAuthtok: "authtok-err", pam.ErrAuthtokRecovery: "authtok-recovery-err",
	pam.ErrAuthtokLockBusy: "authtok-lock-busy", pam.ErrAuthtokDisableAging: "authtok-disable-aging",
	pam.ErrTryAgain: "try-again", pam.ErrIgnore: "ignore", pam.ErrAbort: "abort",
	pam.ErrAuthtokExpired: "authtok-expired", pam.ErrModuleUnknown: "module-unknown",
}
