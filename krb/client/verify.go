package client

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"

	"github.com/sekisho/sekisho/krb"
)

// Verify proves a ticket-granting ticket that Login has just got: it gets a ticket
// for a service of which keys are known, and that must be sealed with one of them,
// be about the same client and sign-in, and hold the session key that the KDC named.
// Of a KDC that does not know the keys it says FalseKDC.
func (c *Client) Verify(ctx context.Context, tgt krb.Credential, service krb.Principal, keys []krb.Key) error {
	cred, err := c.Service(ctx, tgt, service)
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
	err = fmt.Errorf("the keytab holds no key of type %d", t.part.etype)
	for _, k := range keys {
		if k.EType != t.part.etype {
			continue
		}
		if plain, err = k.Decrypt(usageTicket, t.part.cipher); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("its ticket for %s does not open with our keys; if they are not the newest, write the keytab anew: %w", cred.Server, err)
	}
	defer clear(plain)
	part, err := parseTicketPart(plain)
	if err != nil {
		return err
	}
	defer clear(part.key.Value)
	now := c.c.Now()
	switch {
	case !part.client.Equal(tgt.Client):
		return fmt.Errorf("its ticket is about %s, not %s", part.client, tgt.Client)
	case part.key.EType != cred.Key.EType || !hmac.Equal(part.key.Value, cred.Key.Value):
		return errors.New("its ticket is an old one, with another session key than it says")
	case !part.auth.Equal(tgt.AuthTime) || now.Sub(part.auth).Abs() > c.c.MaxSkew+c.c.Total:
		return fmt.Errorf("its ticket is of a sign-in at %s, not of this one", stamp(part.auth))
	case part.flags&krb.FlagInvalid != 0 || !part.end.After(now.Add(-c.c.MaxSkew)):
		return errors.New("its ticket is not valid now")
	}
	return nil
}
