package gss

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/sekisho/sekisho/krb"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	usageKRBCred = 14
	// maxDelegated is how many tickets one client may hand over.
	maxDelegated = 4
)

// formatCred makes a KRB-CRED (RFC 4120 §5.8) of one ticket, sealed with the session
// key of the ticket that it travels with (RFC 4121 §4.1.1).
func formatCred(c krb.Credential, session krb.Key, now time.Time) ([]byte, error) {
	var part cryptobyte.Builder
	part.AddASN1(app(29), func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(tag(0), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { addCredInfo(b, c) })
				})
			})
			var nonce [4]byte
			rand.Read(nonce[:])
			addInt(b, 1, int64(nonce[0]&0x3f)<<24|int64(nonce[1])<<16|int64(nonce[2])<<8|int64(nonce[3]))
			addTime(b, 2, now)
			addInt(b, 3, int64(now.Nanosecond()/1000))
		})
	})
	plain, err := part.Bytes()
	if err != nil {
		return nil, fmt.Errorf("writing the delegated credentials: %w", err)
	}
	return sealCred(c.Ticket, plain, session)
}

// sealCred makes the KRB-CRED of a ticket and of the EncKrbCredPart about it.
func sealCred(ticket, part []byte, session krb.Key) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(app(22), func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, 5)
			addInt(b, 1, 22)
			b.AddASN1(tag(2), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(ticket) })
			})
			addSealed(b, 3, session, usageKRBCred, part)
		})
	})
	out, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("writing the delegated credentials: %w", err)
	}
	return out, nil
}

func addCredInfo(b *cryptobyte.Builder, c krb.Credential) {
	addKey(b, 0, c.Key)
	addPrincipal(b, 1, c.Client)
	addFlags(b, 3, uint32(c.Flags))
	addTime(b, 4, c.AuthTime)
	addTime(b, 5, c.StartTime)
	addTime(b, 6, c.EndTime)
	addTime(b, 7, c.RenewTill)
	addPrincipal(b, 8, c.Server)
}

// parseCred reads a KRB-CRED of ticket-granting tickets of one client.
func parseCred(b []byte, session krb.Key, client krb.Principal) ([]krb.Credential, error) {
	s, ok := message(b, 22)
	if !ok {
		return nil, errDER
	}
	pvno, ok1 := readInt(&s, 0)
	typ, ok2 := readInt(&s, 1)
	list, ok3 := field(&s, 2)
	tickets, ok4 := whole(list, cbasn1.SEQUENCE)
	if !ok1 || !ok2 || !ok3 || !ok4 || pvno != 5 || typ != 22 {
		return nil, errDER
	}
	plain, err := openSealed(&s, 3, session, usageKRBCred)
	if err != nil {
		return nil, err
	}
	if !s.Empty() {
		return nil, errDER
	}
	part, ok := message(plain, 29)
	if !ok {
		return nil, errDER
	}
	list, ok1 = field(&part, 0)
	infos, ok2 := whole(list, cbasn1.SEQUENCE)
	if !ok1 || !ok2 {
		return nil, errDER
	}
	for n := uint8(1); n <= 5; n++ { // nonce, time and addresses: the AP-REQ is fresh already
		if _, _, ok := optional(&part, n); !ok {
			return nil, errDER
		}
	}
	if !part.Empty() {
		return nil, errDER
	}
	var out []krb.Credential
	for !tickets.Empty() {
		if len(out) == maxDelegated {
			return nil, fmt.Errorf("more than %d tickets", maxDelegated)
		}
		var ticket, info cryptobyte.String
		if !tickets.ReadASN1Element(&ticket, app(1)) || !infos.ReadASN1(&info, cbasn1.SEQUENCE) {
			return nil, errDER
		}
		c, err := parseCredInfo(info)
		if err != nil {
			return nil, err
		}
		if !c.Client.Equal(client) {
			return nil, fmt.Errorf("a ticket of %s, handed over by %s", c.Client, client)
		}
		if len(c.Server.Components) != 2 || c.Server.Components[0] != "krbtgt" {
			return nil, fmt.Errorf("a ticket for %s, which is no ticket-granting ticket", c.Server)
		}
		c.Ticket = append([]byte(nil), ticket...)
		out = append(out, c)
	}
	if len(out) == 0 || !infos.Empty() {
		return nil, errors.New("tickets and their descriptions do not go together")
	}
	return out, nil
}

// parseCredInfo reads KrbCredInfo. What is optional there is needed by whoever
// wants to use the ticket, but for the start, the renewable life and the addresses.
func parseCredInfo(s cryptobyte.String) (c krb.Credential, err error) {
	if c.Key, err = readKey(&s, 0); err != nil {
		return c, err
	}
	if c.Client, err = readPrincipal(&s, 1); err != nil {
		return c, err
	}
	flags, ok := readFlags(&s, 3)
	if !ok {
		return c, errDER
	}
	c.Flags = krb.TicketFlags(flags)
	for n, t := range []*time.Time{&c.AuthTime, &c.StartTime, &c.EndTime, &c.RenewTill} {
		if *t, ok = readOptionalTime(&s, uint8(4+n)); !ok {
			return c, errDER
		}
	}
	if c.EndTime.IsZero() {
		return c, errDER
	}
	if c.StartTime.IsZero() {
		c.StartTime = c.AuthTime
	}
	if c.Server, err = readPrincipal(&s, 8); err != nil {
		return c, err
	}
	if _, _, ok := optional(&s, 10); !ok || !s.Empty() {
		return c, errDER
	}
	return c, nil
}
