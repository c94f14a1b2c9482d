package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
)

// b64 is strict: of two texts only one stands for the same bytes.
var b64 = base64.RawURLEncoding.Strict()

const (
	hashLen = 43 // characters of a SHA-256 in base64url
	sigLen  = 86 // characters of a signature
	// maxLine is more than any record of ours has: less than 100 texts of at most
	// 6 bytes for each of MaxText.
	maxLine = 256 << 10
)

// genesis is the prev of the first line of all.
const genesis = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// hashOf is what the next line's prev must be.
func hashOf(line []byte) string {
	sum := sha256.Sum256(line)
	return b64.EncodeToString(sum[:])
}

// head is what verifying a line needs of it.
type head struct {
	seq  uint64
	time []byte // as timeFormat; whether there is such a day is not looked at
	kind Kind
	prev []byte
	// signed and sig are of a seal.
	signed, sig []byte
}

var (
	errLine = errors.New("it is no line of an audit record")
	errCut  = errors.New("it is cut off: it has no end")
)

// parse takes a line, its newline included, apart without reading all of it. The
// rest of a line is guarded by the chain. What it returns points into line.
func parse(line []byte) (head, error) {
	var h head
	if len(line) == 0 || line[len(line)-1] != '\n' {
		return h, errCut
	}
	rest, ok := bytes.CutPrefix(line, []byte(`{"seq":`))
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		d := uint64(rest[digits] - '0')
		if h.seq > (math.MaxUint64-d)/10 {
			return h, errLine
		}
		h.seq = h.seq*10 + d
		digits++
	}
	if !ok || digits == 0 || rest[0] == '0' {
		return h, errLine
	}
	rest, ok = bytes.CutPrefix(rest[digits:], []byte(`,"time":"`))
	if !ok || len(rest) < len(timeFormat) {
		return h, errLine
	}
	h.time, rest = rest[:len(timeFormat)], rest[len(timeFormat):]
	for i, c := range h.time {
		if f := timeFormat[i]; f >= '0' && f <= '9' && (c < '0' || c > '9') || (f < '0' || f > '9') && c != f {
			return h, errLine
		}
	}
	rest, ok = bytes.CutPrefix(rest, []byte(`","kind":"`))
	end := bytes.IndexByte(rest, '"')
	if !ok || end < 0 {
		return h, errLine
	}
	h.kind, rest = kindOf(rest[:end]), rest[end+1:]
	if h.kind == "" {
		return h, errLine
	}
	if rest, ok = bytes.CutSuffix(rest, []byte("\"}\n")); !ok {
		return h, errLine
	}
	if h.kind == KindSeal {
		if len(rest) < sigLen {
			return h, errLine
		}
		h.sig, rest = rest[len(rest)-sigLen:], rest[:len(rest)-sigLen]
		if rest, ok = bytes.CutSuffix(rest, []byte(`","sig":"`)); !ok {
			return h, errLine
		}
		h.signed = line[:len(line)-len(`,"sig":"`)-sigLen-len("\"}\n")]
	}
	if len(rest) < hashLen {
		return h, errLine
	}
	h.prev, rest = rest[len(rest)-hashLen:], rest[:len(rest)-hashLen]
	if !bytes.HasSuffix(rest, []byte(`,"prev":"`)) || !bytes.HasPrefix(rest, []byte(`,"host":"`)) {
		return h, errLine
	}
	return h, nil
}

var kinds = []Kind{KindDecision, KindSession, KindNote, KindSeal, KindMend, KindGap, KindVoid, KindDelete, KindCut}

// Known tells whether there are records of a kind.
func (k Kind) Known() bool { return slices.Contains(kinds, k) }

// kindOf is one of the kinds, or nothing.
func kindOf(b []byte) Kind {
	for _, k := range kinds {
		if string(b) == string(k) {
			return k
		}
	}
	return ""
}

// signature is of one seal: the domain keeps the key's signatures apart from any
// other use.
const sealDomain = "sekisho audit seal 1\n"

func sign(key ed25519.PrivateKey, signed []byte) string {
	return b64.EncodeToString(ed25519.Sign(key, append([]byte(sealDomain), signed...)))
}

// checkSeal verifies a seal by a public key.
func checkSeal(h head, key ed25519.PublicKey) error {
	sig, err := b64.DecodeString(string(h.sig))
	if err != nil || !ed25519.Verify(key, append([]byte(sealDomain), h.signed...), sig) {
		return errors.New("the seal's signature is wrong")
	}
	return nil
}

// ParseKey reads a public key as it is printed.
func ParseKey(s string) (ed25519.PublicKey, error) {
	b, err := b64.DecodeString(s)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%.60q is no public key of seals: it has %d characters, as sekisho audit verify prints it", s, hashLen)
	}
	return b, nil
}

// chain is how far a row of lines has been followed.
type chain struct {
	seq  uint64
	last string // the hash of the last line
}

// take follows the chain by one line.
func (c *chain) take(line []byte) (head, error) {
	h, err := parse(line)
	if err != nil {
		return h, err
	}
	if h.seq != c.seq+1 {
		return h, fmt.Errorf("it is record %d where %d is due", h.seq, c.seq+1)
	}
	if string(h.prev) != c.last {
		return h, fmt.Errorf("the line before it is not the one that it names: record %d or %d was changed", c.seq, h.seq)
	}
	c.seq, c.last = h.seq, hashOf(line)
	return h, nil
}
