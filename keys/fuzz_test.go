package keys

import (
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// seeds are lines of all kinds, good and bad.
func seeds(f *testing.F) (lines []string) {
	for _, c := range accepted {
		lines = append(lines, c.in+" "+benchED25519)
	}
	for _, c := range refused {
		lines = append(lines, c.in+" "+benchED25519)
	}
	for _, c := range plainBlobs(f) {
		if len(c.blob) < 1000 {
			lines = append(lines, c.blob.line())
		}
	}
	for _, c := range badBlobs(f) {
		if len(c.blob) > 4 && int(c.blob[3])+4 <= len(c.blob) && len(c.blob) < 1000 {
			lines = append(lines, c.blob.line())
		}
	}
	return append(lines, benchRSA, benchECDSA, "", "#", "restrict", "\t "+benchED25519+" ",
		certParts{}.sign(f).line(), certParts{sk: true}.sign(f).line(),
		"restrict,command=\"a \\\"b\\\" \\\\\",from=\"*.example.org,!192.0.2.0/24\" "+certParts{keyID: "x",
			critical: blob{}.str("force-command").str(string(blob{}.str("x")))}.sign(f).line())
}

func FuzzParseLine(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLine(s)
		if err != nil {
			checkErrorText(t, err)
			if !reflect.DeepEqual(l, Line{}) {
				t.Fatalf("%q: %+v beside error %v", s, l, err)
			}
			return
		}
		printed, err := l.Format()
		if err != nil {
			// Quotes and options may need more room in print than they came in.
			if len(s) > MaxLine/2 && strings.Contains(err.Error(), "at most") {
				return
			}
			t.Fatalf("%q: printing: %v", s, err)
		}
		if checkText(printed) != nil || strings.TrimSpace(printed) != printed {
			t.Fatalf("%q: printed as %q", s, printed)
		}
		again, err := ParseLine(printed)
		if err != nil || !reflect.DeepEqual(l, again) {
			t.Fatalf("%q: printed as %q, read back as %+v (%v), not %+v", s, printed, again, err, l)
		}
		if p := again.String(); p != printed {
			t.Fatalf("%q: printed as %q, then as %q", s, printed, p)
		}
		if l.Options.Effective() != again.Options.Effective() {
			t.Fatalf("%q: another effect after printing", s)
		}
	})
}

func FuzzParseBlob(f *testing.F) {
	for _, s := range seeds(f) {
		if l, err := ParseLine(s); err == nil {
			f.Add([]byte(l.Key.Blob))
		}
	}
	for _, c := range badBlobs(f) {
		if len(c.blob) < 1000 {
			f.Add([]byte(c.blob))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseBlob(b)
		if err != nil {
			checkErrorText(t, err)
			if k != (Key{}) {
				t.Fatalf("%v beside error %v", k, err)
			}
			return
		}
		if k.Blob != string(b) || k.Bits() < 256 || !strings.HasPrefix(k.Fingerprint(), "SHA256:") {
			t.Fatalf("%q: %d bits, %s", b, k.Bits(), k.Fingerprint())
		}
		plain := k.Plain()
		if p, err := ParseBlob([]byte(plain.Blob)); err != nil || p != plain || p.Fingerprint() != k.Fingerprint() {
			t.Fatalf("%q: the plain key does not parse: %v", b, err)
		}
		c, err := k.Certificate()
		if (err == nil) != k.IsCertificate() {
			t.Fatalf("%q: certificate: %v", b, err)
		}
		if err == nil {
			if ca, err := ParseBlob([]byte(c.CA.Blob)); err != nil || ca != c.CA || ca.IsCertificate() || c.Key != plain {
				t.Fatalf("%q: CA %v: %v", b, c.CA, err)
			}
		}
		if (Policy{}).Check(k) == nil && (k.IsCertificate() || k.Type == DSA) {
			t.Fatalf("%q passes the default policy", b)
		}
		l := Line{Key: k}
		if again, err := ParseLine(l.String()); err != nil || again.Key != k {
			t.Fatalf("%q: line %q does not come back: %v", b, l, err)
		}
	})
}

// The worst lines of full length cost a bounded amount of memory, all that was
// thrown away on the way counted.
func TestMemoryBounded(t *testing.T) {
	fill := func(head, unit, tail string) string {
		return head + strings.Repeat(unit, (MaxLine-len(head)-len(tail))/len(unit)) + tail
	}
	tail := " " + benchED25519
	principals := blob{}
	for range 256 {
		principals = principals.str("a")
	}
	for name, line := range map[string]string{
		"from":         fill(`from="`, "a,", `a"`+tail),
		"blocks":       fill(`from="`, "::/0,", `a"`+tail),
		"principals":   fill(`cert-authority,principals="`, "a,", `a"`+tail),
		"flags":        fill("pty", ",pty", tail),
		"permitopen":   fill(`permitopen="a:1"`, `,permitopen="a:1"`, tail),
		"environment":  fill(`environment="A=1"`, `,environment="A=1"`, tail),
		"quotes":       fill(`command="`, `\"`, `"`+tail),
		"no end":       fill(`command="`, `x`, ""),
		"comment":      fill(benchED25519+" ", "x", ""),
		"base64":       fill("ssh-ed25519 ", "A", ""),
		"certificate":  certParts{principals: principals, extensions: blob{}.str("x").str("")}.sign(t).line(),
		"empty fields": "ssh-ed25519-cert-v01@openssh.com " + strings.Repeat("AAAA", 4000),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ParseLine(line)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 512<<10 {
			t.Errorf("%s: %d bytes allocated for a line of %d (%v)", name, used, len(line), err)
		} else {
			t.Logf("%s: %d bytes (%v)", name, used, err)
		}
	}
}
