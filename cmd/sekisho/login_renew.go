package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/ccache"
)

func (a *app) renewTicket(ctx context.Context, s *signIn) error {
	if err := s.kerberos(); err != nil {
		return err
	}
	cache, err := cacheName(s.cache, s.conf)
	if err != nil {
		return err
	}
	store, err := ccache.Open(cache)
	if err != nil {
		return usageError{err}
	}
	c, err := store.Read(ctx)
	if err != nil {
		return noTickets(err, store.Name())
	}
	a.warn(store)
	old, err := c.TGT()
	if err != nil {
		return refusedError{fmt.Errorf("%s: %w", store.Name(), err)}
	}
	cl, err := s.client(old.Client.Realm, false)
	if err != nil {
		return err
	}
	cred, err := cl.Renew(ctx, old)
	if err != nil {
		return s.explain(err, old.Client)
	}
	// The other tickets in the cache stay good. A file stays the same one, since
	// sekishod may have to be able to write it.
	change := func(c ccache.Cache) (ccache.Cache, error) { return renewed(c, cred), nil }
	if strings.HasPrefix(store.Name(), "KEYRING:") {
		err = store.Write(ctx, renewed(c, cred))
	} else {
		err = store.Rewrite(ctx, change)
	}
	if err != nil {
		return err
	}
	return a.sayTicket("renewed the ticket of", cred, store.Name())
}

// renewed puts a new ticket-granting ticket in the old one's place.
func renewed(c ccache.Cache, cred krb.Credential) ccache.Cache {
	out := c
	out.Entries = nil
	placed := false
	for _, e := range c.Entries {
		if e.IsTGT(c.Principal.Realm) && e.Client.Equal(c.Principal) {
			if placed {
				continue
			}
			e, placed = ccache.NewEntry(cred), true
		}
		out.Entries = append(out.Entries, e)
	}
	if !placed { // somebody else has changed the cache meanwhile
		out.Entries = append(out.Entries, ccache.NewEntry(cred))
	}
	return out
}
