package otp

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// seed is the secret of RFC 6238, Appendix B, repeated to the hash's length.
func seed(n int) []byte { return bytes.Repeat([]byte("1234567890"), 7)[:n] }

// TestHOTPVectors are those of RFC 4226, Appendix D.
func TestHOTPVectors(t *testing.T) {
	for i, want := range []string{"755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"} {
		got, err := Params{SHA1, 6, 30 * time.Second}.Code(seed(20), uint64(i))
		if err != nil || got != want {
			t.Errorf("counter %d: %s, %v; want %s", i, got, err, want)
		}
	}
}

// TestTOTPVectors are those of RFC 6238, Appendix B, with the secrets of its
// program (erratum 2866).
func TestTOTPVectors(t *testing.T) {
	for _, c := range []struct {
		at                   int64
		sha1, sha256, sha512 string
	}{
		{59, "94287082", "46119246", "90693936"},
		{1111111109, "07081804", "68084774", "25091201"},
		{1111111111, "14050471", "67062674", "99943326"},
		{1234567890, "89005924", "91819424", "93441116"},
		{2000000000, "69279037", "90698825", "38618901"},
		{20000000000, "65353130", "77737706", "47863826"},
	} {
		for _, a := range []struct {
			algorithm Algorithm
			secret    []byte
			want      string
		}{{SHA1, seed(20), c.sha1}, {SHA256, seed(32), c.sha256}, {SHA512, seed(64), c.sha512}} {
			p := Params{a.algorithm, 8, 30 * time.Second}
			now := time.Unix(c.at, 0)
			step, _ := p.Step(now)
			if got, err := p.Code(a.secret, step); err != nil || got != a.want {
				t.Errorf("%d %s: %s, %v; want %s", c.at, a.algorithm, got, err, a.want)
			}
			if got, ok, err := p.Verify(a.secret, a.want, Window{Now: now}); err != nil || !ok || got != step {
				t.Errorf("%d %s: verified as step %d, %v, %v; want %d", c.at, a.algorithm, got, ok, err, step)
			}
		}
	}
}

// TestOathtool compares with oathtool over all parameters.
func TestOathtool(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		p := Params{[]Algorithm{SHA1, SHA256, SHA512}[r.IntN(3)], MinDigits + r.IntN(3), time.Duration(10+r.IntN(590)) * time.Second}
		secret := make([]byte, MinSecret+r.IntN(MaxSecret-MinSecret))
		for i := range secret {
			secret[i] = byte(r.Uint32())
		}
		at := r.Int64N(4e9)
		out, err := exec.Command("oathtool", "--totp="+string(p.Algorithm), "-d", strconv.Itoa(p.Digits), "-s", fmt.Sprintf("%ds", p.Period/time.Second),
			"-N", fmt.Sprintf("@%d", at), hex.EncodeToString(secret)).CombinedOutput()
		if err != nil {
			t.Fatalf("oathtool: %v: %s", err, out)
		}
		step, _ := p.Step(time.Unix(at, 0))
		if got, err := p.Code(secret, step); err != nil || got != strings.TrimSpace(string(out)) {
			t.Errorf("%+v at %d: %s, %v; oathtool says %s", p, at, got, err, out)
		}
		// Base32 is the same too.
		out, err = exec.Command("oathtool", "-v", "--totp", "-b", Text(secret)).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Hex secret: "+hex.EncodeToString(secret)+"\n") {
			t.Errorf("oathtool reads %s as %s (%v)", Text(secret), out, err)
		}
	}
}

// TestWindow: which steps a code may be of, to the second.
func TestWindow(t *testing.T) {
	p, secret := Default(), seed(20)
	code := func(step uint64) string {
		s, err := p.Code(secret, step)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const step = 40_000_000
	for _, c := range []struct {
		drift, shift int
		at           int64 // seconds after the step begins
		want         bool
	}{
		{0, 0, 0, true}, {0, 0, 29, true}, {0, 0, 30, false}, {0, 0, -1, false},
		{1, 0, 59, true}, {1, 0, 60, false}, {1, 0, -30, true}, {1, 0, -31, false},
		{2, 0, 89, true}, {2, 0, 90, false}, {2, 0, -60, true}, {2, 0, -61, false},
		{1, 3, -90, true}, {1, 3, -120, true}, {1, 3, -121, false}, {1, 3, -31, true}, {1, 3, -30, false},
		{1, -2, 60, true}, {1, -2, 119, true}, {1, -2, 120, false}, {1, -2, 0, false},
	} {
		got, ok, err := p.Verify(secret, code(step), Window{time.Unix(step*30+c.at, 0), c.drift, c.shift})
		if err != nil || ok != c.want || ok && got != step {
			t.Errorf("%+v: step %d, %v, %v", c, got, ok, err)
		}
	}
	// At the beginning of time there is nothing before.
	if _, ok, err := p.Verify(secret, code(0), Window{Now: time.Unix(3, 0), Drift: 5}); !ok || err != nil {
		t.Error(ok, err)
	}
	for _, w := range []Window{{Now: time.Unix(-1, 0)}, {Now: time.Unix(math.MaxInt64, 0)}, {Now: time.Unix(1e9, 0), Drift: -1},
		{Now: time.Unix(1e9, 0), Drift: MaxDrift + 1}, {Now: time.Unix(1e9, 0), Shift: math.MaxInt64}, {Now: time.Time{}}} {
		if step, ok, err := p.Verify(secret, code(0), w); ok || err == nil || step != 0 {
			t.Errorf("%+v: %d, %v, %v", w, step, ok, err)
		}
	}
}

// TestLatest: of two steps with the same code the later one counts, so that the
// code cannot be used for the other one afterwards.
func TestLatest(t *testing.T) {
	p, secret := Default(), seed(20)
	seen := map[string]uint64{}
	for step := uint64(0); ; step++ {
		code, err := p.Code(secret, step)
		if err != nil {
			t.Fatal(err)
		}
		before, twice := seen[code]
		seen[code] = step
		if !twice || step-before > 2*MaxDrift {
			continue
		}
		middle := (before + step) / 2
		got, ok, err := p.Verify(secret, code, Window{Now: time.Unix(int64(middle)*30, 0), Drift: MaxDrift})
		if err != nil || !ok || got != step {
			t.Fatalf("the code of steps %d and %d: step %d, %v, %v", before, step, got, ok, err)
		}
		return
	}
}

// TestWrongCodes: nothing else is taken, of whatever length.
func TestWrongCodes(t *testing.T) {
	p, secret, now := Default(), seed(20), time.Unix(1111111109, 0)
	good, err := p.Code(secret, 1111111109/30)
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{"", good[:5], good + "0", "0" + good, " " + good, good + "\x00", "０" + good[1:], strings.Repeat("0", 1<<16)} {
		if _, ok, err := p.Verify(secret, code, Window{Now: now, Drift: 1}); ok || err != nil {
			t.Errorf("%q: %v, %v", code, ok, err)
		}
	}
	right := 0
	for n := range 1_000_000 {
		if n%7 != 0 && fmt.Sprintf("%06d", n) != good {
			continue // an hour's work otherwise
		}
		if _, ok, _ := p.Verify(secret, fmt.Sprintf("%06d", n), Window{Now: now}); ok {
			right++
		}
	}
	if right != 1 {
		t.Errorf("%d codes are right", right)
	}
}

func TestBadParams(t *testing.T) {
	for _, p := range []Params{{}, {SHA1, 5, 30 * time.Second}, {SHA1, 9, 30 * time.Second}, {SHA1, 6, 0}, {SHA1, 6, 30*time.Second + 1},
		{SHA1, 6, time.Hour}, {SHA1, 6, -30 * time.Second}, {"sha1", 6, 30 * time.Second}, {"MD5", 6, 30 * time.Second}} {
		if p.Check() == nil {
			t.Errorf("%+v is good", p)
		}
		if _, err := p.Code(seed(20), 1); err == nil {
			t.Errorf("%+v makes codes", p)
		}
		if _, ok, err := p.Verify(seed(20), "755224", Window{Now: time.Unix(1, 0)}); ok || err == nil {
			t.Errorf("%+v verifies codes", p)
		}
	}
	for _, n := range []int{0, MinSecret - 1, MaxSecret + 1} {
		if _, err := Default().Code(make([]byte, n), 1); err == nil {
			t.Errorf("a secret of %d bytes is good", n)
		}
		if _, ok, err := Default().Verify(make([]byte, n), "000000", Window{Now: time.Unix(1, 0)}); ok || err == nil {
			t.Errorf("a secret of %d bytes verifies codes", n)
		}
	}
}

func TestNewSecret(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		for a, n := range map[Algorithm]int{SHA1: 20, SHA256: 32, SHA512: 32} {
			s := NewSecret(a)
			if len(s) != n || seen[string(s)] {
				t.Fatalf("%s: %d bytes, seen before: %v", a, len(s), seen[string(s)])
			}
			seen[string(s)] = true
		}
	}
}

func TestText(t *testing.T) {
	secret := seed(20)
	const text = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
	if Text(secret) != text {
		t.Fatal(Text(secret))
	}
	for _, s := range []string{text, strings.ToLower(text), "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ", "gezd-gnbv-gy3t-qojq-gezd-gnbv-gy3t-qojq", text + "===="} {
		if got, err := ParseText(s); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("%s: %x, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "GEZDGNBVGY3TQOJQ", text + "1", text + "0", text[:31] + "!", text + "B", strings.Repeat("A", 1000), text + "A"} {
		got, err := ParseText(s)
		if err == nil {
			t.Errorf("%s: %x", s, got)
		} else if s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
}
