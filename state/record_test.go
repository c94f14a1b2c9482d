package state

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestRecord(t *testing.T) {
	for _, r := range []record{
		{key: "k", value: []byte{}},
		{token: [16]byte{1, 2}, expires: 5, ttl: 1, key: "\x00\xff", value: []byte("v")},
		{expires: 1 << 40, ttl: 1<<32 - 1, key: strings.Repeat("k", MaxKey), value: bytes.Repeat([]byte{7}, MaxValue)},
	} {
		b := r.bytes()
		got, err := parseRecord(b)
		if err != nil {
			t.Fatal(err)
		}
		if got.value == nil {
			got.value = []byte{}
		}
		if !reflect.DeepEqual(got, r) {
			t.Errorf("%.60v came back as %.60v", r, got)
		}
		for _, bad := range [][]byte{nil, b[:recordHead], append([]byte{2}, b[1:]...), append(bytes.Clone(b), make([]byte, MaxValue+1)...)} {
			if _, err := parseRecord(bad); !errors.Is(err, errRecord) {
				t.Errorf("%.60q is no record: %v", bad, err)
			}
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(record{key: "k"}.bytes())
	f.Add(record{token: [16]byte{9}, expires: 1, ttl: 2, key: "a\x00", value: []byte("value")}.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			if r.key != "" || r.value != nil {
				t.Error("something beside an error")
			}
			return
		}
		if !bytes.Equal(r.bytes(), b) {
			t.Errorf("%q was read, and is printed as %q", b, r.bytes())
		}
	})
}

func TestTokens(t *testing.T) {
	seen := map[string]string{}
	for _, k := range []string{"a", "b", "", ".", strings.Repeat("a", longKey), strings.Repeat("a", longKey+1), strings.Repeat("a", longKey+2)} {
		tok := token(k)
		if other, twice := seen[tok]; twice {
			t.Errorf("%q and %q are both %s", k, other, tok)
		}
		seen[tok] = k
		if strings.ContainsAny(tok, ".*> \t\r\n") || len(tok) > 140 {
			t.Errorf("%q is no token of a subject", tok)
		}
	}
}

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]uint32{0: 0, 1: 1, time.Second: 1, time.Second + 1: 2, maxTTL: 1<<32 - 1} {
		if got := seconds(d); got != want {
			t.Errorf("%s is %d seconds, and not %d", d, got, want)
		}
	}
}

func TestLedger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l, err := openLedger(path)
	if !errors.Is(err, errLedger) {
		t.Fatal(err)
	}
	if err := l.replace(newSlots()); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	mark := func(ttl uint32) record { return record{ttl: ttl, expires: now.Unix() + int64(ttl)} }
	marks := []record{mark(60), mark(60), mark(61), mark(shortLife), mark(shortLife + 1), mark(maxLife), {}, {}}
	for _, r := range marks {
		if err := l.note(BucketCodes, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.note(BucketReplay, mark(100)); err != nil {
		t.Fatal(err)
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if l, err = openLedger(path); err != nil {
		t.Fatal(err)
	}
	found := func(r ...record) []slot {
		got := newSlots()
		for _, r := range r {
			i, at := place(BucketCodes, r)
			got[i].at = at
			got[i].count++
		}
		return got
	}
	end := func(r record) time.Time { return time.Unix(r.expires+1, 0) }
	hour := func(r record) time.Time { return time.Unix((r.expires/3600+1)*3600, 0) }
	for _, c := range []struct {
		name  string
		found []record
		now   time.Time
		n     int
		until time.Time
	}{
		{"all there", marks, now, 0, time.Time{}},
		{"more than all", append([]record{mark(60), mark(5)}, marks...), now, 0, time.Time{}},
		{"one of two in a second", marks[1:], now, 1, end(mark(60))},
		{"two, the later counts", marks[3:], now, 3, end(mark(61))},
		{"they have ended meanwhile", marks[3:], now.Add(62 * time.Second), 0, time.Time{}},
		{"one that ends in hours", append(marks[:4:4], marks[5:]...), now, 1, hour(mark(shortLife + 1))},
		{"one that ends in weeks", append(marks[:5:5], marks[6:]...), now, 1, hour(mark(maxLife))},
		{"one that never ends", marks[:7], now, 1, time.Time{}},
		{"all", nil, now, 8, time.Time{}},
	} {
		n, until := l.missing(BucketCodes, found(c.found...), c.now)
		if n != c.n || !until.Equal(c.until) {
			t.Errorf("%s: %d until %s, and not %d until %s", c.name, n, until, c.n, c.until)
		}
	}
	if n, _ := l.missing(BucketReplay, newSlots(), now); n != 1 {
		t.Errorf("%d are missing in the other bucket", n)
	}
	if err := l.note(BucketCodes, mark(60)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("noted without a file: %v", err)
	}
}
