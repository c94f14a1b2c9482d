package feed

import (
	"encoding/base64"
	"encoding/json"
	"unicode/utf8"

	"github.com/sekisho/sekisho/broker"
)

// Bounds of what a message holds.
const (
	maxText     = 1024
	maxList     = 1024 // proofs, rules and recent proofs of a session
	maxSessions = 256  // in one frame
)

// clientHello begins: which state the client has.
type clientHello struct {
	Version int             `json:"version"`
	Host    broker.HostName `json:"host"`
	Stream  string          `json:"stream"`
	Seq     uint64          `json:"seq"`
	Digest  digest          `json:"digest"`
}

func (m *clientHello) check() error { return texts(string(m.Host), m.Stream) }

// ping asks how old the broker's view is.
type ping struct {
	N uint64 `json:"n"`
}

func (m *ping) check() error { return nil }

// ack says how many changes of this connection were applied, and by how many
// of them the sessions were judged.
type ack struct {
	Applied uint64 `json:"applied"`
	Judged  uint64 `json:"judged"`
}

func (m *ack) check() error {
	if m.Judged > m.Applied {
		return nonsense("judged before it was applied")
	}
	return nil
}

// sessionList is a part of all sessions: First begins it, Last ends it.
type sessionList struct {
	First    bool             `json:"first"`
	Last     bool             `json:"last"`
	Sessions []broker.Session `json:"sessions"`
}

func (m *sessionList) check() error {
	if len(m.Sessions) > maxSessions {
		return nonsense("%d sessions in one frame", len(m.Sessions))
	}
	for i := range m.Sessions {
		if err := checkSession(&m.Sessions[i]); err != nil {
			return err
		}
	}
	return nil
}

// sessionEvent is one step in a session's life.
type sessionEvent struct {
	Kind    broker.EventKind `json:"kind"`
	Session broker.Session   `json:"session"`
	Reason  broker.Reason    `json:"reason"`
}

func (m *sessionEvent) check() error {
	switch m.Kind {
	case broker.SessionOpened, broker.SessionEnding, broker.SessionClosed, broker.SessionLost:
	default:
		return nonsense("a session that is %.40q", m.Kind)
	}
	if err := texts(string(m.Reason)); err != nil {
		return err
	}
	return checkSession(&m.Session)
}

func checkSession(s *broker.Session) error {
	if !validID(s.ID) {
		return nonsense("a session's ID")
	}
	r := &s.Request
	if len(s.Proofs) > maxList || len(s.Rules) > maxList || len(r.Recent) > maxList {
		return nonsense("a session with too long a list")
	}
	for _, p := range s.Proofs {
		if err := texts(string(p)); err != nil {
			return err
		}
	}
	for _, n := range s.Rules {
		if err := texts(string(n)); err != nil {
			return err
		}
	}
	for _, p := range r.Recent {
		if err := texts(string(p.Proof)); err != nil {
			return err
		}
	}
	if s.Basis > broker.BasisRules {
		return nonsense("a session's basis")
	}
	return texts(string(r.User), string(r.Login), string(r.Door), string(r.Target.Host), r.Target.Addr.Zone(), r.From.Zone(), r.Key,
		string(s.Place), s.Service, s.TTY, s.Keeper, string(s.Why))
}

// validID takes 16 bytes in base64url.
func validID(id broker.SessionID) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(string(id))
	return err == nil && len(b) == 16
}

// call asks the broker something.
type call struct {
	ID     uint64          `json:"id"`
	Kind   string          `json:"kind"`
	WaitMS uint32          `json:"wait_ms"`
	Body   json.RawMessage `json:"body"`
}

func (m *call) check() error { return texts(m.Kind) }

// welcome is the server's hello.
type welcome struct {
	Version int `json:"version"`
	// Host is the host's canonical name.
	Host broker.HostName `json:"host"`
	// AgeMS is how old the broker's view is, and Generation its number.
	AgeMS      uint64 `json:"age_ms"`
	Generation uint64 `json:"generation"`
}

func (m *welcome) check() error { return texts(string(m.Host)) }

// commit makes what came since the last one valid.
type commit struct {
	Stream     string `json:"stream"`
	Seq        uint64 `json:"seq"`
	Generation uint64 `json:"generation"`
	Digest     digest `json:"digest"`
}

func (m *commit) check() error {
	if m.Stream == "" {
		return nonsense("a commit without its stream")
	}
	return texts(m.Stream)
}

// pong answers a ping: the view that was sent so far was the directory's AgeMS
// ago.
type pong struct {
	N     uint64 `json:"n"`
	AgeMS uint64 `json:"age_ms"`
}

func (m *pong) check() error { return nil }

// end orders a session's end.
type end struct {
	ID     broker.SessionID `json:"id"`
	Reason broker.Reason    `json:"reason"`
	Text   string           `json:"text"`
}

func (m *end) check() error {
	if !validID(m.ID) {
		return nonsense("a session's ID")
	}
	return texts(string(m.Reason), m.Text)
}

// answer is that to a call: Body, or Error, or Busy when it was not looked at.
type answer struct {
	ID    uint64          `json:"id"`
	Body  json.RawMessage `json:"body,omitempty"`
	Error string          `json:"error,omitempty"`
	Busy  bool            `json:"busy,omitempty"`
}

func (m *answer) check() error { return texts(m.Error) }

// bye says why the server hangs up.
type bye struct {
	Text string `json:"text"`
	// Wait says that another try later may do.
	Wait bool `json:"wait"`
}

func (m *bye) check() error { return texts(m.Text) }

// texts bounds strings that a peer sent, and keeps control characters out of
// logs and terminals.
func texts(list ...string) error {
	for _, s := range list {
		if len(s) > maxText || !utf8.ValidString(s) {
			return nonsense("a text of %d bytes", len(s))
		}
		for _, c := range s {
			if c < 0x20 || c >= 0x7f && c < 0xa0 {
				return nonsense("a control character")
			}
		}
	}
	return nil
}
