package krb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Types of krbExtraData values that hold settings.
const (
	extraStrings = 0x000b // KRB5_TL_STRING_ATTRS: key and value in turn, each with a NUL
	// extraKept is our own: a KrbKeySet that the KDC must not use. MIT's tools keep
	// values of types that they do not know.
	extraKept = 0x5365
)

// maxStrings bounds a principal's string attributes in bytes.
const maxStrings = 16 << 10

// StringAttribute is one of a principal's string attributes (kadmin's getstrs), in
// the order of the record.
type StringAttribute struct{ Key, Value string }

// Extra is what krbExtraData says besides who changed the principal last. Its zero
// value says nothing.
type Extra struct {
	Strings []StringAttribute
	// Kept are keys that the KDC does not see: a value as of krbPrincipalKey. Nil:
	// there are none.
	Kept   []byte
	others [][]byte
}

// ParseExtra reads the values of krbExtraData.
func ParseExtra(values [][]byte) (Extra, error) {
	var x Extra
	seen := false
	for _, v := range values {
		if len(v) < 2 {
			return Extra{}, errors.New("a krbExtraData value is shorter than its type")
		}
		body := v[2:]
		switch binary.BigEndian.Uint16(v) {
		case extraStrings:
			if seen {
				return Extra{}, errors.New("krbExtraData has two values of string attributes")
			}
			seen = true
			s, err := parseStrings(body)
			if err != nil {
				return Extra{}, err
			}
			x.Strings = s
		case extraKept:
			if x.Kept != nil {
				return Extra{}, errors.New("krbExtraData has two values of kept keys")
			}
			if _, err := DecodeKeySet(body); err != nil {
				return Extra{}, fmt.Errorf("the kept keys: %w", err)
			}
			x.Kept = bytes.Clone(body)
		default:
			x.others = append(x.others, bytes.Clone(v))
		}
	}
	return x, nil
}

func parseStrings(b []byte) ([]StringAttribute, error) {
	if len(b) > maxStrings {
		return nil, errors.New("the string attributes are too long")
	}
	var out []StringAttribute
	for len(b) > 0 {
		key, rest, ok := bytes.Cut(b, []byte{0})
		value, rest, ok2 := bytes.Cut(rest, []byte{0})
		if !ok || !ok2 || len(key) == 0 {
			return nil, errors.New("the string attributes are not pairs")
		}
		if slices.ContainsFunc(out, func(a StringAttribute) bool { return a.Key == string(key) }) {
			return nil, fmt.Errorf("the string attribute %.40q is there twice", key)
		}
		out, b = append(out, StringAttribute{string(key), string(value)}), rest
	}
	return out, nil
}

// Values are the values for krbExtraData; none of them is of a kind that is empty.
func (x Extra) Values() ([][]byte, error) {
	out := slices.Clone(x.others)
	if len(x.Strings) > 0 {
		b := binary.BigEndian.AppendUint16(nil, extraStrings)
		for _, a := range x.Strings {
			if a.Key == "" || strings.ContainsRune(a.Key+a.Value, 0) {
				return nil, fmt.Errorf("the string attribute %.40q cannot be written", a.Key)
			}
			b = append(append(append(append(b, a.Key...), 0), a.Value...), 0)
		}
		if len(b)-2 > maxStrings {
			return nil, errors.New("the string attributes are too long")
		}
		out = append(out, b)
	}
	if x.Kept != nil {
		if _, err := DecodeKeySet(x.Kept); err != nil {
			return nil, fmt.Errorf("the kept keys: %w", err)
		}
		out = append(out, append(binary.BigEndian.AppendUint16(nil, extraKept), x.Kept...))
	}
	return out, nil
}

// Get is the value of a string attribute; false when there is none.
func (x Extra) Get(key string) (string, bool) {
	for _, a := range x.Strings {
		if a.Key == key {
			return a.Value, true
		}
	}
	return "", false
}

// Set gives x with a string attribute set, or without it.
func (x Extra) Set(key, value string, there bool) Extra {
	x.Strings = slices.DeleteFunc(slices.Clone(x.Strings), func(a StringAttribute) bool { return a.Key == key })
	if there {
		x.Strings = append(x.Strings, StringAttribute{key, value})
	}
	return x
}
