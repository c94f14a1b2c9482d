package userdb

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	maxMessage = 64 << 10
	maxDepth   = 16
)

// call is one Varlink method call (https://varlink.org, "Method Call").
type call struct {
	method                string
	params                map[string]json.RawMessage // never nil
	oneway, more, upgrade bool
}

// parseCall reads a message. Members that it does not know are no fault
// (Varlink extends calls so), but a known one of the wrong type is. Names of
// members are compared letter by letter.
func parseCall(msg []byte) (call, error) {
	if len(msg) > maxMessage {
		return call{}, errTooLong
	}
	if !utf8.Valid(msg) {
		return call{}, errors.New("not UTF-8")
	}
	if depth(msg) > maxDepth {
		return call{}, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(msg, &top); err != nil {
		return call{}, fmt.Errorf("not a JSON object: %w", err)
	}
	c := call{params: map[string]json.RawMessage{}}
	for _, m := range []struct {
		name string
		to   any
	}{{"method", &c.method}, {"parameters", &c.params}, {"oneway", &c.oneway}, {"more", &c.more}, {"upgrade", &c.upgrade}} {
		if v, ok := top[m.name]; ok && string(v) != "null" {
			if err := json.Unmarshal(v, m.to); err != nil {
				return call{}, fmt.Errorf("%s: %w", m.name, err)
			}
		}
	}
	if !strings.Contains(c.method, ".") {
		return call{}, errors.New("no method")
	}
	return c, nil
}

// depth is how deep brackets nest, those in strings aside.
func depth(msg []byte) (deepest int) {
	now, inString := 0, false
	for i := 0; i < len(msg); i++ {
		switch b := msg[i]; {
		case inString && b == '\\':
			i++
		case b == '"':
			inString = !inString
		case inString:
		case b == '{' || b == '[':
			now++
			deepest = max(deepest, now)
		case b == '}' || b == ']':
			now--
		}
	}
	return deepest
}

// errParameter names the parameter of a call that is missing or of no use.
type errParameter string

func (e errParameter) Error() string { return "bad parameter " + string(e) }

// text reads a string parameter; ok is false when there is none.
func (c call) text(name string) (s string, ok bool, err error) {
	v, ok := c.params[name]
	if !ok || string(v) == "null" {
		return "", false, nil
	}
	if len(v) == 0 || v[0] != '"' || json.Unmarshal(v, &s) != nil {
		return "", false, errParameter(name)
	}
	return s, true, nil
}

// number reads a uid or gid: a whole number of 32 bits, or one beyond, which
// nobody has.
func (c call) number(name string) (n uint64, ok bool, err error) {
	v, ok := c.params[name]
	if !ok || string(v) == "null" {
		return 0, false, nil
	}
	if len(v) == 0 || v[0] < '0' || v[0] > '9' || json.Unmarshal(v, &n) != nil {
		return 0, false, errParameter(name)
	}
	return n, true, nil
}

// The errors of org.varlink.service and io.systemd.UserDatabase.
const (
	errMethodNotFound    = "org.varlink.service.MethodNotFound"
	errInterfaceNotFound = "org.varlink.service.InterfaceNotFound"
	errNotImplemented    = "org.varlink.service.MethodNotImplemented"
	errInvalidParameter  = "org.varlink.service.InvalidParameter"
	errExpectedMore      = "org.varlink.service.ExpectedMore"
	errNoRecord          = userDatabase + ".NoRecordFound"
	errBadService        = userDatabase + ".BadService"
	errUnavailable       = userDatabase + ".ServiceNotAvailable"
	errConflict          = userDatabase + ".ConflictingRecordFound"
	errEnumeration       = userDatabase + ".EnumerationNotSupported"
)

const (
	userDatabase = "io.systemd.UserDatabase"
	varlinkSelf  = "org.varlink.service"
)

type reply struct {
	Error      string `json:"error,omitempty"`
	Parameters any    `json:"parameters"`
	Continues  bool   `json:"continues,omitempty"`
}

// appendReply appends one message. All that is printed are our own structs of
// valid strings and numbers, for which Marshal has no error.
func appendReply(to []byte, r reply) []byte {
	if r.Parameters == nil {
		r.Parameters = struct{}{}
	}
	b, err := json.Marshal(r)
	if err != nil {
		b = []byte(`{"error":"` + errUnavailable + `","parameters":{}}`)
	}
	return append(append(to, b...), 0)
}

// describe is the answer of GetInterfaceDescription, in Varlink's own language.
var describe = map[string]string{ // immutable
	varlinkSelf: `# What a service says of itself
interface org.varlink.service

method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)

method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound(interface: string)
error MethodNotFound(method: string)
error MethodNotImplemented(method: string)
error InvalidParameter(parameter: string)
error ExpectedMore()
`,
	userDatabase: `# Users and groups of the directory, see https://systemd.io/USER_GROUP_API
interface io.systemd.UserDatabase

method GetUserRecord(uid: ?int, userName: ?string, service: string) -> (record: object, incomplete: bool)

method GetGroupRecord(gid: ?int, groupName: ?string, service: string) -> (record: object, incomplete: bool)

# To be called with "more".
method GetMemberships(userName: ?string, groupName: ?string, service: string) -> (userName: string, groupName: string)

error NoRecordFound()
error BadService()
error ServiceNotAvailable()
error ConflictingRecordFound()
error EnumerationNotSupported()
`,
}
