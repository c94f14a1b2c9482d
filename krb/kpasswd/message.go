package kpasswd

import (
	"encoding/binary"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
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
	if !ok || !der.Is(first, typeAPReq) || !der.Is(second, typePriv) {
		return r, der.ErrMalformed
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
		return nil, der.ErrMalformed
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
	r := der.NewReader(data).Seq()
	out := newPassword{password: string(r.Field(0).Octets())}
	if len(r.Rest()) > 0 { // a name without a realm, or the other way round, is nobody
		p := krb.Principal{Components: r.Field(1).Name()}
		p.Realm = r.Field(2).Text()
		out.target = &p
	}
	if err := r.Done(); err != nil {
		return newPassword{}, err
	}
	return out, nil
}

// krbError is a KRB-ERROR (RFC 4120 §5.9.1) with a result in its e-data, for a
// request that is refused before a ticket was believed (RFC 3244 §2).
func krbError(realm string, code uint16, words string, now time.Time) []byte {
	const genericError = 60 // KRB_ERR_GENERIC
	return der.Error{Code: genericError, At: now, Server: Service(realm), Data: result(code, words)}.Encode()
}

// result is the user data of a reply: code and words.
func result(code uint16, words string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, code), words...)
}
