package keys

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// reader takes the data types of RFC 4251 §5 off the front of b.
type reader struct{ b []byte }

// str reads a string of at most limit bytes. It is not copied.
func (r *reader) str(what string, limit int) ([]byte, error) {
	n, err := r.uint32(what)
	if err != nil {
		return nil, err
	}
	if uint64(n) > uint64(len(r.b)) {
		return nil, fmt.Errorf("%s is cut short", what)
	}
	if uint64(n) > uint64(limit) {
		return nil, fmt.Errorf("%s of %d bytes: at most %d are allowed", what, n, limit)
	}
	s := r.b[:n:n]
	r.b = r.b[n:]
	return s, nil
}

// text reads a non-empty string of printable UTF-8.
func (r *reader) text(what string, limit int) (string, error) {
	b, err := r.str(what, limit)
	if err != nil {
		return "", err
	}
	if len(b) == 0 {
		return "", fmt.Errorf("%s is empty", what)
	}
	s := string(b)
	if err := checkText(s); err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	return s, nil
}

func (r *reader) uint32(what string) (uint32, error) {
	if len(r.b) < 4 {
		return 0, fmt.Errorf("%s is cut short", what)
	}
	n := binary.BigEndian.Uint32(r.b)
	r.b = r.b[4:]
	return n, nil
}

func (r *reader) uint64(what string) (uint64, error) {
	if len(r.b) < 8 {
		return 0, fmt.Errorf("%s is cut short", what)
	}
	n := binary.BigEndian.Uint64(r.b)
	r.b = r.b[8:]
	return n, nil
}

// mpint is a positive integer, big-endian, without leading zeros, not empty.
type mpint []byte

// mpint reads a positive multiple precision integer in its only correct
// form (RFC 4251 §5) of at most limit bytes, a leading zero not counted.
// OpenSSH takes others and then writes this one, which would make two blobs
// of one key.
func (r *reader) mpint(what string, limit int) (mpint, error) {
	b, err := r.str(what, limit+1)
	switch {
	case err != nil:
		return nil, err
	case len(b) == 0:
		return nil, fmt.Errorf("%s is zero", what)
	case b[0]&0x80 != 0:
		return nil, fmt.Errorf("%s is negative", what)
	case b[0] == 0 && (len(b) == 1 || b[1]&0x80 == 0):
		return nil, fmt.Errorf("%s has needless leading zeros", what)
	case b[0] == 0:
		b = b[1:]
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%s of %d bytes: at most %d are allowed", what, len(b), limit)
	}
	return b, nil
}

func (m mpint) bits() int  { return (len(m)-1)*8 + bits.Len8(m[0]) }
func (m mpint) even() bool { return m[len(m)-1]&1 == 0 }
func (m mpint) less(n mpint) bool {
	return len(m) < len(n) || len(m) == len(n) && bytes.Compare(m, n) < 0
}

var (
	errControl = errors.New("has a control character or line break")
	errUTF8    = errors.New("is not valid UTF-8")
)

// checkText refuses what must not stand in a line: control characters, among
// them NUL, tabs and line breaks, U+2028 and U+2029, and invalid UTF-8.
func checkText(s string) error {
	ascii := true
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return errControl
		}
		ascii = ascii && s[i] < utf8.RuneSelf
	}
	if ascii {
		return nil
	}
	if !utf8.ValidString(s) {
		return errUTF8
	}
	for _, c := range s {
		if unicode.In(c, unicode.Cc, unicode.Zl, unicode.Zp) {
			return errControl
		}
	}
	return nil
}

// short quotes the start of s for an error text, in plain ASCII.
func short(s string) string {
	const most = 32
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "..."
	}
	return strconv.QuoteToASCII(s)
}
