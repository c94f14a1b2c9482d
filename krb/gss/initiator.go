package gss

import (
	"errors"
	"fmt"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

const (
	usageAuthenticator = 11
	// apMutual is mutual-required of APOptions (RFC 4120 §5.5.1).
	apMutual = 1 << (31 - 2)
)

// Options are what an initiator asks for.
type Options struct {
	// Flags to ask for. Integrity is always among them. Delegate is left to the
	// field of this name.
	Flags Flags
	// Bindings are the channel bindings; empty: none.
	Bindings []byte
	// Delegate, if set, is handed to the acceptor, which can then act as the client
	// everywhere: a ticket-granting ticket got for this (client.Client's Forward).
	Delegate *krb.Credential
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Initiator is one attempt to establish a context. It is used by one goroutine.
type Initiator struct {
	token   []byte
	c       *Context
	session krb.Key
	ctime   time.Time // what the AP-REP must repeat, to the microsecond
	done    bool
}

// Initiate makes the first token for the server of a service ticket.
func Initiate(cred krb.Credential, o Options) (*Initiator, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Flags&^knownFlags != 0 || o.Flags&Delegate != 0 {
		return nil, fmt.Errorf("flags %#x cannot be asked for here", uint32(o.Flags))
	}
	now := o.Now().UTC().Truncate(time.Microsecond)
	if !now.Before(cred.EndTime) {
		return nil, fmt.Errorf("%s is past its end: get a new one", cred)
	}
	sum := checksum{bindings: bindingsHash(o.Bindings), flags: o.Flags | Integrity}
	var err error
	if o.Delegate != nil {
		if !o.Delegate.Client.Equal(cred.Client) {
			return nil, fmt.Errorf("delegating a %s beside a %s", o.Delegate, cred)
		}
		sum.flags |= Delegate
		if sum.cred, err = formatCred(*o.Delegate, cred.Key, now); err != nil {
			return nil, err
		}
	}
	field, err := sum.format()
	if err != nil {
		return nil, err
	}
	subkey, err := krb.RandomKey(cred.Key.EType)
	if err != nil {
		return nil, fmt.Errorf("a subkey beside the %s: %w", cred, err)
	}
	seq := randomSeq()
	i := &Initiator{session: cred.Key, ctime: now, c: &Context{
		client: cred.Client, server: cred.Server, flags: sum.flags, until: cred.EndTime, ticket: cred.Flags,
		initiator: true, key: subkey, send: uint64(seq),
		recv: newWindow(seq, sum.flags), // until there is an AP-REP
	}}
	req := der.APReq{Ticket: cred, Usage: usageAuthenticator, Checksum: der.Typed{Type: checksumType, Value: field}, At: now, Subkey: &subkey, Seq: &seq}
	if sum.flags&Mutual != 0 {
		req.Options |= apMutual
	}
	msg, err := req.Encode()
	if err != nil {
		return nil, fmt.Errorf("writing an AP-REQ: %w", err)
	}
	if i.token, err = formatToken(tokAPReq, OIDKrb5, msg); err != nil {
		return nil, err
	}
	return i, nil
}

// Token is the token to send first.
func (i *Initiator) Token() []byte { return i.token }

// Finish takes the acceptor's answer, which must be empty when Mutual was not asked
// for, and gives the established context. An answer that does not fit ends the
// attempt. The error wraps a *PeerError when the acceptor sent one.
func (i *Initiator) Finish(answer []byte) (*Context, error) {
	if i.done {
		return nil, errors.New("the attempt is over: begin another")
	}
	i.done = true
	if i.c.flags&Mutual == 0 && len(answer) == 0 {
		return i.c, nil
	}
	id, oid, msg, err := parseToken(answer)
	if err == nil && !oid.Equal(OIDKrb5) {
		err = errFraming // the mechanism is to be named as we named it
	}
	if err != nil {
		return nil, fmt.Errorf("the answer of %s: %w", i.c.server, err)
	}
	switch {
	case id == tokKRBError:
		return nil, fmt.Errorf("%s refuses: %w", i.c.server, parseKRBError(msg))
	case id != tokAPRep || i.c.flags&Mutual == 0:
		return nil, fmt.Errorf("the answer of %s is a token of type %#04x, which was not asked for", i.c.server, id)
	}
	if err := i.apRep(msg); err != nil {
		return nil, fmt.Errorf("%s has not proved itself: %w", i.c.server, err)
	}
	return i.c, nil
}

// apRep verifies an AP-REP (RFC 4120 §3.2.5) and takes its key and number over.
func (i *Initiator) apRep(msg []byte) error {
	rep, err := der.OpenAPRep(msg, i.session)
	if err != nil {
		return err
	}
	if !rep.At.Equal(i.ctime) {
		return errors.New("the answer is to another request")
	}
	if rep.Subkey != nil {
		i.c.key, i.c.acceptorKey = *rep.Subkey, true
	}
	i.c.recv = newWindow(rep.Seq, i.c.flags)
	return nil
}

// PeerError is the KRB-ERROR of an acceptor. Nothing in it is authenticated.
type PeerError struct {
	// Code is the error code (RFC 4120 §7.5.9).
	Code int32
	// Time is the acceptor's clock, to the microsecond.
	Time time.Time
}

// krbErrorText has the codes that an acceptor gives when it does not believe a ticket.
var krbErrorText = map[int32]string{
	31: "the ticket or authenticator is altered, or for another key", 32: "the ticket has expired", 33: "the ticket is not valid yet",
	34: "the request was sent before", 35: "the ticket is not for it", 36: "ticket and authenticator do not match",
	37: "the clocks differ too much", 38: "the address is not the ticket's", 41: "the message was altered",
	44: "it has no key of that version", 45: "it has no key for that name",
}

func (e *PeerError) Error() string {
	text := krbErrorText[e.Code]
	if text == "" {
		text = "error"
	}
	return fmt.Sprintf("%s (%d; its clock says %s)", text, e.Code, e.Time.UTC().Format(time.RFC3339))
}

// parseKRBError reads a KRB-ERROR (RFC 4120 §5.9.1) into a PeerError.
func parseKRBError(msg []byte) error {
	e, err := der.ParseError(msg)
	if err != nil {
		return err
	}
	if e.Code < 0 {
		return der.ErrMalformed
	}
	return &PeerError{Code: e.Code, Time: e.At}
}
