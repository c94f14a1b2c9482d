package ldapsync

import (
	"errors"
	"fmt"

	"github.com/go-ldap/ldap/v3"
)

// truth is what a filter says of an entry (RFC 4511 §4.5.1.7).
type truth uint8

const (
	no truth = iota
	undefined
	yes
)

// The choices of a filter, as tagged in BER (RFC 4511 §4.5.1).
const (
	filterAnd     = 0xa0
	filterOr      = 0xa1
	filterNot     = 0xa2
	filterEqual   = 0xa3
	filterPresent = 0x87
)

var errFilter = errors.New("whether a changed entry meets the configured filter cannot be rehearsed: it may use &, |, !, (attribute=value) and (attribute=*), without memberOf")

// meets says whether a touched entry meets the schema's own filter.
func (w *rehearsal) meets(it *item) (bool, error) {
	if w.p.schema.Filter == "" {
		return true, nil
	}
	f, err := ldap.CompileFilter(w.p.schema.Filter)
	if err != nil {
		return false, fmt.Errorf("filter: %w", err)
	}
	b := ber(f.Bytes())
	t, err := w.judge(&b, it)
	return t == yes, err
}

// judge takes one filter off b.
func (w *rehearsal) judge(b *ber, it *item) (truth, error) {
	tag, f, err := b.next()
	if err != nil {
		return no, err
	}
	switch tag {
	case filterAnd, filterOr:
		worst, best := yes, no
		for len(f) > 0 {
			t, err := w.judge(&f, it)
			if err != nil {
				return no, err
			}
			worst, best = min(worst, t), max(best, t)
		}
		if tag == filterAnd {
			return worst, nil
		}
		return best, nil
	case filterNot:
		t, err := w.judge(&f, it)
		return yes - t, err
	case filterPresent:
		values, _, err := w.asked(f, it)
		switch {
		case err != nil:
			return no, err
		case len(values) > 0:
			return yes, nil
		}
		return no, nil
	case filterEqual:
		desc, err1 := f.expect(tagOctetString)
		value, err2 := f.expect(tagOctetString)
		if err := errors.Join(err1, err2); err != nil {
			return no, err
		}
		values, t, err := w.asked(desc, it)
		switch {
		case err != nil:
			return no, err
		case t == nil || t.equality == "":
			return undefined, nil
		}
		want := t.form(value)
		for _, v := range values {
			if t.form(v) == want {
				return yes, nil
			}
		}
		return no, nil
	}
	return no, errFilter
}

// asked is an attribute that a filter names; t is nil when the directory does not
// know it.
func (w *rehearsal) asked(desc ber, it *item) (values [][]byte, t *attrType, err error) {
	name, t, unknown := w.types.canonical(string(desc))
	switch {
	case unknown != nil:
		return nil, nil, nil
	case name == "memberof":
		return nil, nil, errFilter
	}
	return it.attrs[name], t, nil
}
