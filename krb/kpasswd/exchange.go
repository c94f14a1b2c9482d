package kpasswd

import (
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sekisho/sekisho/krb"
)

// exchange is the client's side of one request.
type exchange struct {
	cred   krb.Credential
	subkey krb.Key
	seq    uint32
	at     time.Time // the authenticator's, to the microsecond
	apReq  []byte
}

// newExchange makes the AP-REQ (RFC 4120 §5.5.1) with a subkey of our own, which
// RFC 3244 §2 has everything sealed with.
func newExchange(cred krb.Credential, now time.Time) (*exchange, error) {
	x := &exchange{cred: cred, seq: newSeq(), at: now.UTC().Truncate(time.Microsecond)}
	var err error
	if x.subkey, err = krb.RandomKey(cred.Key.EType); err != nil {
		return nil, err
	}
	text := func(b *cryptobyte.Builder, s string) {
		b.AddASN1(asn1.GeneralString, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
	}
	authenticator, err := message(partAuthent, func(b *cryptobyte.Builder) {
		addInt(b, 0, 5)
		addField(b, 1, func(b *cryptobyte.Builder) { text(b, cred.Client.Realm) })
		addField(b, 2, func(b *cryptobyte.Builder) {
			name := cred.Client.Name()
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addInt(b, 0, int64(name.NameType))
				addField(b, 1, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
						for _, c := range name.NameString {
							text(b, c)
						}
					})
				})
			})
		})
		addInt(b, 4, int64(x.at.Nanosecond()/1000))
		addField(b, 5, func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(x.at.Truncate(time.Second)) })
		addField(b, 6, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addInt(b, 0, int64(x.subkey.EType))
				addOctets(b, 1, x.subkey.Value)
			})
		})
		addInt(b, 7, int64(x.seq))
	})
	if err != nil {
		return nil, err
	}
	sealed, err := cred.Key.Encrypt(usageAuthenticator, authenticator)
	if err != nil {
		return nil, err
	}
	x.apReq, err = message(typeAPReq, func(b *cryptobyte.Builder) {
		addInt(b, 0, 5)
		addInt(b, 1, typeAPReq)
		addField(b, 2, func(b *cryptobyte.Builder) { b.AddASN1BitString([]byte{0, 0, 0, 0}) })
		addField(b, 3, func(b *cryptobyte.Builder) { b.AddBytes(cred.Ticket) })
		addSealed(b, 4, cred.Key, sealed)
	})
	return x, err
}

// openReply opens an AP-REP (RFC 4120 §5.5.2), which proves that the server opened
// our ticket, and gives its sequence number.
func (x *exchange) openReply(raw []byte) (seq uint32, err error) {
	s, err := open(raw, typeAPRep)
	if err != nil {
		return 0, err
	}
	if !readIs(&s, 0, 5) || !readIs(&s, 1, typeAPRep) {
		return 0, errMalformed
	}
	part, err := readSealed(&s, 2, x.cred.Key, usageAPRep)
	if err != nil {
		return 0, err
	}
	if !s.Empty() {
		return 0, errMalformed
	}
	at, seq, err := parseReplyPart(part)
	if err != nil {
		return 0, err
	}
	if !at.Equal(x.at) {
		return 0, errOtherRequest
	}
	return seq, nil
}

// parseReplyPart reads an EncAPRepPart.
func parseReplyPart(part []byte) (at time.Time, seq uint32, err error) {
	s, err := open(part, partAPRep)
	if err != nil {
		return at, 0, err
	}
	var w, skip cryptobyte.String
	var usec, n int64
	if !s.ReadASN1(&w, field(0)) || !w.ReadASN1GeneralizedTime(&at) || !w.Empty() || !readInt(&s, 1, &usec) || usec < 0 || usec > 999999 ||
		hasField(s, 2) && !readField(&s, 2, &skip, asn1.SEQUENCE) ||
		hasField(s, 3) && !readInt(&s, 3, &n) || !s.Empty() {
		return at, 0, errMalformed
	}
	return at.Add(time.Duration(usec) * time.Microsecond), uint32(n), nil
}
