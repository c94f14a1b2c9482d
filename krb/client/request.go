package client

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/sekisho/sekisho/krb"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Types of pre-authentication data, RFC 4120 §7.5.2.
const (
	paTGSReq       = 1
	paEncTimestamp = 2
	paEtypeInfo2   = 19
)

// Key usage numbers, RFC 4120 §7.5.1.
const (
	usageTimestamp   = 1
	usageTicket      = 2
	usageASRep       = 3
	usageTGSChecksum = 6
	usageTGSAuth     = 7
	usageTGSRep      = 8
)

// optRenew is the KDC option that no ticket flag stands for (RFC 4120 §5.4.1); the
// others have the bits of the flags.
const optRenew krb.TicketFlags = 1 << (31 - 30)

// kdcReq is KDC-REQ (RFC 4120 §5.4.1).
type kdcReq struct {
	tag, msgType int
	pa           []paData
	options      krb.TicketFlags
	client       krb.Principal // none in a TGS-REQ
	server       krb.Principal
	till, rtime  time.Time // the zero till is as long as possible; the zero rtime is left out
	nonce        int64
	etypes       []int32
	addrs        []netip.Addr
}

// newNonce is a random number of 31 bits, which old KDCs understand too.
func newNonce() int64 {
	var b [4]byte
	rand.Read(b[:])
	return int64(binary.BigEndian.Uint32(b[:]) >> 1)
}

// body is KDC-REQ-BODY.
func (r kdcReq) body() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		add(b, 0, func(b *cryptobyte.Builder) { addFlags(b, uint32(r.options)) })
		if len(r.client.Components) > 0 {
			add(b, 1, func(b *cryptobyte.Builder) { addName(b, r.client) })
		}
		add(b, 2, func(b *cryptobyte.Builder) { addText(b, r.server.Realm) })
		add(b, 3, func(b *cryptobyte.Builder) { addName(b, r.server) })
		till := r.till
		if till.IsZero() {
			till = time.Unix(0, 0)
		}
		addTime(b, 5, till)
		if !r.rtime.IsZero() {
			addTime(b, 6, r.rtime)
		}
		addInt(b, 7, r.nonce)
		add(b, 8, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, t := range r.etypes {
					b.AddASN1Int64(int64(t))
				}
			})
		})
		if len(r.addrs) > 0 {
			add(b, 9, func(b *cryptobyte.Builder) { addAddresses(b, r.addrs) })
		}
	})
	return b.Bytes()
}

// encode gives the message, around a body that body has made.
func (r kdcReq) encode(body []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(app(r.tag), func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 1, version)
			addInt(b, 2, int64(r.msgType))
			if len(r.pa) > 0 {
				add(b, 3, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
						for _, p := range r.pa {
							b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
								addInt(b, 1, int64(p.typ))
								addOctets(b, 2, p.value)
							})
						}
					})
				})
			}
			add(b, 4, func(b *cryptobyte.Builder) { b.AddBytes(body) })
		})
	})
	return b.Bytes()
}

// timestamp is PA-ENC-TIMESTAMP (RFC 4120 §5.2.7.2).
func timestamp(k krb.Key, now time.Time) (paData, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addTime(b, 0, now)
		addInt(b, 1, int64(now.Nanosecond()/1000))
	})
	plain, err := b.Bytes()
	if err != nil {
		return paData{}, err
	}
	v, err := seal(k, usageTimestamp, plain)
	return paData{paEncTimestamp, v}, err
}

// seal gives an EncryptedData.
func seal(k krb.Key, usage uint32, plain []byte) ([]byte, error) {
	c, err := k.Encrypt(usage, plain)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addInt(b, 0, int64(k.EType))
		addOctets(b, 2, c)
	})
	return b.Bytes()
}

// tgsProof is PA-TGS-REQ (RFC 4120 §5.2.7.1): an AP-REQ whose authenticator has a
// checksum of the request's body.
func tgsProof(tgt krb.Credential, body []byte, now time.Time) (paData, error) {
	sum, err := tgt.Key.Checksum(usageTGSChecksum, body)
	if err != nil {
		return paData{}, err
	}
	var b cryptobyte.Builder
	b.AddASN1(app(appAuth), func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, version)
			add(b, 1, func(b *cryptobyte.Builder) { addText(b, tgt.Client.Realm) })
			add(b, 2, func(b *cryptobyte.Builder) { addName(b, tgt.Client) })
			add(b, 3, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					addInt(b, 0, int64(tgt.Key.ChecksumType()))
					addOctets(b, 1, sum)
				})
			})
			addInt(b, 4, int64(now.Nanosecond()/1000))
			addTime(b, 5, now)
		})
	})
	plain, err := b.Bytes()
	if err != nil {
		return paData{}, err
	}
	auth, err := seal(tgt.Key, usageTGSAuth, plain)
	if err != nil {
		return paData{}, err
	}
	if _, err := parseTicket(tgt.Ticket); err != nil {
		return paData{}, err
	}
	b = cryptobyte.Builder{}
	b.AddASN1(app(appAPReq), func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, version)
			addInt(b, 1, msgAPReq)
			add(b, 2, func(b *cryptobyte.Builder) { addFlags(b, 0) })
			add(b, 3, func(b *cryptobyte.Builder) { b.AddBytes(tgt.Ticket) })
			add(b, 4, func(b *cryptobyte.Builder) { b.AddBytes(auth) })
		})
	})
	v, err := b.Bytes()
	if err != nil {
		return paData{}, fmt.Errorf("encoding a request: %w", err)
	}
	return paData{paTGSReq, v}, nil
}

func add(b *cryptobyte.Builder, n int, f cryptobyte.BuilderContinuation) { b.AddASN1(specific(n), f) }

func addInt(b *cryptobyte.Builder, n int, v int64) {
	add(b, n, func(b *cryptobyte.Builder) { b.AddASN1Int64(v) })
}

func addOctets(b *cryptobyte.Builder, n int, v []byte) {
	add(b, n, func(b *cryptobyte.Builder) { b.AddASN1OctetString(v) })
}

func addTime(b *cryptobyte.Builder, n int, t time.Time) {
	add(b, n, func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(t.UTC()) })
}

func addText(b *cryptobyte.Builder, s string) {
	b.AddASN1(tagString, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}

func addFlags(b *cryptobyte.Builder, f uint32) {
	b.AddASN1BitString(binary.BigEndian.AppendUint32(nil, f))
}

func addName(b *cryptobyte.Builder, p krb.Principal) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addInt(b, 0, int64(p.Name().NameType))
		add(b, 1, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, c := range p.Components {
					addText(b, c)
				}
			})
		})
	})
}

func addAddresses(b *cryptobyte.Builder, list []netip.Addr) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, a := range list {
			a = a.Unmap()
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addInt(b, 0, int64(addrType(a)))
				addOctets(b, 1, a.AsSlice())
			})
		}
	})
}
