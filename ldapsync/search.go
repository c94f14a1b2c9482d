package ldapsync

import (
	"context"
	"fmt"

	"github.com/sekisho/sekisho/broker"
)

// searchOp is a SearchRequest (RFC 4511 §4.5.1); filter is in BER.
func searchOp(base string, scope int, filter []byte, attrs []string) []byte {
	var names []byte
	for _, a := range attrs {
		names = append(names, text(a)...)
	}
	return tlv(opSearchRequest, text(base), integer(tagEnumerated, scope), integer(tagEnumerated, 0),
		integer(tagInteger, 0), integer(tagInteger, 0), boolean(false), filter, tlv(tagSequence, names))
}

var presentFilter = tlv(0x87, []byte("objectClass")) // (objectClass=*)

// readBase reads one attribute of one entry.
func (c *conn) readBase(ctx context.Context, dn string, attrs ...string) (map[string][]string, error) {
	out := map[string][]string{}
	err := c.exchange(ctx, searchOp(dn, 0, presentFilter, attrs), nil, func(m message) (bool, error) {
		switch m.op {
		case opSearchEntry:
			return false, stringValues(m.body, out)
		case opSearchDone:
			return true, m.result()
		}
		return false, nil
	})
	return out, err
}

// stringValues reads a SearchResultEntry's attributes into out.
func stringValues(body ber, out map[string][]string) error {
	if _, err := body.expect(tagOctetString); err != nil {
		return err
	}
	list, err := body.expect(tagSequence)
	if err != nil {
		return err
	}
	for len(list) > 0 {
		name, vals, err := list.attribute()
		if err != nil {
			return err
		}
		for len(vals) > 0 {
			v, err := vals.expect(tagOctetString)
			if err != nil {
				return err
			}
			out[string(name)] = append(out[string(name)], string(v))
		}
	}
	return nil
}

// suffixOf finds the naming context that base is in, and whether the server
// speaks RFC 4533.
func (c *conn) suffixOf(ctx context.Context, base broker.DN) (suffix string, err error) {
	root, err := c.readBase(ctx, "", "namingContexts", "supportedControl")
	if err != nil {
		return "", fmt.Errorf("reading the root entry of %s: %w", c.e.url, err)
	}
	known := false
	for _, oid := range root["supportedControl"] {
		known = known || oid == oidSyncRequest
	}
	if len(root["supportedControl"]) > 0 && !known {
		return "", fmt.Errorf("%s does not offer content synchronization (RFC 4533); add the overlay syncprov to its database", c.e.url)
	}
	for _, n := range root["namingContexts"] {
		dn, err := NormalizeDN(n)
		if err == nil && dn != "" && within(string(base), string(dn)) && len(n) > len(suffix) {
			suffix = n
		}
	}
	return suffix, nil
}
