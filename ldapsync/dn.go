package ldapsync

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sekisho/sekisho/broker"
)

// maxDN bounds a DN in bytes.
const maxDN = 8192

// NormalizeDN is the one form in which all DNs are compared: attribute types
// in lower case and by their short names, values escaped as RFC 4514 §2.4
// needs it and no more, no spaces around separators, the parts of a
// multi-valued RDN sorted. Values of the common string attributes, whose
// matching rule is caseIgnoreMatch, are folded and their spaces collapsed (RFC
// 4518 §2.6.1); all others are kept as they are.
func NormalizeDN(s string) (broker.DN, error) {
	b, err := appendDN(nil, []byte(s))
	return broker.DN(b), err
}

// foldTypes are attribute types whose values compare without regard to case,
// with the names and numeric OIDs that also stand for them (RFC 4519, RFC
// 4524, RFC 2307, RFC 2798).
var foldTypes = func() map[string]string {
	m := map[string]string{
		"2.5.4.3": "cn", "commonname": "cn",
		"0.9.2342.19200300.100.1.1": "uid", "userid": "uid",
		"0.9.2342.19200300.100.1.25": "dc", "domaincomponent": "dc",
		"2.5.4.11": "ou", "organizationalunitname": "ou",
		"2.5.4.10": "o", "organizationname": "o",
		"2.5.4.6": "c", "countryname": "c",
		"2.5.4.7": "l", "localityname": "l",
		"2.5.4.8": "st", "stateorprovincename": "st",
		"2.5.4.9": "street", "streetaddress": "street",
		"2.5.4.4": "sn", "surname": "sn",
	}
	for _, v := range m {
		m[v] = v
	}
	for _, v := range []string{"givenname", "title", "description", "serialnumber", "mail", "host", "displayname",
		"employeenumber", "fqdn", "samaccountname", "generationqualifier", "initials", "name", "postalcode", "co",
		"associateddomain", "documentidentifier", "ipaUniqueID", "cnamerecord"} {
		m[strings.ToLower(v)] = strings.ToLower(v)
	}
	return m
}()

var errDN = errors.New("not a DN")

// appendDN appends the normal form of dn to b.
func appendDN(b, dn []byte) ([]byte, error) {
	if len(dn) > maxDN {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", errDN, len(dn), maxDN)
	}
	start := len(b)
	if out, ok := appendPlainDN(b, dn); ok {
		return out, nil
	}
	b = b[:start]
	dn = bytes.TrimLeft(dn, " ")
	if len(dn) == 0 {
		return b, nil
	}
	for first := true; ; first = false {
		if !first {
			b = append(b, ',')
		}
		var parts [][]byte
		for {
			part, rest, sep, err := cutAVA(dn)
			if err != nil {
				return nil, err
			}
			parts, dn = append(parts, part), rest
			if sep == '+' {
				continue
			}
			sort.Slice(parts, func(i, j int) bool { return bytes.Compare(parts[i], parts[j]) < 0 })
			for i, p := range parts {
				if i > 0 {
					b = append(b, '+')
				}
				b = append(b, p...)
			}
			if sep == 0 {
				return b, nil
			}
			break
		}
	}
}

// plain marks the bytes that can stand in a value as they are, anywhere but at
// its ends.
var plain = func() (t [256]bool) {
	for c := byte(0x21); c < 0x7f; c++ {
		t[c] = !strings.ContainsRune(`",+;<>\#=`, rune(c))
	}
	return t
}()

// appendPlainDN does the common case: type=value of plain ASCII with at most
// single spaces inside, joined by commas.
func appendPlainDN(b, dn []byte) ([]byte, bool) {
	for len(dn) > 0 {
		eq := bytes.IndexByte(dn, '=')
		if eq <= 0 || eq > 24 {
			return nil, false
		}
		at := len(b)
		for _, c := range dn[:eq] {
			b = append(b, lower(c))
		}
		switch string(b[at:]) {
		case "uid", "cn", "ou", "dc", "o": // nearly all
		default:
			short, fold := foldTypes[string(b[at:])]
			if !fold {
				return nil, false
			}
			b = append(b[:at], short...)
		}
		b = append(b, '=')
		dn = dn[eq+1:]
		i := 0
		for ; i < len(dn) && dn[i] != ','; i++ {
			if !plain[dn[i]] && (dn[i] != ' ' || i == 0 || dn[i-1] == ' ') {
				return nil, false
			}
			b = append(b, lower(dn[i]))
		}
		if i == 0 || dn[i-1] == ' ' {
			return nil, false
		}
		if i == len(dn) {
			return b, true
		}
		b = append(b, ',')
		dn = dn[i+1:]
	}
	return nil, false
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// cutAVA takes one type=value off in its normal form, with the separator after
// it: a comma (RFC 2253's semicolon too), a plus, or 0 at the end.
func cutAVA(dn []byte) (ava, rest []byte, sep byte, err error) {
	eq := bytes.IndexByte(dn, '=')
	if eq < 0 {
		return nil, nil, 0, fmt.Errorf("%w: no = in an RDN", errDN)
	}
	typ := strings.ToLower(string(bytes.Trim(dn[:eq], " ")))
	typ = strings.TrimPrefix(typ, "oid.")
	if typ == "" || strings.Trim(typ, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" {
		return nil, nil, 0, fmt.Errorf("%w: no attribute type before =", errDN)
	}
	short, fold := foldTypes[typ]
	if fold {
		typ = short
	}
	value, rest, sep, err := cutValue(bytes.TrimLeft(dn[eq+1:], " "))
	if err != nil {
		return nil, nil, 0, err
	}
	if fold {
		value = foldValue(value)
	}
	return appendValue([]byte(typ+"="), value), rest, sep, nil
}

// cutValue takes an attribute value off, unescaped (RFC 4514 §3; of RFC 2253
// the quoted form too).
func cutValue(s []byte) (value, rest []byte, sep byte, err error) {
	if len(s) > 0 && s[0] == '#' {
		return cutHexValue(s)
	}
	quoted := len(s) > 0 && s[0] == '"'
	i, end := 0, 0 // end: after the last byte that is no trimmed space
	if quoted {
		i = 1
	}
	for ; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\':
			if i+1 >= len(s) {
				return nil, nil, 0, fmt.Errorf("%w: ends in a backslash", errDN)
			}
			if h, err := hex.DecodeString(string(s[i+1 : min(i+3, len(s))])); err == nil && len(h) == 1 {
				value = append(value, h[0])
				i += 2
			} else if strings.IndexByte(`"+,;<>\ #=`, s[i+1]) >= 0 {
				value = append(value, s[i+1])
				i++
			} else {
				return nil, nil, 0, fmt.Errorf("%w: wrong escape", errDN)
			}
			end = len(value)
			continue
		case quoted && c == '"':
			rest = bytes.TrimLeft(s[i+1:], " ")
			if len(rest) == 0 {
				return value, nil, 0, nil
			}
			if rest[0] != ',' && rest[0] != '+' && rest[0] != ';' {
				return nil, nil, 0, fmt.Errorf("%w: text after a quoted value", errDN)
			}
			return value, trimNext(rest), rdnSeparator(rest[0]), nil
		case quoted:
		case c == ',' || c == ';' || c == '+':
			return value[:end], trimNext(s[i:]), rdnSeparator(c), nil
		case c == '"' || c == '<' || c == '>' || c == 0:
			return nil, nil, 0, fmt.Errorf("%w: a character that must be escaped", errDN)
		}
		value = append(value, c)
		if c != ' ' || quoted {
			end = len(value)
		}
	}
	if quoted {
		return nil, nil, 0, fmt.Errorf("%w: a quote is not closed", errDN)
	}
	return value[:end], nil, 0, nil
}

// trimNext passes over the separator and the spaces before the next type.
func trimNext(s []byte) []byte { return bytes.TrimLeft(s[1:], " ") }

func rdnSeparator(c byte) byte {
	if c == ';' {
		return ','
	}
	return c
}

// cutHexValue takes #hex off: a value in BER, of which strings are understood.
func cutHexValue(s []byte) (value, rest []byte, sep byte, err error) {
	i := 1
	for i < len(s) && s[i] != ',' && s[i] != '+' && s[i] != ';' && s[i] != ' ' {
		i++
	}
	b, err := hex.DecodeString(string(s[1:i]))
	if err != nil {
		return nil, nil, 0, fmt.Errorf("%w: wrong hexadecimal value", errDN)
	}
	r := ber(b)
	tag, v, err := r.next()
	if err != nil || len(r) != 0 || tag&0xe0 != 0 {
		return nil, nil, 0, fmt.Errorf("%w: hexadecimal value is no string in BER", errDN)
	}
	rest = bytes.TrimLeft(s[i:], " ")
	switch {
	case len(rest) == 0:
		return v, nil, 0, nil
	case rest[0] == ' ' || rest[0] != ',' && rest[0] != '+' && rest[0] != ';':
		return nil, nil, 0, fmt.Errorf("%w: text after a hexadecimal value", errDN)
	}
	return v, trimNext(rest), rdnSeparator(rest[0]), nil
}

// foldValue folds case, and trims and collapses spaces. What is not UTF-8 is
// kept as it is.
func foldValue(v []byte) []byte {
	if !utf8.Valid(v) {
		return v
	}
	out := make([]byte, 0, len(v))
	for _, c := range string(v) {
		if unicode.Is(unicode.Zs, c) || c >= 0x09 && c <= 0x0d || c == 0x85 || c == 0x2028 || c == 0x2029 {
			if len(out) > 0 && out[len(out)-1] != ' ' {
				out = append(out, ' ')
			}
			continue
		}
		out = utf8.AppendRune(out, unicode.ToLower(c))
	}
	return bytes.TrimRight(out, " ")
}

// appendValue escapes a value: what RFC 4514 §2.4 says must be, and control
// characters and bytes that are not UTF-8 in hexadecimal.
func appendValue(b, v []byte) []byte {
	for i := 0; i < len(v); {
		c, n := utf8.DecodeRune(v[i:])
		switch {
		case c == utf8.RuneError && n == 1, c < 0x20, c == 0x7f:
			b = append(b, '\\', "0123456789abcdef"[v[i]>>4], "0123456789abcdef"[v[i]&15])
		case strings.ContainsRune(`",+;<>\=`, c), c == ' ' && (i == 0 || i == len(v)-1), c == '#' && i == 0:
			b = append(b, '\\', byte(c))
		default:
			b = append(b, v[i:i+n]...)
		}
		i += n
	}
	return b
}
