package otp

import (
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestRecoveryCodes(t *testing.T) {
	form := regexp.MustCompile(`^([0-9a-hj-km-np-tv-z]{4}-){3}[0-9a-hj-km-np-tv-z]{4}$`)
	codes := NewRecoveryCodes(RecoveryCodes)
	letters := map[rune]int{}
	for _, c := range NewRecoveryCodes(4000) {
		if !form.MatchString(c) {
			t.Fatalf("%s", c)
		}
		for _, r := range c {
			letters[r]++
		}
	}
	for _, r := range recoveryLetters { // 2000 each; six deviations are 264
		if letters[r] < 1700 || letters[r] > 2300 {
			t.Errorf("%c stands in %d of 64000 places", r, letters[r])
		}
	}
	var values []string
	for _, c := range codes {
		v, ok := HashRecovery(c)
		again, _ := HashRecovery(c)
		if !ok || v == again || strings.Contains(v, strings.ReplaceAll(c, "-", "")) {
			t.Fatalf("%s: %s and %s", c, v, again)
		}
		values = append(values, v)
	}
	for i, c := range codes {
		for _, typed := range []string{c, strings.ToUpper(c), strings.ReplaceAll(c, "-", ""), strings.ReplaceAll(c, "-", " "),
			strings.NewReplacer("0", "O", "1", "l").Replace(c), strings.NewReplacer("0", "o", "1", "I").Replace(c)} {
			if got := MatchRecovery(values, typed); got != i {
				t.Errorf("%s is value %d, not %d", typed, got, i)
			}
		}
		for _, typed := range []string{c[:18], c + "0", "", c[:18] + "u", c[:18] + "é", strings.Repeat(c, 9)} {
			if got := MatchRecovery(values, typed); got != -1 {
				t.Errorf("%s is value %d", typed, got)
			}
		}
		if got := MatchRecovery(slices.Delete(slices.Clone(values), i, i+1), c); got != -1 {
			t.Errorf("a code that is gone is value %d", got)
		}
	}
}

// TestForeignValues: what HashRecovery has not made fits nothing, not even an
// impossible code.
func TestForeignValues(t *testing.T) {
	code := "0000-0000-0000-0000"
	good, _ := HashRecovery(code)
	for _, v := range []string{"", code, recoveryScheme, good[:len(good)-1], good + "A", strings.TrimPrefix(good, recoveryScheme), "{SSHA}" + good, good + "=", good + "\n"} {
		for _, typed := range []string{code, "", "0", v} {
			if MatchRecovery([]string{v}, typed) != -1 {
				t.Errorf("%q fits the value %q", typed, v)
			}
		}
	}
	if _, ok := HashRecovery("too short"); ok {
		t.Error("no code was hashed")
	}
	// The sum of an empty text is what an impossible code is compared by.
	salt := make([]byte, 16)
	empty := recoveryScheme + base64.RawStdEncoding.EncodeToString(append(salt, recoverySum(salt, "")...))
	if MatchRecovery([]string{empty}, "") != -1 || MatchRecovery([]string{empty}, "123456") != -1 {
		t.Error("an impossible code fits")
	}
}

func FuzzMatchRecovery(f *testing.F) {
	code := NewRecoveryCodes(1)[0]
	v, _ := HashRecovery(code)
	f.Add(v, code)
	f.Add(v, "123456")
	f.Add("{SEKISHO-SHA256}AAAA", "")
	f.Fuzz(func(t *testing.T, value, typed string) {
		if MatchRecovery([]string{value}, typed) == -1 {
			return
		}
		s, ok := recoveryOf(typed)
		if !ok || len(s) != recoveryLength {
			t.Fatalf("%q is taken for %q", typed, value)
		}
		if MatchRecovery([]string{value}, s) != 0 {
			t.Fatalf("%q fits, %q does not", typed, s)
		}
	})
}
