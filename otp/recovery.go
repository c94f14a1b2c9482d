package otp

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"
)

// RecoveryCodes is how many recovery codes a user gets at a time.
const RecoveryCodes = 10

// A recovery code is 16 letters of 5 bits each, 80 bits, in groups of four:
// k3wd-9h0x-m2pq-7vzc. The alphabet has no i, l, o and u.
const (
	recoveryLetters = "0123456789abcdefghjkmnpqrstvwxyz"
	recoveryLength  = 16
	recoveryGroup   = 4
)

// NewRecoveryCodes are n random codes as people read them.
func NewRecoveryCodes(n int) []string {
	codes := make([]string, n)
	for i := range codes {
		var b [recoveryLength]byte
		rand.Read(b[:])
		var s strings.Builder
		for j, x := range b {
			if j > 0 && j%recoveryGroup == 0 {
				s.WriteByte('-')
			}
			s.WriteByte(recoveryLetters[x&31])
		}
		codes[i] = s.String()
	}
	return codes
}

// recoveryOf is what somebody typed as it is hashed: in lower case, without
// spaces and hyphens, and with o, i and l for the digits that they look like. A
// text that cannot be a recovery code gives false.
func recoveryOf(typed string) (string, bool) {
	if len(typed) > 64 {
		return "", false
	}
	s := strings.NewReplacer(" ", "", "-", "", "o", "0", "i", "1", "l", "1").Replace(strings.ToLower(typed))
	if len(s) != recoveryLength || strings.Trim(s, recoveryLetters) != "" {
		return "", false
	}
	return s, true
}

const recoveryScheme = "{SEKISHO-SHA256}"

// HashRecovery is a code as the directory keeps it: a scheme, then 16 random bytes
// of salt and their SHA-256 with the code, in base64. A fast hash will do, for
// nobody goes through 80 random bits.
func HashRecovery(code string) (string, bool) {
	s, ok := recoveryOf(code)
	if !ok {
		return "", false
	}
	salt := make([]byte, 16)
	rand.Read(salt)
	return recoveryScheme + base64.RawStdEncoding.EncodeToString(append(salt, recoverySum(salt, s)...)), true
}

func recoverySum(salt []byte, code string) []byte {
	h := sha256.New()
	h.Write(salt)
	h.Write([]byte(code))
	return h.Sum(nil)
}

// MatchRecovery finds the value that a typed code is kept as; -1 when it is none of
// them. All values are compared whatever the code, in constant time each. A value
// that HashRecovery cannot have made fits nothing.
func MatchRecovery(values []string, typed string) int {
	code, possible := recoveryOf(typed)
	found := -1
	for i, v := range values {
		b, err := base64.RawStdEncoding.DecodeString(strings.TrimPrefix(v, recoveryScheme))
		if err != nil || len(b) != 16+sha256.Size || recoveryScheme+base64.RawStdEncoding.EncodeToString(b) != v {
			continue
		}
		if subtle.ConstantTimeCompare(recoverySum(b[:16], code), b[16:]) == 1 && possible {
			found = i
		}
	}
	return found
}
