package clock

import (
	"net"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// State is how good the clocks are for tickets. The zero value is Unknown.
type State int

// The states, against the realm's skew.
const (
	Unknown State = iota // nobody could tell; never taken for good
	Good                 // within the share of the skew that is allowed
	Near                 // tickets still work; somebody should look
	Beyond               // tickets would fail, or prove nothing
)

// String is one word, lower case.
func (s State) String() string {
	switch s {
	case Good:
		return "good"
	case Near:
		return "near"
	case Beyond:
		return "beyond"
	}
	return "unknown"
}

// MarshalText is String, for JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Kind is whose clock it is.
type Kind string

// The kinds of clocks.
const (
	Host       Kind = "host"        // this machine
	TimeServer Kind = "time-server" // NTP
	KDC        Kind = "kdc"
	Directory  Kind = "directory"
	Client     Kind = "client" // who shows a ticket
)

// Clock names one clock. The zero value is none.
type Clock struct {
	Kind Kind   `json:"kind,omitempty"`
	Name string `json:"name,omitempty"` // of the server; empty for this host and for clients
}

const localhost = "localhost"

// Verdict is what was made of a source.
type Verdict string

// The verdicts.
const (
	Right  Verdict = "good"   // in step with what the sources agree on
	Off    Verdict = "near"   // wrong by less than the skew, but too much to be well
	Wrong  Verdict = "beyond" // wrong by more than the skew
	False  Verdict = "false"  // a time server that the others contradict: left out
	Silent Verdict = "silent" // no answer, or none that can be used: Why says which
	Denied Verdict = "denied" // told us never to ask again, and is not asked
	Alone  Verdict = "alone"  // heard, and nothing there to judge it by
)

// Source is one clock that was asked.
type Source struct {
	Clock
	// Offset is how far its clock is ahead of this machine's (negative: behind).
	Offset time.Duration `json:"offset_ns"`
	// Bound is the largest error of Offset: the true one is Offset ± Bound. It
	// grows with the age of the answer. Zero with Silent and Denied.
	Bound time.Duration `json:"bound_ns"`
	// Age is how long ago it answered.
	Age     time.Duration `json:"age_ns"`
	Verdict Verdict       `json:"verdict"`
	Why     string        `json:"why,omitempty"` // for Silent, Denied and False

	own bool // it is known to run on this machine
}

// here tells whether it is this machine's own clock, asked over the network: that
// it agrees with this host's says nothing.
func (s *Source) here() bool {
	host, _, err := net.SplitHostPort(s.Name)
	return s.own || s.Name == localhost || err == nil && host == localhost
}

// Status is what the guard knows.
type Status struct {
	State State `json:"state"`
	// Culprit is the clock that is wrong. None when all is well or unknown, and
	// when two clocks differ and nothing tells which of them is wrong: then
	// Between says so and names the other one.
	Culprit Clock `json:"culprit,omitzero"`
	Between Clock `json:"between,omitzero"`
	// Offset is how far the culprit is ahead of the right time (negative:
	// behind); with Between how far that one is ahead of this machine; and else
	// how far this machine is ahead. The true figure is Offset ± Bound.
	Offset time.Duration `json:"offset_ns"`
	Bound  time.Duration `json:"bound_ns"`
	// Text is a sentence for people, without a full stop: "this host's clock is
	// 7 min 12 s behind (+/- 8 ms, by 3 time servers and the KDC)".
	Text    string   `json:"text"`
	Sources []Source `json:"sources"`

	host *wrongClock // this machine's clock, when the right time is known
}

// Refusal is why tickets are neither issued nor accepted, or one is not. It is
// an error.
type Refusal struct {
	Reason broker.Reason // always broker.ReasonClock
	Text   string        // a sentence that may be shown to the user
}

func (r *Refusal) Error() string { return r.Text }
