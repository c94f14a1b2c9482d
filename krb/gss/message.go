package gss

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Key usages (RFC 4121 §2).
const (
	usageAcceptorSeal  = 22
	usageAcceptorSign  = 23
	usageInitiatorSeal = 24
	usageInitiatorSign = 25
)

// Per-message tokens (RFC 4121 §4.2): identifiers, flags and the header's length.
const (
	tokMIC  = 0x0404
	tokWrap = 0x0504

	sentByAcceptor = 1
	sealed         = 2
	acceptorSubkey = 4

	headerLen = 16
	// maxMessage is the longest message that is wrapped or unwrapped.
	maxMessage = 16 << 20
)

// ErrToken says that a MIC or Wrap token is malformed, was altered, is the other
// direction's or was made with another key.
var ErrToken = errors.New("the message token is not this context's, or was altered")

// header is the first 16 bytes of a per-message token.
type header struct {
	id       uint16
	flags    byte
	ec, rrc  uint16 // of a Wrap token; filler in a MIC token
	sequence uint64
}

func (h header) bytes() []byte {
	b := make([]byte, 4, 64)
	binary.BigEndian.PutUint16(b, h.id)
	b[2], b[3] = h.flags, 0xff
	if h.id == tokMIC {
		b = append(b, 0xff, 0xff, 0xff, 0xff)
	} else {
		b = binary.BigEndian.AppendUint16(b, h.ec)
		b = binary.BigEndian.AppendUint16(b, h.rrc)
	}
	return binary.BigEndian.AppendUint64(b, h.sequence)
}

// parseHeader reads the header of the peer's token. Bits that RFC 4121 §4.2.2 keeps
// for later are ignored, as it says; they are under the checksum.
func (c *Context) parseHeader(id uint16, token []byte) (header, error) {
	if len(token) < headerLen || len(token) > maxMessage || binary.BigEndian.Uint16(token) != id || token[3] != 0xff {
		return header{}, ErrToken
	}
	h := header{id: id, flags: token[2], sequence: binary.BigEndian.Uint64(token[8:])}
	if id == tokWrap {
		h.ec, h.rrc = binary.BigEndian.Uint16(token[4:]), binary.BigEndian.Uint16(token[6:])
	} else if binary.BigEndian.Uint32(token[4:]) != math.MaxUint32 || h.flags&sealed != 0 {
		return header{}, ErrToken
	}
	if (h.flags&sentByAcceptor != 0) != c.initiator || (h.flags&acceptorSubkey != 0) != c.acceptorKey {
		return header{}, ErrToken
	}
	return h, nil
}

// usage is the key usage of a token: by sends, or not, what is ours.
func (c *Context) usage(ours, seal bool) uint32 {
	initiator := c.initiator == ours
	switch {
	case initiator && seal:
		return usageInitiatorSeal
	case initiator:
		return usageInitiatorSign
	case seal:
		return usageAcceptorSeal
	}
	return usageAcceptorSign
}

// next is the header of our next token.
func (c *Context) next(id uint16) header {
	h := header{id: id}
	if !c.initiator {
		h.flags |= sentByAcceptor
	}
	if c.acceptorKey {
		h.flags |= acceptorSubkey
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h.sequence = c.send
	c.send++
	return h
}

func (c *Context) take(h header) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recv.take(h.sequence)
}

func (c *Context) need(f Flags, what string) error {
	if c.flags&f != f {
		return fmt.Errorf("%s was not negotiated", what)
	}
	return nil
}

// GetMIC makes a MIC token for a message (RFC 4121 §4.2.6.1), which stays as it is.
func (c *Context) GetMIC(msg []byte) ([]byte, error) {
	if err := c.need(Integrity, "integrity"); err != nil {
		return nil, err
	}
	h := c.next(tokMIC).bytes()
	sum, err := c.key.Checksum(c.usage(true, false), join(msg, h))
	if err != nil {
		return nil, fmt.Errorf("making a MIC: %w", err)
	}
	return append(h, sum...), nil
}

// VerifyMIC checks the peer's MIC token for a message. The error is or wraps
// ErrToken, ErrReplayed or ErrOrder.
func (c *Context) VerifyMIC(msg, token []byte) error {
	if err := c.need(Integrity, "integrity"); err != nil {
		return err
	}
	h, err := c.parseHeader(tokMIC, token)
	if err != nil {
		return err
	}
	if !c.key.VerifyChecksum(c.usage(false, false), join(msg, token[:headerLen]), token[headerLen:]) {
		return ErrToken
	}
	return c.take(h)
}

// Wrap makes a token that holds the message (RFC 4121 §4.2.4), encrypted if seal.
// At most 16 MiB less 64 bytes.
func (c *Context) Wrap(msg []byte, seal bool) ([]byte, error) {
	if err := c.need(Integrity, "integrity"); err != nil {
		return nil, err
	}
	if len(msg) > maxMessage-64 {
		return nil, fmt.Errorf("a message of %d bytes is too long to wrap", len(msg))
	}
	if !seal {
		h := c.next(tokWrap)
		sum, err := c.key.Checksum(c.usage(true, true), join(msg, h.bytes()))
		if err != nil {
			return nil, fmt.Errorf("wrapping: %w", err)
		}
		h.ec = uint16(len(sum))
		return append(append(h.bytes(), msg...), sum...), nil
	}
	if err := c.need(Confidential, "confidentiality"); err != nil {
		return nil, err
	}
	h := c.next(tokWrap)
	h.flags |= sealed
	b, err := c.key.Encrypt(c.usage(true, true), join(msg, h.bytes()))
	if err != nil {
		return nil, fmt.Errorf("wrapping: %w", err)
	}
	return append(h.bytes(), b...), nil
}

// Unwrap gives the message in the peer's Wrap token, and whether it was encrypted.
// The error is or wraps ErrToken, ErrReplayed or ErrOrder.
func (c *Context) Unwrap(token []byte) (msg []byte, encrypted bool, err error) {
	if err := c.need(Integrity, "integrity"); err != nil {
		return nil, false, err
	}
	h, err := c.parseHeader(tokWrap, token)
	if err != nil {
		return nil, false, err
	}
	body := unrotate(token[headerLen:], h.rrc)
	if h.flags&sealed != 0 {
		encrypted = true
		msg, err = c.open(h, body)
	} else {
		msg, err = c.check(h, body)
	}
	if err != nil {
		return nil, false, err
	}
	if err := c.take(h); err != nil {
		return nil, false, err
	}
	return msg, encrypted, nil
}

// open decrypts a body: the message, EC bytes of filler, and the header with RRC 0.
func (c *Context) open(h header, body []byte) ([]byte, error) {
	if err := c.need(Confidential, "confidentiality"); err != nil {
		return nil, err
	}
	plain, err := c.key.Decrypt(c.usage(false, true), body)
	if err != nil || len(plain) < headerLen+int(h.ec) {
		return nil, ErrToken
	}
	h.rrc = 0
	end := len(plain) - headerLen
	if !bytes.Equal(plain[end:], h.bytes()) {
		return nil, ErrToken
	}
	return plain[:end-int(h.ec)], nil
}

// check verifies a body: the message and EC bytes of checksum over it and over the
// header with EC and RRC 0.
func (c *Context) check(h header, body []byte) ([]byte, error) {
	n := len(body) - int(h.ec)
	if n < 0 {
		return nil, ErrToken
	}
	msg, sum := body[:n], body[n:]
	h.ec, h.rrc = 0, 0
	if !c.key.VerifyChecksum(c.usage(false, true), join(msg, h.bytes()), sum) {
		return nil, ErrToken
	}
	return bytes.Clone(msg), nil
}

// unrotate undoes the rotation to the right by rrc bytes (RFC 4121 §4.2.5).
func unrotate(b []byte, rrc uint16) []byte {
	if len(b) == 0 || int(rrc)%len(b) == 0 {
		return b
	}
	n := int(rrc) % len(b)
	return join(b[n:], b[:n])
}

func join(a, b []byte) []byte { return append(append(make([]byte, 0, len(a)+len(b)), a...), b...) }
