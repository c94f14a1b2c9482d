package audit

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sekisho/sekisho/broker"
)

func TestClip(t *testing.T) {
	for _, s := range []string{"", "alice", strings.Repeat("x", MaxText), "é\u2028\x00"} {
		if Clip(s) != s {
			t.Errorf("%q became %q", s, Clip(s))
		}
	}
	long := strings.Repeat("x", 64<<10)
	got := Clip(long)
	if len(got) > MaxText || !strings.HasPrefix(got, strings.Repeat("x", 128)+"…sha256-") || !strings.HasSuffix(got, "-65536") {
		t.Errorf("%q", got)
	}
	seen := map[string]string{}
	for _, s := range []string{long, long + "x", long[1:] + "y", got, "a\xff", "a\xfe", "a\ufffd", strings.Repeat("é", 200), "x" + strings.Repeat("é", 200)} {
		c := Clip(s)
		if other, ok := seen[c]; ok {
			t.Errorf("%.20q and %.20q are both %q", s, other, c)
		}
		if !utf8.ValidString(c) || len(c) > MaxText {
			t.Errorf("%q", c)
		}
		seen[c] = s
	}
}

// FuzzRecord: any request and decision become one line of JSON without control
// characters, which reads back as what was written, clipped.
func FuzzRecord(f *testing.F) {
	for _, s := range []string{"alice", "a\"b\\c\n", "\x00\x7f", "é\u2028\u009b", "\xff\xfe", strings.Repeat("x", 64<<10), strings.Repeat("é", 300), "…sha256-"} {
		f.Add(s, "web1", "fe80::1%"+s, int64(1), uint8(3), uint16(2))
	}
	f.Add("", "", "", int64(-1<<62), uint8(9), uint16(65535))
	f.Fuzz(func(t *testing.T, a, b, from string, n int64, outcome uint8, many uint16) {
		q := broker.Request{User: broker.UserName(a), Login: broker.Login(b), Door: broker.Door(a), Target: broker.Target{Host: broker.HostName(b)},
			Recent: []broker.RecentProof{{Proof: broker.Proof(a), Age: time.Duration(n)}}}
		q.From, _ = netip.ParseAddr(from)
		d := broker.Decision{Outcome: broker.Outcome(outcome), Reason: broker.Reason(b), Until: time.Unix(n, n), Generation: uint64(n), Age: time.Duration(n)}
		for range many % 1000 {
			d.Rules = append(d.Rules, broker.RuleName(a))
			d.Shown = append(d.Shown, broker.Proof(b))
			d.Need = append(d.Need, []broker.ProofNeed{{}, {}})
		}
		at := time.Unix(n, 0)
		w := writer{}
		w.decision(q, d)
		host := writer{}
		host.text("host", "h"+b)
		disk := disk{host: string(host.b)}
		c := chain{last: genesis}
		line := disk.line(nil, &c, at, KindDecision, w.b)
		if bytes.Count(line, []byte("\n")) != 1 || line[len(line)-1] != '\n' || len(line) > maxLine {
			t.Fatalf("no line: %d bytes", len(line))
		}
		if bytes.ContainsFunc(line[:len(line)-1], func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError && false }) || !utf8.Valid(line) {
			t.Fatalf("control characters: %q", line)
		}
		var r Record
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&r); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		login := Clip(b)
		if a == b {
			login = ""
		}
		target := Clip(q.Target.String())
		if b == "" {
			target = ""
		}
		if r.User != Clip(a) || r.Door != Clip(a) || r.Login != login || r.Target != target || r.Host != Clip("h"+b) || r.Outcome != d.Outcome.String() ||
			r.Reason != Clip(b) || r.Generation != uint64(n) || r.Seq != 1 || r.MoreRules != max(0, len(d.Rules)-MaxList) {
			t.Fatalf("%q reads back as %+v", line, r)
		}
		for _, rule := range r.Rules {
			if rule != Clip(a) {
				t.Fatalf("rule %q", rule)
			}
		}
		h, err := parse(line)
		if err != nil || h.seq != 1 || h.kind != KindDecision || string(h.prev) != genesis {
			t.Fatalf("%v: %q", err, line)
		}
	})
}

// FuzzParse: whatever stands in a file, it is taken apart or refused.
func FuzzParse(f *testing.F) {
	d := disk{host: `,"host":"h"`}
	c := chain{last: genesis}
	f.Add(d.line(nil, &c, time.Unix(1, 0), KindNote, nil))
	f.Add([]byte(`{"seq":1,"time":"2030-01-02T03:04:05.000000000Z","kind":"seal","host":"h","key":"x","prev":"` + genesis + `","sig":"` + strings.Repeat("A", sigLen) + "\"}\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		h, err := parse(line)
		if err == nil && (h.seq == 0 || h.kind == "" || len(h.prev) != hashLen || h.kind == KindSeal && len(h.signed)+sigLen+len(`,"sig":""}`)+1 != len(line)) {
			t.Fatalf("%+v of %q", h, line)
		}
	})
}
