package krb5conf

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// mitProgram builds testdata/ask.c, which asks MIT's own library.
func mitProgram(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "ask")
	out, err := exec.Command("gcc", "-Wall", "-Werror", "-o", bin, "testdata/ask.c", "-lkrb5").CombinedOutput()
	if err != nil {
		t.Fatalf("building it needs gcc and libkrb5-dev (testenv/packages.sh): %v\n%s", err, out)
	}
	return bin
}

// mitAnswer is one answer: words, or an error.
type mitAnswer struct {
	words []string
	err   bool
}

// askMIT has MIT's library read the files; it is nil when it refuses them.
func askMIT(t *testing.T, bin, config string, questions ...string) []mitAnswer {
	t.Helper()
	cmd := exec.Command(bin)
	cmd.Env = append(os.Environ(), "KRB5_CONFIG="+config, "KRB5CCNAME=", "TMPDIR=")
	cmd.Env = slices.DeleteFunc(cmd.Env, func(e string) bool { return e == "KRB5CCNAME=" || e == "TMPDIR=" })
	cmd.Stdin = strings.NewReader(strings.Join(questions, "\n") + "\n")
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("MIT's library on %s: %v", config, err)
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if lines[0] == "refused" {
		return nil
	}
	if lines[0] != "read" || len(lines) != len(questions)+1 {
		t.Fatalf("%d answers to %d questions:\n%s", len(lines)-1, len(questions), b)
	}
	out := []mitAnswer{}
	for _, line := range lines[1:] {
		var a mitAnswer
		for _, w := range strings.Fields(line) {
			if w == "error" {
				a.err = true
				continue
			}
			v, err := hex.DecodeString(w[1:])
			if err != nil {
				t.Fatal(err)
			}
			a.words = append(a.words, string(v))
		}
		out = append(out, a)
	}
	return out
}

// TestAsMIT reads files as MIT's library does, includes among them.
func TestAsMIT(t *testing.T) {
	bin := mitProgram(t)
	dir := files(t, map[string]string{
		"sample":    sample,
		"main":      "include DIR/first\nincludedir DIR/d\n[libdefaults]\n\tdefault_realm = MAIN.ORG\n\tdefault_ccache_name = FILE:%{TEMP}/cc_%{uid}_%{euid}%{null}_%{username}\ninclude DIR/mid\n\trdns = no\n[realms]\nMAIN.ORG = {\n kdc = c.main.org\n}\n",
		"first":     "[realms]\nMAIN.ORG = {\n kdc = a.main.org\n kdc=b.main.org:89   \n}\n",
		"mid":       "[libdefaults]\n\trdns = yes\n\tpermitted_enctypes = aes256-cts, -aes256-sha1 +aes128-sha2 aes\n[domain_realm]\n main.org = MAIN.ORG\n",
		"d/z":       "[realms]\nMAIN.ORG = {\n kdc = z.main.org\n}\n",
		"d/a.b":     "[realms]\nMAIN.ORG = {\n kdc = never\n}\n",
		"d/.c.conf": "[realms]\nMAIN.ORG = {\n kdc = never\n}\n",
		"d/A.conf":  "[realms]\nMAIN.ORG = {\n kdc = A.main.org\n}\n",
		"second":    "[libdefaults]*\n default_realm = SECOND.ORG\n rdns = off\n[realms]\nMAIN.ORG = {\n kdc = second.main.org\n}*\n",
		"third":     "[libdefaults]\n default_realm = THIRD.ORG\n rdns = on\n clockskew = 7\n[realms]\nMAIN.ORG = {\n kdc = third.main.org\n}\n",
	})
	at := func(n string) string { return filepath.Join(dir, n) }
	for _, config := range []string{
		at("sample"), at("main"), at("second"), at("main") + ":" + at("second") + ":" + at("third"),
		at("none") + ":" + at("third") + ":" + at("second"), at("d"), "/dev/null",
	} {
		var questions []string
		paths := [][]string{{"libdefaults", "rdns"}, {"libdefaults", "clockskew"}, {"libdefaults", "text"}, {"libdefaults", "tail"},
			{"libdefaults", "OTHER.ORG", "ticket_lifetime"}, {"realms", "MAIN.ORG", "kdc"}, {"realms", "EXAMPLE.ORG", "kdc"},
			{"realms", "OTHER.ORG", "kdc"}, {"realms", "OTHER.ORG", "kpasswd_server"}, {"domain_realm", "main.org"}, {"realms", "EXAMPLE.ORG"}}
		hosts := []string{"web1.example.org", "main.org", "deep.web1.main.org", "db1.other.org", "x.other.org", "192.0.2.1", "example.org"}
		for _, p := range paths {
			questions = append(questions, "values\t"+strings.Join(p, "\t"))
		}
		for _, h := range hosts {
			questions = append(questions, "hostrealm\t"+h)
		}
		questions = append(questions, "realm", "etypes", "cache")
		mit := askMIT(t, bin, config, questions...)
		c, err := Load(strings.Split(config, ":")...)
		if err != nil || mit == nil {
			t.Fatalf("%s: %v; MIT: %v", config, err, mit)
		}
		for i, p := range paths {
			if got := c.Values(p...); !slices.Equal(got, mit[i].words) {
				t.Errorf("%s: %v is %q, MIT's %q", config, p, got, mit[i].words)
			}
		}
		mit = mit[len(paths):]
		for i, h := range hosts {
			// MIT says the empty realm for "nothing fits".
			if got, _ := c.HostRealm(h); !slices.Equal([]string{got}, mit[i].words) {
				t.Errorf("%s: realm of %s is %q, MIT's %q", config, h, got, mit[i].words)
			}
		}
		mit = mit[len(hosts):]
		d, err := c.Defaults("")
		if err != nil {
			t.Fatal(err)
		}
		if mit[0].err != (d.Realm == "") || d.Realm != "" && d.Realm != mit[0].words[0] {
			t.Errorf("%s: default realm %q, MIT's %+v", config, d.Realm, mit[0])
		}
		var etypes []string
		for _, id := range d.ETypes {
			etypes = append(etypes, fmt.Sprint(id))
		}
		theirs := slices.DeleteFunc(mit[1].words, func(s string) bool { n, _ := strconv.Atoi(s); return n < 17 || n > 20 })
		if !slices.Equal(etypes, theirs) {
			t.Errorf("%s: types %q, MIT's %q", config, etypes, theirs)
		}
		if name := mit[2].words[0]; d.CacheName == "" && !strings.HasPrefix(name, "FILE:/tmp/krb5cc_") || d.CacheName != "" && name == "" {
			t.Errorf("%s: cache %q, MIT's %q", config, d.CacheName, name)
		}
	}
}

// TestDamagedAsMIT changes the sample at random places: where both read it, both
// read the same, and what MIT refuses we refuse.
func TestDamagedAsMIT(t *testing.T) {
	bin := mitProgram(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(t.TempDir(), "krb5.conf")
	const bytes = "[]{}=*\"\\ \n\t;#ax"
	read := 0
	for range 600 {
		b := []byte(sample)
		for range 1 + rnd.IntN(3) {
			at := rnd.IntN(len(b))
			switch rnd.IntN(3) {
			case 0:
				b[at] = bytes[rnd.IntN(len(bytes))]
			case 1:
				b = slices.Delete(b, at, min(len(b), at+1+rnd.IntN(4)))
			case 2:
				b = slices.Insert(b, at, bytes[rnd.IntN(len(bytes))])
			}
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := Parse(path, b)
		if err != nil {
			continue // we may be stricter
		}
		// Within one file MIT obeys final marks from release 1.22 on only.
		if strings.Contains(string(b), "*") {
			continue
		}
		var paths [][]string
		var walk func(prefix []string)
		walk = func(prefix []string) {
			for _, n := range c.Names(prefix...) {
				p := append(slices.Clone(prefix), n)
				if len(p) > 1 {
					paths = append(paths, p)
				}
				if len(p) < 5 {
					walk(p)
				}
			}
		}
		walk(nil)
		var questions []string
		for _, p := range paths {
			questions = append(questions, "values\t"+strings.Join(p, "\t"))
		}
		mit := askMIT(t, bin, path, questions...)
		if mit == nil {
			// MIT also refuses what its context cannot use.
			if _, err := c.Defaults(""); err == nil {
				t.Errorf("MIT refuses what we read:\n%s", b)
			}
			continue
		}
		read++
		for i, p := range paths {
			if strings.ContainsAny(strings.Join(p, ""), "\t\n") {
				continue // such a question cannot be asked
			}
			if got := c.Values(p...); !slices.Equal(got, mit[i].words) {
				t.Errorf("%q is %q, MIT's %q, in\n%s", p, got, mit[i].words, b)
			}
		}
	}
	if read < 150 {
		t.Errorf("only %d of the damaged files were compared", read)
	}
}

// TestDurationsAsMIT: what both take is the same span, and what MIT refuses we
// refuse.
func TestDurationsAsMIT(t *testing.T) {
	bin := mitProgram(t)
	rnd := rand.New(rand.NewPCG(3, 4))
	var spans []string
	for _, s := range []string{"1d2h3m4s", "1:30", "1:30:05", "1-02:03:04", "36000", "1d 4s", "2m ", "90m", "1:99", "7d", " 5", "10hours", "1 h", "2147483647", "2147483648", "24856d"} {
		spans = append(spans, s)
		for range 60 {
			b := []byte(s)
			b[rnd.IntN(len(b))] = "0123456789dhms:- x"[rnd.IntN(18)]
			spans = append(spans, string(b))
		}
	}
	var questions []string
	for _, s := range spans {
		questions = append(questions, "delta\t"+s)
	}
	both := 0
	for i, a := range askMIT(t, bin, "/dev/null", questions...) {
		got, err := ParseDuration(spans[i])
		if err != nil {
			continue
		}
		if a.err || a.words[0] != fmt.Sprint(int64(got/time.Second)) {
			t.Errorf("%q: %v, MIT's %+v", spans[i], got, a)
		}
		both++
	}
	if both < 200 {
		t.Errorf("only %d spans were compared", both)
	}
}
