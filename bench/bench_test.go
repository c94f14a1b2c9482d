package main

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		r    row
		want string
	}{
		{row{ours: 1, peer: 2}, "info"},
		{row{ours: 4, peer: 10, bound: bound{"ratio", "<=", 0.4}}, "met"},
		{row{ours: 4.1, peer: 10, bound: bound{"ratio", "<=", 0.4}}, "not met"},
		{row{ours: 8.1, peer: 20, bound: bound{"ours", "<=", 8}}, "not met"},
		{row{ours: 20_000, peer: math.NaN(), bound: bound{"ours", ">=", 20_000}}, "met"},
		{row{ours: 19_999, peer: math.NaN(), bound: bound{"ours", ">=", 20_000}}, "not met"},
		{row{ours: math.NaN(), peer: 1, bound: bound{"ratio", "<=", 1}}, "not met"},
		{row{ours: 1, peer: 0, bound: bound{"ratio", "<=", 1}}, "not met"},
		{row{ours: 1, peer: 1, bound: bound{"ratio", "=", 1}}, "not met"},
	} {
		if got := c.r.verdict(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.r, got, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	tb := table{judge: true}
	tb.add(row{name: "a", ours: 3, peer: 12, peerName: "b", unit: "ms", bound: bound{"ratio", "<=", 0.4}})
	tb.add(row{name: "c", ours: 61_234, peer: math.NaN(), unit: "1/s", bound: bound{"ours", ">=", 60_000}})
	var got []string
	for _, l := range tb.lines() {
		got = append(got, strings.Join(l, "|"))
	}
	want := "name|ours|peer|peer's name|unit|ratio|bound|verdict\n" +
		"a|3.00|12.0|b|ms|0.25|ratio <= 0.40|met\n" +
		"c|61234|-|-|1/s|-|ours >= 60000|met"
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("got\n%s\nwant\n%s", s, want)
	}
	tb.judge = false
	if s := tb.lines()[1][7]; s != "not judged" {
		t.Errorf("a quick run says %q", s)
	}
}

func TestStatistics(t *testing.T) {
	vs := []float64{5, 1, 4, 2, 3}
	if m := median(vs); m != 3 {
		t.Errorf("median %v", m)
	}
	if m := median(vs[:4]); m != 3 {
		t.Errorf("median of four %v", m)
	}
	if q := quantile(vs, 0.99); q != 5 {
		t.Errorf("p99 %v", q)
	}
	if q := quantile(vs, 0.2); q != 1 {
		t.Errorf("p20 %v", q)
	}
	if vs[0] != 5 {
		t.Error("the figures were put in order in place: rounds no longer belong together")
	}
}

func TestPeople(t *testing.T) {
	names := map[string]bool{}
	for n := range 5000 {
		p := personOf(n)
		if names[p.name] {
			t.Fatalf("%s comes twice", p.name)
		}
		names[p.name] = true
		if (len(p.keys) > 0) != (n%everyKeys == 0) {
			t.Fatalf("user %d has %d keys", n, len(p.keys))
		}
		for _, k := range p.keys {
			if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k)); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []byte(p.name + p.gecos()) {
			if c > 0x7f {
				t.Fatalf("%q or %q is not ASCII", p.name, p.gecos())
			}
		}
	}
}

func TestLDIF(t *testing.T) {
	var a, b bytes.Buffer
	for _, w := range []*bytes.Buffer{&a, &b} {
		if err := writeLDIF(w, 2500); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two runs differ")
	}
	s := a.String()
	for what, n := range map[string]int{
		"objectClass: posixAccount\n": 2500, "sshPublicKey: ssh-ed25519 ": 750, "objectClass: posixGroup\n": 3 + 1 + 2,
		"member: uid=": 2500, "member: cn=team-": 3, "objectClass: sekishoRule\n": 21,
	} {
		if got := strings.Count(s, what); got != n {
			t.Errorf("%q comes %d times, want %d", what, got, n)
		}
	}
}

func TestCopyFile(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := copyFile(from, to); !os.IsNotExist(err) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(from, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(from, to); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(to); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestInput(t *testing.T) {
	s, stop := startOn(nil)
	c := command{args: []string{"/bin/sh", "-c", `read a && ! read b && [ "$a$X" = "right env" ]`}, env: []string{"X= env"}}
	for input, ok := range map[string]bool{"right\n": true, "wrong\n": false, "right\nmore\n": false, "": false} {
		c.input = input
		if r := s.run(c); (r.err == nil) != ok {
			t.Errorf("%q: %v", input, r.err)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
