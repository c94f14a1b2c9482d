package otp

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestURI(t *testing.T) {
	tok := Token{"Example Org", "alice", seed(20), Default()}
	const want = "otpauth://totp/Example%20Org:alice?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Example%20Org&algorithm=SHA1&digits=6&period=30"
	if got, err := tok.URI(); err != nil || got != want {
		t.Fatalf("%s, %v", got, err)
	}
	for _, tok := range []Token{tok, {"例え &=?#%+/", "a+b c/d", seed(32), Params{SHA512, 8, time.Minute}}} {
		uri, err := tok.URI()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseURI(uri); err != nil || !reflect.DeepEqual(got, tok) {
			t.Errorf("%s: %+v, %v", uri, got, err)
		}
	}
	for _, bad := range []Token{{"", "alice", seed(20), Default()}, {"x", "", seed(20), Default()}, {"a:b", "alice", seed(20), Default()},
		{"x", "a:b", seed(20), Default()}, {"x\n", "alice", seed(20), Default()}, {"x", "\xff", seed(20), Default()},
		{"x", strings.Repeat("a", 200), seed(20), Default()}, {"x", "alice", seed(3), Default()}, {"x", "alice", seed(20), Params{}}} {
		if got, err := bad.URI(); err == nil {
			t.Errorf("%+v: %s", bad, got)
		}
	}
}

func TestParseURI(t *testing.T) {
	const secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
	for _, good := range []string{
		"otpauth://totp/Site:alice?secret=" + secret,
		"otpauth://totp/Site:%20alice?secret=" + strings.ToLower(secret) + "&issuer=Site",
		"otpauth://totp/alice?issuer=Site&secret=" + secret + "&algorithm=sha1&digits=6&period=30&image=x",
	} {
		if got, err := ParseURI(good); err != nil || !reflect.DeepEqual(got, Token{"Site", "alice", seed(20), Default()}) {
			t.Errorf("%s: %+v, %v", good, got, err)
		}
	}
	for _, bad := range []string{"", "otpauth://hotp/Site:alice?secret=" + secret + "&counter=1", "http://totp/Site:alice?secret=" + secret,
		"otpauth://totp/Site:alice", "otpauth://totp/alice?secret=" + secret, "otpauth://totp/Site:alice?issuer=Other&secret=" + secret,
		"otpauth://totp/Site:alice?secret=" + secret + "&secret=" + secret, "otpauth://totp/Site:alice?secret=" + secret + "&digits=9",
		"otpauth://totp/Site:alice?secret=" + secret + "&period=0", "otpauth://totp/Site:alice?secret=" + secret + "&algorithm=MD5",
		"otpauth://totp/Site:alice?secret=" + secret + "&colour=red", "otpauth://totp/Site:alice?secret=" + secret + "#x",
		"otpauth://u@totp/Site:alice?secret=" + secret, "otpauth://totp/Site:alice?secret=" + secret + "&issuer=" + strings.Repeat("x", 4000)} {
		got, err := ParseURI(bad)
		if err == nil {
			t.Errorf("%s: %+v", bad, got)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
}

// FuzzParseURI: what is read can be written, and is read the same again.
func FuzzParseURI(f *testing.F) {
	f.Add("otpauth://totp/Site:alice?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
	f.Add("otpauth://totp/a%2Fb:c%3Fd?issuer=a%2Fb&secret=gezd-gnbv-gy3t-qojq-gezd-gnbv-gy3t-qojq&digits=8&period=60&algorithm=SHA512")
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := ParseURI(text)
		if err != nil {
			return
		}
		uri, err := tok.URI()
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		again, err := ParseURI(uri)
		if err != nil || !reflect.DeepEqual(again, tok) {
			t.Fatalf("%q: %+v, then %+v, %v", text, tok, again, err)
		}
	})
}

func FuzzParseText(f *testing.F) {
	f.Add("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
	f.Add("gezd gnbv gy3t qojq gezd gnbv gy3t qojq ====")
	f.Fuzz(func(t *testing.T, text string) {
		secret, err := ParseText(text)
		if err != nil {
			return
		}
		again, err := ParseText(Text(secret))
		if err != nil || string(again) != string(secret) {
			t.Fatalf("%q: %x, then %x, %v", text, secret, again, err)
		}
	})
}
