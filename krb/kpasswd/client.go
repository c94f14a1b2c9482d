package kpasswd

import (
	"context"
	"errors"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/client"
)

// Client changes passwords at the servers of one realm.
type Client struct {
	// KDC gets the tickets, and carries the messages.
	KDC *client.Client
	// Servers are host or host:port (default port 464), tried in this order. Empty:
	// DNS SRV _kpasswd of the realm (RFC 3244 §3).
	Servers []string
}

// Change changes the password of p. It works with an expired one too.
//
// The error is a *client.Error when no ticket could be got with the old password
// (its Kind tells a wrong password, a lock, a wrong clock and an unreachable KDC
// apart), *Refused when the policy does not take the new one, *Denied, ErrUnsure,
// ErrFailed, or another one.
func (c *Client) Change(ctx context.Context, p krb.Principal, old, new string) error {
	return errors.New("not yet written")
}
