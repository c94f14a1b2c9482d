package der

import (
	"bytes"
	encasn1 "encoding/asn1"
	"errors"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/sekisho/sekisho/krb"
)

func TestTime(t *testing.T) {
	read := func(text string) (time.Time, error) {
		r := NewReader(append([]byte{0x18, byte(len(text))}, text...))
		return r.Time(), r.Err()
	}
	for unix := int64(0); unix < 1<<32; unix += 86399*3 + 7 {
		want := time.Unix(unix, 0).UTC()
		r := NewReader(Time(want))
		if got := r.Time(); r.Err() != nil || !got.Equal(want) {
			t.Fatalf("%s is read as %s", want, got)
		}
	}
	for _, bad := range []string{"", "Z", "19691231235959Z", "21060207062816Z", "20260229000000Z", "20260132000000Z", "20260001000000Z",
		"20261301000000Z", "20260100000000Z", "20260101240000Z", "20260101006000Z", "20260101000060Z", "20260101000000", "202601010000Z",
		"20260101000000.5Z", "20260101000000z", "20260101000000+0000", "2026010100000 Z", "-0260101000000Z", "2026010100000\x00Z", "99991231235959Z"} {
		if got, err := read(bad); err == nil || !got.IsZero() {
			t.Errorf("%q is read as %s", bad, got)
		}
	}
	for _, good := range []string{"19700101000000Z", "21060207062815Z", "20240229235959Z"} {
		if _, err := read(good); err != nil {
			t.Errorf("%q is not read", good)
		}
	}
}

func TestIntegers(t *testing.T) {
	values := []int64{0, 1, -1, 5, 127, 128, -128, -129, 255, 256, 32767, 32768, -32768, -32769, 999_999, 1_000_000,
		math.MaxInt32, math.MinInt32, math.MaxInt32 + 1, math.MinInt32 - 1, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64, math.MinInt64}
	for _, v := range values {
		b := Int(v)
		if want, err := encasn1.Marshal(v); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%d is written as %x, not %x", v, b, want)
		}
		fits := func(what string, lo, hi int64, read func(Reader) int64, want int64) {
			r := NewReader(b)
			got := read(r)
			if ok := v >= lo && v <= hi; (r.Err() == nil) != ok || ok && got != want || !ok && got != 0 {
				t.Errorf("%d as %s is %d", v, what, got)
			}
		}
		fits("Int32", math.MinInt32, math.MaxInt32, func(r Reader) int64 { return int64(r.Int32()) }, v)
		fits("UInt32", math.MinInt32, math.MaxUint32, func(r Reader) int64 { return int64(r.Uint32()) }, int64(uint32(v)))
		fits("Microseconds", 0, 999_999, func(r Reader) int64 { return int64(r.Microseconds() / time.Microsecond) }, v)
		fits("5", 5, 5, func(r Reader) int64 { r.Is(5); return 5 * int64(b2i(r.Err() == nil)) }, 5)
	}
	for _, bad := range [][]byte{nil, {2}, {2, 0}, {2, 2, 0, 1}, {2, 2, 0xff, 0xff}, {2, 1, 1, 0}, {2, 0x81, 1, 1}, {10, 1, 1}, {2, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0}} {
		r := NewReader(bad)
		if r.Int(math.MinInt64, math.MaxInt64); r.Err() == nil {
			t.Errorf("%x is an integer", bad)
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestFlags(t *testing.T) {
	for _, f := range []uint32{0, 1, 1 << 31, 0x40800000, math.MaxUint32} {
		r := NewReader(Flags(f))
		if got := r.Flags(); got != f || r.Err() != nil {
			t.Errorf("%#x is %#x", f, got)
		}
	}
	for _, c := range []struct {
		in []byte
		ok bool
	}{
		{[]byte{3, 5, 0, 1, 2, 3, 4}, true},
		{[]byte{3, 6, 0, 1, 2, 3, 4, 5}, true}, // more than 32
		{[]byte{3, 6, 7, 1, 2, 3, 4, 0x80}, true},
		{[]byte{3, 6, 7, 1, 2, 3, 4, 5}, false}, // padding that is not zero
		{[]byte{3, 5, 1, 1, 2, 3, 4}, false},    // 31
		{[]byte{3, 4, 0, 1, 2, 3}, false},
		{[]byte{3, 5, 8, 1, 2, 3, 4}, false},
		{[]byte{3, 1, 0}, false}, {[]byte{3, 0}, false}, {nil, false},
		{[]byte{4, 5, 0, 1, 2, 3, 4}, false},
		{[]byte{3, 5, 0, 1, 2, 3, 4, 0}, false},
	} {
		r := NewReader(c.in)
		if got := r.Flags(); (r.Err() == nil) != c.ok || c.ok && got != 0x01020304 || !c.ok && got != 0 {
			t.Errorf("%x is %#x", c.in, got)
		}
	}
}

var (
	alice = krb.Principal{Components: []string{"alice"}, Realm: "EXAMPLE.ORG"}
	web   = krb.Principal{Components: []string{"host", "web1.example.org"}, Realm: "EXAMPLE.ORG"}
	at    = time.Date(2026, 3, 4, 5, 6, 7, 890_123_000, time.UTC)
)

// parts are values of each kind, by our writer and by another codec.
func parts(t testing.TB) map[string][2][]byte {
	t.Helper()
	other := func(v any) []byte {
		b, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	v4, v6 := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7")
	long := bytes.Repeat([]byte{7}, 70_000)
	return map[string][2][]byte{
		"name":      {Name(web), other(web.Name())},
		"addresses": {Addresses([]netip.Addr{v4, v6}), other(types.HostAddresses{{AddrType: 2, Address: v4.AsSlice()}, {AddrType: 24, Address: v6.AsSlice()}})},
		"key":       {Key(krb.Key{EType: 17, Value: make([]byte, 16)}), other(types.EncryptionKey{KeyType: 17, KeyValue: make([]byte, 16)})},
		"typed":     {Value(Typed{-138, long[:300]}), other(types.Checksum{CksumType: -138, Checksum: long[:300]})},
		"padata":    {PAData([]Typed{{2, long}, {149, nil}}), other(types.PADataSequence{{PADataType: 2, PADataValue: long}, {PADataType: 149}})},
		"authdata":  {Seq(Value(Typed{1, []byte("x")}), Value(Typed{128, nil})), other(types.AuthorizationData{{ADType: 1, ADData: []byte("x")}, {ADType: 128}})},
		"sealed":    {Seq(Field(0, Int(18)), Field(1, Int(3)), Field(2, Octets([]byte("x")))), other(types.EncryptedData{EType: 18, KVNO: 3, Cipher: []byte("x")})},
	}
}

// readers read a value of each kind; what they give is for a comparison.
var readers = map[string]func(Reader) any{
	"name":      func(r Reader) any { return r.Name() },
	"addresses": func(r Reader) any { return r.Addresses() },
	"key":       func(r Reader) any { return r.Key() },
	"typed":     func(r Reader) any { return r.Typed() },
	"padata":    func(r Reader) any { return r.PAData(8) },
	"authdata":  func(r Reader) any { return r.AuthData() },
	"sealed":    func(r Reader) any { return r.Sealed() },
}

func TestParts(t *testing.T) {
	for name, p := range parts(t) {
		if !bytes.Equal(p[0], p[1]) {
			t.Errorf("%s is written as\n%x, not\n%x", name, p[0], p[1])
		}
		b, read := p[1], readers[name]
		r := NewReader(b)
		if read(r); r.Err() != nil {
			t.Errorf("%s is not read", name)
		}
		for n := range b[:min(len(b), 400)] {
			r := NewReader(b[:n])
			if read(r); r.Err() == nil {
				t.Errorf("%s cut to %d bytes is read", name, n)
			}
		}
		for _, bad := range [][]byte{append(slices.Clone(b), 0), append([]byte{0x31}, b[1:]...), Seq(b), {0x30, 0x80, 0, 0}} {
			r := NewReader(bad)
			if read(r); r.Err() == nil {
				t.Errorf("%s: %.40x is read", name, bad)
			}
		}
	}
	r := NewReader(parts(t)["addresses"][1])
	if got := r.Addresses(); len(got) != 2 || got[0].String() != "203.0.113.7" || got[1].String() != "2001:db8::7" {
		t.Error(got)
	}
	r = NewReader(parts(t)["sealed"][1])
	if got := r.Sealed(); got.EType != 18 || got.KVNO != 3 || string(got.Cipher) != "x" {
		t.Error(got)
	}
}

// TestLists: the bounds of lists, and what stands in them.
func TestLists(t *testing.T) {
	many := func(n int, one []byte) []byte { return Seq(slices.Repeat([][]byte{one}, n)...) }
	address := Value(Typed{2, []byte{203, 0, 113, 7}})
	for _, c := range []struct {
		name string
		in   []byte
		read func(Reader) int
		want int // -1: malformed
	}{
		{"8 components", Seq(Field(0, Int(1)), Field(1, many(8, Text("a")))), func(r Reader) int { return len(r.Name()) }, 8},
		{"9 components", Seq(Field(0, Int(1)), Field(1, many(9, Text("a")))), func(r Reader) int { return len(r.Name()) }, -1},
		{"no components", Seq(Field(0, Int(1)), Field(1, Seq())), func(r Reader) int { return len(r.Name()) }, 0},
		{"a component of another kind", Seq(Field(0, Int(1)), Field(1, Seq(Octets([]byte("a"))))), func(r Reader) int { return len(r.Name()) }, -1},
		{"64 addresses", many(64, address), func(r Reader) int { return len(r.Addresses()) }, 64},
		{"65 addresses", many(65, address), func(r Reader) int { return len(r.Addresses()) }, -1},
		{"no addresses", Seq(), func(r Reader) int { return len(r.Addresses()) }, 0},
		{"65 entries", many(65, address), func(r Reader) int { return len(r.AuthData()) }, -1},
		{"3 of 3", PAData(make([]Typed, 3)), func(r Reader) int { return len(r.PAData(3)) }, 3},
		{"4 of 3", PAData(make([]Typed, 4)), func(r Reader) int { return len(r.PAData(3)) }, -1},
		{"a key of another type", Value(Typed{23, make([]byte, 16)}), func(r Reader) int { return len(r.Key().Value) }, -1},
		{"a short key", Value(Typed{17, make([]byte, 15)}), func(r Reader) int { return len(r.Key().Value) }, -1},
	} {
		r := NewReader(c.in)
		if got := c.read(r); (r.Err() != nil) != (c.want < 0) || got != max(c.want, 0) {
			t.Errorf("%s: %d", c.name, got)
		}
	}
	for _, odd := range []Typed{{20, []byte("NETBIOS")}, {2, make([]byte, 16)}, {24, make([]byte, 4)}, {2, nil}, {0, make([]byte, 4)}} {
		r := NewReader(Seq(Value(odd)))
		if got := r.Addresses(); len(got) != 1 || got[0].IsValid() {
			t.Errorf("%v is the address %v", odd, got)
		}
	}
	r := NewReader(Seq(Value(Typed{24, netip.MustParseAddr("::ffff:203.0.113.7").AsSlice()})))
	if got := r.Addresses(); len(got) != 1 || got[0].String() != "203.0.113.7" {
		t.Error(got)
	}
}

// TestElements: lists that are read one by one.
func TestElements(t *testing.T) {
	one, two := App(1, Field(0, Int(5))), App(1, Field(0, Int(6)))
	list := NewReader(Seq(one, two)).Seq()
	if a, b := list.Message(1), list.Message(1); !bytes.Equal(a, one) || !bytes.Equal(b, two) || list.Done() != nil {
		t.Errorf("%x, %x, %v", a, b, list.Err())
	}
	list = NewReader(Seq(one, two)).Seq()
	if got := list.Message(2); got != nil || list.Message(1) != nil || list.Err() == nil {
		t.Errorf("%x is another message", got)
	}
	for _, v := range []int64{math.MinInt32, -1, 0, 18, math.MaxInt32, math.MinInt32 - 1, math.MaxInt32 + 1} {
		list := NewReader(Seq(Int(v), Int(20))).Seq()
		a, b := list.NextInt32(), list.NextInt32()
		if ok := int64(int32(v)) == v; (list.Done() == nil) != ok || ok && (int64(a) != v || b != 20) || !ok && (a != 0 || b != 0) {
			t.Errorf("%d: %d, %d, %v", v, a, b, list.Err())
		}
	}
	list = NewReader(Seq(Int(1), Int(2))).Seq()
	for n := 0; list.More(n, 1); n++ {
		list.NextInt32()
	}
	if list.Err() == nil {
		t.Error("2 of 1")
	}
}

// TestState: what was wrong anywhere is not forgotten, and nothing is read after it.
func TestState(t *testing.T) {
	b := App(30, Field(0, Int(5)), Field(1, Text("a")), Field(2, Octets(nil)))
	r := Open(b, 30)
	r.Field(0).Is(5)
	if !r.Has(1) || r.Has(2) {
		t.Error("has")
	}
	in := r.Field(1)
	if in.Text() != "a" {
		t.Error("text")
	}
	if o := r.Field(2).Octets(); o == nil || len(o) != 0 || r.Done() != nil {
		t.Errorf("%v, %v", o, r.Done())
	}
	for name, wrong := range map[string]func(*Reader){
		"value": func(r *Reader) { r.Field(0).Is(4) },
		"field": func(r *Reader) { r.Field(1) },
		"rest":  func(r *Reader) { r.Field(0).End() },
		"must":  func(r *Reader) { r.Must(false) },
	} {
		r := Open(b, 30)
		wrong(&r)
		if r.Has(0) || r.Has(1) || r.Rest() != nil || r.More(0, 9) || r.Field(1).Text() != "" || r.Field(2).Octets() != nil || !errors.Is(r.Err(), ErrMalformed) {
			t.Errorf("%s: something is read", name)
		}
	}
	r = Open(b, 30)
	if r.Field(0); !errors.Is(r.Done(), ErrMalformed) {
		t.Error("fields are left")
	}
	for n := range b {
		if Open(b[:n], 30).Err() == nil {
			t.Errorf("cut to %d bytes it opens", n)
		}
	}
	if Open(b, 29).Err() == nil || Open(append(b, 0), 30).Err() == nil || !Is(b, 30) || Is(b, 29) || Is(nil, 30) {
		t.Error("opens")
	}
}
