package keys

import (
	"bytes"
	"crypto/ecdh"
	"encoding/binary"
	"errors"
	"fmt"
)

// The key types that OpenSSH 9 knows, without their certificates.
const (
	RSA       = "ssh-rsa"
	DSA       = "ssh-dss"
	ECDSA256  = "ecdsa-sha2-nistp256"
	ECDSA384  = "ecdsa-sha2-nistp384"
	ECDSA521  = "ecdsa-sha2-nistp521"
	ED25519   = "ssh-ed25519"
	SKECDSA   = "sk-ecdsa-sha2-nistp256@openssh.com"
	SKED25519 = "sk-ssh-ed25519@openssh.com"
)

// The sizes of RSA moduli in bits that OpenSSH takes at all
// (SSH_RSA_MINIMUM_MODULUS_SIZE, SSHBUF_MAX_BIGNUM).
const (
	minRSABits = 1024
	maxRSABits = 16384
)

// algorithm is one key format.
type algorithm struct {
	name        string // of the format
	plain       string // of the key inside; equals name for a plain key
	certificate bool
	curve       string // RFC 5656 §6.1 identifier, for ECDSA
	ec          ecdh.Curve
	bits        int  // where the type fixes it
	sk          bool // a FIDO key: has an application (PROTOCOL.u2f)
}

// algorithms holds every known format by its name. It is never written to.
var algorithms = func() map[string]*algorithm {
	m := map[string]*algorithm{}
	for _, t := range []struct {
		plain algorithm
		cert  string
	}{
		{algorithm{name: RSA}, "ssh-rsa-cert-v01@openssh.com"},
		{algorithm{name: DSA}, "ssh-dss-cert-v01@openssh.com"},
		{algorithm{name: ECDSA256, curve: "nistp256", ec: ecdh.P256(), bits: 256}, "ecdsa-sha2-nistp256-cert-v01@openssh.com"},
		{algorithm{name: ECDSA384, curve: "nistp384", ec: ecdh.P384(), bits: 384}, "ecdsa-sha2-nistp384-cert-v01@openssh.com"},
		{algorithm{name: ECDSA521, curve: "nistp521", ec: ecdh.P521(), bits: 521}, "ecdsa-sha2-nistp521-cert-v01@openssh.com"},
		{algorithm{name: ED25519, bits: 256}, "ssh-ed25519-cert-v01@openssh.com"},
		{algorithm{name: SKECDSA, curve: "nistp256", ec: ecdh.P256(), bits: 256, sk: true}, "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com"},
		{algorithm{name: SKED25519, bits: 256, sk: true}, "sk-ssh-ed25519-cert-v01@openssh.com"},
	} {
		p, c := t.plain, t.plain
		p.plain, c.plain = p.name, p.name
		c.name, c.certificate = t.cert, true
		m[p.name], m[c.name] = &p, &c
	}
	return m
}()

// parseFields reads the public fields of the plain key and gives its size in bits.
func (a *algorithm) parseFields(r *reader) (bits int, err error) {
	switch a.plain {
	case RSA:
		bits, err = parseRSA(r)
	case DSA:
		bits, err = parseDSA(r)
	case ED25519, SKED25519:
		bits = a.bits
		var pk []byte
		if pk, err = r.str("public key", 32); err == nil && len(pk) != 32 {
			err = fmt.Errorf("public key of %d bytes: must be 32 (RFC 8709)", len(pk))
		}
	case ECDSA256, ECDSA384, ECDSA521, SKECDSA:
		bits = a.bits
		err = a.parsePoint(r)
	default:
		err = fmt.Errorf("key type %s: no parser", short(a.plain))
	}
	if err == nil && a.sk {
		_, err = r.text("application", 255)
	}
	return bits, err
}

// parseRSA reads e and n (RFC 4253 §6.6).
func parseRSA(r *reader) (bits int, err error) {
	e, err := r.mpint("exponent", 8)
	if err != nil {
		return 0, err
	}
	n, err := r.mpint("modulus", maxRSABits/8)
	if err != nil {
		return 0, err
	}
	if e.even() || e.bits() < 2 {
		return 0, errors.New("exponent is not an odd number above 1")
	}
	if n.even() {
		return 0, errors.New("modulus is even")
	}
	if b := n.bits(); b < minRSABits {
		return 0, fmt.Errorf("modulus of %d bits: OpenSSH takes none under %d", b, minRSABits)
	}
	return n.bits(), nil
}

// parseDSA reads p, q, g and y (RFC 4253 §6.6).
func parseDSA(r *reader) (bits int, err error) {
	var v [4]mpint
	for i, name := range [...]string{"p", "q", "g", "y"} {
		if v[i], err = r.mpint(name, maxRSABits/8); err != nil {
			return 0, err
		}
	}
	p, q, g, y := v[0], v[1], v[2], v[3]
	switch {
	case p.bits() < minRSABits || p.even():
		return 0, errors.New("p is even or too small")
	case q.bits() != 160 || q.even():
		return 0, errors.New("q is not an odd number of 160 bits")
	case g.bits() < 2 || !g.less(p):
		return 0, errors.New("g is not between 1 and p")
	case y.bits() < 2 || !y.less(p):
		return 0, errors.New("y is not between 1 and p")
	}
	return p.bits(), nil
}

// parsePoint reads the curve's name and an uncompressed point (RFC 5656 §3.1).
func (a *algorithm) parsePoint(r *reader) error {
	curve, err := r.str("curve", 32)
	if err != nil {
		return err
	}
	if string(curve) != a.curve {
		return fmt.Errorf("curve %s: must be %s", short(string(curve)), a.curve)
	}
	q, err := r.str("point", 1+2*((a.bits+7)/8))
	if err != nil {
		return err
	}
	// A copy, so that the blob may stay on the caller's stack.
	if _, err := a.ec.NewPublicKey(bytes.Clone(q)); err != nil {
		return fmt.Errorf("point is not an uncompressed point on %s", a.curve)
	}
	return nil
}

// plainBlob is the wire format of the plain key with these public fields.
func (a *algorithm) plainBlob(public []byte) []byte {
	b := make([]byte, 0, 4+len(a.plain)+len(public))
	b = binary.BigEndian.AppendUint32(b, uint32(len(a.plain)))
	return append(append(b, a.plain...), public...)
}
