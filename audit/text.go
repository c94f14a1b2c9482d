package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// MaxText is how many bytes of a text are written as they are.
	MaxText = 256
	// MaxList is how many rules, proofs and the like are.
	MaxList = 16

	clipped  = "…sha256-" // between the beginning of a clipped text and its hash
	clipHead = 128        // bytes of it that are kept
)

// Clip is how a text stands in a record: itself, if it is UTF-8 of at most
// MaxText bytes. Else it is its first 128 bytes, "…sha256-", the first 16 bytes
// of its SHA-256 in hex, "-" and its length in bytes, so that two long names are
// never taken for one. A text that could be mistaken for such is clipped too.
func Clip(s string) string {
	if len(s) <= MaxText && utf8.ValidString(s) && !strings.Contains(s, clipped) {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	head := s[:min(len(s), clipHead)]
	for cut := 0; cut < utf8.UTFMax-1 && len(head) < len(s) && len(head) > 0 && !utf8.RuneStart(s[len(head)]); cut++ {
		head = head[:len(head)-1]
	}
	return strings.ToValidUTF8(head, "\ufffd") + clipped + hex.EncodeToString(sum[:16]) + "-" + strconv.Itoa(len(s))
}

// timeFormat has always as many digits, so that times sort as texts.
const timeFormat = "2006-01-02T15:04:05.000000000Z"

// writer appends fields of a JSON object; each begins with a comma.
type writer struct{ b []byte }

func (w *writer) name(name string) {
	w.b = append(append(append(w.b, ',', '"'), name...), '"', ':')
}

// text appends a text that is not empty.
func (w *writer) text(name, s string) {
	if s != "" {
		w.name(name)
		w.quote(s)
	}
}

func (w *writer) number(name string, n int64) {
	if n != 0 {
		w.name(name)
		w.b = strconv.AppendInt(w.b, n, 10)
	}
}

func (w *writer) count(name string, n uint64) {
	if n != 0 {
		w.name(name)
		w.b = strconv.AppendUint(w.b, n, 10)
	}
}

// moment appends a time to the second; none for one that RFC 3339 cannot say.
func (w *writer) moment(name string, t time.Time) {
	if t = t.UTC(); !t.IsZero() && t.Year() > 0 && t.Year() <= 9999 {
		w.name(name)
		w.b = append(w.b, '"')
		w.b = t.AppendFormat(w.b, time.RFC3339)
		w.b = append(w.b, '"')
	}
}

// list appends at most MaxList texts, and tells how many more there are.
func list[S ~string](w *writer, name string, in []S) (more int) {
	if len(in) == 0 {
		return 0
	}
	w.name(name)
	w.b = append(w.b, '[')
	for i, s := range in[:min(len(in), MaxList)] {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.quote(string(s))
	}
	w.b = append(w.b, ']')
	return max(0, len(in)-MaxList)
}

// quote appends a JSON string (RFC 8259 §7) that holds Clip(s) and no control
// character.
func (w *writer) quote(s string) {
	w.b = append(w.b, '"')
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || i == MaxText {
			w.b = quoteRest(w.b[:len(w.b)-i], Clip(s))
			w.b = append(w.b, '"')
			return
		}
		w.b = append(w.b, s[i])
	}
	w.b = append(w.b, '"')
}

// quoteRest appends valid UTF-8 of any characters.
func quoteRest(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029:
			b = append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return b
}
