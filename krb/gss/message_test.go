package gss

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sekisho/sekisho/krb"
)

var etypes = []int32{krb.AES128SHA1, krb.AES256SHA1, krb.AES128SHA2, krb.AES256SHA2}

const allFlags = Mutual | Replay | Sequence | Confidential | Integrity

// pair is an established context as both sides have it.
func pair(t testing.TB, etype int32, f Flags, acceptorKey bool) (initiator, acceptor *Context) {
	t.Helper()
	k, err := krb.RandomKey(etype)
	if err != nil {
		t.Fatal(err)
	}
	a, b := randomSeq(), randomSeq()
	return &Context{flags: f, initiator: true, key: k, acceptorKey: acceptorKey, send: uint64(a), recv: newWindow(b, f)},
		&Context{flags: f, key: k, acceptorKey: acceptorKey, send: uint64(b), recv: newWindow(a, f)}
}

func TestMessages(t *testing.T) {
	for _, etype := range etypes {
		for _, sub := range []bool{false, true} {
			i, a := pair(t, etype, allFlags, sub)
			for _, side := range [][2]*Context{{i, a}, {a, i}} {
				from, to := side[0], side[1]
				for _, n := range []int{0, 1, 15, 16, 17, 1000, 100_000} {
					msg := bytes.Repeat([]byte{'m'}, n)
					mic, err := from.GetMIC(msg)
					if err != nil {
						t.Fatal(err)
					}
					if err := to.VerifyMIC(msg, mic); err != nil {
						t.Fatalf("etype %d: %v", etype, err)
					}
					if err := to.VerifyMIC(msg, mic); !errors.Is(err, ErrReplayed) {
						t.Fatalf("a MIC twice: %v", err)
					}
					for _, seal := range []bool{false, true} {
						tok, err := from.Wrap(msg, seal)
						if err != nil {
							t.Fatal(err)
						}
						if seal && n > 4 && bytes.Contains(tok, msg[:4]) {
							t.Fatal("the message can be read")
						}
						got, enc, err := to.Unwrap(tok)
						if err != nil || enc != seal || !bytes.Equal(got, msg) {
							t.Fatalf("etype %d, %d bytes, seal %v: %v", etype, n, seal, err)
						}
						if _, _, err := to.Unwrap(tok); !errors.Is(err, ErrReplayed) {
							t.Fatalf("a token twice: %v", err)
						}
					}
				}
			}
		}
	}
}

// TestMessagesFlipped: each bit of each token counts, and each byte is needed. Only
// the count of the rotation does not when it comes to the same.
func TestMessagesFlipped(t *testing.T) {
	msg := []byte("the quick brown fox, 37 bytes of text")
	for _, etype := range etypes {
		i, a := pair(t, etype, Integrity|Confidential, true) // no window, so that nothing is refused for its number
		mic, err := i.GetMIC(msg)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := i.Wrap(msg, false)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := i.Wrap(msg, true)
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			token []byte
			open  func([]byte) error
		}{
			"mic":    {mic, func(b []byte) error { return a.VerifyMIC(msg, b) }},
			"plain":  {plain, func(b []byte) error { _, _, err := a.Unwrap(b); return err }},
			"sealed": {sealed, func(b []byte) error { _, _, err := a.Unwrap(b); return err }},
		} {
			if err := c.open(c.token); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for n := range c.token {
				for bit := range 8 {
					b := bytes.Clone(c.token)
					b[n] ^= 1 << bit
					if err := c.open(b); !errors.Is(err, ErrToken) {
						t.Errorf("etype %d, %s: bit %d of byte %d flipped: %v", etype, name, bit, n, err)
					}
				}
			}
			for n := range c.token {
				if err := c.open(c.token[:n]); !errors.Is(err, ErrToken) {
					t.Errorf("etype %d, %s cut to %d: %v", etype, name, n, err)
				}
			}
			if err := c.open(append(bytes.Clone(c.token), 0)); !errors.Is(err, ErrToken) {
				t.Errorf("etype %d, %s with a byte more: %v", etype, name, err)
			}
		}
	}
}

// TestRotation: peers may rotate a Wrap token by any count (RFC 4121 §4.2.5), and may
// put filler behind an encrypted message (§4.2.3).
func TestRotation(t *testing.T) {
	msg := []byte("rotated")
	for _, seal := range []bool{false, true} {
		i, a := pair(t, krb.AES256SHA2, Integrity|Confidential, true)
		tok, err := i.Wrap(msg, seal)
		if err != nil {
			t.Fatal(err)
		}
		body := tok[headerLen:]
		for _, rrc := range []int{0, 1, 12, 16, 28, len(body) - 1, len(body), len(body) + 1, 40_000, 65535} {
			b := bytes.Clone(tok[:headerLen])
			b[6], b[7] = byte(rrc>>8), byte(rrc)
			n := rrc % len(body)
			b = append(append(b, body[len(body)-n:]...), body[:len(body)-n]...)
			if got, _, err := a.Unwrap(b); err != nil || !bytes.Equal(got, msg) {
				t.Errorf("seal %v, rotated by %d: %q, %v", seal, rrc, got, err)
			}
		}
	}
	i, a := pair(t, krb.AES128SHA1, Integrity|Confidential, true)
	for _, ec := range []int{1, 16, 500} {
		h := i.next(tokWrap)
		h.flags |= sealed
		h.ec = uint16(ec)
		b, err := i.key.Encrypt(usageInitiatorSeal, join(append(bytes.Clone(msg), make([]byte, ec)...), h.bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := a.Unwrap(append(h.bytes(), b...)); err != nil || !bytes.Equal(got, msg) {
			t.Errorf("filler of %d: %q, %v", ec, got, err)
		}
	}
	// Filler that reaches into nothing.
	h := i.next(tokWrap)
	h.flags |= sealed
	h.ec = uint16(len(msg) + 1)
	b, err := i.key.Encrypt(usageInitiatorSeal, join(msg, h.bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Unwrap(append(h.bytes(), b...)); !errors.Is(err, ErrToken) {
		t.Errorf("too much filler: %v", err)
	}
}

// TestDirection: a token does not serve the side that made it, nor a context with
// other keys or none of the acceptor's.
func TestDirection(t *testing.T) {
	msg := []byte("to and fro")
	i, a := pair(t, krb.AES256SHA1, Integrity|Confidential, true)
	other, _ := pair(t, krb.AES256SHA1, Integrity|Confidential, true)
	plainKey := &Context{flags: a.flags, key: a.key, recv: a.recv}
	for name, from := range map[string]*Context{"initiator": i, "acceptor": a} {
		mic, _ := from.GetMIC(msg)
		for _, c := range []*Context{from, other} {
			if err := c.VerifyMIC(msg, mic); !errors.Is(err, ErrToken) {
				t.Errorf("%s: %v", name, err)
			}
		}
		wrapped, _ := from.Wrap(msg, true)
		if _, _, err := from.Unwrap(wrapped); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", name, err)
		}
		if err := from.VerifyMIC(msg, wrapped); !errors.Is(err, ErrToken) {
			t.Errorf("%s: a Wrap token as a MIC: %v", name, err)
		}
	}
	mic, _ := i.GetMIC(msg)
	if err := plainKey.VerifyMIC(msg, mic); !errors.Is(err, ErrToken) {
		t.Errorf("the acceptor has asserted no subkey: %v", err)
	}
	if err := a.VerifyMIC([]byte("to and frO"), mic); !errors.Is(err, ErrToken) {
		t.Errorf("another message: %v", err)
	}
}

func TestFlagsInForce(t *testing.T) {
	i, a := pair(t, krb.AES256SHA1, Replay, true)
	strong, _ := pair(t, krb.AES256SHA1, Integrity, true)
	strong.key = i.key
	if _, err := i.GetMIC(nil); err == nil {
		t.Error("a MIC without integrity")
	}
	if _, err := i.Wrap(nil, false); err == nil {
		t.Error("Wrap without integrity")
	}
	mic, _ := strong.GetMIC(nil)
	if err := a.VerifyMIC(nil, mic); err == nil {
		t.Error("a MIC was taken without integrity")
	}
	if _, err := strong.Wrap(nil, true); err == nil {
		t.Error("sealed without confidentiality")
	}
	strong.flags |= Confidential
	tok, _ := strong.Wrap(nil, true)
	a.flags = Integrity
	if _, _, err := a.Unwrap(tok); err == nil {
		t.Error("a sealed message was taken without confidentiality")
	}
}

// TestWindow holds the window against a simple model.
func TestWindow(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		first := r.Uint32()
		w := newWindow(first, Replay)
		seen := map[uint64]bool{}
		top := uint64(first)
		for range 500 {
			seq := top - uint64(r.IntN(80)) + uint64(r.IntN(20))
			if r.IntN(50) == 0 {
				seq += uint64(r.IntN(200))
			}
			want := seq >= uint64(first) && seq+64 >= top && !seen[seq]
			if got := w.take(seq) == nil; got != want {
				t.Fatalf("seed %d: %d of %d: %v", seed, seq, top, got)
			}
			if want {
				seen[seq] = true
				top = max(top, seq+1)
			}
		}
	}
	w := newWindow(7, Sequence)
	for _, c := range []struct {
		seq  uint64
		want error
	}{{8, ErrOrder}, {7, nil}, {7, ErrReplayed}, {9, ErrOrder}, {8, nil}, {6, ErrReplayed}, {math.MaxUint64, ErrOrder}, {9, nil}} {
		if err := w.take(c.seq); !errors.Is(err, c.want) {
			t.Errorf("%d: %v, not %v", c.seq, err, c.want)
		}
	}
	w = newWindow(math.MaxUint32, Replay|Sequence)
	for n := range uint64(100) {
		if err := w.take(math.MaxUint32 + n); err != nil {
			t.Error(n, err)
		}
	}
	w = newWindow(0, 0)
	for range 3 {
		if err := w.take(5); err != nil {
			t.Errorf("not asked for: %v", err)
		}
	}
}

// TestConcurrent: 200 senders and the same MIC received 200 times.
func TestConcurrent(t *testing.T) {
	i, a := pair(t, krb.AES128SHA2, Integrity|Replay, false)
	msg := []byte("x")
	tokens := make(chan []byte, 50)
	for range 50 {
		go func() {
			tok, err := i.GetMIC(msg)
			if err != nil {
				t.Error(err)
			}
			tokens <- tok
		}()
	}
	seen := map[string]bool{}
	for range 50 {
		tok := <-tokens
		if seen[string(tok[:headerLen])] {
			t.Error("two tokens of one number")
		}
		seen[string(tok[:headerLen])] = true
		results := make(chan error, 200)
		for range 200 {
			go func() { results <- a.VerifyMIC(msg, tok) }()
		}
		ok := 0
		for range 200 {
			if err := <-results; err == nil {
				ok++
			} else if !errors.Is(err, ErrReplayed) {
				t.Error(err)
			}
		}
		if ok != 1 {
			t.Fatalf("accepted %d times", ok)
		}
	}
}

func FuzzMIC(f *testing.F) {
	i, a := pair(f, krb.AES256SHA2, Integrity|Confidential, true)
	msg := []byte("seed")
	mic, _ := i.GetMIC(msg)
	plain, _ := i.Wrap(msg, false)
	sealed, _ := i.Wrap(msg, true)
	known := map[string]bool{string(mic): true, string(plain): true, string(sealed): true}
	for t := range known {
		f.Add([]byte(t))
	}
	f.Fuzz(func(t *testing.T, token []byte) {
		if known[string(token)] {
			return
		}
		err := a.VerifyMIC(msg, token)
		got, _, err2 := a.Unwrap(token)
		if err == nil || err2 != nil && got != nil {
			t.Fatal(err, err2)
		}
		if err2 == nil && !bytes.Equal(got, msg) { // the same rotation by another count
			t.Fatal(fmt.Sprintf("%x opens", token))
		}
	})
}
