package ldapsync

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/otp"
)

// The schema of OATH-LDAP, as slapo-otp(5) brings it, and ours for recovery codes.
const (
	ClassTOTPUser   = "oathTOTPUser"
	ClassTOTPToken  = "oathTOTPToken"
	ClassTOTPParams = "oathTOTPParams"
	ClassRecovery   = "sekishoRecovery"

	AttrToken    = "oathTOTPToken"  // of a user: the DN of his token
	AttrParams   = "oathTOTPParams" // of a token: the DN of its parameters
	AttrSecret   = "oathSecret"
	AttrLastStep = "oathTOTPLastTimeStep"
	AttrShift    = "oathTOTPTimeStepDrift"
	AttrLength   = "oathOTPLength"
	AttrHMAC     = "oathHMACAlgorithm"
	AttrPeriod   = "oathTOTPTimeStepPeriod"
	AttrWindow   = "oathTOTPTimeStepWindow"
	AttrRecovery = "sekishoRecoveryCode"
)

// HMACs are the values of oathHMACAlgorithm (RFC 8018 B.1.2).
var HMACs = map[otp.Algorithm]string{
	otp.SHA1: "1.2.840.113549.2.7", otp.SHA256: "1.2.840.113549.2.9", otp.SHA512: "1.2.840.113549.2.11",
}

// TokensConfig is what Tokens are made of.
type TokensConfig struct {
	// Provider is bound as an account that may read oathSecret and raise
	// oathTOTPLastTimeStep. No other account of ours should.
	Provider
	// BaseDN is where the entry of an unknown user is not.
	BaseDN string
	// MaxConns bounds the connections; default 8.
	MaxConns int
}

// Tokens reads users' tokens for one-time codes and notes which codes are used, in
// the entries that slapo-otp reads and writes too. Its methods may be called from
// any goroutine.
type Tokens struct {
	c      TokensConfig
	nobody string        // a DN that no entry has
	turns  chan struct{} // one for each connection in use

	mu     sync.Mutex // guards all below
	idle   []*Client
	closed bool
}

// NewTokens connects to nobody yet.
func NewTokens(c TokensConfig) (*Tokens, error) {
	setDefault(&c.MaxConns, 8)
	setDefault(&c.Timeout, 3*time.Second)
	if err := c.Provider.validate(); err != nil {
		return nil, err
	}
	if c.BindDN == "" && !c.External {
		return nil, errors.New("tokens are nothing for anonymous readers: BindDN or External must be set")
	}
	if _, err := NormalizeDN(c.BaseDN); err != nil || c.BaseDN == "" || c.MaxConns < 1 {
		return nil, fmt.Errorf("base DN %q: must be a DN like dc=example,dc=org", c.BaseDN)
	}
	b := make([]byte, 16)
	rand.Read(b)
	return &Tokens{c: c, nobody: "cn=" + hex.EncodeToString(b) + "," + c.BaseDN, turns: make(chan struct{}, c.MaxConns)}, nil
}

// Close ends the connections. It may be called twice.
func (t *Tokens) Close() error {
	t.mu.Lock()
	idle := t.idle
	t.idle, t.closed = nil, true
	t.mu.Unlock()
	for _, cl := range idle {
		cl.Close()
	}
	return nil
}

// do runs f on a connection. One that was idle may have ended: then f is run again
// on a new one.
func (t *Tokens) do(ctx context.Context, f func(*Client) error) error {
	select {
	case t.turns <- struct{}{}:
		defer func() { <-t.turns }()
	case <-ctx.Done():
		return fmt.Errorf("all %d connections for tokens are in use: %w", cap(t.turns), ctx.Err())
	}
	t.mu.Lock()
	var cl *Client
	if n := len(t.idle); n > 0 {
		cl, t.idle = t.idle[n-1], t.idle[:n-1]
	}
	t.mu.Unlock()
	if cl != nil {
		err := f(cl)
		if t.settle(cl, err) || ctx.Err() != nil {
			return err
		}
	}
	cl, err := Dial(ctx, ClientConfig{Provider: t.c.Provider})
	if err != nil {
		return err
	}
	err = f(cl)
	t.settle(cl, err)
	return err
}

// settle keeps a connection on which the directory answered, and reports whether
// it did.
func (t *Tokens) settle(cl *Client, err error) bool {
	var said *ldap.Error
	answered := err == nil || errors.Is(err, errToken) || errors.As(err, &said) && said.ResultCode < ldap.ErrorNetwork && !unreachable(said.ResultCode)
	t.mu.Lock()
	keep := answered && !t.closed
	if keep {
		t.idle = append(t.idle, cl)
	}
	t.mu.Unlock()
	if !keep {
		cl.Close()
	}
	return answered
}

// errToken is a token that cannot be used as it stands.
var errToken = errors.New("the token cannot be used")

func badToken(dn, format string, a ...any) error {
	return fmt.Errorf("%s: %w: %s", dn, errToken, fmt.Sprintf(format, a...))
}

// Read gives a user's enrolment, the zero value when he has no token. For an empty
// DN, and for somebody without a token, the directory is asked as often.
//
// A token that is named but cannot be read whole is an error, never the answer that
// there is none.
func (t *Tokens) Read(ctx context.Context, user broker.DN) (e otp.Enrolment, err error) {
	err = t.do(ctx, func(cl *Client) error {
		e, err = t.read(ctx, cl, string(user))
		return err
	})
	return e, err
}

func (t *Tokens) read(ctx context.Context, cl *Client, user string) (otp.Enrolment, error) {
	e := otp.Enrolment{User: user, Last: -1}
	u, err := t.get(ctx, cl, user, "objectClass", AttrToken)
	if err != nil {
		return otp.Enrolment{}, err
	}
	if u != nil {
		e.Token = u.GetEqualFoldAttributeValue(AttrToken)
		isUser := slices.ContainsFunc(u.GetEqualFoldAttributeValues("objectClass"), func(c string) bool { return strings.EqualFold(c, ClassTOTPUser) })
		if e.Token == "" && isUser {
			return otp.Enrolment{}, badToken(user, "it has the class %s but no %s that may be read: allow it to %s", ClassTOTPUser, AttrToken, t.who())
		}
	}
	token, err := t.get(ctx, cl, e.Token, AttrSecret, AttrParams, AttrLastStep, AttrShift, AttrRecovery)
	if err != nil {
		return otp.Enrolment{}, err
	}
	var where string
	if token != nil {
		where = token.GetEqualFoldAttributeValue(AttrParams)
	}
	params, err := t.get(ctx, cl, where, AttrLength, AttrHMAC, AttrPeriod)
	switch {
	case err != nil:
		return otp.Enrolment{}, err
	case e.Token == "":
		return otp.Enrolment{}, nil
	case token == nil:
		return otp.Enrolment{}, badToken(e.Token, "there is no such entry, or %s may not see it", t.who())
	case params == nil:
		return otp.Enrolment{}, badToken(e.Token, "its %s %q is no entry, or %s may not see it", AttrParams, printable(where, 200), t.who())
	}
	return e, fill(&e, token, params)
}

func (t *Tokens) who() string {
	if t.c.BindDN != "" {
		return t.c.BindDN
	}
	return "this user (SASL EXTERNAL)"
}

// get reads an entry; nil when there is none, and for an empty DN, for which one
// that is not there is asked for.
func (t *Tokens) get(ctx context.Context, cl *Client, dn string, attributes ...string) (*ldap.Entry, error) {
	at := dn
	if dn == "" {
		at = t.nobody
	}
	e, err := cl.Get(ctx, at, attributes...)
	if IsCode(err, ldap.LDAPResultNoSuchObject) {
		return nil, nil
	}
	return e, err
}

// fill reads what the two entries say, strictly: a token that somebody misread
// would take codes that are none.
func fill(e *otp.Enrolment, token, params *ldap.Entry) error {
	secret := token.GetEqualFoldRawAttributeValues(AttrSecret)
	if len(secret) != 1 {
		return badToken(e.Token, "it has no %s that may be read", AttrSecret)
	}
	e.Secret = secret[0]
	if err := otp.CheckSecret(e.Secret); err != nil {
		return badToken(e.Token, "%s", err)
	}
	numbers := map[string]int64{}
	for _, n := range []struct {
		entry    *ldap.Entry
		name     string
		least    int64
		optional bool
	}{{token, AttrLastStep, 0, true}, {token, AttrShift, -math.MaxInt32, true}, {params, AttrLength, 0, false}, {params, AttrPeriod, 0, false}} {
		v := n.entry.GetEqualFoldAttributeValue(n.name)
		if v == "" && n.optional {
			continue
		}
		x, err := strconv.ParseInt(v, 10, 64)
		if err != nil || x < n.least || x > math.MaxUint32 {
			return badToken(n.entry.DN, "%s is %q", n.name, printable(v, 40))
		}
		numbers[n.name] = x
	}
	if last, ok := numbers[AttrLastStep]; ok {
		e.Last = last
	}
	e.Shift = int(numbers[AttrShift])
	e.Params = otp.Params{Digits: int(numbers[AttrLength]), Period: time.Duration(numbers[AttrPeriod]) * time.Second}
	oid := params.GetEqualFoldAttributeValue(AttrHMAC)
	for a, o := range HMACs {
		if o == oid {
			e.Params.Algorithm = a
		}
	}
	if e.Params.Algorithm == "" {
		return badToken(params.DN, "%s %q is none of SHA-1, SHA-256 and SHA-512", AttrHMAC, printable(oid, 40))
	}
	if err := e.Params.Check(); err != nil {
		return badToken(params.DN, "%s", err)
	}
	e.Recovery = token.GetEqualFoldAttributeValues(AttrRecovery)
	if len(e.Recovery) > maxRecovery {
		return badToken(e.Token, "it has more than %d recovery codes", maxRecovery)
	}
	return nil
}

// maxRecovery bounds the values that are compared for one code.
const maxRecovery = 100

// spendTries is how often the last step may be raised by others meanwhile.
const spendTries = 8

// Spend raises the token's last step to step, from what it was read as and from
// nothing else; false when it is there or past it already.
func (t *Tokens) Spend(ctx context.Context, e otp.Enrolment, step int64) (fresh bool, err error) {
	err = t.do(ctx, func(cl *Client) error {
		last := e.Last
		for try := 1; step > last; try++ {
			m := ldap.NewModifyRequest(e.Token, nil)
			if last >= 0 {
				m.Delete(AttrLastStep, []string{strconv.FormatInt(last, 10)})
			}
			m.Add(AttrLastStep, []string{strconv.FormatInt(step, 10)})
			err := cl.Modify(ctx, m)
			if err == nil {
				fresh = true
				return nil
			}
			if try == spendTries || !IsCode(err, ldap.LDAPResultNoSuchAttribute, ldap.LDAPResultAttributeOrValueExists, ldap.LDAPResultConstraintViolation) {
				return err
			}
			now, rerr := cl.Get(ctx, e.Token, AttrLastStep)
			if rerr != nil {
				return rerr
			}
			v := now.GetEqualFoldAttributeValue(AttrLastStep)
			if v == "" {
				last = -1
			} else if last, rerr = strconv.ParseInt(v, 10, 64); rerr != nil || last < 0 {
				return badToken(e.Token, "%s is %q", AttrLastStep, printable(v, 40))
			}
		}
		return nil
	})
	return fresh, err
}

// SpendRecovery deletes the value of a recovery code; false when it is gone.
func (t *Tokens) SpendRecovery(ctx context.Context, e otp.Enrolment, value string) (fresh bool, err error) {
	m := ldap.NewModifyRequest(e.Token, nil)
	m.Delete(AttrRecovery, []string{value})
	err = t.do(ctx, func(cl *Client) error { return cl.Modify(ctx, m) })
	if IsCode(err, ldap.LDAPResultNoSuchAttribute) {
		return false, nil
	}
	return err == nil, err
}
