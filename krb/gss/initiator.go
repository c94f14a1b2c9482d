package gss

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/sekisho/sekisho/krb"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	usageAuthenticator = 11
	usageAPRep         = 12
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
	req, err := formatAPReq(cred, i, field, seq)
	if err != nil {
		return nil, fmt.Errorf("writing an AP-REQ: %w", err)
	}
	if i.token, err = formatToken(tokAPReq, OIDKrb5, req); err != nil {
		return nil, err
	}
	return i, nil
}

// formatAPReq makes the AP-REQ (RFC 4120 §5.5.1).
func formatAPReq(cred krb.Credential, i *Initiator, sum []byte, seq uint32) ([]byte, error) {
	var auth cryptobyte.Builder
	auth.AddASN1(app(2), func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, 5)
			addPrincipal(b, 1, cred.Client)
			b.AddASN1(tag(3), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					addInt(b, 0, checksumType)
					addBytes(b, 1, sum)
				})
			})
			addInt(b, 4, int64(i.ctime.Nanosecond()/1000))
			addTime(b, 5, i.ctime)
			addKey(b, 6, i.c.key)
			addInt(b, 7, int64(seq))
		})
	})
	plain, err := auth.Bytes()
	if err != nil {
		return nil, err
	}
	var options uint32
	if i.c.flags&Mutual != 0 {
		options |= apMutual
	}
	var b cryptobyte.Builder
	b.AddASN1(app(14), func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, 5)
			addInt(b, 1, 14)
			addFlags(b, 2, options)
			b.AddASN1(tag(3), func(b *cryptobyte.Builder) { b.AddBytes(cred.Ticket) })
			addSealed(b, 4, cred.Key, usageAuthenticator, plain)
		})
	})
	return b.Bytes()
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
	s, ok := message(msg, 15)
	if !ok {
		return errDER
	}
	pvno, ok1 := readInt(&s, 0)
	typ, ok2 := readInt(&s, 1)
	if !ok1 || !ok2 || pvno != 5 || typ != 15 {
		return errDER
	}
	plain, err := openSealed(&s, 2, i.session, usageAPRep)
	if err != nil {
		return err
	}
	part, ok := message(plain, 27)
	if !ok || !s.Empty() {
		return errDER
	}
	ctime, ok1 := readTime(&part, 0)
	cusec, ok2 := readInt(&part, 1)
	if !ok1 || !ok2 || cusec < 0 || cusec > 999999 {
		return errDER
	}
	key, subkey := i.c.key, part.PeekASN1Tag(tag(2))
	if subkey {
		if key, err = readKey(&part, 2); err != nil {
			return fmt.Errorf("its subkey: %w", err)
		}
	}
	seq, ok := readSeq(&part, 3)
	if !ok || !part.Empty() {
		return errDER
	}
	if !ctime.Add(time.Duration(cusec) * time.Microsecond).Equal(i.ctime) {
		return errors.New("the answer is to another request")
	}
	i.c.key, i.c.acceptorKey = key, subkey
	i.c.recv = newWindow(seq, i.c.flags)
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

// parseKRBError reads as much of a KRB-ERROR (RFC 4120 §5.9.1) as PeerError holds.
func parseKRBError(msg []byte) error {
	s, ok := message(msg, 30)
	if !ok {
		return errDER
	}
	pvno, ok1 := readInt(&s, 0)
	typ, ok2 := readInt(&s, 1)
	_, _, ok3 := optional(&s, 2)
	_, _, ok4 := optional(&s, 3)
	t, ok5 := readTime(&s, 4)
	usec, ok6 := readInt(&s, 5)
	code, ok7 := readInt(&s, 6)
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6 && ok7) || pvno != 5 || typ != 30 ||
		usec < 0 || usec > 999999 || code < 0 || code > math.MaxInt32 {
		return errDER
	}
	return &PeerError{Code: int32(code), Time: t.Add(time.Duration(usec) * time.Microsecond)}
}
