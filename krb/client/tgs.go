package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

// Service gets a ticket for server with a ticket-granting ticket (the TGS exchange,
// RFC 4120 §3.3). Only servers of the TGT's own realm can be had: no referral is
// followed. The failure is an *Error.
func (c *Client) Service(ctx context.Context, tgt krb.Credential, server krb.Principal) (krb.Credential, error) {
	return c.tgsExchange(ctx, tgt, kdcReq{server: server, till: tgt.EndTime})
}

// Renew gets the same ticket-granting ticket with a new life (RFC 4120 §2.3). The
// failure is an *Error: Expired when the ticket can be renewed no more.
func (c *Client) Renew(ctx context.Context, tgt krb.Credential) (krb.Credential, error) {
	switch now := c.c.Now(); {
	case tgt.Flags&krb.FlagRenewable == 0:
		return krb.Credential{}, &Error{Kind: Expired, Err: errors.New("the ticket is not renewable")}
	case !tgt.EndTime.After(now):
		return krb.Credential{}, &Error{Kind: Expired, Err: fmt.Errorf("it ended at %s", stamp(tgt.EndTime))}
	case !tgt.RenewTill.After(now):
		return krb.Credential{}, &Error{Kind: Expired, Err: fmt.Errorf("it was renewable until %s", stamp(tgt.RenewTill))}
	}
	return c.tgsExchange(ctx, tgt, kdcReq{server: tgt.Server, options: optRenew | tgt.Flags&passedOn, rtime: tgt.RenewTill})
}

// passedOn are the flags that a ticket made from another keeps, if asked for.
const passedOn = krb.FlagForwardable | krb.FlagRenewable

// Forward gets a ticket-granting ticket that may be handed to another host (RFC 4120
// §2.6), for delegation. The one it is made from must be forwardable.
func (c *Client) Forward(ctx context.Context, tgt krb.Credential, o ForwardOptions) (krb.Credential, error) {
	if tgt.Flags&krb.FlagForwardable == 0 {
		return krb.Credential{}, &Error{Kind: Refused, Err: errors.New("the ticket is not forwardable")}
	}
	for _, a := range o.Addresses {
		if !a.IsValid() {
			return krb.Credential{}, &Error{Kind: Refused, Err: errors.New("an invalid address")}
		}
	}
	r := kdcReq{server: tgt.Server, options: krb.FlagForwarded | tgt.Flags&passedOn, till: tgt.EndTime, addrs: o.Addresses}
	if o.Once {
		r.options &^= krb.FlagForwardable
	}
	if r.options&krb.FlagRenewable != 0 {
		r.rtime = tgt.RenewTill
	}
	return c.tgsExchange(ctx, tgt, r)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// tgsExchange asks for what r says, beside which it fills in what is the same for all.
func (c *Client) tgsExchange(ctx context.Context, tgt krb.Credential, r kdcReq) (krb.Credential, error) {
	fail := func(err error) (krb.Credential, error) {
		return krb.Credential{}, &Error{Kind: Refused, Err: err}
	}
	if !tgt.Server.Equal(c.tgs()) {
		return fail(fmt.Errorf("a %s is not one for %s", tgt, c.tgs()))
	}
	if err := r.server.Check(); err != nil {
		return fail(err)
	}
	if r.server.Realm != c.c.Realm {
		return fail(fmt.Errorf("%s is of another realm than %s, and tickets across realms are not supported", r.server, c.c.Realm))
	}
	if now := c.c.Now(); !tgt.EndTime.After(now) {
		return krb.Credential{}, &Error{Kind: Expired, Err: fmt.Errorf("it ended at %s", stamp(tgt.EndTime))}
	}
	ctx, cancel := context.WithTimeout(ctx, c.c.Total)
	defer cancel()
	r.app, r.etypes, r.nonce = appTGSReq, etypes, newNonce()
	body := r.body()
	pa, err := tgsProof(tgt, body, c.c.Now())
	if err != nil {
		return fail(err)
	}
	r.pa = []der.Typed{pa}
	x := &tgsAsking{c: c, req: r, tgt: tgt, began: c.c.Now()}
	if _, err := c.Send(ctx, Request{Message: r.encode(body), Judge: x.judge}); err != nil {
		return krb.Credential{}, err
	}
	if x.failed != nil {
		return krb.Credential{}, x.failed
	}
	return x.cred, nil
}

// tgsAsking is one TGS exchange; cred and failed are what judge finds.
type tgsAsking struct {
	c     *Client
	req   kdcReq
	tgt   krb.Credential
	began time.Time

	cred   krb.Credential
	failed *Error
}

func (x *tgsAsking) judge(b []byte, from string) error {
	now := x.c.c.Now()
	if der.IsError(b) {
		return x.judgeError(b, from, now)
	}
	r, err := parseKDCRep(b, appTGSRep)
	if err != nil {
		return err
	}
	if s := r.ticket.Server.Components; len(s) == 2 && s[0] == "krbtgt" && s[1] != x.c.c.Realm {
		return errors.New("the KDC refers to another realm, and tickets across realms are not supported")
	}
	if err := x.req.fits(r, x.tgt.Client); err != nil {
		return err
	}
	plain, err := r.part.Open(x.tgt.Key, usageTGSRep)
	if err != nil {
		return err
	}
	defer clear(plain)
	part, err := parseRepPart(plain)
	if err != nil {
		return err
	}
	req := x.req
	if len(part.addrs) > 0 && len(req.addrs) == 0 && req.options&krb.FlagForwarded == 0 {
		req.addrs = slices.Clone(part.addrs) // those of the TGT, which we do not know (§3.3.3)
	}
	cred, err := req.accept(r, part, now, x.c.c.MaxSkew)
	if err != nil {
		return err
	}
	if !cred.AuthTime.Equal(x.tgt.AuthTime) {
		clear(cred.Key.Value)
		return errors.New("the ticket is of another sign-in")
	}
	x.cred = cred
	return nil
}

func (x *tgsAsking) judgeError(b []byte, from string, now time.Time) error {
	e, err := parseError(b)
	if err != nil {
		return err
	}
	if e.Server.Realm != x.c.c.Realm {
		return errors.New("the error is about something else")
	}
	x.failed, err = x.c.classify(e, from, clocks{x.began, now, e.At, e.within})
	return err
}
