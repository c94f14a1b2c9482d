package feed

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/sekisho/sekisho/broker"
)

// seeds are frames of each kind.
func seeds(f *testing.F) {
	s := small(f)
	h := s.Host("host0")
	key, rules, groups := kin(s, h)
	c, _ := newClass(s, key, rules, groups)
	frames := append(c.all(s), c.commitFrame(1), newFrame(kindSelf, selfOf(s, h)), newFrame(kindHello, clientHello{Version: 1, Host: "x"}),
		newFrame(kindPing, ping{1}), newFrame(kindAck, ack{2, 1}), newFrame(kindPong, pong{1, 2}), newFrame(kindBye, bye{"no", true}),
		newFrame(kindSessions, sessionList{true, true, []broker.Session{testSession(1, "host0")}}),
		newFrame(kindEvent, sessionEvent{broker.SessionOpened, testSession(1, "host0"), ""}),
		newFrame(kindCall, call{1, "take", 100, json.RawMessage(`{"a":1}`)}), newFrame(kindAnswer, answer{ID: 1, Body: json.RawMessage(`1`)}),
		newFrame(kindEnd, end{testSession(1, "").ID, "killed", "x"}),
		newFrame(kindWelcome, welcome{1, "host0", 5, 6}))
	for _, x := range frames {
		f.Add(x)
	}
}

// FuzzClientFrame: what a client may send is refused, or is what its own encoding
// is read as.
func FuzzClientFrame(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) { roundTrip(t, b, parseClientFrame) })
}

// FuzzServerFrame is the same for the other direction; what is taken is applied to
// a mirror, which holds to its digest.
func FuzzServerFrame(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		roundTrip(t, b, parseServerFrame)
		m := newMirror()
		x := m.begin()
		for r := bytes.NewReader(b); ; {
			var buf []byte
			k, body, err := readFrame(r, &buf)
			if err != nil {
				return
			}
			v, err := parseServerFrame(k, body)
			if err != nil {
				return
			}
			switch v := v.(type) {
			case *ops:
				if x.ops(v) != nil {
					return
				}
			case *self:
				x.self = v
			case *commit:
				if _, after, err := m.commit(x, v, func(n uint64) uint64 { return n }); err != nil {
					return
				} else if m.digest != v.Digest || after == nil {
					t.Error("a change was taken that is not what its digest says")
				}
				x = m.begin()
			}
		}
	})
}

func roundTrip(t *testing.T, b []byte, parse func(kind, []byte) (any, error)) {
	var buf []byte
	k, body, err := readFrame(bytes.NewReader(b), &buf)
	if err != nil {
		return
	}
	v, err := parse(k, body)
	if err != nil {
		return
	}
	f := newFrame(k, v)
	if f == nil {
		return // it grew by escaping
	}
	again, err := parse(k, f[5:])
	if err != nil {
		t.Fatalf("%s was taken, and %s is not: %v", body, f[5:], err)
	}
	if g := newFrame(k, again); !bytes.Equal(f, g) {
		t.Fatalf("%s became %s", f, g)
	}
}
