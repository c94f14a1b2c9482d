package keys

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// DefaultMinRSABits is the least size of an RSA key where a Policy names none.
const DefaultMinRSABits = 2048

// Policy says which keys are good enough. The zero value is the default, and
// strict: no DSA, no RSA under 2048 bits, no certificates.
type Policy struct {
	// Types are the allowed types of plain keys, by OpenSSH's names (RSA,
	// ED25519, …). Empty: all that are known but ssh-dss.
	Types []string
	// MinRSABits is the least size of an RSA modulus in bits, 1024 to 16384;
	// zero: DefaultMinRSABits.
	MinRSABits int
	// Certificates lets certificates pass whose key and CA key are both good
	// by the rules above, and which are not signed with SHA-1. Set it where a
	// certificate is offered as a proof; a list of somebody's keys has no
	// place for one, since sshd matches none of its lines against them.
	Certificates bool
}

// Validate tells what is wrong with the policy itself.
func (p Policy) Validate() error {
	for _, t := range p.Types {
		if a := algorithms[t]; a == nil {
			return fmt.Errorf("key type %s: unknown", short(t))
		} else if a.certificate {
			return fmt.Errorf("key type %s: name plain types only, such as %s", short(t), a.plain)
		}
	}
	if p.MinRSABits != 0 && (p.MinRSABits < minRSABits || p.MinRSABits > maxRSABits) {
		return fmt.Errorf("least RSA size of %d bits: must be %d to %d, or 0 for %d",
			p.MinRSABits, minRSABits, maxRSABits, DefaultMinRSABits)
	}
	return nil
}

// Check tells why k is refused; nil means that it is good enough. A policy that
// Validate refuses, refuses every key.
func (p Policy) Check(k Key) error {
	if err := p.Validate(); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	f, a, err := k.parsed()
	if err != nil {
		return err
	}
	if !a.certificate {
		return p.check(f, a)
	}
	if !p.Certificates {
		return fmt.Errorf("%s: a certificate, where a plain key is needed", a.name)
	}
	c, err := parseCertificate(f, a)
	if err != nil {
		return err
	}
	if err := p.check(f, a); err != nil {
		return err
	}
	if c.SignedWith == RSA || c.SignedWith == DSA {
		return fmt.Errorf("%s: signed with %s, which uses SHA-1: sign again with rsa-sha2-512", a.name, c.SignedWith)
	}
	if f, a, err = c.CA.parsed(); err != nil {
		return fmt.Errorf("CA key: %w", err)
	}
	if err := p.check(f, a); err != nil {
		return fmt.Errorf("CA key: %w", err)
	}
	return nil
}

// check judges the plain key in f.
func (p Policy) check(f fields, a *algorithm) error {
	if len(p.Types) == 0 {
		if a.plain == DSA {
			return fmt.Errorf("%s: DSA keys are not allowed: make an Ed25519 key", a.name)
		}
	} else if !slices.Contains(p.Types, a.plain) {
		return fmt.Errorf("%s: key type is not allowed here", a.name)
	}
	switch a.plain {
	case RSA:
		least := p.MinRSABits
		if least == 0 {
			least = DefaultMinRSABits
		}
		if f.bits < least {
			return fmt.Errorf("%s: %d bits: at least %d are needed: make a new key", a.name, f.bits, least)
		}
	case ED25519, SKED25519:
		if smallOrder(f.public[4:36]) {
			return errors.New(a.name + ": a point of small order: anyone can sign for it")
		}
	}
	return nil
}

// smallOrderY are the y coordinates, little-endian, sign bit cleared, of the
// points of Curve25519 in Edwards form whose order divides 8, with the two that
// are not reduced. Signatures for such a "key" can be made without a secret.
var smallOrderY = func() (out [7][32]byte) {
	for i, s := range [...]string{
		"0000000000000000000000000000000000000000000000000000000000000000", // 0, order 4
		"0100000000000000000000000000000000000000000000000000000000000000", // 1, order 1
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p-1, order 2
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p, is 0
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p+1, is 1
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // order 8
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
	} {
		if n, err := hex.Decode(out[i][:], []byte(s)); err != nil || n != 32 {
			panic("keys: bad table of small points")
		}
	}
	return out
}()

// smallOrder tells whether the 32 bytes encode a point of small order.
func smallOrder(point []byte) bool {
	y := [32]byte(point)
	y[31] &= 0x7f
	return slices.Contains(smallOrderY[:], y)
}
