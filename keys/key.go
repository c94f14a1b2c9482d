// Package keys parses, judges and prints SSH public keys, certificates and
// authorized_keys lines with their options. It is pure: no input or output, no
// clock, no log. What it takes is a subset of what OpenSSH 9 takes; anything
// doubtful is refused, because a value dropped in silence could have been a
// restriction. What it prints, sshd and ParseLine read back as the same value.
//
// Error texts are one line, fit for a log, and quote at most a short, escaped
// part of the value; values of command and environment are never quoted.
package keys

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
)

// MaxBlob is the longest public key that is parsed, in bytes.
const MaxBlob = 12000

// errNotParsed is the answer for a Key that neither ParseBlob nor ParseLine made.
var errNotParsed = errors.New("not a parsed key: make it with ParseBlob or ParseLine")

// Key is one public key or certificate, comparable with ==. Make it with
// ParseBlob or ParseLine; the zero Key is no key.
type Key struct {
	// Type is the name OpenSSH gives to the key's format, such as
	// "ssh-ed25519" (RFC 4253 §6.6, RFC 5656, RFC 8709, PROTOCOL.certkeys,
	// PROTOCOL.u2f). It equals the name inside Blob.
	Type string
	// Blob is the public key in wire format, as RFC 4253 §6.6 has it: raw
	// bytes, not text.
	Blob string
}

// ParseBlob parses a public key or certificate in wire format. Each field is
// checked: lengths, minimal integers, points on their curve, nothing left over.
// The signature of a certificate is parsed but not verified: sshd verifies it
// before it asks anyone. blob is not kept.
func ParseBlob(blob []byte) (Key, error) {
	f, a, err := parse(blob)
	if err != nil {
		return Key{}, err
	}
	if a.certificate {
		if _, err := parseCertificate(f, a); err != nil {
			return Key{}, fmt.Errorf("%s: %w", a.name, err)
		}
	}
	return Key{Type: a.name, Blob: string(blob)}, nil
}

// fields are the parts of a key blob that all formats have.
type fields struct {
	public []byte // the fields of the plain key, after the type name
	bits   int
	rest   reader // of a certificate: what follows public
}

// parse reads the type name and the fields of the plain key. Of a certificate
// the rest is left to parseCertificate.
func parse(blob []byte) (fields, *algorithm, error) {
	if len(blob) > MaxBlob {
		return fields{}, nil, fmt.Errorf("key of %d bytes: at most %d are allowed", len(blob), MaxBlob)
	}
	r := reader{blob}
	name, err := r.str("type name", 64)
	if err != nil {
		return fields{}, nil, err
	}
	a := algorithms[string(name)]
	if a == nil {
		return fields{}, nil, fmt.Errorf("unknown key type %s", short(string(name)))
	}
	if a.certificate {
		if _, err := r.str("nonce", 256); err != nil {
			return fields{}, nil, fmt.Errorf("%s: %w", a.name, err)
		}
	}
	start := r.b
	bits, err := a.parseFields(&r)
	if err != nil {
		return fields{}, nil, fmt.Errorf("%s: %w", a.name, err)
	}
	if !a.certificate && len(r.b) != 0 {
		return fields{}, nil, fmt.Errorf("%s: %d bytes after the end of the key", a.name, len(r.b))
	}
	return fields{public: start[:len(start)-len(r.b)], bits: bits, rest: r}, a, nil
}

// parsed is parse for a Key, which must hold what ParseBlob gave.
func (k Key) parsed() (fields, *algorithm, error) {
	f, a, err := parse([]byte(k.Blob))
	if err == nil && a.name != k.Type {
		err = errNotParsed
	}
	return f, a, err
}

// Plain is k itself, or the public key that the certificate k is about; the
// zero Key if k was not parsed.
func (k Key) Plain() Key {
	f, a, err := k.parsed()
	if err != nil {
		return Key{}
	}
	if !a.certificate {
		return k
	}
	return Key{Type: a.plain, Blob: string(a.plainBlob(f.public))}
}

// Fingerprint is "SHA256:" and the unpadded base64 of the hash of the plain
// key, as ssh-keygen -l prints it and sshd gives it for %f: a certificate has
// the fingerprint of its key. Empty for no key.
func (k Key) Fingerprint() string {
	if a := algorithms[k.Type]; a == nil || a.certificate {
		if k = k.Plain(); k.Type == "" {
			return ""
		}
	}
	sum := sha256.Sum256([]byte(k.Blob))
	var out [len("SHA256:") + 43]byte
	copy(out[:], "SHA256:")
	base64.RawStdEncoding.Encode(out[len("SHA256:"):], sum[:])
	return string(out[:])
}

// Bits is the size that ssh-keygen -l prints: of RSA and DSA the modulus, of
// the others the curve. Zero if k was not parsed.
func (k Key) Bits() int {
	f, _, err := k.parsed()
	if err != nil {
		return 0
	}
	return f.bits
}

// IsCertificate tells whether k is a certificate, by its type.
func (k Key) IsCertificate() bool {
	a := algorithms[k.Type]
	return a != nil && a.certificate
}

// Base64 is the blob as an authorized_keys line and sshd's %k have it.
func (k Key) Base64() string { return base64.StdEncoding.EncodeToString([]byte(k.Blob)) }

// CA is the plain key that signed the certificate k; an error if k is none.
// See ParseBlob on the signature.
func (k Key) CA() (Key, error) {
	c, err := k.Certificate()
	return c.CA, err
}

// String is the type and the fingerprint, for logs.
func (k Key) String() string {
	if k == (Key{}) {
		return "no key"
	}
	return k.Type + " " + k.Fingerprint()
}
