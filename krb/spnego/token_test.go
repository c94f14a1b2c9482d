package spnego

import (
	"bytes"
	"encoding/asn1"
	"testing"

	"github.com/sekisho/sekisho/krb/gss"
	"github.com/sekisho/sekisho/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var oidNTLM = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 2, 10}

func list(t testing.TB, mechs ...asn1.ObjectIdentifier) []byte {
	t.Helper()
	b, err := formatMechs(mechs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestInit(t *testing.T) {
	for _, in := range []initToken{
		{list: list(t, gss.OIDKrb5)},
		{list: list(t, gss.OIDMSKrb5, gss.OIDKrb5, oidNTLM), mech: []byte("token")},
		{list: list(t, gss.OIDKrb5), mech: bytes.Repeat([]byte{1}, 60_000), mic: []byte("mic")},
	} {
		b, err := in.format()
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseInit(b)
		if err != nil || !bytes.Equal(got.list, in.list) || !bytes.Equal(got.mech, in.mech) || !bytes.Equal(got.mic, in.mic) {
			t.Errorf("%+v: %v", got, err)
		}
		for n := range min(len(b), 200) {
			if _, err := parseInit(b[:n]); err == nil {
				t.Errorf("cut to %d", n)
			}
		}
		if _, err := parseInit(append(b, 0)); err == nil {
			t.Error("a byte more")
		}
	}
	many := make([]asn1.ObjectIdentifier, maxMechs+1)
	for n := range many {
		many[n] = gss.OIDKrb5
	}
	for name, in := range map[string]initToken{"no mechanism": {list: []byte{0x30, 0}}, "too many": {list: list(t, many...)},
		"an empty token": {list: list(t, gss.OIDKrb5), mech: []byte{}}} {
		b, err := in.format()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseInit(b); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestResp(t *testing.T) {
	for _, in := range []respToken{
		{state: noState}, {state: reject}, {state: acceptCompleted, mech: gss.OIDKrb5, token: []byte("t"), mic: []byte("m")},
		{state: requestMIC, mech: gss.OIDMSKrb5}, {state: acceptIncomplete, mic: []byte("m")},
	} {
		b, err := in.format()
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseResp(b)
		if err != nil || got.state != in.state || !got.mech.Equal(in.mech) || !bytes.Equal(got.token, in.token) || !bytes.Equal(got.mic, in.mic) {
			t.Errorf("%+v: %v", got, err)
		}
		for n := range b {
			if _, err := parseResp(b[:n]); err == nil {
				t.Errorf("cut to %d", n)
			}
		}
		if _, err := parseInit(b); err == nil {
			t.Error("a NegTokenResp is a NegTokenInit")
		}
	}
	if b, _ := (respToken{state: 4}).format(); b != nil {
		if _, err := parseResp(b); err == nil {
			t.Error("a state that does not exist")
		}
	}
}

func TestHeader(t *testing.T) {
	for _, c := range []struct {
		v     string
		token string
		there bool
		bad   bool
	}{
		{"Negotiate dG9rZW4=", "token", true, false},
		{"negotiate  dG9rZW4= ", "token", true, false},
		{"NEGOTIATE dG9rZW4=", "token", true, false},
		{"Negotiate", "", false, false},
		{"Negotiate ", "", false, false},
		{"Basic dG9rZW4=", "", false, false},
		{"Negotiated dG9rZW4=", "", false, false},
		{"", "", false, false},
		{"Negotiate dG9rZW4", "", false, true},
		{"Negotiate dG9rZW5=", "", false, true}, // bits after the end
		{"Negotiate dG9r\nZW4=", "", false, true},
		{"Negotiate dG9r ZW4=", "", false, true},
		{"Negotiate dG9rZW4=, Basic x", "", false, true},
		{"Negotiate " + string(bytes.Repeat([]byte("AAAA"), gss.MaxToken/3+2)), "", false, true},
	} {
		token, there, err := parseHeader(c.v)
		if string(token) != c.token || there != c.there || (err != nil) != c.bad {
			t.Errorf("%.40q: %q, %v, %v", c.v, token, there, err)
		}
	}
}

func FuzzSPNEGO(f *testing.F) {
	a, _ := initToken{list: list(f, gss.OIDMSKrb5, gss.OIDKrb5), mech: []byte("token"), mic: []byte("mic")}.format()
	b, _ := respToken{state: acceptCompleted, mech: gss.OIDKrb5, token: []byte("t"), mic: []byte("m")}.format()
	f.Add(a)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if in, err := parseInit(b); err == nil {
			if len(in.mechs) == 0 || len(in.mechs) > maxMechs {
				t.Fatalf("%d mechanisms", len(in.mechs))
			}
			out, err := in.format() // which leaves reqFlags out
			if err != nil || len(out) > len(b) {
				t.Fatalf("%x becomes %x (%v)", b, out, err)
			}
			again, err := parseInit(out)
			if err != nil || !bytes.Equal(again.list, in.list) || !bytes.Equal(again.mech, in.mech) || !bytes.Equal(again.mic, in.mic) {
				t.Fatalf("%x becomes %x (%v)", b, out, err)
			}
		}
		if r, err := parseResp(b); err == nil {
			out, err := r.format()
			if err != nil || !bytes.Equal(out, b) {
				t.Fatalf("%x becomes %x (%v)", b, out, err)
			}
		}
		// Whatever it is, neither side takes it for an answer.
		if _, done, err := (&Acceptor{stage: wantMIC, c: &gss.Context{}}).Step(t.Context(), b); err == nil || done {
			t.Fatal("a MIC that nobody made")
		}
		if _, done, err := (&Acceptor{stage: over}).Step(t.Context(), b); err == nil || done {
			t.Fatal("the negotiation was over")
		}
	})
}
