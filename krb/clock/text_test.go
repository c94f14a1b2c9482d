package clock

import (
	"math"
	"testing"
	"time"
)

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                                "0 ms",
		400 * time.Microsecond:           "0 ms",
		8 * time.Millisecond:             "8 ms",
		-8 * time.Millisecond:            "8 ms",
		999_600 * time.Microsecond:       "1.0 s",
		2500 * time.Millisecond:          "2.5 s",
		9_960 * time.Millisecond:         "10 s",
		42 * time.Second:                 "42 s",
		59_700 * time.Millisecond:        "1 min 0 s",
		7*time.Minute + 12*time.Second:   "7 min 12 s",
		-602 * time.Second:               "10 min 2 s",
		10 * time.Minute:                 "10 min 0 s",
		time.Hour - 400*time.Millisecond: "1 h 0 min",
		3*time.Hour + 5*time.Minute:      "3 h 5 min",
		24*time.Hour - time.Second:       "1 d 0 h",
		292 * time.Hour:                  "12 d 4 h",
		math.MaxInt64:                    "106751 d 23 h",
		math.MinInt64:                    "106751 d 23 h",
	} {
		if got := Span(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

func TestWitnesses(t *testing.T) {
	for want, w := range map[string]witnesses{
		"1 time server":                            {servers: 1},
		"3 time servers and the KDC":               {servers: 3, kdcs: 1},
		"2 KDCs":                                   {kdcs: 2},
		"4 time servers, 2 KDCs and this host":     {servers: 4, kdcs: 2, host: true},
		"1 time server, the KDC and the directory": {servers: 1, kdcs: 1, directories: 1},
	} {
		if got := w.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestNamesAreClean(t *testing.T) {
	if got := clean("kdc\x1b[31m\n1\u202e.example"); got != "kdc?[31m?1?.example" {
		t.Errorf("%q", got)
	}
	if got := clean(string(make([]byte, 5000))); len(got) != 255 {
		t.Errorf("%d bytes", len(got))
	}
}
