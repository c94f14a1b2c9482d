package kdcotp

import (
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
)

// RFC 2865 §3: a packet is code, identifier, length and authenticator, then
// attributes.
const (
	headerSize = 20
	maxPacket  = 4096

	codeRequest = 1
	codeAccept  = 2
	codeReject  = 3

	attrUserName     = 1
	attrUserPassword = 2

	block       = md5.Size
	maxPassword = 8 * block // RFC 2865 §5.2
)

// request is an Access-Request with a password. The secret is empty.
type request struct {
	id    byte
	auth  [16]byte
	user  string
	typed string
}

var errPacket = errors.New("not an Access-Request with a password")

func bad(what string) error { return fmt.Errorf("%w: %s", errPacket, what) }

// packetSize is how long the packet is whose first bytes head holds, four or more.
func packetSize(head []byte) (int, error) {
	n := int(binary.BigEndian.Uint16(head[2:4]))
	if n < headerSize || n > maxPacket {
		return 0, bad("a packet has 20 to 4096 bytes")
	}
	return n, nil
}

// parse reads one whole packet, and nothing behind it. User-Name and User-Password
// must be there once; other attributes are passed by (RFC 2865 §5), but must be
// whole.
func parse(p []byte) (request, error) {
	var r request
	if len(p) < headerSize {
		return r, bad("too short")
	}
	if n, err := packetSize(p); err != nil || n != len(p) {
		return r, bad("its length is not what it says")
	}
	if p[0] != codeRequest {
		return r, bad(fmt.Sprintf("code %d", p[0]))
	}
	r.id = p[1]
	copy(r.auth[:], p[4:headerSize])
	var user, sealed []byte
	for rest := p[headerSize:]; len(rest) > 0; {
		if len(rest) < 2 || int(rest[1]) < 2 || int(rest[1]) > len(rest) {
			return request{}, bad("an attribute is not whole")
		}
		value := rest[2:rest[1]]
		switch rest[0] {
		case attrUserName:
			if user != nil || len(value) == 0 {
				return request{}, bad("there must be one User-Name")
			}
			user = value
		case attrUserPassword:
			if sealed != nil || len(value) == 0 || len(value) > maxPassword || len(value)%block != 0 {
				return request{}, bad("there must be one User-Password of 16 to 128 bytes")
			}
			sealed = value
		}
		rest = rest[rest[1]:]
	}
	if user == nil || sealed == nil {
		return request{}, bad("User-Name or User-Password is missing")
	}
	r.user, r.typed = string(user), open(sealed, r.auth)
	return r, nil
}

// open takes the mask off a User-Password (RFC 2865 §5.2) and the zeros behind it.
func open(sealed []byte, auth [16]byte) string {
	plain := make([]byte, len(sealed))
	defer clear(plain)
	mask := md5.Sum(auth[:])
	for i := 0; i < len(sealed); i += block {
		for j := range block {
			plain[i+j] = sealed[i+j] ^ mask[j]
		}
		mask = md5.Sum(sealed[i : i+block])
	}
	end := len(plain)
	for end > 0 && plain[end-1] == 0 {
		end--
	}
	return string(plain[:end])
}

// reply is the answer to a request, without attributes, with the Response
// Authenticator (RFC 2865 §3).
func (r request) reply(code byte) []byte {
	p := make([]byte, headerSize)
	p[0], p[1] = code, r.id
	binary.BigEndian.PutUint16(p[2:], headerSize)
	copy(p[4:], r.auth[:])
	sum := md5.Sum(p) // of the request's authenticator in its place
	copy(p[4:], sum[:])
	return p
}
