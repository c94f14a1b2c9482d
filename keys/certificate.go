package keys

import (
	"errors"
	"fmt"
)

// Limits on what a certificate may hold; the number of principals is OpenSSH's
// own (SSHKEY_CERT_MAX_PRINCIPALS).
const (
	maxPrincipals  = 256
	maxCertOptions = 64
)

// CertType is what a certificate is for.
type CertType uint32

// The types of PROTOCOL.certkeys.
const (
	UserCertificate CertType = 1
	HostCertificate CertType = 2
)

// Certificate is the content of an OpenSSH certificate (PROTOCOL.certkeys).
// Nothing in it is proved before its signature has been verified.
type Certificate struct {
	Key         Key // the plain key that it is about
	Serial      uint64
	Type        CertType
	KeyID       string   // may be empty
	Principals  []string // empty: sshd lets nobody in by it
	ValidAfter  uint64   // seconds since 1970, inclusive
	ValidBefore uint64   // seconds since 1970, exclusive; all bits set: no end
	Critical    []CertOption
	Extensions  []CertOption
	CA          Key    // a plain key
	SignedWith  string // signature algorithm, such as "rsa-sha2-512"
}

// CertOption is a critical option or an extension. Value is empty for a flag.
type CertOption struct{ Name, Value string }

// Certificate gives the content of the certificate k; an error if k is none.
// See ParseBlob on the signature.
func (k Key) Certificate() (Certificate, error) {
	f, a, err := k.parsed()
	if err != nil {
		return Certificate{}, err
	}
	if !a.certificate {
		return Certificate{}, fmt.Errorf("%s: a plain key, not a certificate", a.name)
	}
	return parseCertificate(f, a)
}

// parseCertificate reads what follows the public fields.
func parseCertificate(f fields, a *algorithm) (Certificate, error) {
	c := Certificate{Key: Key{Type: a.plain, Blob: string(a.plainBlob(f.public))}}
	r := f.rest
	if err := c.parseBody(&r); err != nil {
		return Certificate{}, err
	}
	if err := c.parseCA(&r); err != nil {
		return Certificate{}, err
	}
	if len(r.b) != 0 {
		return Certificate{}, fmt.Errorf("%d bytes after the end of the certificate", len(r.b))
	}
	return c, nil
}

func (c *Certificate) parseBody(r *reader) (err error) {
	if c.Serial, err = r.uint64("serial"); err != nil {
		return err
	}
	t, err := r.uint32("certificate type")
	if err != nil {
		return err
	}
	c.Type = CertType(t)
	if c.Type != UserCertificate && c.Type != HostCertificate {
		return fmt.Errorf("certificate type %d: must be 1 (user) or 2 (host)", t)
	}
	id, err := r.str("key id", 1024)
	if err != nil {
		return err
	}
	c.KeyID = string(id)
	if err := checkText(c.KeyID); err != nil {
		return fmt.Errorf("key id: %w", err)
	}
	list, err := r.str("principals", MaxBlob)
	if err != nil {
		return err
	}
	for p := (reader{list}); len(p.b) != 0; {
		if len(c.Principals) == maxPrincipals {
			return fmt.Errorf("more than %d principals", maxPrincipals)
		}
		name, err := p.text("principal", 1024)
		if err != nil {
			return err
		}
		c.Principals = append(c.Principals, name)
	}
	if c.ValidAfter, err = r.uint64("valid after"); err != nil {
		return err
	}
	if c.ValidBefore, err = r.uint64("valid before"); err != nil {
		return err
	}
	if c.Critical, err = parseCertOptions(r, "critical options"); err != nil {
		return err
	}
	if c.Extensions, err = parseCertOptions(r, "extensions"); err != nil {
		return err
	}
	_, err = r.str("reserved", 256)
	return err
}

// parseCertOptions reads pairs of name and data: sorted, each name once, the
// data empty or one string.
func parseCertOptions(r *reader, what string) ([]CertOption, error) {
	list, err := r.str(what, MaxBlob)
	if err != nil {
		return nil, err
	}
	var out []CertOption
	for p := (reader{list}); len(p.b) != 0; {
		if len(out) == maxCertOptions {
			return nil, fmt.Errorf("more than %d %s", maxCertOptions, what)
		}
		name, err := p.text(what+": name", 255)
		if err != nil {
			return nil, err
		}
		if len(out) > 0 && name <= out[len(out)-1].Name {
			return nil, fmt.Errorf("%s: %s is double or not in alphabetic order", what, short(name))
		}
		data, err := p.str(what+": data", MaxBlob)
		if err != nil {
			return nil, err
		}
		o := CertOption{Name: name}
		if len(data) > 0 {
			d := reader{data}
			v, err := d.str(what+": value", MaxBlob)
			if err != nil {
				return nil, err
			}
			if len(d.b) != 0 {
				return nil, fmt.Errorf("%s: %s has more than one value", what, short(name))
			}
			o.Value = string(v)
			if err := checkText(o.Value); err != nil {
				return nil, fmt.Errorf("%s: value of %s %w", what, short(name), err)
			}
		}
		out = append(out, o)
	}
	return out, nil
}

// parseCA reads the key of the CA and the signature.
func (c *Certificate) parseCA(r *reader) error {
	blob, err := r.str("CA key", MaxBlob)
	if err != nil {
		return err
	}
	f, a, err := parse(blob)
	if err != nil {
		return fmt.Errorf("CA key: %w", err)
	}
	if a.certificate {
		return errors.New("CA key is a certificate itself: chains are not allowed")
	}
	c.CA = Key{Type: a.name, Blob: string(blob)}
	sig, err := r.str("signature", MaxBlob)
	if err != nil {
		return err
	}
	c.SignedWith, err = parseSignature(sig, a, f.bits)
	return err
}

// webauthn is the one signature algorithm that is not a key type's own, beside
// those of RFC 8332.
const webauthn = "webauthn-sk-ecdsa-sha2-nistp256@openssh.com"

// parseSignature checks the form of a signature by a key of type a (RFC 4253
// §6.6, RFC 5656 §3.1.2, RFC 8332 §3, RFC 8709 §6, PROTOCOL.u2f) and gives its
// algorithm.
func parseSignature(sig []byte, a *algorithm, keyBits int) (string, error) {
	r := reader{sig}
	b, err := r.str("signature algorithm", 64)
	if err != nil {
		return "", err
	}
	alg := ""
	for _, known := range signatureAlgorithms(a) {
		if string(b) == known {
			alg = known
		}
	}
	if alg == "" {
		return "", fmt.Errorf("signature algorithm %s does not fit CA key of type %s", short(string(b)), a.name)
	}
	body, err := r.str("signature value", maxRSABits/8)
	if err != nil {
		return "", err
	}
	if err := checkSignatureBody(body, a, keyBits); err != nil {
		return "", err
	}
	if a.sk {
		if len(r.b) < 1 {
			return "", errors.New("signature flags are cut short")
		}
		r.b = r.b[1:]
		if _, err := r.uint32("signature counter"); err != nil {
			return "", err
		}
	}
	if alg == webauthn {
		for _, what := range [...]string{"webauthn origin", "webauthn client data", "webauthn extensions"} {
			if _, err := r.str(what, 4096); err != nil {
				return "", err
			}
		}
	}
	if len(r.b) != 0 {
		return "", fmt.Errorf("%d bytes after the end of the signature", len(r.b))
	}
	return alg, nil
}

// signatureAlgorithms are the algorithms a key of type a can sign with.
func signatureAlgorithms(a *algorithm) []string {
	switch a.name {
	case RSA:
		return []string{"rsa-sha2-512", "rsa-sha2-256", RSA}
	case SKECDSA:
		return []string{SKECDSA, webauthn}
	}
	return []string{a.name}
}

func checkSignatureBody(body []byte, a *algorithm, keyBits int) error {
	switch a.name {
	case RSA:
		if len(body) == 0 || len(body) > (keyBits+7)/8 {
			return fmt.Errorf("RSA signature of %d bytes by a key of %d bits", len(body), keyBits)
		}
	case DSA:
		if len(body) != 40 {
			return fmt.Errorf("DSA signature of %d bytes: must be 40", len(body))
		}
	case ED25519, SKED25519:
		if len(body) != 64 {
			return fmt.Errorf("Ed25519 signature of %d bytes: must be 64", len(body))
		}
	case ECDSA256, ECDSA384, ECDSA521, SKECDSA:
		r := reader{body}
		for _, what := range [...]string{"signature r", "signature s"} {
			if _, err := r.mpint(what, (keyBits+7)/8); err != nil {
				return err
			}
		}
		if len(r.b) != 0 {
			return fmt.Errorf("%d bytes after the end of the signature value", len(r.b))
		}
	default:
		return fmt.Errorf("key type %s: no signature parser", short(a.name))
	}
	return nil
}
