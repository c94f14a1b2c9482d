package ldapsync

import (
	"errors"
	"fmt"
)

// Tags, as RFC 4511 uses them: class, constructed bit and number in one byte.
const (
	tagBoolean     = 0x01
	tagInteger     = 0x02
	tagOctetString = 0x04
	tagEnumerated  = 0x0a
	tagSequence    = 0x30
	tagSet         = 0x31
)

var errBER = errors.New("malformed BER")

// ber is a cursor over BER that allocates nothing: what it returns points into
// the message. It takes what RFC 4511 §5.1 allows, definite lengths and tags
// of one byte, and nothing else. Depth is bounded by the code that calls it:
// no format that is read here nests on its own.
type ber []byte

// next takes one element off.
func (r *ber) next() (tag byte, value ber, err error) {
	b := *r
	if len(b) < 2 {
		return 0, nil, errBER
	}
	head, n, err := berLength(b[1:])
	if err != nil || b[0]&0x1f == 0x1f || n > len(b)-1-head {
		return 0, nil, errBER
	}
	end := 1 + head + n
	*r = b[end:]
	return b[0], b[1+head : end], nil
}

// berLength reads a length: how many bytes it takes, and its value.
func berLength(b []byte) (head, n int, err error) {
	if len(b) == 0 {
		return 0, 0, errBER
	}
	if b[0] < 0x80 {
		return 1, int(b[0]), nil
	}
	head = 1 + int(b[0]&0x7f)
	if head == 1 || head > 5 || len(b) < head { // indefinite, or over 32 bits
		return 0, 0, errBER
	}
	var v uint64
	for _, c := range b[1:head] {
		v = v<<8 | uint64(c)
	}
	if v > 1<<31-1 {
		return 0, 0, errBER
	}
	return head, int(v), nil
}

// expect takes one element with that tag off.
func (r *ber) expect(tag byte) (ber, error) {
	t, v, err := r.next()
	if err == nil && t != tag {
		err = fmt.Errorf("%w: tag %#x where %#x is due", errBER, t, tag)
	}
	return v, err
}

// peek is the next element's tag, 0 at the end.
func (r ber) peek() byte {
	if len(r) == 0 {
		return 0
	}
	return r[0]
}

// integer takes an INTEGER or ENUMERATED off that fits 32 bits.
func (r *ber) integer(tag byte) (int, error) {
	v, err := r.expect(tag)
	if err != nil {
		return 0, err
	}
	if len(v) == 0 || len(v) > 4 {
		return 0, fmt.Errorf("%w: integer of %d bytes", errBER, len(v))
	}
	n := int(int8(v[0]))
	for _, c := range v[1:] {
		n = n<<8 | int(c)
	}
	return n, nil
}

// boolean takes a BOOLEAN off.
func (r *ber) boolean() (bool, error) {
	v, err := r.expect(tagBoolean)
	if err != nil {
		return false, err
	}
	if len(v) != 1 {
		return false, fmt.Errorf("%w: boolean of %d bytes", errBER, len(v))
	}
	return v[0] != 0, nil
}

// frame tells how long the first LDAPMessage in b is, 0 when b is too short to
// say. It is an error when it is no LDAPMessage or longer than max.
func frame(b []byte, max int) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if b[0] != tagSequence {
		return 0, fmt.Errorf("%w: what the server sends is not LDAP (first byte %#x)", errBER, b[0])
	}
	if len(b) < 6 && (len(b) < 2 || b[1] >= 0x80 && len(b) < 2+int(b[1]&0x7f)) {
		if len(b) >= 2 && (b[1] == 0x80 || b[1] > 0x84) {
			return 0, fmt.Errorf("%w: length in a form that LDAP forbids", errBER)
		}
		return 0, nil
	}
	head, n, err := berLength(b[1:])
	if err != nil {
		return 0, fmt.Errorf("%w: length in a form that LDAP forbids", errBER)
	}
	if n += 1 + head; n > max {
		return 0, &largeError{n, max}
	}
	return n, nil
}

// largeError is a message longer than is read.
type largeError struct{ size, max int }

func (e *largeError) Error() string {
	return fmt.Sprintf("the server sends a message of %d bytes, at most %d are read; raise MaxMessage if an entry is really that large", e.size, e.max)
}

// attribute takes one PartialAttribute (RFC 4511 §4.1.7): its name, and the
// contents of its set of values.
func (b *ber) attribute() (name, vals ber, err error) {
	a, err := b.expect(tagSequence)
	if err != nil {
		return nil, nil, err
	}
	if name, err = a.expect(tagOctetString); err != nil {
		return nil, nil, err
	}
	if vals, err = a.expect(tagSet); err != nil {
		return nil, nil, err
	}
	return name, vals, nil
}
