package clock

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the answers of testdata/judge.txt")

// TestJudge runs the transcript testdata/judge.txt. A case is a comment, lines of
// what was heard, "----", and what is made of it, up to an empty line:
//
//	server|kdc|directory NAME OFFSET BOUND    (OFFSET: ahead of this host)
//	silent|denied NAME                        a time server that gave nothing
//	before STATE                              default unknown
//	client OFFSET                             adds what is said of such a client
func TestJudge(t *testing.T) {
	const file = "testdata/judge.txt"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
		question, want, _ := strings.Cut(block+"\n", "----\n")
		got := judged(t, question)
		if got != strings.TrimSpace(want) && !*update {
			t.Errorf("%sgot:\n%s\nwant:\n%s\n", question, got, want)
		}
		out = append(out, strings.TrimSuffix(question, "\n")+"\n----\n"+got)
	}
	if *update {
		if err := os.WriteFile(file, []byte(strings.Join(out, "\n\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func judged(t *testing.T, question string) string {
	t.Helper()
	duration := func(s string) time.Duration {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("%s: %v", question, err)
		}
		return d
	}
	c, err := Config{Log: quiet()}.validate()
	if err != nil {
		t.Fatal(err)
	}
	var sources []Source
	var before State
	var clients []time.Duration
	for line := range strings.Lines(question) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || f[0] == "#":
		case f[0] == "server" || f[0] == "kdc" || f[0] == "directory":
			kind := map[string]Kind{"server": TimeServer, "kdc": KDC, "directory": Directory}[f[0]]
			sources = append(sources, Source{Clock: Clock{kind, f[1]}, Offset: duration(f[2]), Bound: duration(f[3])})
		case f[0] == "silent":
			sources = append(sources, Source{Clock: Clock{TimeServer, f[1]}, Verdict: Silent})
		case f[0] == "denied":
			sources = append(sources, Source{Clock: Clock{TimeServer, f[1]}, Verdict: Denied})
		case f[0] == "before":
			before = map[string]State{"good": Good, "near": Near, "beyond": Beyond}[f[1]]
		case f[0] == "client":
			clients = append(clients, duration(f[1]))
		default:
			t.Fatalf("what is %q?", line)
		}
	}
	s := judge(c.limits(), before, sources)
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", s.State, s.Text)
	switch {
	case s.Culprit != Clock{}:
		fmt.Fprintf(&b, "wrong: %s", strings.TrimSpace(string(s.Culprit.Kind)+" "+s.Culprit.Name))
	case s.Between != Clock{}:
		fmt.Fprintf(&b, "between this host and: %s %s", s.Between.Kind, s.Between.Name)
	default:
		b.WriteString("wrong: nobody")
	}
	fmt.Fprintf(&b, ", by %s ± %s\n", s.Offset, s.Bound)
	for _, o := range s.Sources {
		fmt.Fprintf(&b, "%s %s: %s", o.Kind, o.Name, o.Verdict)
		if o.Why != "" {
			b.WriteString(", " + o.Why)
		}
		b.WriteString("\n")
	}
	for _, d := range clients {
		fmt.Fprintf(&b, "client %s: %s\n", d, s.client(d))
	}
	return strings.TrimSpace(b.String())
}

// No set of answers is good without a time server or KDC that says so, and what
// is said names each wrong clock once.
func FuzzJudge(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 200, 3, 2, 50, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		var sources []Source
		vouched := false
		for i := 0; i+2 < len(b) && i < 60; i += 3 {
			kind := []Kind{TimeServer, KDC, Directory}[b[i]%3]
			s := Source{Clock: Clock{kind, fmt.Sprint(i)}, Offset: time.Duration(int8(b[i+1])) * 10 * time.Second,
				Bound: time.Duration(b[i+2]) * 20 * time.Millisecond}
			if b[i]&0x80 != 0 {
				s = Source{Clock: s.Clock, Verdict: Silent}
			} else if kind != Directory && s.Offset.Abs() < 3*time.Minute+6*time.Second {
				vouched = true
			}
			sources = append(sources, s)
		}
		c, err := Config{Log: quiet()}.validate()
		if err != nil {
			t.Fatal(err)
		}
		for before := range Beyond + 1 {
			s := judge(c.limits(), before, append([]Source(nil), sources...))
			if s.Text == "" || strings.Contains(s.Text, "\n") {
				t.Errorf("text %q", s.Text)
			}
			if s.State == Good && !vouched {
				t.Errorf("good, and nobody said so: %+v", s)
			}
			if s.State == Beyond && s.Culprit == (Clock{}) && s.Between == (Clock{}) {
				t.Errorf("beyond, and nobody is named: %+v", s)
			}
			for _, o := range s.Sources {
				if o.Verdict == "" {
					t.Errorf("no verdict on %s %s", o.Kind, o.Name)
				}
			}
		}
	})
}
