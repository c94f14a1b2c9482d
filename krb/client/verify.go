package client

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

// Verify proves a ticket-granting ticket that Login has just got: it gets a ticket
// for a service of which keys are known, and that must be sealed with one of them,
// be about the same client and sign-in, and hold the session key that the KDC named.
// Of a KDC that does not know the keys it says FalseKDC.
func (c *Client) Verify(ctx context.Context, tgt krb.Credential, service krb.Principal, keys []krb.Key) error {
	cred, err := c.Service(ctx, tgt, service)
	if is(err, UnknownService) {
		return &Error{Kind: FalseKDC, Err: fmt.Errorf("it does not know %s, whose keys are ours: %w", service, err)}
	}
	if err != nil {
		return err
	}
	defer clear(cred.Key.Value)
	if err := c.verify(tgt, cred, keys); err != nil {
		return &Error{Kind: FalseKDC, Err: err}
	}
	return nil
}

func (c *Client) verify(tgt, cred krb.Credential, keys []krb.Key) error {
	t, err := parseTicket(cred.Ticket)
	if err != nil {
		return err
	}
	var plain []byte
	err = fmt.Errorf("the keytab holds no key of type %d", t.Part.EType)
	for _, k := range keys {
		if k.EType != t.Part.EType {
			continue
		}
		if plain, err = k.Decrypt(usageTicket, t.Part.Cipher); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("its ticket for %s does not open with our keys; if they are not the newest, write the keytab anew: %w", cred.Server, err)
	}
	defer clear(plain)
	part, err := der.ParseTicketPart(plain)
	if err != nil {
		return fmt.Errorf("the sealed part of the ticket is %w", err)
	}
	now := c.c.Now()
	switch {
	case !part.Client.Equal(tgt.Client):
		return fmt.Errorf("its ticket is about %s, not %s", part.Client, tgt.Client)
	case part.Key.Type != cred.Key.EType || !hmac.Equal(part.Key.Value, cred.Key.Value):
		return errors.New("its ticket is an old one, with another session key than it says")
	case !part.Auth.Equal(tgt.AuthTime) || now.Sub(part.Auth).Abs() > c.c.MaxSkew+c.c.Total:
		return fmt.Errorf("its ticket is of a sign-in at %s, not of this one", stamp(part.Auth))
	case part.Flags&krb.FlagInvalid != 0 || !part.End.After(now.Add(-c.c.MaxSkew)):
		return errors.New("its ticket is not valid now")
	}
	return nil
}
