package gss

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

const (
	appCred        = 22
	appEncCredPart = 29

	usageKRBCred = 14
	// maxDelegated is how many tickets one client may hand over.
	maxDelegated = 4
)

// formatCred makes a KRB-CRED (RFC 4120 §5.8) of one ticket, sealed with the session
// key of the ticket that it travels with (RFC 4121 §4.1.1).
func formatCred(c krb.Credential, session krb.Key, now time.Time) ([]byte, error) {
	var nonce [4]byte
	rand.Read(nonce[:])
	return sealCred(c.Ticket, der.App(appEncCredPart, der.Field(0, der.Seq(formatCredInfo(c))),
		der.Field(1, der.Int(int64(binary.BigEndian.Uint32(nonce[:])>>2))),
		der.Field(2, der.Time(now)), der.Field(3, der.Microseconds(now))), session)
}

// sealCred makes the KRB-CRED of a ticket and of the EncKrbCredPart about it.
func sealCred(ticket, part []byte, session krb.Key) ([]byte, error) {
	sealed, err := der.Seal(session, usageKRBCred, part)
	if err != nil {
		return nil, fmt.Errorf("sealing the delegated credentials: %w", err)
	}
	return der.App(appCred, der.Field(0, der.Int(der.Version)), der.Field(1, der.Int(appCred)),
		der.Field(2, der.Seq(ticket)), der.Field(3, sealed)), nil
}

func formatCredInfo(c krb.Credential) []byte {
	fields := [][]byte{
		der.Field(0, der.Key(c.Key)), der.Field(1, der.Text(c.Client.Realm)), der.Field(2, der.Name(c.Client)),
		der.Field(3, der.Flags(uint32(c.Flags))),
	}
	for n, t := range []time.Time{c.AuthTime, c.StartTime, c.EndTime, c.RenewTill} {
		if !t.IsZero() {
			fields = append(fields, der.Field(4+n, der.Time(t)))
		}
	}
	return der.Seq(append(fields, der.Field(8, der.Text(c.Server.Realm)), der.Field(9, der.Name(c.Server)))...)
}

// parseCred reads a KRB-CRED of ticket-granting tickets of one client.
func parseCred(b []byte, session krb.Key, client krb.Principal) ([]krb.Credential, error) {
	r := der.Open(b, appCred)
	r.Head(0, appCred)
	tickets := r.Field(2).Seq()
	sealed := r.Field(3).Sealed()
	if err := r.Done(); err != nil {
		return nil, err
	}
	plain, err := sealed.Open(session, usageKRBCred)
	if err != nil {
		return nil, err
	}
	part := der.Open(plain, appEncCredPart)
	infos := part.Field(0).Seq()
	for n := 1; n <= 5; n++ { // nonce, time and addresses: the AP-REQ is fresh already
		if part.Has(n) {
			part.Field(n)
		}
	}
	if err := part.Done(); err != nil {
		return nil, err
	}
	var out []krb.Credential
	for tickets.More(len(out), maxDelegated) {
		ticket, info := tickets.Message(1), infos.Element()
		c, err := parseCredInfo(info)
		if err == nil {
			err = tickets.Err()
		}
		if err != nil {
			return nil, err
		}
		if !c.Client.Equal(client) {
			return nil, fmt.Errorf("a ticket of %s, handed over by %s", c.Client, client)
		}
		if len(c.Server.Components) != 2 || c.Server.Components[0] != "krbtgt" {
			return nil, fmt.Errorf("a ticket for %s, which is no ticket-granting ticket", c.Server)
		}
		c.Ticket = bytes.Clone(ticket)
		out = append(out, c)
	}
	if tickets.Done() != nil || infos.Done() != nil || len(out) == 0 {
		return nil, fmt.Errorf("tickets and their descriptions do not go together, or are more than %d", maxDelegated)
	}
	return out, nil
}

// parseCredInfo reads KrbCredInfo. What is optional there is needed by whoever
// wants to use the ticket, but for the start, the renewable life and the addresses.
func parseCredInfo(r der.Reader) (krb.Credential, error) {
	c := krb.Credential{Key: r.Field(0).Key()}
	c.Client = r.Principal(1)
	c.Flags = krb.TicketFlags(r.Field(3).Flags())
	for n, t := range []*time.Time{&c.AuthTime, &c.StartTime, &c.EndTime, &c.RenewTill} {
		if r.Has(4 + n) {
			*t = r.Field(4 + n).Time()
		}
	}
	r.Must(!c.EndTime.IsZero())
	if c.StartTime.IsZero() {
		c.StartTime = c.AuthTime
	}
	c.Server = r.Principal(8)
	if r.Has(10) {
		r.Field(10).Addresses()
	}
	if err := r.Done(); err != nil {
		return krb.Credential{}, err
	}
	for _, p := range []krb.Principal{c.Client, c.Server} {
		if err := p.Check(); err != nil {
			return krb.Credential{}, err
		}
	}
	return c, nil
}
