package wire

import (
	"errors"
	"strconv"
)

const hexDigits = "0123456789ABCDEF"

var (
	errEscape = errors.New("bad percent-encoding")
	errSpace  = errors.New("words are not parted by single spaces")
)

// plain tells whether c stands for itself in a value.
func plain(c byte) bool { return c > ' ' && c < 0x7f && c != '%' }

// isName tells whether s is a name of at most limit bytes.
func isName(s string, limit int) bool {
	if s == "" || len(s) > limit || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := 1; i < len(s); i++ {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// clean tells whether s is free of control characters.
func clean(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// escape appends s, percent-encoded.
func escape(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; plain(c) {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return dst
}

// unescape decodes a value in its one spelling; anything else is an error.
func unescape(s string) (string, error) {
	i := 0
	for i < len(s) && plain(s[i]) {
		i++
	}
	if i == len(s) {
		return s, nil
	}
	out := make([]byte, i, len(s))
	copy(out, s)
	for i < len(s) {
		c := s[i]
		if plain(c) {
			out = append(out, c)
			i++
			continue
		}
		if c != '%' || len(s)-i < 3 {
			return "", errEscape
		}
		hi, lo := unhex(s[i+1]), unhex(s[i+2])
		if hi > 15 || lo > 15 || plain(hi<<4|lo) {
			return "", errEscape
		}
		out = append(out, hi<<4|lo)
		i += 3
	}
	return string(out), nil
}

// unhex returns a digit's value, 0xff when c is not one of 0-9 A-F.
func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

// cut returns s up to the first space, and what follows it. more tells
// whether there was a space.
func cut(s string) (word, rest string, more bool) {
	for i := 0; i < len(s); i++ {
		if s[i] == ' ' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// count reads decimal digits without a leading zero, at most limit.
func count(s string, limit int) (int, bool) {
	if s == "" || len(s) > 9 || (s[0] == '0' && s != "0") {
		return 0, false
	}
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, n <= limit
}

// version checks a message's first word.
func version(s string) error {
	if s == "1" {
		return nil
	}
	if n, ok := count(s, 99999); !ok || n == 0 {
		return errors.New("it does not begin with a protocol version")
	}
	return &VersionError{Peer: s}
}

// over is the error for a limit broken.
func over(what string, limit int) error {
	return errors.New(what + " is over the limit of " + strconv.Itoa(limit))
}
