// Package otp is one-time codes: HOTP (RFC 4226), TOTP (RFC 6238), the otpauth
// URI by which an app learns a secret, and recovery codes. It is pure: it reads
// no clock and keeps nothing, so who has used which code is its caller's to know.
package otp

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math"
	"strings"
	"time"
)

// Algorithm is the hash of the HMAC.
type Algorithm string

// The algorithms of RFC 6238 §1.2. Many apps know only the first.
const (
	SHA1   Algorithm = "SHA1"
	SHA256 Algorithm = "SHA256"
	SHA512 Algorithm = "SHA512"
)

func (a Algorithm) hash() func() hash.Hash {
	switch a {
	case SHA1:
		return sha1.New
	case SHA256:
		return sha256.New
	case SHA512:
		return sha512.New
	}
	return nil
}

// Limits of what Params may say and of a secret in bytes. RFC 4226 §4 R6 wants
// 16 bytes and recommends 20.
const (
	MinDigits, MaxDigits = 6, 8
	MinPeriod, MaxPeriod = 10 * time.Second, 10 * time.Minute
	MinSecret, MaxSecret = 16, 128
	MaxDrift             = 20
)

// Params are how codes are made of a secret.
type Params struct {
	Algorithm Algorithm
	Digits    int           // of a code
	Period    time.Duration // of a time step, whole seconds
}

// Default is what every app knows: SHA-1, 6 digits, 30 s.
func Default() Params { return Params{SHA1, 6, 30 * time.Second} }

// Check says what is wrong with the parameters.
func (p Params) Check() error {
	switch {
	case p.Algorithm.hash() == nil:
		return fmt.Errorf("algorithm %.20q: write SHA1, SHA256 or SHA512", string(p.Algorithm))
	case p.Digits < MinDigits || p.Digits > MaxDigits:
		return fmt.Errorf("%d digits: a code has %d to %d", p.Digits, MinDigits, MaxDigits)
	case p.Period < MinPeriod || p.Period > MaxPeriod || p.Period%time.Second != 0:
		return fmt.Errorf("period %s: write whole seconds, from %s to %s", p.Period, MinPeriod, MaxPeriod)
	}
	return nil
}

// CheckSecret says what is wrong with a secret's length.
func CheckSecret(secret []byte) error {
	if len(secret) < MinSecret || len(secret) > MaxSecret {
		return fmt.Errorf("the secret has %d bytes: it must have %d to %d", len(secret), MinSecret, MaxSecret)
	}
	return nil
}

// NewSecret is a random secret of 20 bytes for SHA-1 and 32 for the others.
func NewSecret(a Algorithm) []byte {
	secret := make([]byte, 20)
	if a != SHA1 {
		secret = make([]byte, 32)
	}
	rand.Read(secret) // it never fails: crypto/rand
	return secret
}

// Code is the HOTP value of a counter (RFC 4226 §5.3): Digits decimal digits.
func (p Params) Code(secret []byte, counter uint64) (string, error) {
	if err := p.Check(); err != nil {
		return "", err
	}
	if err := CheckSecret(secret); err != nil {
		return "", err
	}
	return p.code(secret, counter), nil
}

func (p Params) code(secret []byte, counter uint64) string {
	mac := hmac.New(p.Algorithm.hash(), secret)
	mac.Write(binary.BigEndian.AppendUint64(nil, counter))
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	n := binary.BigEndian.Uint32(sum[at:]) & math.MaxInt32
	digits := make([]byte, p.Digits)
	for i := len(digits) - 1; i >= 0; i-- {
		digits[i] = '0' + byte(n%10)
		n /= 10
	}
	return string(digits)
}

// Step is the time step that now is in (RFC 6238 §4.2, T0 = 0); false before 1970.
func (p Params) Step(now time.Time) (uint64, bool) {
	if s := now.Unix(); s >= 0 && p.Period >= time.Second {
		return uint64(s) / uint64(p.Period/time.Second), true
	}
	return 0, false
}

// Window is where a code is looked for: in the steps from Drift before Shift steps
// after now, to Drift after.
type Window struct {
	Now   time.Time
	Drift int
	// Shift is how far the token's own clock is known to be ahead, in steps
	// (oathTOTPTimeStepDrift); mostly 0.
	Shift int
}

// Verify looks for a code among the steps of the window and returns the step it is
// of. Of several, which is a chance of one in hundreds of thousands, it is the
// latest: whoever counts all steps up to it as used then leaves none to be used
// again. All candidates are computed and compared whatever the code, in constant
// time each.
func (p Params) Verify(secret []byte, code string, w Window) (step uint64, ok bool, err error) {
	if err := p.Check(); err != nil {
		return 0, false, err
	}
	if err := CheckSecret(secret); err != nil {
		return 0, false, err
	}
	if w.Drift < 0 || w.Drift > MaxDrift {
		return 0, false, fmt.Errorf("a drift of %d steps: at most %d are allowed", w.Drift, MaxDrift)
	}
	now, inTime := p.Step(w.Now)
	if !inTime || now > math.MaxInt32*2 || w.Shift > math.MaxInt32 || w.Shift < -math.MaxInt32 {
		return 0, false, errors.New("the clock is not within the time of one-time codes")
	}
	for i := -w.Drift; i <= w.Drift; i++ {
		at := int64(now) + int64(w.Shift) + int64(i)
		if at < 0 {
			continue
		}
		if subtle.ConstantTimeCompare([]byte(p.code(secret, uint64(at))), []byte(code)) == 1 {
			step, ok = uint64(at), true
		}
	}
	return step, ok, nil
}

var base32Text = base32.StdEncoding.WithPadding(base32.NoPadding)

// Text is a secret as people and apps write it: base32 (RFC 4648 §6) without padding.
func Text(secret []byte) string { return base32Text.EncodeToString(secret) }

// ParseText reads a secret in base32: in either case, padded or not, in groups
// parted by spaces or hyphens. Bits that encode nothing must be zero. An error
// tells nothing of the text.
func ParseText(text string) ([]byte, error) {
	if len(text) > 4*MaxSecret {
		return nil, errors.New("the secret is too long")
	}
	s := strings.TrimRight(strings.NewReplacer(" ", "", "-", "").Replace(strings.ToUpper(text)), "=")
	secret, err := base32Text.DecodeString(s)
	if err != nil || Text(secret) != s {
		return nil, errors.New("the secret is not base32: letters A to Z and digits 2 to 7")
	}
	return secret, CheckSecret(secret)
}
