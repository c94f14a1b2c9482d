package accept

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os/exec"
	"testing"
	"time"
)

func command(t testing.TB, name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, name, args...)
}

// mutator changes messages; its seed is in the test's log.
type mutator struct{ *rand.Rand }

func newMutator(t testing.TB) mutator {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return mutator{rand.New(rand.NewPCG(seed, 0))}
}

// request makes r with one to three changes, in turn outside of the seals, in
// the ticket, in the authenticator, and in what both say.
func (m mutator) request(t testing.TB, r *request, n int) []byte {
	switch n % 5 {
	case 0:
		return m.bytes(r.make(t))
	case 1:
		r.rawPart = m.bytes
	case 2:
		r.rawAuth = m.bytes
	case 3:
		r.rawPart, r.rawAuth = m.tree, m.tree
	default:
		m.fields(r)
	}
	return r.make(t)
}

func (m mutator) bytes(b []byte) []byte {
	b = bytes.Clone(b)
	for range 1 + m.IntN(3) {
		if len(b) == 0 {
			return b
		}
		i := m.IntN(len(b))
		switch m.IntN(6) {
		case 0:
			b[i] = byte(m.IntN(256))
		case 1:
			b = append(b[:i], b[i+1:]...)
		case 2:
			b = append(b[:i], append([]byte{byte(m.IntN(256))}, b[i:]...)...)
		case 3:
			b = b[:i]
		case 4:
			b = append(b, b[i:]...)
		default:
			b[i] ^= 1 << m.IntN(8)
		}
	}
	return b
}

// tree changes one element somewhere, and keeps the lengths around it right.
func (m mutator) tree(b []byte) []byte {
	if m.IntN(3) == 0 {
		return b
	}
	tag, body, rest, ok := split(b)
	if !ok {
		return m.bytes(b)
	}
	if tag&0x20 != 0 && m.IntN(8) != 0 {
		var parts [][]byte
		for in := body; len(in) > 0; {
			_, _, more, ok := split(in)
			if !ok {
				return m.bytes(b)
			}
			parts = append(parts, in[:len(in)-len(more)])
			in = more
		}
		if len(parts) > 0 {
			i := m.IntN(len(parts))
			switch m.IntN(12) {
			case 0:
				parts = append(parts[:i:i], parts[i+1:]...)
			case 1:
				parts = append(parts, parts[i])
			case 2:
				j := m.IntN(len(parts))
				parts[i], parts[j] = parts[j], parts[i]
			default:
				parts[i] = m.tree(parts[i])
			}
			return append(wrap(tag, bytes.Join(parts, nil)), rest...)
		}
	}
	switch m.IntN(5) {
	case 0:
		body = nil
	case 1:
		tag ^= 1 << m.IntN(8)
	case 2:
		body = append([]byte{0}, body...)
	default:
		body = m.bytes(body)
	}
	return append(wrap(tag, body), rest...)
}

func split(b []byte) (tag byte, body, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, nil, false
	}
	n, head := int(b[1]), 2
	if n > 127 {
		k := n & 127
		if k > 2 || len(b) < 2+k {
			return 0, nil, nil, false
		}
		for n = 0; k > 0; k-- {
			n = n<<8 | int(b[head])
			head++
		}
	}
	if len(b) < head+n {
		return 0, nil, nil, false
	}
	return b[0], b[head : head+n], b[head+n:], true
}

func wrap(tag byte, body []byte) []byte {
	switch n := len(body); {
	case n < 128:
		return append([]byte{tag, byte(n)}, body...)
	case n < 256:
		return append([]byte{tag, 0x81, byte(n)}, body...)
	default:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, body...)
	}
}

// fields changes values that fit together.
func (m mutator) fields(r *request) {
	for range 1 + m.IntN(2) {
		d := time.Duration(m.IntN(1400)-700) * time.Second
		switch m.IntN(12) {
		case 0:
			r.at(r.now.Add(d))
		case 1:
			r.part.StartTime = r.part.AuthTime.Add(time.Hour + d)
		case 2:
			r.part.EndTime = r.part.AuthTime.Add(time.Hour + d)
		case 3:
			r.part.CRealm = m.pick(testRealm, "OTHER.EXAMPLE", "sekisho.internal", "")
		case 4:
			r.auth.CRealm = m.pick(testRealm, "OTHER.EXAMPLE", "", testRealm+"\x00")
		case 5:
			r.part.CName.NameString = [][]string{{"root"}, {"alice", ""}, {"alice", "admin"}, {}, {"alice\x00"}}[m.IntN(5)]
		case 6:
			r.auth.CName.NameString = [][]string{{"root"}, {"alice", ""}, {"alice", "admin"}, {}, {"alice\x00"}}[m.IntN(5)]
		case 7:
			r.part.CName.NameString = []string{m.pick("bob", "alice", "a b", "WELLKNOWN")}
			r.auth.CName = r.part.CName
		case 8:
			r.setFlag(1 << m.IntN(32))
		case 9:
			r.part.Transited.Contents = []byte(m.pick("OTHER.EXAMPLE", ",", testRealm))
		case 10:
			r.req.Ticket.Realm = m.pick(testRealm, "OTHER.EXAMPLE")
			r.req.Ticket.SName.NameString = []string{m.pick("host", "http"), m.pick(host.Components[1], "web2")}
		default:
			r.req.Ticket.EncPart.KVNO = m.IntN(5)
		}
	}
}

func (m mutator) pick(s ...string) string { return s[m.IntN(len(s))] }
