package accept

import (
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sekisho/sekisho/krb"
)

const (
	appAPRep    = 15
	appEncAPRep = 27
	appKRBError = 30
	msgAPRep    = 15
	msgKRBError = 30
)

// Reply makes the AP-REP (RFC 4120 §3.2.4), with our subkey, or nil for none,
// and our first sequence number.
func (a *Accepted) Reply(subkey *krb.Key, seq uint32) ([]byte, error) {
	var plain cryptobyte.Builder
	addApplication(&plain, appEncAPRep, func(b *cryptobyte.Builder) {
		addTime(b, 0, a.CTime)
		addInt(b, 1, int64(a.CTime.Nanosecond()/1000))
		if subkey != nil {
			addField(b, 2, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					addInt(b, 0, int64(subkey.EType))
					addField(b, 1, func(b *cryptobyte.Builder) { b.AddASN1OctetString(subkey.Value) })
				})
			})
		}
		addInt(b, 3, int64(seq))
	})
	body, err := plain.Bytes()
	if err != nil {
		return nil, err
	}
	sealed, err := a.SessionKey.Encrypt(usageAPRep, body)
	if err != nil {
		return nil, err
	}
	var out cryptobyte.Builder
	addApplication(&out, appAPRep, func(b *cryptobyte.Builder) {
		addInt(b, 0, pvno)
		addInt(b, 1, msgAPRep)
		addField(b, 2, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addInt(b, 0, int64(a.SessionKey.EType))
				addField(b, 2, func(b *cryptobyte.Builder) { b.AddASN1OctetString(sealed) })
			})
		})
	})
	return out.Bytes()
}

// What the answers are built of: [APPLICATION n] SEQUENCE of fields with
// explicit tags (RFC 4120 §5.1).

func addApplication(b *cryptobyte.Builder, n uint8, body cryptobyte.BuilderContinuation) {
	b.AddASN1(asn1.Tag(0x60|n), func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, body) })
}

func addField(b *cryptobyte.Builder, n uint8, value cryptobyte.BuilderContinuation) {
	b.AddASN1(asn1.Tag(n).ContextSpecific().Constructed(), value)
}

func addInt(b *cryptobyte.Builder, n uint8, v int64) {
	addField(b, n, func(b *cryptobyte.Builder) { b.AddASN1Int64(v) })
}

func addTime(b *cryptobyte.Builder, n uint8, t time.Time) {
	addField(b, n, func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(t.UTC()) })
}

func addString(b *cryptobyte.Builder, s string) {
	b.AddASN1(tagGeneralString, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}

func addName(b *cryptobyte.Builder, n uint8, p krb.Principal) {
	addField(b, n, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, int64(p.Name().NameType))
			addField(b, 1, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					for _, c := range p.Components {
						addString(b, c)
					}
				})
			})
		})
	})
}
