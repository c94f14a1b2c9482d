package accept

import (
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte/asn1"
)

func TestKerberosTime(t *testing.T) {
	read := func(text string) (time.Time, bool) {
		s := seq{in: field(0, element(asn1.GeneralizedTime, []byte(text)))}
		got := s.time(0)
		return got, s.end()
	}
	for unix := int64(0); unix < 1<<32; unix += 86399*3 + 7 {
		want := time.Unix(unix, 0).UTC()
		s := seq{in: kerberosTime(0, want)}
		if got := s.time(0); !s.end() || !got.Equal(want) {
			t.Fatalf("%s is read as %s", want, got)
		}
	}
	for _, bad := range []string{"", "Z", "19691231235959Z", "21060207062816Z", "20260229000000Z", "20260132000000Z", "20260001000000Z",
		"20261301000000Z", "20260100000000Z", "20260101240000Z", "20260101006000Z", "20260101000060Z", "20260101000000", "202601010000Z",
		"20260101000000.5Z", "20260101000000z", "20260101000000+0000", "2026010100000 Z", "-0260101000000Z", "2026010100000\x00Z", "99991231235959Z"} {
		if got, ok := read(bad); ok {
			t.Errorf("%q is read as %s", bad, got)
		}
	}
	for _, good := range []string{"19700101000000Z", "21060207062815Z", "20240229235959Z"} {
		if _, ok := read(good); !ok {
			t.Errorf("%q is not read", good)
		}
	}
}
