package ldapsync

import (
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/broker"
)

// protocolOp tags of RFC 4511 §4.
const (
	opBindRequest      = 0x60
	opBindResponse     = 0x61
	opSearchRequest    = 0x63
	opSearchEntry      = 0x64
	opSearchDone       = 0x65
	opSearchReference  = 0x73
	opExtendedRequest  = 0x77
	opExtendedResponse = 0x78
	opIntermediate     = 0x79
)

const (
	oidStartTLS    = "1.3.6.1.4.1.1466.20037"
	oidSyncRequest = "1.3.6.1.4.1.4203.1.9.1.1"
	oidSyncState   = "1.3.6.1.4.1.4203.1.9.1.2"
	oidSyncDone    = "1.3.6.1.4.1.4203.1.9.1.3"
	oidSyncInfo    = "1.3.6.1.4.1.4203.1.9.1.4"
	oidDisconnect  = "1.3.6.1.4.1.1466.20036"
)

// message is one LDAPMessage (RFC 4511 §4.1.1), pointing into its bytes.
type message struct {
	id       int
	op       byte
	body     ber // the protocolOp's value
	controls ber // the controls' value, empty when there are none
}

func parseMessage(b []byte) (m message, err error) {
	r := ber(b)
	r, err = r.expect(tagSequence)
	if err != nil {
		return message{}, err
	}
	if m.id, err = r.integer(tagInteger); err != nil {
		return message{}, err
	}
	if m.op, m.body, err = r.next(); err != nil {
		return message{}, err
	}
	if r.peek() == 0xa0 {
		if m.controls, err = r.expect(0xa0); err != nil {
			return message{}, err
		}
	}
	// RFC 4511 §4: what follows is an extension and passed over.
	return m, nil
}

// control finds a control's value; ok is false when it is not there.
func (m message) control(oid string) (value ber, ok bool, err error) {
	for r := m.controls; len(r) > 0; {
		c, err := r.expect(tagSequence)
		if err != nil {
			return nil, false, err
		}
		name, err := c.expect(tagOctetString)
		if err != nil {
			return nil, false, err
		}
		if string(name) != oid {
			continue
		}
		if c.peek() == tagBoolean {
			if _, err := c.boolean(); err != nil {
				return nil, false, err
			}
		}
		value, err := c.expect(tagOctetString)
		return value, err == nil, err
	}
	return nil, false, nil
}

// result is an LDAPResult (RFC 4511 §4.1.9) as an error, nil for success.
func (m message) result() error {
	r := m.body
	code, err := r.integer(tagEnumerated)
	if err != nil {
		return err
	}
	if _, err := r.expect(tagOctetString); err != nil {
		return err
	}
	why, err := r.expect(tagOctetString)
	if err != nil || code == 0 {
		return err
	}
	return resultError(code, string(why))
}

// resultError is the directory's refusal in words; it unwraps to *ldap.Error.
func resultError(code int, why string) error {
	text := ldap.LDAPResultCodeMap[uint16(code)]
	if code < 0 || code > 0xffff || text == "" {
		text = "unknown result"
	}
	if why = printable(why, 200); why != "" {
		text += ": " + why
	}
	return ldap.NewError(uint16(code), fmt.Errorf("%s", text))
}

// printable makes what a server sent fit for one line of a log.
func printable(s string, max int) string {
	if len(s) > max {
		s = s[:max] + "…"
	}
	return strings.Map(func(c rune) rune {
		if c < 0x20 || c == 0x7f || c == 0xfffd {
			return '?'
		}
		return c
	}, s)
}

// syncState is the Sync State control (RFC 4533 §2.3).
type syncState struct {
	state  int
	id     broker.EntryID
	cookie ber // nil when there is none
}

const (
	statePresent = 0
	stateAdd     = 1
	stateModify  = 2
	stateDelete  = 3
)

func parseSyncState(v ber) (s syncState, err error) {
	r, err := v.expect(tagSequence)
	if err != nil {
		return s, err
	}
	if s.state, err = r.integer(tagEnumerated); err != nil {
		return s, err
	}
	id, err := r.expect(tagOctetString)
	if err != nil {
		return s, err
	}
	if len(id) != len(s.id) {
		return s, fmt.Errorf("%w: entryUUID of %d bytes", errBER, len(id))
	}
	copy(s.id[:], id)
	if r.peek() == tagOctetString {
		s.cookie, err = r.expect(tagOctetString)
	}
	return s, err
}

// syncDone is the Sync Done control (RFC 4533 §2.4).
type syncDone struct {
	cookie         ber
	refreshDeletes bool
}

func parseSyncDone(v ber) (d syncDone, err error) {
	r, err := v.expect(tagSequence)
	if err != nil {
		return d, err
	}
	if r.peek() == tagOctetString {
		if d.cookie, err = r.expect(tagOctetString); err != nil {
			return d, err
		}
	}
	if r.peek() == tagBoolean {
		d.refreshDeletes, err = r.boolean()
	}
	return d, err
}

// Choices of syncInfoValue (RFC 4533 §2.5).
const (
	infoNewCookie      = 0x80
	infoRefreshDelete  = 0xa1
	infoRefreshPresent = 0xa2
	infoIDSet          = 0xa3
)

// syncInfo is the Sync Info message's value.
type syncInfo struct {
	choice         byte
	cookie         ber
	refreshDone    bool
	refreshDeletes bool
	ids            ber // of infoIDSet: OCTET STRINGs of 16 bytes
}

// parseSyncInfo reads an IntermediateResponse (RFC 4511 §4.13); ok is false
// when it is of another kind.
func parseSyncInfo(body ber) (s syncInfo, ok bool, err error) {
	var name, value ber
	for len(body) > 0 {
		tag, v, err := body.next()
		if err != nil {
			return s, false, err
		}
		switch tag {
		case 0x80:
			name = v
		case 0x81:
			value = v
		}
	}
	if string(name) != oidSyncInfo {
		return s, false, nil
	}
	var r ber
	if s.choice, r, err = value.next(); err != nil {
		return s, false, err
	}
	switch s.choice {
	case infoNewCookie:
		s.cookie = r
		return s, true, nil
	case infoRefreshDelete, infoRefreshPresent:
		s.refreshDone = true // DEFAULT TRUE
	case infoIDSet:
	default:
		return s, false, fmt.Errorf("%w: sync info of unknown choice %#x", errBER, s.choice)
	}
	if r.peek() == tagOctetString {
		if s.cookie, err = r.expect(tagOctetString); err != nil {
			return s, false, err
		}
	}
	if r.peek() == tagBoolean {
		b, err := r.boolean()
		if err != nil {
			return s, false, err
		}
		if s.choice == infoIDSet {
			s.refreshDeletes = b
		} else {
			s.refreshDone = b
		}
	}
	if s.choice == infoIDSet {
		s.ids, err = r.expect(tagSet)
	}
	return s, err == nil, err
}

// eachID calls f for every entryUUID of a set.
func (s syncInfo) eachID(f func(broker.EntryID)) error {
	for r := s.ids; len(r) > 0; {
		v, err := r.expect(tagOctetString)
		if err != nil {
			return err
		}
		if len(v) != 16 {
			return fmt.Errorf("%w: entryUUID of %d bytes", errBER, len(v))
		}
		f(broker.EntryID(v))
	}
	return nil
}

// request is a whole LDAPMessage.
func request(id int, op []byte, controls ...[]byte) []byte {
	parts := [][]byte{integer(tagInteger, id), op}
	if len(controls) > 0 {
		parts = append(parts, tlv(0xa0, controls...))
	}
	return tlv(tagSequence, parts...)
}
