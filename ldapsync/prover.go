package ldapsync

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"
	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
)

const oidPasswordModify = "1.3.6.1.4.1.4203.1.11.1"

// ProverConfig is what a Prover is made of. Log must be set.
type ProverConfig struct {
	// Provider says where the directory is. Its BindDN, Password and External stay
	// unset. Passwords are sent inside TLS, over ldapi or on loopback only. Timeout bounds one
	// try at one server; default 3 s.
	Provider
	// BaseDN is where the entry of an unknown user is not.
	BaseDN string
	// Total bounds all tries together; default 8 s.
	Total time.Duration
	// MaxConns bounds the connections; default 32. KeepIdle is how long one is kept
	// that nobody uses; default 5 minutes.
	MaxConns int
	KeepIdle time.Duration
	// Log hears of servers that do not serve; never of a password.
	Log *logrus.Entry
}

// Prover checks passwords by a simple bind (RFC 4513 §5.1.3) as the user, and
// understands the password policy's answers: wrong, locked, expired, to be changed
// first, about to expire. It changes passwords by RFC 3062. Its methods may be
// called from any goroutine.
type Prover struct {
	c    ProverConfig
	pool *bindPool

	mu    sync.Mutex // guards wrong
	wrong []time.Duration
}

// NewProver makes a Prover and connects to nobody.
func NewProver(c ProverConfig) (*Prover, error) {
	setDefault(&c.Timeout, 3*time.Second)
	setDefault(&c.Total, 8*time.Second)
	setDefault(&c.MaxConns, 32)
	setDefault(&c.KeepIdle, 5*time.Minute)
	if err := c.Provider.validate(); err != nil {
		return nil, err
	}
	switch {
	case c.BindDN != "" || c.Password != nil || c.External:
		return nil, errors.New("a prover binds as those who sign in: BindDN, Password and External stay unset")
	case c.Log == nil:
		return nil, errors.New("Log must be set")
	case c.Timeout < 0 || c.Total < 0 || c.KeepIdle < 0 || c.MaxConns < 0:
		return nil, errors.New("a limit is negative")
	}
	if _, err := NormalizeDN(c.BaseDN); err != nil || c.BaseDN == "" {
		return nil, fmt.Errorf("base DN %q: must be a DN like dc=example,dc=org", c.BaseDN)
	}
	for _, u := range c.URLs {
		e, err := parseURL(u)
		if err != nil {
			return nil, err
		}
		if !e.tls && !c.StartTLS && e.network != "unix" && !e.loopback() {
			return nil, fmt.Errorf("%s: passwords are sent inside TLS only, but on loopback; use ldaps://, StartTLS or ldapi://", e.url)
		}
	}
	pool, err := newBindPool(c.Provider, c.MaxConns, c.KeepIdle)
	if err != nil {
		return nil, err
	}
	return &Prover{c: c, pool: pool}, nil
}

// Close ends the connections that are not in use, and the others when they are
// not any more. It may be called twice.
func (p *Prover) Close() error {
	p.pool.close()
	return nil
}

// Prove asks for the password and binds with it: a broker.Prover.
func (p *Prover) Prove(ctx context.Context, c broker.Claim, ask broker.Asker) broker.Proven {
	typed, err := ask(ctx, broker.Prompt{Kind: broker.PromptPassword, Text: "Password: "})
	if err != nil || len(typed) != 1 {
		return gone
	}
	v, out := p.try(ctx, c, typed[0], "")
	if out.Outcome == broker.Unknown {
		return out
	}
	out, mustChange := v.judgeBind()
	switch {
	case mustChange:
		return p.forceChange(ctx, c, typed[0], ask)
	case out.Outcome == broker.Allow:
		if w := v.warnings(); w != nil {
			if _, err := ask(ctx, w...); err != nil {
				return gone
			}
		}
	case out.Outcome == broker.Unknown:
		p.c.Log.WithField("code", v.code).WithField("said", v.words).Warn("the directory answers a sign-in with neither yes nor no")
	}
	return out
}

var gone = broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonConversation}

// maxNewPasswords is how many new passwords the policy may refuse in one sign-in.
const maxNewPasswords = 3

// forceChange has the caller, whose password is right, choose a new one.
func (p *Prover) forceChange(ctx context.Context, c broker.Claim, old string, ask broker.Asker) broker.Proven {
	say := broker.Prompt{Kind: broker.PromptInfo, Text: "You must change your password now."}
	for n := 1; ; n++ {
		if _, err := ask(ctx, say); err != nil {
			return gone
		}
		new, out := broker.AskNewPassword(ctx, ask)
		if out.Outcome == broker.Allow {
			out = p.ChangePassword(ctx, c, old, new)
		}
		if out.Reason != broker.ReasonPasswordRefused || n == maxNewPasswords {
			return out
		}
		say = broker.Prompt{Kind: broker.PromptError, Text: out.Text}
	}
}

// ChangePassword sets a new password with the old one (RFC 3062): a
// broker.Changer. What the policy says to the new one is in the answer's text.
func (p *Prover) ChangePassword(ctx context.Context, c broker.Claim, old, new string) broker.Proven {
	if why := unfit(new); why != "" {
		return broker.Proven{Outcome: broker.Deny, Reason: broker.ReasonPasswordRefused, Text: "the new password is refused: " + why}
	}
	v, out := p.try(ctx, c, old, new)
	if out.Outcome == broker.Unknown {
		return out
	}
	if !v.changed {
		out, mustChange := v.judgeBind()
		if out.Outcome == broker.Allow || mustChange { // it cannot be: only a failed bind ends there
			return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonProver}
		}
		return out
	}
	out = v.judgeChange()
	if out.Outcome == broker.Unknown {
		p.c.Log.WithField("code", v.code).WithField("said", v.words).Warn("the directory neither changes a password nor refuses it")
	}
	return out
}

// answer is the last verdict of a try.
type answer struct {
	verdict
	changed bool // it is about the new password
}

// try binds as the claimed user, and when that is a yes and new is set, sets the
// new password on the same connection. Outcome is Unknown when no server could
// be asked, and means nothing otherwise.
func (p *Prover) try(ctx context.Context, c broker.Claim, password, new string) (answer, broker.Proven) {
	if unfit(password) != "" {
		// It cannot be anybody's, and an empty one would make the bind an anonymous
		// one, which is a yes (RFC 4513 §5.1.2).
		return answer{verdict: verdict{code: ldap.LDAPResultInvalidCredentials, policy: policyNone, grace: -1}}, broker.Proven{}
	}
	dn := string(c.DN)
	if dn == "" {
		dn = fmt.Sprintf("uid=%x-is-nobody,%s", rand.Uint64(), p.c.BaseDN)
	}
	ctx, cancel := context.WithTimeout(ctx, p.c.Total)
	defer cancel()
	began := time.Now()
	var a answer
	err := p.pool.do(ctx, func(ctx context.Context, cn *conn) (err error) {
		a, err = bindAndChange(ctx, cn, dn, password, new)
		return err
	})
	if err != nil {
		return a, p.unreached(err)
	}
	p.even(ctx, c, a, time.Since(began))
	return a, broker.Proven{}
}

// unfit says why a text cannot be a password; "" when it can. C programs would
// cut it at a NUL, and take the rest for granted.
func unfit(password string) string {
	switch {
	case password == "":
		return "it is empty"
	case len(password) > 4096:
		return "it is longer than 4096 bytes"
	case !utf8.ValidString(password) || strings.ContainsRune(password, 0):
		return "it is not UTF-8 without NUL"
	}
	return ""
}

// unreached is the answer when no server gave one.
func (p *Prover) unreached(err error) broker.Proven {
	p.c.Log.WithError(err).Warn("no directory server checks passwords")
	out := broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonUnreachable}
	var badCert *tls.CertificateVerificationError
	var said *ldap.Error
	if errors.Is(err, errBER) || errors.Is(err, errNoTurn) || errors.Is(err, errPoolClosed) || errors.As(err, &badCert) || errors.As(err, &said) {
		out.Reason = broker.ReasonProver // somebody is there
	}
	return out
}

// even makes an unknown user's no as late as that of a wrong password, which
// costs the directory a hash and a note of the failure.
func (p *Prover) even(ctx context.Context, c broker.Claim, a answer, took time.Duration) {
	const kept = 64
	p.mu.Lock()
	if c.DN != "" {
		if a.code == ldap.LDAPResultInvalidCredentials {
			if len(p.wrong) < kept {
				p.wrong = append(p.wrong, took)
			} else {
				p.wrong[rand.IntN(kept)] = took
			}
		}
		p.mu.Unlock()
		return
	}
	var wait time.Duration
	if n := len(p.wrong); n > 0 {
		wait = p.wrong[rand.IntN(n)] - took
	}
	p.mu.Unlock()
	if wait <= 0 {
		return
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// bindAndChange binds, and changes the password when new is not empty.
func bindAndChange(ctx context.Context, c *conn, dn, password, new string) (answer, error) {
	op := tlv(opBindRequest, integer(tagInteger, 3), text(dn), tlv(0x80, []byte(password)))
	v, err := passwordExchange(ctx, c, op, opBindResponse)
	if err != nil || new == "" || v.code != ldap.LDAPResultSuccess {
		return answer{verdict: v}, err
	}
	// RFC 3062 §2: without userIdentity it is the bound user's. The bind has shown the
	// old one; it goes along only where the policy wants it (pwdSafeModify), for slapd
	// refuses it to users who may not authenticate against their own userPassword.
	for _, parts := range [][][]byte{{tlv(0x82, []byte(new))}, {tlv(0x81, []byte(password)), tlv(0x82, []byte(new))}} {
		op = tlv(opExtendedRequest, tlv(0x80, []byte(oidPasswordModify)), tlv(0x81, tlv(tagSequence, parts...)))
		v, err = passwordExchange(ctx, c, op, opExtendedResponse)
		if err != nil || v.policy != policyNeedsOld {
			break
		}
	}
	return answer{v, true}, err
}

// passwordExchange sends op, wipes it, and reads the verdict. An error, and an
// answer that says more about the server than about the password, make the
// connection useless.
func passwordExchange(ctx context.Context, c *conn, op []byte, want byte) (v verdict, err error) {
	defer clear(op)
	control := tlv(tagSequence, text(oidPasswordPolicy))
	err = c.exchange(ctx, op, control, func(m message) (bool, error) {
		if m.op != want {
			return false, fmt.Errorf("%w: not the answer that is due", errBER)
		}
		v, err = readVerdict(m)
		return true, err
	})
	if err == nil && unserving(v.code) {
		err = fmt.Errorf("%s: %w", c.e.url, resultError(v.code, v.words))
	}
	return v, err
}

// unserving are results by which a server says that it cannot do its work now:
// another one may.
func unserving(code int) bool {
	switch uint16(code) {
	case ldap.LDAPResultBusy, ldap.LDAPResultUnavailable, ldap.LDAPResultOther, ldap.LDAPResultOperationsError,
		ldap.LDAPResultTimeLimitExceeded, ldap.LDAPResultAdminLimitExceeded:
		return true
	}
	return false
}
