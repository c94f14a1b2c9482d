package keys

import "errors"

var errSoon = errors.New("not written yet")

// Line is one line of authorized_keys.
type Line struct {
	Options *Options // nil: none
	Key     Key
	Comment string
}

// Policy says which keys are good enough. The zero value is the default, strict policy.
type Policy struct {
	// Types that are allowed, by OpenSSH's names of plain keys. Empty: all but ssh-dss.
	Types []string
	// MinRSABits; 0: 2048.
	MinRSABits int
	// Certificates lets certificates pass, judged by their key and their CA's key. Default: refused.
	Certificates bool
}

// Check tells why a key is refused; nil: it is good.
func (p Policy) Check(k Key) error { return errSoon }

// ParseBlob parses a public key in wire format.
func ParseBlob(blob []byte) (Key, error) { return Key{}, errSoon }

// ParseLine parses one authorized_keys line.
func ParseLine(s string) (Line, error) { return Line{}, errSoon }

// Format prints the line, or tells why it cannot be printed.
func (l Line) Format() (string, error) { return "", errSoon }

// String is Format, empty where the line cannot be printed.
func (l Line) String() string { return "" }

// Fingerprint is "SHA256:…" as ssh-keygen -l prints it.
func (k Key) Fingerprint() string { return "" }

// Bits of the key.
func (k Key) Bits() int { return 0 }

// IsCertificate tells whether k is a certificate.
func (k Key) IsCertificate() bool { return false }

// Base64 of the blob.
func (k Key) Base64() string { return "" }

// CA is the key that signed the certificate k.
func (k Key) CA() (Key, error) { return Key{}, errSoon }
