package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/clock"
	"github.com/sirupsen/logrus"
)

// ProverConfig is what a Prover is made of.
type ProverConfig struct {
	// Client asks the KDCs.
	Client *Client
	// Service is our own principal, such as sekisho/FQDN, and Keys its keytab, read
	// anew each time: the key that a false KDC does not know.
	Service krb.Principal
	Keys    func() ([]krb.KeytabEntry, error)
	// Principal is whose password a claim's is; nil: the user's name in the realm.
	// An error is taken for a user that there is not.
	Principal func(broker.Claim) (krb.Principal, error)
	// Ticket is what kind of ticket-granting ticket a sign-in gets; its Service is
	// not looked at.
	Ticket LoginOptions
	// Pack makes a credential cache (Proven.Tickets) of the ticket; nil: a sign-in
	// leaves no ticket.
	Pack func(krb.Credential) ([]byte, error)
	// Change sets the new password of somebody whose old one has expired; nil: he
	// must do that elsewhere.
	Change broker.Changer
	// Beside proves the passwords of those for whom the KDC wants a one-time code as
	// well, which this prover cannot give; their sessions have no ticket. Its question
	// for the password is answered with what was typed. Nil: they cannot sign in here.
	Beside broker.Prover
	// Clock says in one sentence which clock is so wrong that no ticket shall be
	// asked for, or ""; nil: only what the KDC's answers show counts.
	Clock func() string
	// Host names this host in sentences about its clock.
	Host string
	// Log gets what an administrator must mend, and why people were refused.
	Log *logrus.Entry
}

func (c ProverConfig) validate() (ProverConfig, error) {
	if c.Client == nil || c.Keys == nil || c.Log == nil {
		return c, errors.New("a prover of passwords: Client, Keys and Log must be set")
	}
	if err := c.Service.Check(); err != nil {
		return c, fmt.Errorf("a prover of passwords: our own %w", err)
	}
	if c.Service.Realm != c.Client.c.Realm {
		return c, fmt.Errorf("a prover of passwords: our own principal %s is not of the realm %s", c.Service, c.Client.c.Realm)
	}
	if c.Principal == nil {
		c.Principal = func(claim broker.Claim) (krb.Principal, error) {
			p, err := krb.NewPrincipal(string(claim.User), c.Service.Realm)
			if err == nil && len(p.Components) != 1 {
				err = errors.New("a user's name has no slash")
			}
			return p, err
		}
	}
	if c.Clock == nil {
		c.Clock = func() string { return "" }
	}
	if c.Host == "" {
		c.Host = "this host"
	}
	return c, nil
}

// NewProver makes a prover that asks for the password, gets a ticket-granting
// ticket with it, and then a ticket for our own service with that one: only the
// true KDC can seal it with our key. The error names what is wrong in cfg.
//
// An expired password is first proved to be right and then changed; the sign-in
// goes on with the new one. The time that people take to type counts nowhere;
// between two questions all ends after the client's Config.Total.
func NewProver(cfg ProverConfig) (broker.Prover, error) {
	c, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	return prover{c}.prove, nil
}

type prover struct{ c ProverConfig } // immutable

func (p prover) prove(ctx context.Context, claim broker.Claim, ask broker.Asker) broker.Proven {
	typed, err := ask(ctx, broker.Prompt{Kind: broker.PromptPassword, Text: "Password: "})
	if err != nil || len(typed) != 1 {
		return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonConversation}
	}
	if text := p.c.Clock(); text != "" {
		return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonClock, Text: text}
	}
	log := p.c.Log.WithFields(logrus.Fields{"user": string(claim.User), "door": string(claim.Door)})
	who, err := p.c.Principal(claim)
	if err == nil {
		err = krb.CheckPassword(typed[0])
	}
	if err != nil {
		// As slow as a wrong password, or nearly.
		p.c.Client.pretend(ctx)
		log.WithError(err).Info("a password that cannot be right")
		return broker.Proven{Reason: broker.ReasonWrongPassword}
	}
	s := subject{claim, who, ask}
	proven, err := p.signIn(ctx, s, typed[0])
	if is(err, PasswordExpired) {
		proven, err = p.renew(ctx, s, typed[0])
	}
	if err == nil {
		return proven
	}
	var told *besideError
	if errors.As(err, &told) {
		return told.proven
	}
	if is(err, UnknownPrincipal) {
		p.c.Client.pretend(ctx)
	}
	proven = p.explain(err)
	entry := log.WithError(err).WithField("principal", who.String())
	if is(err, MoreThanPassword) {
		entry.Info("a password could not be checked: set kdc-otp off for him, or have him sign in by key or ticket")
		return proven
	}
	switch proven.Reason {
	case broker.ReasonFalseKDC, broker.ReasonProver:
		entry.Error("a password could not be checked")
	case broker.ReasonClock, broker.ReasonUnreachable, broker.ReasonBusy:
		entry.Warn("a password could not be checked")
	default:
		entry.Info("a password was refused")
	}
	return proven
}

func is(err error, k Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == k
}

// verify is a sign-in with a password that may be right.
func (p prover) verify(ctx context.Context, who krb.Principal, password string) (broker.Proven, error) {
	ctx, cancel := context.WithTimeout(ctx, p.c.Client.c.Total)
	defer cancel()
	keys, err := p.ownKeys()
	if err != nil {
		return broker.Proven{}, err
	}
	defer wipe(keys)
	o := p.c.Ticket
	o.Service = krb.Principal{}
	tgt, err := p.c.Client.Login(ctx, who, password, o)
	if err != nil {
		return broker.Proven{}, err
	}
	defer clear(tgt.Key.Value)
	if err := p.c.Client.Verify(ctx, tgt, p.c.Service, keys); err != nil {
		return broker.Proven{}, err
	}
	out := broker.Proven{Outcome: broker.Allow, TicketsEnd: tgt.EndTime}
	if p.c.Pack != nil {
		if out.Tickets, err = p.c.Pack(tgt); err != nil {
			return broker.Proven{}, fmt.Errorf("a credential cache for %s: %w", who, err)
		}
	}
	return out, nil
}

// ownKeys are the keys of our own principal.
func (p prover) ownKeys() ([]krb.Key, error) {
	entries, err := p.c.Keys()
	if err != nil {
		return nil, fmt.Errorf("reading our own keytab: %w", err)
	}
	var keys []krb.Key
	for _, e := range entries {
		if e.Principal.Equal(p.c.Service) {
			keys = append(keys, krb.Key{EType: e.Key.EType, Value: append([]byte(nil), e.Key.Value...)})
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("our own keytab holds no key of %s: no KDC can be proved true", p.c.Service)
	}
	return keys, nil
}

func wipe(keys []krb.Key) {
	for _, k := range keys {
		clear(k.Value)
	}
}

// explain is what the caller of a door and the record are told of a failure. Whom
// the KDC does not know is to them somebody with a wrong password.
func (p prover) explain(err error) broker.Proven {
	unknown := func(r broker.Reason, text string) broker.Proven {
		return broker.Proven{Outcome: broker.Unknown, Reason: r, Text: text}
	}
	var e *Error
	if !errors.As(err, &e) {
		return unknown(broker.ReasonProver, "")
	}
	switch e.Kind {
	case WrongPassword, UnknownPrincipal:
		return broker.Proven{Reason: broker.ReasonWrongPassword}
	case PasswordExpired:
		return broker.Proven{Reason: broker.ReasonPasswordExpired}
	case Locked:
		return broker.Proven{Reason: broker.ReasonLocked}
	case AccountExpired:
		return broker.Proven{Reason: broker.ReasonKerberosExpired}
	case Skew:
		if text := p.c.Clock(); text != "" { // it heard that answer too
			return unknown(broker.ReasonClock, text)
		}
		return unknown(broker.ReasonClock, p.clockText(e))
	case FalseKDC:
		return unknown(broker.ReasonFalseKDC, "")
	case Unreachable, Unavailable:
		return unknown(broker.ReasonUnreachable, "")
	case MoreThanPassword:
		return unknown(broker.ReasonProver, "the Kerberos server wants a one-time code with this password, which cannot be given here")
	case Busy:
		return unknown(broker.ReasonBusy, "too many people are signing in at once: try again")
	}
	return unknown(broker.ReasonProver, "")
}

// clockText names both clocks: an answer of the KDC alone does not show which of
// them is wrong. Which one is the clock guard's to say.
func (p prover) clockText(e *Error) string {
	if e.SkewBound == 0 || e.Skew == 0 {
		return fmt.Sprintf("the clocks of %s and of the Kerberos server differ too much for a sign-in", p.c.Host)
	}
	way := "behind"
	if e.Skew < 0 {
		way = "ahead of"
	}
	return fmt.Sprintf("the clock of %s is %s %s that of the Kerberos server", p.c.Host, clock.Span(e.Skew), way)
}
