package client

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

// Login gets a ticket for a password (the AS exchange, RFC 4120 §3.1). The failure
// is an *Error; a password that cannot be one is WrongPassword.
//
// The first request shows nothing. From its answer it learns how the password
// becomes a key, and the KDC's clock: when that is more than Config.MaxSkew from
// ours, the second one, which shows the time sealed with the key, is not sent.
//
// Success does not show that a true KDC answered: see [Prover].
func (c *Client) Login(ctx context.Context, p krb.Principal, pw string, o LoginOptions) (krb.Credential, error) {
	if err := krb.CheckPassword(pw); err != nil {
		return krb.Credential{}, &Error{Kind: WrongPassword, Err: err}
	}
	return c.as(ctx, p, &password{text: pw, turns: c.turns}, o)
}

// LoginKey is Login with the principal's keys, as a keytab holds them: at most one
// of each type counts.
func (c *Client) LoginKey(ctx context.Context, p krb.Principal, keys []krb.Key, o LoginOptions) (krb.Credential, error) {
	if len(keyring(keys).types()) == 0 {
		return krb.Credential{}, &Error{Kind: WrongPassword, Err: errors.New("there is no key of type 17 to 20")}
	}
	return c.as(ctx, p, keyring(keys), o)
}

// asExchange is one Login. Its fields but the first four are what judge finds, of
// the answer that was taken.
type asExchange struct {
	ctx    context.Context
	c      *Client
	req    kdcReq
	secret secret

	began   time.Time // by our clock
	preauth bool      // the request has a timestamp
	cred    krb.Credential
	info    etypeInfo // for the timestamp; its etype is 0 when the KDC wants none
	failed  *Error
}

func (c *Client) as(ctx context.Context, p krb.Principal, s secret, o LoginOptions) (krb.Credential, error) {
	defer s.forget()
	ctx, cancel := context.WithTimeout(ctx, c.c.Total)
	defer cancel()
	x := &asExchange{ctx: ctx, c: c, secret: s}
	if err := x.prepare(p, o); err != nil {
		return krb.Credential{}, &Error{Kind: Refused, Err: err}
	}
	for range 2 {
		if err := x.ask(ctx); err != nil {
			return krb.Credential{}, err
		}
		if x.failed != nil {
			return krb.Credential{}, x.failed
		}
		if x.info.etype == 0 {
			return x.cred, nil
		}
		c.learn(x.info)
		k, err := s.key(ctx, x.info)
		if err != nil {
			kind := BadReply
			if ctx.Err() != nil {
				kind = Busy
			}
			return krb.Credential{}, &Error{Kind: kind, Err: err}
		}
		pa, err := timestamp(k, c.c.Now())
		if err != nil {
			return krb.Credential{}, &Error{Kind: BadReply, Err: err}
		}
		x.req.pa, x.preauth = []der.Typed{pa}, true
	}
	// judge takes no second demand for a timestamp.
	return krb.Credential{}, &Error{Kind: BadReply, Err: errors.New("the KDC asks for the same again")}
}

func (x *asExchange) prepare(p krb.Principal, o LoginOptions) error {
	realm := x.c.c.Realm
	if o.Service.Realm == "" && len(o.Service.Components) == 0 {
		o.Service = x.c.tgs()
	}
	for _, q := range []krb.Principal{p, o.Service} {
		if err := q.Check(); err != nil {
			return err
		}
		if q.Realm != realm {
			return fmt.Errorf("%s is not of the realm %s", q, realm)
		}
	}
	if o.Life < 0 || o.Renew < 0 {
		return errors.New("a negative life of a ticket")
	}
	for _, a := range o.Addresses {
		if !a.IsValid() {
			return errors.New("an invalid address")
		}
	}
	now := x.c.c.Now()
	x.req = kdcReq{app: appASReq, client: p, server: o.Service, etypes: x.secret.types(), addrs: o.Addresses}
	if o.Forwardable {
		x.req.options |= krb.FlagForwardable
	}
	if o.Life > 0 {
		x.req.till = now.Add(o.Life)
	}
	if o.Renew > 0 {
		x.req.options |= krb.FlagRenewable
		x.req.rtime = now.Add(o.Renew)
	}
	return nil
}

// tgs is the realm's ticket-granting server.
func (c *Client) tgs() krb.Principal {
	return krb.Principal{Components: []string{"krbtgt", c.c.Realm}, Realm: c.c.Realm}
}

// ask sends the request as it is now.
func (x *asExchange) ask(ctx context.Context) error {
	x.info = etypeInfo{}
	x.req.nonce = newNonce()
	msg := x.req.encode(x.req.body())
	x.began = x.c.c.Now()
	_, err := x.c.Send(ctx, Request{Message: msg, Judge: x.judge})
	return err
}

// judge takes an answer that decides, whatever it says.
func (x *asExchange) judge(b []byte, from string) error {
	now := x.c.c.Now()
	if der.IsError(b) {
		return x.judgeError(b, from, now)
	}
	r, err := parseKDCRep(b, appASRep)
	if err != nil {
		return err
	}
	if err := x.req.fits(r, x.req.client); err != nil {
		return err
	}
	info, err := x.choose(r.pa, r.part.EType)
	if err != nil {
		return err
	}
	k, err := x.secret.key(x.ctx, info)
	if err != nil {
		return err
	}
	plain, err := r.part.Open(k, usageASRep)
	if err != nil {
		if x.preauth {
			return err // the KDC has seen the key: the reply is at fault
		}
		x.failed = &Error{Kind: WrongPassword, KDC: from, Err: err}
		return nil
	}
	defer clear(plain)
	part, err := parseRepPart(plain)
	if err != nil {
		return err
	}
	offset, bound := x.c.observe(from, clocks{x.began, now, part.auth.Add(time.Second / 2), time.Second / 2})
	if beyond(offset, bound, x.c.c.MaxSkew) {
		x.failed = &Error{Kind: Skew, KDC: from, Skew: offset, SkewBound: bound}
		return nil
	}
	cred, err := x.req.accept(r, part, now, x.c.c.MaxSkew)
	if err != nil {
		return err
	}
	x.cred = cred
	return nil
}

func (x *asExchange) judgeError(b []byte, from string, now time.Time) error {
	e, err := parseError(b)
	if err != nil {
		return err
	}
	if e.Server.Realm != x.c.c.Realm || e.Client != nil && !slices.Equal(e.Client, x.req.client.Components) && e.Code != errWrongRealm {
		return errors.New("the error is about something else")
	}
	fail, err := x.c.classify(e, from, clocks{x.began, now, e.At, e.within})
	if err != nil {
		return err
	}
	if e.Code == errBadIntegrity && x.preauth && fail.Kind != Skew {
		fail.Kind = WrongPassword // what KDCs of another make say
	}
	if e.Code != errPreauthRequired {
		x.failed = fail
		return nil
	}
	if x.preauth {
		return errors.New("the KDC asks for the pre-authentication that it was sent")
	}
	if fail.Kind == Skew {
		x.failed = fail
		return nil
	}
	pa, err := parseMethodData(e.Data)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(pa, func(p der.Typed) bool { return p.Type == paEncTimestamp }) {
		fail.Kind, fail.Err = MoreThanPassword, errors.New("it offers no encrypted timestamp")
		x.failed = fail
		return nil
	}
	info, err := x.choose(pa, 0)
	if err != nil {
		return err
	}
	x.info = info
	return nil
}

// choose is how the key is made for a reply's type, or for the best one that the KDC
// offers.
func (x *asExchange) choose(pa []der.Typed, etype int32) (etypeInfo, error) {
	types := x.secret.types()
	if etype != 0 && !slices.Contains(types, etype) {
		return etypeInfo{}, fmt.Errorf("encryption type %d was not asked for", etype)
	}
	i := slices.IndexFunc(pa, func(p der.Typed) bool { return p.Type == paEtypeInfo2 })
	if i < 0 {
		if etype == 0 {
			etype = types[0]
		}
		return usual(etype, x.req.client), nil
	}
	infos, err := parseEtypeInfo2(pa[i].Value, x.req.client)
	if err != nil {
		return etypeInfo{}, err
	}
	for _, t := range types {
		for _, info := range infos {
			if info.etype == t && (etype == 0 || t == etype) {
				return info, nil
			}
		}
	}
	if etype != 0 {
		return usual(etype, x.req.client), nil
	}
	return etypeInfo{}, errors.New("the KDC offers none of the encryption types that it was asked for")
}

// fits says whether a reply's open part is an answer to the request.
func (r kdcReq) fits(rep kdcRep, client krb.Principal) error {
	switch {
	case !rep.client.Equal(client):
		return errors.New("the reply is about another client")
	case !rep.ticket.Server.Equal(r.server):
		return errors.New("the reply holds a ticket for another server")
	}
	return nil
}

// accept makes the credential of a reply that fits, once its sealed part is known
// (RFC 4120 §3.1.5, §3.3.4).
func (r kdcReq) accept(rep kdcRep, p repPart, now time.Time, skew time.Duration) (krb.Credential, error) {
	bad := func(what string) (krb.Credential, error) {
		clear(p.key.Value)
		return krb.Credential{}, errors.New(what)
	}
	switch {
	case p.nonce != r.nonce:
		return bad("the reply is an answer to another request")
	case !p.server.Equal(r.server):
		return bad("the reply is about another server")
	case p.flags&krb.FlagInvalid != 0:
		return bad("the ticket is not valid yet")
	case p.start.After(now.Add(skew)):
		return bad("the ticket begins in the future")
	case !p.end.After(p.start) || !p.end.After(now.Add(-skew)):
		return bad("the ticket has ended already")
	case !r.till.IsZero() && p.end.After(r.till):
		return bad("the ticket lasts longer than was asked for")
	case p.flags&krb.FlagRenewable != 0 && !r.rtime.IsZero() && p.renewTill.After(r.rtime):
		return bad("the ticket is renewable for longer than was asked for")
	case !sameAddrs(p.addrs, r.addrs):
		return bad("the ticket is bound to other addresses than was asked for")
	}
	return krb.Credential{
		Client: rep.client, Server: r.server,
		Key: p.key, Ticket: slices.Clone(rep.raw), Flags: p.flags,
		AuthTime: p.auth, StartTime: p.start, EndTime: p.end, RenewTill: p.renewTill,
	}, nil
}

func sameAddrs(a, b []netip.Addr) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		if !slices.ContainsFunc(b, func(y netip.Addr) bool { return y.Unmap() == x }) {
			return false
		}
	}
	return true
}
