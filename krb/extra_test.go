package krb

import (
	"bytes"
	"testing"
)

func testExtra(t testing.TB) Extra {
	t.Helper()
	m, err := NewMasterKey()
	if err != nil {
		t.Fatal(err)
	}
	kept, err := NewKeys(Principal{[]string{"alice"}, "EXAMPLE.ORG"}, "correct horse", 3, m)
	if err != nil {
		t.Fatal(err)
	}
	return Extra{Strings: []StringAttribute{{"otp", `[{"type":"sekisho"}]`}, {"empty", ""}}, Kept: kept,
		others: [][]byte{m.MasterKVNO()}}
}

// TestExtra: what is written is read again, settings of others are kept, and MIT's
// form of string attributes (src/lib/kadm5 … set_string_attribute) is met.
func TestExtra(t *testing.T) {
	x := testExtra(t)
	values, err := x.Values()
	if err != nil {
		t.Fatal(err)
	}
	if want := []byte("\x00\x0botp\x00[{\"type\":\"sekisho\"}]\x00empty\x00\x00"); !bytes.Equal(values[1], want) {
		t.Errorf("%q", values[1])
	}
	y, err := ParseExtra(values)
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := y.Get("otp"); !ok || v != `[{"type":"sekisho"}]` || !bytes.Equal(y.Kept, x.Kept) || len(y.others) != 1 {
		t.Errorf("%q %v", v, ok)
	}
	if v, ok := y.Get("empty"); !ok || v != "" {
		t.Error("an empty value is lost")
	}
	if _, ok := y.Get("ot"); ok {
		t.Error("a string that is not there")
	}
	z := y.Set("otp", "", false)
	if _, ok := z.Get("otp"); ok || len(y.Strings) != 2 {
		t.Error("not taken out, or taken out of the original")
	}
	if z = z.Set("empty", "now", true); len(z.Strings) != 1 || z.Strings[0].Value != "now" {
		t.Error(z.Strings)
	}
	if values, err := (Extra{}).Values(); err != nil || len(values) != 0 {
		t.Error(values, err)
	}
	for _, bad := range []Extra{{Strings: []StringAttribute{{"", "x"}}}, {Strings: []StringAttribute{{"a\x00", "x"}}},
		{Strings: []StringAttribute{{"a", "x\x00"}}}, {Kept: []byte{1}}, {Strings: []StringAttribute{{"a", string(make([]byte, maxStrings))}}}} {
		if v, err := bad.Values(); err == nil {
			t.Errorf("%q", v)
		}
	}
	kept := values[2]
	for _, bad := range [][][]byte{{{0}}, {[]byte("\x00\x0bno end")}, {[]byte("\x00\x0bkey\x00no end")}, {[]byte("\x00\x0b\x00value\x00")},
		{[]byte("\x00\x0ba\x001\x00a\x002\x00")}, {[]byte("\x00\x0ba\x001\x00"), []byte("\x00\x0bb\x001\x00")}, {kept, kept}, {kept[:len(kept)-1]}} {
		if x, err := ParseExtra(bad); err == nil {
			t.Errorf("%q: %v", bad, x)
		}
	}
}

// FuzzParseExtra: what is taken is written as it was.
func FuzzParseExtra(f *testing.F) {
	values, err := testExtra(f).Values()
	if err != nil {
		f.Fatal(err)
	}
	for _, v := range values {
		f.Add(v)
	}
	f.Add([]byte("\x00\x0b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ParseExtra([][]byte{b})
		if err != nil {
			return
		}
		again, err := x.Values()
		if err != nil {
			t.Fatal(err)
		}
		if len(b) == 2 && len(again) == 0 {
			return // string attributes, but none
		}
		if len(again) != 1 || !bytes.Equal(again[0], b) {
			t.Errorf("%q becomes %q", b, again)
		}
	})
}
