package wire

import "errors"

// Version is the protocol's version, the first word of each message.
const Version = 1

// Limits. A printer refuses to write what breaks one, and a parser refuses to
// read it. All sizes are bytes.
const (
	MaxLine      = 16 << 10 // a request, or an answer's header line, with its newline
	MaxFields    = 32       // fields of one request
	MaxName      = 32       // a verb or a field name
	MaxReason    = 64       // Answer.Reason
	MaxText      = 4 << 10  // Answer.Text, before percent-encoding
	MaxBodyLines = 16 << 10 // len(Answer.Body)
	MaxBodyLine  = 64 << 10 // one line of Answer.Body, without its newline
	MaxAnswer    = 1 << 20  // a whole answer
)

// The verbs of today, and the fields of keys.
const (
	VerbKeys   = "keys"
	VerbWhy    = "why"
	VerbStatus = "status"
	VerbAccept = "accept"

	FieldUser        = "user"
	FieldFingerprint = "fp"
	FieldType        = "type"
	FieldKey         = "key"
)

// The reasons that the protocol itself gives, all with the outcome Unknown.
// The other reasons belong to the verbs.
const (
	ReasonVersion   = "version"   // the request is of a version not spoken here
	ReasonMalformed = "malformed" // the request cannot be parsed, or has wrong fields
	ReasonVerb      = "verb"      // there is no such verb
	ReasonCaller    = "caller"    // this verb, or this user, is not for the caller
	ReasonBusy      = "busy"      // too many connections at once
)

// Outcome is one of the three answers. The zero value is Unknown, so that an
// answer nobody filled in opens nothing and denies nothing.
type Outcome uint8

const (
	Unknown Outcome = iota // could not find out
	No
	Yes
)

// String gives the outcome's word on the wire; anything but No and Yes reads
// as "unknown".
func (o Outcome) String() string {
	switch o {
	case Yes:
		return "yes"
	case No:
		return "no"
	}
	return "unknown"
}

// Field is one name and its decoded value. The value may hold any bytes.
type Field struct {
	Name, Value string
}

// Request is one question.
type Request struct {
	Verb   string
	Fields []Field // no name twice
}

// Get returns the named field's value, "" when it is absent. Use Has where
// absent and empty differ.
func (r Request) Get(name string) string {
	for _, f := range r.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// Has tells whether the named field is there.
func (r Request) Has(name string) bool {
	for _, f := range r.Fields {
		if f.Name == name {
			return true
		}
	}
	return false
}

// Only returns an error that names the first field which is not among names:
// a verb skips no field that it does not know.
func (r Request) Only(names ...string) error {
next:
	for _, f := range r.Fields {
		for _, n := range names {
			if f.Name == n {
				continue next
			}
		}
		return errors.New("verb " + r.Verb + " knows no field " + f.Name + ": use the same sekisho release on both sides")
	}
	return nil
}

// Answer is one reply. Its zero value is "could not find out".
type Answer struct {
	Outcome Outcome
	Reason  string   // a name of the verb's closed list, "" for none
	Text    string   // one sentence for people, "" for none; no control characters
	Body    []string // raw lines without control characters
}

// VersionError reports a peer that speaks another version.
type VersionError struct {
	Peer string // the peer's version as it wrote it, 1 to 5 digits
}

func (e *VersionError) Error() string {
	return "the peer speaks version " + e.Peer + " of the sekisho socket protocol and this program version 1: install the same sekisho release on both sides"
}
