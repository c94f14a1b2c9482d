package kpasswd

import (
	"encoding/binary"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sekisho/sekisho/krb"
)

// Versions of RFC 3244 §2.
const (
	versionChange = 1
	versionSet    = 0xff80
)

// maxMessage bounds a request and a reply in bytes.
const maxMessage = 32 << 10

// request is a request's frame.
type request struct {
	version     uint16
	apReq, priv []byte
}

// parseRequest reads a frame: length, version, length of the AP-REQ, AP-REQ,
// KRB-PRIV. It is strict about the tags, so that no server's reply is a request.
func parseRequest(b []byte) (request, error) {
	var r request
	first, second, version, ok := parseFrame(b)
	if !ok || len(first) == 0 || first[0] != byte(application(typeAPReq)) || len(second) == 0 || second[0] != byte(application(typePriv)) {
		return r, errMalformed
	}
	return request{version, first, second}, nil
}

func parseFrame(b []byte) (first, second []byte, version uint16, ok bool) {
	if len(b) < 6 || len(b) > maxMessage || int(binary.BigEndian.Uint16(b)) != len(b) {
		return nil, nil, 0, false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n > len(b)-6 {
		return nil, nil, 0, false
	}
	return b[6 : 6+n], b[6+n:], binary.BigEndian.Uint16(b[2:]), true
}

// frame is the inverse of parseFrame.
func frame(version uint16, first, second []byte) ([]byte, error) {
	n := 6 + len(first) + len(second)
	if n > maxMessage {
		return nil, errMalformed
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, n), uint16(n))
	b = binary.BigEndian.AppendUint16(b, version)
	b = binary.BigEndian.AppendUint16(b, uint16(len(first)))
	return append(append(b, first...), second...), nil
}

// newPassword is what a request's KRB-PRIV asks for. target is nil when none is
// named.
type newPassword struct {
	password string
	target   *krb.Principal
}

// parseNewPassword reads the user data of a request: the password itself, or a
// ChangePasswdData (RFC 3244 §2) whose names are taken only as krb takes them.
func parseNewPassword(version uint16, data []byte) (newPassword, error) {
	if version == versionChange {
		return newPassword{password: string(data)}, nil
	}
	in := cryptobyte.String(data)
	var seq, password, names, realm cryptobyte.String
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !in.Empty() || !readField(&seq, 0, &password, asn1.OCTET_STRING) {
		return newPassword{}, errMalformed
	}
	out := newPassword{password: string(password)}
	if seq.Empty() {
		return out, nil
	}
	// A name without a realm, or the other way round, is nobody.
	var kind int64
	if !readField(&seq, 1, &names, asn1.SEQUENCE) || !readInt(&names, 0, &kind) {
		return newPassword{}, errMalformed
	}
	var list cryptobyte.String
	if !readField(&names, 1, &list, asn1.SEQUENCE) || !names.Empty() || !readField(&seq, 2, &realm, asn1.GeneralString) || !seq.Empty() {
		return newPassword{}, errMalformed
	}
	p := krb.Principal{Realm: string(realm)}
	for !list.Empty() {
		var c cryptobyte.String
		if !list.ReadASN1(&c, asn1.GeneralString) || len(p.Components) == 8 {
			return newPassword{}, errMalformed
		}
		p.Components = append(p.Components, string(c))
	}
	out.target = &p
	return out, nil
}

// krbError is a KRB-ERROR (RFC 4120 §5.9.1) with a result in its e-data, for a
// request that is refused before a ticket was believed (RFC 3244 §2).
func krbError(realm string, code uint16, words string, now time.Time) ([]byte, error) {
	const genericError = 60 // KRB_ERR_GENERIC
	service := Service(realm)
	text := func(b *cryptobyte.Builder, s string) {
		b.AddASN1(asn1.GeneralString, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
	}
	return message(typeError, func(b *cryptobyte.Builder) {
		addInt(b, 0, 5)
		addInt(b, 1, typeError)
		addField(b, 4, func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(now.UTC().Truncate(time.Second)) })
		addInt(b, 5, int64(now.Nanosecond()/1000))
		addInt(b, 6, genericError)
		addField(b, 9, func(b *cryptobyte.Builder) { text(b, realm) })
		addField(b, 10, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addInt(b, 0, 2)
				addField(b, 1, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
						for _, c := range service.Components {
							text(b, c)
						}
					})
				})
			})
		})
		addOctets(b, 12, result(code, words))
	})
}

// result is the user data of a reply: code and words.
func result(code uint16, words string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, code), words...)
}
