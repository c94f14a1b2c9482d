package krb5conf

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb"
)

const sample = `# a comment
; another
[libdefaults]
	default_realm = EXAMPLE.ORG
	dns_lookup_kdc = no
	dns_canonicalize_hostname = fallback
	rdns = off
	ticket_lifetime = 10h 30m
	renew_lifetime = 7d
	forwardable = yes
	clockskew = 120
	kdc_timesync = 0
	default_ccache_name = "KEYRING:persistent:%{uid}"
	permitted_enctypes = DEFAULT -aes128-sha1, rc4
	OTHER.ORG = {
		forwardable = no
		ticket_lifetime = 1:00
	}

[realms]
EXAMPLE.ORG = {
	kdc = kdc1.example.org
	kdc = 203.0.113.5:750
	kdc = [2001:db8::5]
	admin_server = admin.example.org:7490
}
	OTHER.ORG =
{ # opened on a line of its own
		kdc = https://proxy.example.org/KdcProxy
		kpasswd_server = pw.other.org
} # closed
[domain_realm]
	.example.org = EXAMPLE.ORG
	other.org = OTHER.ORG
	db1.other.org = EXAMPLE.ORG
[libdefaults]
	text = "quoted \"text\"\twith \\ and space "  behind it
	tail = a value # not a comment
`

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("krb5.conf", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSample(t *testing.T) {
	c := parse(t, sample)
	d, err := c.Defaults("")
	if err != nil {
		t.Fatal(err)
	}
	want := Defaults{Realm: "EXAMPLE.ORG", Canonicalize: CanonicalizeFallback, TicketLifetime: 10*time.Hour + 30*time.Minute,
		RenewLifetime: 7 * 24 * time.Hour, Forwardable: true, ClockSkew: 2 * time.Minute,
		CacheName: "KEYRING:persistent:%{uid}", ETypes: []int32{krb.AES256SHA1, krb.AES256SHA2, krb.AES128SHA2}}
	if !reflect.DeepEqual(d, want) {
		t.Errorf("defaults\n%+v\nwant\n%+v", d, want)
	}
	d, err = c.Defaults("OTHER.ORG")
	if err != nil || d.Forwardable || d.TicketLifetime != time.Hour || d.RenewLifetime != 7*24*time.Hour {
		t.Errorf("of OTHER.ORG: %+v, %v", d, err)
	}
	if got, err := c.KDCs("EXAMPLE.ORG"); err != nil || !slices.Equal(got, []string{"kdc1.example.org:88", "203.0.113.5:750", "[2001:db8::5]:88"}) {
		t.Errorf("KDCs %v, %v", got, err)
	}
	if got, err := c.AdminServers("EXAMPLE.ORG"); err != nil || !slices.Equal(got, []string{"admin.example.org:7490"}) {
		t.Errorf("admin servers %v, %v", got, err)
	}
	if got, err := c.KpasswdServers("EXAMPLE.ORG"); err != nil || !slices.Equal(got, []string{"admin.example.org:464"}) {
		t.Errorf("kpasswd servers %v, %v", got, err)
	}
	if got, err := c.KpasswdServers("OTHER.ORG"); err != nil || !slices.Equal(got, []string{"pw.other.org:464"}) {
		t.Errorf("kpasswd servers %v, %v", got, err)
	}
	if got, err := c.KDCs("OTHER.ORG"); err == nil || !strings.Contains(err.Error(), "krb5.conf:29: kdc: servers behind an HTTPS proxy") {
		t.Errorf("behind a proxy: %v, %v", got, err)
	}
	if got, err := c.KDCs("NONE.ORG"); err != nil || len(got) > 0 {
		t.Errorf("KDCs of no realm: %v, %v", got, err)
	}
	if got := c.Value("libdefaults", "text"); got != "quoted \"text\"\twith \\ and space " {
		t.Errorf("quoted: %q", got)
	}
	if got := c.Value("libdefaults", "tail"); got != "a value # not a comment" {
		t.Errorf("unquoted: %q", got)
	}
	if got := c.Names("realms"); !slices.Equal(got, []string{"EXAMPLE.ORG", "OTHER.ORG"}) {
		t.Errorf("realms %q", got)
	}
	for host, want := range map[string]string{"example.org": "", "web1.example.org": "EXAMPLE.ORG", "A.B.Example.ORG.": "EXAMPLE.ORG",
		"other.org": "OTHER.ORG", "x.other.org": "OTHER.ORG", "db1.other.org": "EXAMPLE.ORG", "xother.org": "", "192.0.2.1": "", "": "", ".": "", "::1": ""} {
		if got, ok := c.HostRealm(host); got != want || ok != (want != "") {
			t.Errorf("realm of %q: %q, %v", host, got, ok)
		}
	}
}

func TestNothingSaid(t *testing.T) {
	d, err := new(Config).Defaults("EXAMPLE.ORG")
	want := Defaults{DNSLookupKDC: true, Canonicalize: CanonicalizeYes, RDNS: true, ClockSkew: 5 * time.Minute, KDCTimeSync: true,
		ETypes: []int32{krb.AES256SHA1, krb.AES128SHA1, krb.AES256SHA2, krb.AES128SHA2}}
	if err != nil || !reflect.DeepEqual(d, want) {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestFinal: a final mark hides what comes later, in the file and in files behind
// it (krb5.conf(5) of release 1.22).
func TestFinal(t *testing.T) {
	for text, want := range map[string]string{
		"[a]\nx = 1\nx = 2\n":                                  "1 2",
		"[a]\nx* = 1\nx = 2\n":                                 "1",
		"[a]\nx = 1\nx* = 2\nx = 3":                            "1 2",
		"[a]*\nx = 1\n[b]\n[a]\nx = 2\n":                       "1",
		"[a]*\nx = 1\n[a]\ns = {\nx = 2\n}\nx=3\n":             "1",
		"[a]\nx = 1\n[a]*\nx = 2\n[a]\nx = 3\n":                "1 2",
		"[a]\nsub = {\nx = 1\n}*\nsub = {\nx = 2\n}\nx = 3\n":  "3|1",
		"[a]\nsub* = {\nx = 1\n}\nsub = {\nx = 2\n}\nx = 3\n":  "3|1",
		"[a]\nsub* = {\nx = 1\n}\nsub = {\ns={\n}\n}\nx = 3\n": "3|1",
	} {
		c := parse(t, text)
		got := strings.Join(c.Values("a", "x"), " ")
		if sub := c.Values("a", "sub", "x"); len(sub) > 0 {
			got += "|" + strings.Join(sub, " ")
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"x = 1\n":                       ":1: before this line there must be a section",
		" [a]\n":                        ":1: before this line there must be a section",
		"[a\n":                          ":1: the section's name has no ]",
		"[a] x\n":                       ":1: behind the section's name",
		"[a]\nb = {\n[c]\n":             ":3: a section begins, but the brace of line 2 is not closed",
		"[a]\n}\n":                      ":2: there is a } too many",
		"[a]\nb = {\n} c = d\n":         ":3: behind the }",
		"[a]\nb = {\nc = d\n":           ":2: the brace that is opened here is never closed",
		"[a]\nb =\nc = d\n":             ":3: a value or a {",
		"[a]\nb =\n\n{\n}\n":            ":3: a value or a {",
		"[a]\nb =\n{ c = d\n}\n":        ":3: behind the {",
		"[a]\nb =":                      ":2: a value or a {",
		"[a]\nwords\n":                  ":2: neither a section",
		"[a]\n = x\n":                   ":2: before the =",
		"[a]\na b = x\n":                ":2: the name \"a b\" has a space",
		"[a]\nb = \"x\n":                ":2: the value has no closing quote",
		"[a]\nb = \"x\\\"\n":            ":2: the value has no closing quote",
		"[a]\nb = \x00\n":               ":2: there is a NUL",
		"[a]\nb = " + rep("x", 2050):    ":2: the line has more than 2046",
		"module /lib/x.so:y\n":          ":1: loadable modules",
		"[a]\ninclude /etc/x\n":         ":2: include: nothing may be included here",
		"[a]\n" + rep("b = {\n", 17):    ":17: subsections are nested deeper",
		"[a]\n" + rep("b = 1\n", 65537): ":65537: the configuration has more than 65536",
	} {
		if c, err := Parse("f", []byte(text)); err == nil || c != nil || !strings.Contains(err.Error(), "f"+want) {
			t.Errorf("%.40q: %v, %v; want %s", text, c, err, want)
		}
	}
}

func rep(s string, n int) string { return strings.Repeat(s, n) }

func TestUnreadableValues(t *testing.T) {
	for line, want := range map[string]string{
		"rdns = perhaps":                  "f:3: \"perhaps\" is neither true nor false",
		"dns_lookup_kdc = ":               "", // an error of Parse
		"ticket_lifetime = long":          "f:3: \"long\" is no span of time",
		"renew_lifetime = -5":             "f:3: \"-5\" is no span of time",
		"clockskew = 5m":                  "f:3: clockskew: \"5m\" is no whole number",
		"clockskew = -1":                  "f:3: clockskew:",
		"kdc_timesync = yes":              "f:3: kdc_timesync:",
		"dns_canonicalize_hostname = 2":   "f:3: \"2\" is neither",
		"permitted_enctypes = rc4 des3":   "f:3: permitted_enctypes leaves none",
		"permitted_enctypes = aes -aes -": "f:3: permitted_enctypes leaves none",
	} {
		c, err := Parse("f", []byte("[libdefaults]\n\n"+line+"\n"))
		if want == "" {
			if err == nil {
				t.Errorf("%s: taken", line)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Defaults(""); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v; want %s", line, err, want)
		}
	}
	for _, kdc := range []string{":88", "a b", "host:", "host:0", "host:65536", "host:88x", "[::1", "[host]:88", "2001:db8::1", "88", "a/b", "[::1]88", "host:-1", "host:+1"} {
		c := parse(t, "[realms]\nR = {\nkdc = "+kdc+"\n}\n")
		if got, err := c.KDCs("R"); err == nil || !strings.HasPrefix(err.Error(), "krb5.conf:3: kdc: ") {
			t.Errorf("kdc = %s: %v, %v", kdc, got, err)
		}
	}
}

func TestDurations(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"36000": 36000 * time.Second, "0": 0, " 5": 5 * time.Second, "1:30": 90 * time.Minute, "1:30:05": 5405 * time.Second,
		"10h": 10 * time.Hour, "1d2h3m4s": 93784 * time.Second, "1d 4s": 86404 * time.Second, "2m ": 2 * time.Minute,
		"1-02:03:04": 93784 * time.Second, "90m": 90 * time.Minute, "1:99": 159 * time.Minute, "2147483647": 2147483647 * time.Second,
	} {
		if got, err := ParseDuration(s); err != nil || got != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", " ", "h", "1x", "-1", "1h2d", "1 h", "10hours", "2147483648", "99999999999d", "1:2:3:4", "1:100", "24856d", "1.5h", "5s ", "1-2", "１h"} {
		if got, err := ParseDuration(s); err == nil {
			t.Errorf("%q: taken as %v", s, got)
		}
	}
}

// files writes files below a directory; DIR in the texts is the directory.
func files(t *testing.T, list map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range list {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestIncludes(t *testing.T) {
	dir := files(t, map[string]string{
		"krb5.conf":    "include DIR/first\nincludedir DIR/d\n[a]\nx = main\ninclude DIR/mid\ny = main\n",
		"first":        "[a]\nx = first\n",
		"mid":          "[a]\nx = mid\n[b]\nz = mid\n",
		"d/10-x":       "[a]\nx = 10\n",
		"d/20.conf":    "[a]\nx = 20\n",
		"d/B_a":        "[a]\nx = B\n",
		"d/.30.conf":   "[a]\nx = hidden\n",
		"d/40.rpmsave": "[a]\nx = saved\n",
		"d/50~":        "[a]\nx = backup\n",
		"d/sub/x.conf": "[a]\nx = sub\n",
		"second.conf":  "[a]\nx = second\n[b]*\nz = second\n",
		"third.conf":   "[a]\nx = third\n[b]\nz = third\n",
	})
	at := func(n string) string { return filepath.Join(dir, n) }
	c, err := Load(at("krb5.conf"), at("none.conf"), at("second.conf"), at("third.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.Values("a", "x"), " "); got != "first 10 20 B main mid second third" {
		t.Errorf("a/x: %s", got)
	}
	if got := strings.Join(c.Values("b", "z"), " "); got != "mid second" {
		t.Errorf("b/z: %s", got)
	}
	if c, err = Load(at("d")); err != nil || strings.Join(c.Values("a", "x"), " ") != "10 20 B" {
		t.Errorf("a directory: %v, %v", c, err)
	}
	t.Setenv("KRB5_CONFIG", at("none.conf")+"::"+at("third.conf"))
	if c, err = Default(); err != nil || c.Value("a", "x") != "third" {
		t.Errorf("by KRB5_CONFIG: %v, %v", c, err)
	}
	t.Setenv("KRB5_CONFIG", "/dev/null")
	if c, err = Default(); err != nil || len(c.Names()) > 0 {
		t.Errorf("/dev/null: %v, %v", c, err)
	}
	t.Setenv("KRB5_CONFIG", at("none.conf"))
	if c, err = Default(); err != nil || len(c.Names()) > 0 {
		t.Errorf("no file: %v, %v", c, err)
	}
}

func TestIncludesRefused(t *testing.T) {
	long := map[string]string{"big": "[a]\n" + rep("# "+rep("x", 1000)+"\n", 5000)}
	for i := range 10 {
		long[fmt.Sprintf("n%d", i)] = fmt.Sprintf("include DIR/n%d\n", i+1)
	}
	many := ""
	for range 600 {
		many += "include DIR/empty\n"
	}
	list := map[string]string{
		"loop": "include DIR/loop2\n", "loop2": "[a]\nincludedir DIR/ld\n", "ld/back": "include DIR/loop\n",
		"relative": "include loop\n", "gone": "[a]\n\ninclude DIR/nothing\n", "gonedir": "includedir DIR/nothing\n",
		"bad": "include DIR/worse\n", "worse": "[a]\nwords\n", "dir": "include DIR/ld\n", "pipe": "include DIR/fifo\n",
		"many": many, "empty": "", "blank": "include  \n", "open": "include DIR/half\n", "half": "[a]\nb = {\n",
	}
	for k, v := range long {
		list[k] = v
	}
	dir := files(t, list)
	mkfifo(t, filepath.Join(dir, "fifo"))
	for name, want := range map[string]string{
		"loop": "includes itself", "relative": "relative:1: include: \"loop\": the path must be absolute",
		"gone": "gone:3: include: open " + dir + "/nothing: no such file", "gonedir": "gonedir:1: includedir:",
		"bad": "worse:2: neither", "dir": "ld is not a regular file", "pipe": "fifo is not a regular file",
		"n0": "included deeper than 8", "big": "larger than 4 MiB", "many": "more than 512 files", "blank": "must be absolute",
		"open": "half:2: the brace", "fifo": "is not a regular file",
	} {
		if c, err := Load(filepath.Join(dir, name)); err == nil || c != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %s", name, c, err, want)
		}
	}
}

// TestDamage cuts the sample at every byte and changes every byte: whatever is
// taken must be answered without a panic, and an error names the file.
func TestDamage(t *testing.T) {
	try := func(b []byte) {
		c, err := Parse("f", b)
		if err != nil {
			if c != nil || !strings.HasPrefix(err.Error(), "f:") {
				t.Fatalf("%v beside %v", c, err)
			}
			return
		}
		ask(c)
	}
	for i := range sample {
		try([]byte(sample[:i]))
		for _, bit := range []byte{1, 0x20, 0x80} {
			b := []byte(sample)
			b[i] ^= bit
			try(b)
		}
		b := []byte(sample)
		b[i] = 0
		if _, err := Parse("f", b); err == nil {
			t.Fatalf("a NUL at %d: taken", i)
		}
	}
}

// ask uses every accessor.
func ask(c *Config) {
	for _, r := range append(c.Names("realms"), "") {
		c.Defaults(r)
		c.KDCs(r)
		c.KpasswdServers(r)
		c.AdminServers(r)
	}
	c.HostRealm("a.b.example.org")
	c.HostRealm(".")
	c.Values()
	c.Names()
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("[a]*\nb* = {\n}*\nb = \"\\n\"\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse("f", b)
		if (c == nil) != (err != nil) {
			t.Fatal("a configuration beside an error, or neither")
		}
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f:") {
				t.Fatalf("an error without its place: %v", err)
			}
			return
		}
		ask(c)
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"1d2h3m4s", "1:30:00", "1-02:03:04", "36000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDuration(s); err != nil && d != 0 || d < 0 || d > maxSeconds*time.Second {
			t.Fatalf("%q: %v, %v", s, d, err)
		}
	})
}
