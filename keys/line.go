package keys

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// MaxLine is the longest line that is parsed or printed, in bytes: OpenSSH's
// SSH_MAX_PUBKEY_BYTES.
const MaxLine = 16384

// Line is one line of authorized_keys: options, key, comment.
type Line struct {
	Options *Options // nil: none
	Key     Key
	Comment string // may hold spaces, but not at its ends
}

// strictBase64 refuses bits after the end, as sshd does.
var strictBase64 = base64.StdEncoding.Strict()

// ParseLine parses one line, without its line break, as sshd(8) AUTHORIZED_KEYS
// FILE FORMAT has it. An empty line or one that starts with # is an error, for
// it is no key. Nothing of s is kept.
func ParseLine(s string) (Line, error) {
	if len(s) > MaxLine {
		return Line{}, fmt.Errorf("line of %d bytes: at most %d are allowed", len(s), MaxLine)
	}
	if err := checkLine(s); err != nil {
		return Line{}, fmt.Errorf("line %w", err)
	}
	s = strings.Trim(s, " \t")
	if s == "" || s[0] == '#' {
		return Line{}, errors.New("line is empty or a comment: no key in it")
	}
	var l Line
	var err error
	word, rest := cutField(s)
	if algorithms[word] == nil {
		if l.Options, rest, err = parseOptions(s); err != nil {
			return Line{}, err
		}
		if rest == "" {
			return Line{}, errors.New("no key after the options")
		}
		if word, rest = cutField(strings.TrimLeft(rest, " \t")); algorithms[word] == nil {
			return Line{}, fmt.Errorf("unknown key type %s", short(word))
		}
	}
	text, comment := cutField(rest)
	if l.Key, err = parseBase64(text); err != nil {
		return Line{}, err
	}
	if l.Key.Type != word {
		return Line{}, fmt.Errorf("line says %s, the key in it %s", word, l.Key.Type)
	}
	if err := checkText(comment); err != nil {
		return Line{}, fmt.Errorf("comment %w", err)
	}
	l.Comment = strings.Clone(comment)
	return l, nil
}

// checkLine is checkText, but for tabs, which may stand between fields.
func checkLine(s string) error {
	if strings.IndexByte(s, '\t') >= 0 {
		s = strings.ReplaceAll(s, "\t", " ")
	}
	return checkText(s)
}

// cutField takes the first field off s, and the blanks after it.
func cutField(s string) (field, rest string) {
	for i := 0; i < len(s); i++ {
		if s[i] == ' ' || s[i] == '\t' {
			return s[:i], strings.TrimLeft(s[i:], " \t")
		}
	}
	return s, ""
}

// parseBase64 parses a key's second field. Keys of usual size are decoded on
// the stack: a first sync parses hundreds of thousands.
func parseBase64(s string) (Key, error) {
	if s == "" {
		return Key{}, errors.New("no key after the key type")
	}
	var in, out [1024]byte
	src, dst := append(in[:0], s...), out[:]
	if n := strictBase64.DecodedLen(len(src)); n > len(out) {
		dst = make([]byte, n)
	}
	n, err := strictBase64.Decode(dst, src)
	if err != nil {
		return Key{}, errors.New("key is not correct base64: perhaps it was cut or wrapped")
	}
	return ParseBlob(dst[:n])
}

// Format prints the line, without a line break, so that ParseLine and sshd read
// the same value back. It tells why that is not possible. Options whose only
// effect is none print as no options.
func (l Line) Format() (string, error) {
	k, err := ParseBlob([]byte(l.Key.Blob))
	if err != nil {
		return "", fmt.Errorf("key: %w", err)
	}
	if k != l.Key {
		return "", fmt.Errorf("key: %w", errNotParsed)
	}
	if err := l.Options.Validate(); err != nil {
		return "", err
	}
	if err := checkText(l.Comment); err != nil {
		return "", fmt.Errorf("comment %w", err)
	}
	if strings.Trim(l.Comment, " ") != l.Comment {
		return "", errors.New("comment starts or ends with a space")
	}
	b := make([]byte, 0, 256)
	if l.Options != nil {
		if b = l.Options.append(b); len(b) > 0 {
			b = append(b, ' ')
		}
	}
	b = append(b, k.Type...)
	b = append(b, ' ')
	b = base64.StdEncoding.AppendEncode(b, []byte(k.Blob))
	if l.Comment != "" {
		b = append(b, ' ')
		b = append(b, l.Comment...)
	}
	if len(b) > MaxLine {
		return "", fmt.Errorf("line of %d bytes: at most %d are allowed", len(b), MaxLine)
	}
	return string(b), nil
}

// String is what Format prints. A line that cannot be printed gives the empty
// string, in which sshd finds no key; call Format to know why.
func (l Line) String() string {
	s, err := l.Format()
	if err != nil {
		return ""
	}
	return s
}
