package gss

import (
	"context"
	"crypto/rand"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/accept"
)

// Config is what an Acceptor needs.
type Config struct {
	// Tickets judges the AP-REQ in an initiator's token. Needed.
	Tickets *accept.Acceptor
	// Require are flags that an initiator must ask for, or be refused.
	Require Flags
	// RequireBindings refuses initiators that sent no channel bindings. Every call
	// must then give Peer.Bindings. Without it, bindings that were sent must fit and
	// bindings that were not sent are not missed (RFC 2743 §1.1.6).
	RequireBindings bool
	// TakeDelegated accepts credentials that an initiator hands over. Without it they
	// are not even looked at.
	TakeDelegated bool
}

func (c Config) validate() error {
	if c.Tickets == nil {
		return errors.New("no acceptor of tickets")
	}
	if c.Require&^knownFlags != 0 {
		return fmt.Errorf("required flags %#x are not known", uint32(c.Require))
	}
	if c.Require&Delegate != 0 && !c.TakeDelegated {
		return errors.New("delegation is required and not taken")
	}
	return nil
}

// Acceptor establishes contexts with initiators. It may be used by many goroutines.
type Acceptor struct{ c Config }

// NewAcceptor checks the configuration.
func NewAcceptor(c Config) (*Acceptor, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("gss: %w", err)
	}
	return &Acceptor{c}, nil
}

// Peer is what is known of the connection that a token came by.
type Peer struct {
	// From is the address, needed for tickets that name addresses.
	From netip.Addr
	// Bindings are the channel bindings (application data, such as RFC 5929's) any of
	// which the initiator may have sent; none: bindings are not compared.
	Bindings [][]byte
}

// Accept judges an initiator's token. The context is established when it returns;
// reply, if any, is for the initiator (AP-REP, if it asked for Mutual).
//
// On an error the context is nil, and reply may hold an error token (KRB-ERROR). The
// error wraps an *accept.Error when the ticket was refused, ErrBindings when the
// channel is another. Its text is for the log.
func (a *Acceptor) Accept(ctx context.Context, token []byte, p Peer) (c *Context, reply []byte, err error) {
	id, oid, apReq, err := parseToken(token)
	if err != nil {
		return nil, nil, err
	}
	if id != tokAPReq {
		return nil, nil, fmt.Errorf("a token of type %#04x where an AP-REQ should be", id)
	}
	acc, err := a.c.Tickets.Accept(ctx, apReq, accept.Options{From: p.From})
	if err != nil {
		return nil, errorToken(oid, err), fmt.Errorf("judging a ticket: %w", err)
	}
	c, err = a.establish(acc, p)
	if err != nil {
		return nil, nil, fmt.Errorf("a context with %s: %w", acc.Client, err)
	}
	if c.flags&Mutual != 0 {
		if reply, err = c.answer(acc, oid); err != nil {
			return nil, nil, err
		}
	}
	return c, reply, nil
}

// errorToken is the KRB-ERROR for a refused ticket, framed; nil for other errors.
func errorToken(oid asn1.ObjectIdentifier, err error) []byte {
	var e *accept.Error
	if !errors.As(err, &e) {
		return nil
	}
	msg := e.KRBError()
	if len(msg) == 0 {
		return nil
	}
	token, err := formatToken(tokKRBError, oid, msg)
	if err != nil {
		return nil
	}
	return token
}

// establish looks at what GSS-API put into the authenticator.
func (a *Acceptor) establish(acc *accept.Accepted, p Peer) (*Context, error) {
	if acc.Checksum.Type != checksumType {
		return nil, fmt.Errorf("the authenticator's checksum has type %d, not GSS-API's %d", acc.Checksum.Type, checksumType)
	}
	sum, err := parseChecksum(acc.Checksum.Value)
	if err != nil {
		return nil, err
	}
	if sum.flags&flagDCEStyle != 0 {
		return nil, errors.New("DCE style is not spoken here")
	}
	if missing := a.c.Require &^ sum.flags; missing != 0 {
		return nil, fmt.Errorf("the client did not ask for the required flags %#x", uint32(missing))
	}
	if err := checkBindings(sum.bindings, p.Bindings, acc.ChannelBound, a.c.RequireBindings); err != nil {
		return nil, err
	}
	c := &Context{
		client: acc.Client, server: acc.Server, flags: sum.flags & knownFlags, until: acc.EndTime, ticket: acc.Flags,
		bound: len(p.Bindings) > 0 && sum.bindings != [16]byte{},
		key:   acc.SessionKey,
		send:  uint64(acc.Seq), // until there is an AP-REP
	}
	if acc.Subkey != nil {
		c.key = *acc.Subkey
	}
	if c.flags&Delegate != 0 {
		if !a.c.TakeDelegated {
			c.flags &^= Delegate
		} else if c.delegated, err = parseCred(sum.cred, acc.SessionKey, acc.Client); err != nil {
			return nil, fmt.Errorf("the delegated credentials: %w", err)
		}
	}
	c.recv = newWindow(acc.Seq, c.flags)
	return c, nil
}

// answer makes the AP-REP with a subkey of ours, which is then in force (RFC 4121 §2).
func (c *Context) answer(acc *accept.Accepted, oid asn1.ObjectIdentifier) ([]byte, error) {
	key, err := krb.RandomKey(c.key.EType)
	if err != nil {
		return nil, err
	}
	seq := randomSeq()
	rep, err := acc.Reply(&key, seq)
	if err != nil {
		return nil, fmt.Errorf("answering %s: %w", c.client, err)
	}
	c.key, c.acceptorKey, c.send = key, true, uint64(seq)
	return formatToken(tokAPRep, oid, rep)
}

// randomSeq is a first sequence number: 30 bits, as some peers still take 32 for a
// signed number (RFC 4120 §5.5.1).
func randomSeq() uint32 {
	var b [4]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint32(b[:]) >> 2
}
