package gss

import (
	"crypto/hmac"
	"crypto/md5"
	"encoding/binary"
	"errors"
)

// Flags are the context flags (RFC 4121 §4.1.1.1), as the initiator asks for them.
type Flags uint32

// The flags.
const (
	// Delegate: credentials are handed over.
	Delegate Flags = 1
	// Mutual: the acceptor proves itself too.
	Mutual Flags = 2
	// Replay: a message that comes again is refused.
	Replay Flags = 4
	// Sequence: a message out of order, or after one that is missing, is refused.
	Sequence Flags = 8
	// Confidential: Wrap may seal.
	Confidential Flags = 16
	// Integrity: MIC and Wrap tokens may be used.
	Integrity Flags = 32

	flagDCEStyle Flags = 0x1000
	knownFlags         = Delegate | Mutual | Replay | Sequence | Confidential | Integrity
)

// checksumType is the type of the authenticator's checksum that is none, but
// carries the fields below (RFC 4121 §4.1.1).
const checksumType = 0x8003

const checksumHead = 24

// bindingsHash is Bnd (RFC 4121 §4.1.1.2) of bindings that have application data
// only: no addresses. It is all zeros for none.
func bindingsHash(data []byte) (h [16]byte) {
	if len(data) == 0 {
		return h
	}
	b := make([]byte, 16, 20+len(data)) // two address types and two lengths, all 0
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return md5.Sum(append(b, data...))
}

// checksum is what the authenticator's checksum says.
type checksum struct {
	bindings [16]byte
	flags    Flags
	// cred is the KRB-CRED; nil when Delegate is not set.
	cred []byte
}

func (c checksum) format() ([]byte, error) {
	b := binary.LittleEndian.AppendUint32(nil, 16)
	b = append(b, c.bindings[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(c.flags))
	if c.flags&Delegate == 0 {
		return b, nil
	}
	if len(c.cred) > 0xffff {
		return nil, errors.New("the delegated credentials are longer than 65535 bytes")
	}
	b = binary.LittleEndian.AppendUint16(b, 1)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(c.cred)))
	return append(b, c.cred...), nil
}

// parseChecksum reads the field. Extensions behind it have the form of RFC 4121
// §4.1.1 (Exts) and are left alone: none is known that would forbid something.
func parseChecksum(b []byte) (checksum, error) {
	bad := errors.New("the authenticator's checksum is not that of RFC 4121 §4.1.1")
	if len(b) < checksumHead || binary.LittleEndian.Uint32(b) != 16 {
		return checksum{}, bad
	}
	c := checksum{flags: Flags(binary.LittleEndian.Uint32(b[20:]))}
	copy(c.bindings[:], b[4:])
	rest := b[checksumHead:]
	if c.flags&Delegate != 0 {
		if len(rest) < 4 || binary.LittleEndian.Uint16(rest) != 1 {
			return checksum{}, bad
		}
		n := int(binary.LittleEndian.Uint16(rest[2:]))
		if rest = rest[4:]; n == 0 || n > len(rest) {
			return checksum{}, bad
		}
		c.cred, rest = rest[:n], rest[n:]
	}
	for len(rest) > 0 { // type and length, big-endian as MIT has them
		if len(rest) < 8 || uint64(binary.BigEndian.Uint32(rest[4:])) > uint64(len(rest)-8) {
			return checksum{}, bad
		}
		rest = rest[8+binary.BigEndian.Uint32(rest[4:]):]
	}
	return c, nil
}

// ErrBindings says that the initiator speaks through another channel than the
// acceptor: somebody may stand between them.
var ErrBindings = errors.New("the channel bindings differ: the client does not speak to us directly, or is not bound to this channel")

// checkBindings judges the initiator's hash. want are those that would do; claimed
// is the initiator's word that it sent some (MS-KILE §3.2.5.8).
func checkBindings(got [16]byte, want [][]byte, claimed, require bool) error {
	if len(want) == 0 {
		if require {
			return errors.New("channel bindings are required, and the caller gave none to compare with")
		}
		return nil
	}
	fits := false
	for _, w := range want {
		if len(w) == 0 {
			continue
		}
		h := bindingsHash(w)
		fits = hmac.Equal(got[:], h[:]) || fits
	}
	if fits || got == [16]byte{} && !claimed && !require {
		return nil
	}
	return ErrBindings
}
