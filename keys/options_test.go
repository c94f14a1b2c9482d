package keys

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// accepted are options fields and how they are printed; "" for in and out the
// same. TestSSHDOptions gives both to a real sshd.
var accepted = []struct{ in, out string }{
	{in: `restrict`},
	{in: `pty`},
	{in: `no-pty`},
	{in: `RESTRICT,No-PTY,x11-FORWARDING,User-Rc`, out: `restrict,no-pty,X11-forwarding,user-rc`},
	{in: `restrict,pty,port-forwarding,agent-forwarding,X11-forwarding,user-rc`},
	{in: `no-pty,no-port-forwarding,no-agent-forwarding,no-X11-forwarding,no-user-rc`},
	{in: `user-rc,pty,restrict`, out: `restrict`},
	{in: `pty,restrict,no-user-rc,user-rc`, out: `restrict,user-rc`},
	{in: `pty,no-pty`, out: `no-pty`},
	{in: `restrict,restrict`, out: `restrict`},
	{in: `no-touch-required,verify-required`},
	{in: `no-touch-required,touch-required,pty`, out: `pty`},
	{in: `verify-required,no-verify-required,pty`, out: `pty`},
	{in: `touch-required`, out: ``},
	{in: `cert-authority`},
	{in: `Cert-Authority,principals="alice"`, out: `cert-authority,principals="alice"`},
	{in: `principals="alice,bob smith,c\"d",cert-authority`, out: `cert-authority,principals="alice,bob smith,c\"d"`},
	{in: `command="/bin/true"`},
	{in: `command="echo \"a b\" 'c' $d \\ \n, ü"`},
	{in: `command="a\\"b\ c"`},
	{in: `command=" "`},
	{in: `environment="A=1",environment="_b2=x = \"y\"",environment="a="`},
	{in: `from="192.0.2.7"`},
	{in: `from="192.0.2.7/32,2001:DB8::/32,!2001:db8:0:1::/64,2001:db8::7/128"`, out: `from="192.0.2.7,2001:db8::/32,!2001:db8:0:1::/64,2001:db8::7"`},
	{in: `from="*.Example.org,!evil.example.org,192.0.2.*,2001:db8:*,host?,*,a_b-c,host1"`},
	{in: `from="0.0.0.0/0,::/0"`},
	{in: `expiry-time="20301231"`, out: `expiry-time="20301231000000"`},
	{in: `expiry-time="203012312359"`, out: `expiry-time="20301231235900"`},
	{in: `expiry-time="20280229235958Z"`},
	{in: `Expiry-Time="20301231Z"`, out: `expiry-time="20301231000000Z"`},
	{in: `permitopen="db.example.org:5432",permitopen="[2001:db8::1]:80",permitopen="192.0.2.1:*",permitopen="*:22"`},
	{in: `permitopen="[db.example.org]:5432"`, out: `permitopen="db.example.org:5432"`},
	{in: `permitlisten="8080",permitlisten="localhost:*",permitlisten="*.example.org:65535",permitlisten="[2001:db8::*]:1"`,
		out: `permitlisten="*:8080",permitlisten="localhost:*",permitlisten="*.example.org:65535",permitlisten="[2001:db8::*]:1"`},
	{in: `permitlisten="*"`, out: `permitlisten="*:*"`},
	{in: `tunnel="0"`},
	{in: `tunnel="2147483645"`},
	{in: `tunnel="Any"`, out: `tunnel="any"`},
	{in: `command="x",from="192.0.2.0/24",restrict,environment="A=b",tunnel="3",pty,permitlisten="1",permitopen="a:1",expiry-time="20300101Z"`,
		out: `restrict,pty,from="192.0.2.0/24",expiry-time="20300101000000Z",command="x",environment="A=b",permitopen="a:1",permitlisten="*:1",tunnel="3"`},
}

func TestOptionsAccepted(t *testing.T) {
	for _, c := range accepted {
		l, err := ParseLine(c.in + " " + benchED25519)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		want := c.out
		if want == "" && c.in != "touch-required" {
			want = c.in
		}
		want = strings.TrimPrefix(want+" "+benchED25519, " ")
		got, err := l.Format()
		if err != nil {
			t.Errorf("%s: printing: %v", c.in, err)
		}
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", c.in, got, want)
		}
		again, err := ParseLine(got)
		if err != nil || !reflect.DeepEqual(l, again) {
			t.Errorf("%s: read back as %+v (%v), not as %+v", c.in, again.Options, err, l.Options)
		}
	}
}

// refused are options fields that are no good. Where strict is set, sshd's
// parser takes them, and strict says why we do not.
var refused = []struct{ in, err, strict string }{
	{in: `,pty`, err: "empty one", strict: "a hole where an option was"},
	{in: `pty,,user-rc`, err: "empty one", strict: "a hole where an option was"},
	{in: `pty,`, err: "empty one", strict: "a hole where an option was"},
	{in: `no-such-option`, err: `"no-such-option": unknown`},
	{in: `ptyx`, err: `"ptyx": unknown`},
	{in: `no-restrict`, err: "unknown"},
	{in: `no-cert-authority`, err: "unknown"},
	{in: `no-command="x"`, err: "with a value: unknown"},
	{in: `p€ty`, err: "unknown"},
	{in: `pty="yes"`, err: "with a value: unknown"},
	{in: `restrict="yes"`, err: "with a value: unknown"},
	{in: `command`, err: `"command": unknown`},
	{in: `new-restriction="x"`, err: `"new-restriction" with a value: unknown`},
	{in: `command=x`, err: "double quotes"},
	{in: `command='x'`, err: "double quotes"},
	{in: `command=`, err: "double quotes"},
	{in: `command="x`, err: "no closing quote"},
	{in: `command="x\"`, err: "no closing quote"},
	{in: `command="x"y`, err: `"y" after its value`},
	{in: `command="x""y"`, err: "after its value"},
	{in: `command=""`, err: "empty", strict: "forces sh -c '': says nothing to its reader"},
	{in: `command="x",command="x"`, err: "given twice"},
	{in: `command="x",COMMAND="y"`, err: "given twice"},
	{in: `command="a	b"`, err: "control character", strict: "no control characters"},
	{in: `from="192.0.2.1",from="192.0.2.1"`, err: "given twice"},
	{in: `from=""`, err: "empty pattern", strict: "sshd refuses it later, when it matches"},
	{in: `from="a,,b"`, err: "empty pattern", strict: "sshd refuses it later, when it matches"},
	{in: `from="!"`, err: "empty pattern", strict: "sshd refuses it later, when it matches"},
	{in: `from="192.0.2.1/24"`, err: "write 192.0.2.0/24", strict: "sshd refuses it later, when it matches"},
	{in: `from="192.0.2.0/33"`, err: "not an address block", strict: "sshd refuses it later, when it matches"},
	{in: `from="192.0.2.0/024"`, err: "not an address block", strict: "one way to write a block"},
	{in: `from="host/24"`, err: "not an address block", strict: "never fits"},
	{in: `from="10.1"`, err: "neither", strict: "is 10.0.0.1 to the C library"},
	{in: `from="192.0.2.010"`, err: "neither", strict: "is octal to the C library"},
	{in: `from="0x7f"`, err: "neither", strict: "is 0.0.0.127 to the C library"},
	{in: `from="2001:db8::zz"`, err: "neither", strict: "never fits"},
	{in: `from="fe80::1%eth0"`, err: "no place", strict: "depends on the machine"},
	{in: `from="::ffff:192.0.2.1"`, err: "never fits", strict: "never fits"},
	{in: `from="a b"`, err: "no place", strict: "never fits"},
	{in: `from="a, b"`, err: "no place", strict: "never fits"},
	{in: `from="!!a"`, err: "no place", strict: "sshd's two matchers disagree on it"},
	{in: `from="` + strings.Repeat("a", 256) + `"`, err: "longer than 255", strict: "longer than any name"},
	{in: `from="` + strings.Repeat("a,", 256) + `a"`, err: "at most 256", strict: "limit"},
	{in: `principals="a"`, err: "without cert-authority", strict: "sshd refuses it later, on use"},
	{in: `cert-authority,principals="a",principals="a"`, err: "given twice"},
	{in: `cert-authority,principals="a,,b"`, err: "empty name", strict: "sshd stops to read at the hole"},
	{in: `cert-authority,principals=""`, err: "empty name", strict: "never fits"},
	{in: `cert-authority,principals="` + strings.Repeat("a,", 40) + `a"`, err: "first 40", strict: "sshd drops the 41st"},
	{in: `expiry-time="20301231",expiry-time="20301231"`, err: "given twice", strict: "one value"},
	{in: `expiry-time=""`, err: "must be YYYY"},
	{in: `expiry-time="2030"`, err: "must be YYYY"},
	{in: `expiry-time="2030123123"`, err: "must be YYYY"},
	{in: `expiry-time="20301231235"`, err: "must be YYYY"},
	{in: `expiry-time="20301331"`, err: "no such time"},
	{in: `expiry-time="20300229"`, err: "no such time", strict: "sshd makes it 1 March"},
	{in: `expiry-time="203012312460"`, err: "no such time"},
	{in: `expiry-time="20301231235960"`, err: "no such time", strict: "leap seconds"},
	{in: `expiry-time="2030123é"`, err: "must be YYYY"},
	{in: `expiry-time="20301231UTC"`, err: "must be YYYY", strict: "not documented"},
	{in: `expiry-time="20301231z"`, err: "must be YYYY", strict: "not documented"},
	{in: `expiry-time="20301231+0100"`, err: "must be YYYY"},
	{in: `expiry-time="19600101Z"`, err: "year 1960"},
	{in: `expiry-time="19700101Z"`, err: "year 1970"},
	{in: `environment="A"`, err: "NAME=value"},
	{in: `environment="=x"`, err: "letters, digits"},
	{in: `environment="A-B=x"`, err: "letters, digits"},
	{in: `environment="A B=x"`, err: "letters, digits"},
	{in: `environment="É=x"`, err: "letters, digits"},
	{in: `environment="A=1",environment="A=2"`, err: "given twice", strict: "sshd drops the second"},
	{in: `permitopen="5432"`, err: "host:port"},
	{in: `permitopen="none"`, err: "host:port"},
	{in: `permitopen=":5432"`, err: "no host", strict: "never fits"},
	{in: `permitopen="a:0"`, err: "port must be"},
	{in: `permitopen="a:65536"`, err: "port must be"},
	{in: `permitopen="a:-1"`, err: "port must be"},
	{in: `permitopen="a:022"`, err: "port must be", strict: "one way to write a number"},
	{in: `permitopen="a:ssh"`, err: "port must be", strict: "depends on the machine"},
	{in: `permitopen="a/22"`, err: "host:port", strict: "not documented"},
	{in: `permitopen="a:b:22"`, err: "brackets"},
	{in: `permitopen="2001:db8::1:22"`, err: "brackets"},
	{in: `permitopen="[2001:db8::1:22"`, err: "closing bracket"},
	{in: `permitopen="[2001:db8::zz]:22"`, err: "not an IPv6", strict: "never fits"},
	{in: `permitopen="*.example.org:22"`, err: "no wildcards", strict: "never fits: looks like a pattern"},
	{in: `permitopen="a b:22"`, err: "no place", strict: "never fits"},
	{in: `permitopen="a:22,b:22"`, err: "brackets"},
	{in: `permitlisten="[]:22"`, err: "no host", strict: "no host"},
	{in: `permitlisten="a/b:22"`, err: "no place"},
	{in: `permitlisten="0"`, err: "port must be"},
	{in: `tunnel=""`, err: "must be any"},
	{in: `tunnel="-1"`, err: "must be any"},
	{in: `tunnel="2147483646"`, err: "must be any"},
	{in: `tunnel="1:2"`, err: "must be any"},
	{in: `tunnel="07"`, err: "must be any", strict: "one way to write a number"},
	{in: `tunnel="1",tunnel="2"`, err: "given twice", strict: "sshd drops the first"},
}

func TestOptionsRefused(t *testing.T) {
	for _, c := range refused {
		l, err := ParseLine(c.in + " " + benchED25519)
		if err == nil {
			t.Errorf("%s: taken as %v", c.in, l)
			continue
		}
		if !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %q does not say %q", c.in, err, c.err)
		}
		if !reflect.DeepEqual(l, Line{}) {
			t.Errorf("%s: something is returned beside the error", c.in)
		}
		checkErrorText(t, err)
	}
}

// What runs or is set may be a secret: it must not come into a log.
func TestErrorsHideValues(t *testing.T) {
	for _, in := range []string{
		`command="hush\"`, `command="hush"x`, `command="hush",command="hush"`, "command=\"hush\u2028\"",
		`environment="A=hush",environment="A=hush"`, `environment="A=hush\"`, "environment=\"A=hush\u0085\"",
		`command=hush`,
	} {
		_, err := ParseLine(in + " " + benchED25519)
		if err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestOptionsTyped(t *testing.T) {
	l, err := ParseLine(`restrict,pty,from="!192.0.2.0/24,*.example.org",expiry-time="20300102030405",environment="A=b=c",` +
		`permitopen="[2001:db8::1]:*",permitlisten="80",tunnel="any",cert-authority,principals="a,b",no-touch-required,verify-required ` + benchED25519)
	if err != nil {
		t.Fatal(err)
	}
	net, _ := parsePattern("192.0.2.0/24")
	want := &Options{
		Restrict: true, PTY: Allow, CertAuthority: true, Principals: []string{"a", "b"},
		NoTouchRequired: true, VerifyRequired: true,
		From:         []Pattern{{Negate: true, Net: net.Net}, {Glob: "*.example.org"}},
		Expiry:       Expiry{Time: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Local: true},
		Environment:  []EnvVar{{"A", "b=c"}},
		PermitOpen:   []HostPort{{Host: "2001:db8::1"}},
		PermitListen: []HostPort{{Host: "*", Port: 80}},
		Tunnel:       Tunnel{Set: true, Any: true},
	}
	if !reflect.DeepEqual(l.Options, want) {
		t.Errorf("got  %+v\nwant %+v", l.Options, want)
	}
	if got, want := l.Options.Effective(), (Effective{PTY: true}); got != want {
		t.Errorf("effective: %+v, want %+v", got, want)
	}
	berlin := time.FixedZone("here", 3600)
	if got, want := l.Options.Expiry.At(berlin), time.Date(2030, 1, 2, 2, 4, 5, 0, time.UTC); !got.Equal(want) {
		t.Errorf("expires at %v, want %v", got, want)
	}
	if got := ExpiryAt(time.Date(2030, 1, 2, 3, 4, 5, 6, berlin)).String(); got != "20300102020405Z" {
		t.Errorf("ExpiryAt: %s", got)
	}
}

// A line that some other package put together must not print as something else.
func TestFormatRefuses(t *testing.T) {
	good, err := ParseLine(benchED25519)
	if err != nil {
		t.Fatal(err)
	}
	pattern := func(s string) Pattern {
		p, err := parsePattern(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	block := pattern("192.0.2.0/24")
	for name, l := range map[string]Line{
		"no key":             {},
		"other type":         {Key: Key{Type: RSA, Blob: good.Key.Blob}},
		"cut blob":           {Key: Key{Type: ED25519, Blob: good.Key.Blob[:50]}},
		"comment with break": {Key: good.Key, Comment: "a\nssh-ed25519 AAAA"},
		"comment with CR":    {Key: good.Key, Comment: "a\rb"},
		"comment with NUL":   {Key: good.Key, Comment: "a\x00b"},
		"comment with U+85":  {Key: good.Key, Comment: "a\u0085b"},
		"comment not UTF-8":  {Key: good.Key, Comment: "a\xffb"},
		"comment with blank": {Key: good.Key, Comment: "a "},
		"comment too long":   {Key: good.Key, Comment: strings.Repeat("a", MaxLine)},
		"flag":               {Key: good.Key, Options: &Options{PTY: 3}},
		"command break":      {Key: good.Key, Options: &Options{Command: "a\nb"}},
		"command backslash":  {Key: good.Key, Options: &Options{Command: `a\`}},
		"env name":           {Key: good.Key, Options: &Options{Environment: []EnvVar{{"A=B", "c"}}}},
		"env quote in name":  {Key: good.Key, Options: &Options{Environment: []EnvVar{{`A"`, "c"}}}},
		"env twice":          {Key: good.Key, Options: &Options{Environment: []EnvVar{{"A", "c"}, {"A", "d"}}}},
		"env backslash":      {Key: good.Key, Options: &Options{Environment: []EnvVar{{"A", `c\`}}}},
		"principals":         {Key: good.Key, Options: &Options{Principals: []string{"a"}}},
		"principals comma":   {Key: good.Key, Options: &Options{CertAuthority: true, Principals: []string{"a,b"}}},
		"pattern empty":      {Key: good.Key, Options: &Options{From: []Pattern{{}}}},
		"pattern quote":      {Key: good.Key, Options: &Options{From: []Pattern{{Glob: `a",pty,from="b`}}}},
		"pattern comma":      {Key: good.Key, Options: &Options{From: []Pattern{{Glob: `a,b`}}}},
		"pattern bang":       {Key: good.Key, Options: &Options{From: []Pattern{{Glob: `!a`}}}},
		"pattern both":       {Key: good.Key, Options: &Options{From: []Pattern{{Glob: `1`, Net: block.Net}}}},
		"pattern as glob":    {Key: good.Key, Options: &Options{From: []Pattern{{Glob: `192.0.2.0/24`}}}},
		"permitopen empty":   {Key: good.Key, Options: &Options{PermitOpen: []HostPort{{}}}},
		"permitopen wild":    {Key: good.Key, Options: &Options{PermitOpen: []HostPort{{Host: "a*", Port: 1}}}},
		"permitopen quote":   {Key: good.Key, Options: &Options{PermitOpen: []HostPort{{Host: `a"`, Port: 1}}}},
		"permitopen bracket": {Key: good.Key, Options: &Options{PermitOpen: []HostPort{{Host: "[a]", Port: 1}}}},
		"permitopen colon":   {Key: good.Key, Options: &Options{PermitOpen: []HostPort{{Host: "a:1", Port: 1}}}},
		"expiry zone":        {Key: good.Key, Options: &Options{Expiry: Expiry{Time: time.Date(2030, 1, 1, 0, 0, 0, 0, time.FixedZone("x", 60))}}},
		"expiry fraction":    {Key: good.Key, Options: &Options{Expiry: Expiry{Time: time.Date(2030, 1, 1, 0, 0, 0, 1, time.UTC)}}},
		"expiry local zero":  {Key: good.Key, Options: &Options{Expiry: Expiry{Local: true}}},
		"expiry far":         {Key: good.Key, Options: &Options{Expiry: Expiry{Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}}},
		"tunnel unset":       {Key: good.Key, Options: &Options{Tunnel: Tunnel{N: 1}}},
		"tunnel any unset":   {Key: good.Key, Options: &Options{Tunnel: Tunnel{Any: true}}},
		"tunnel both":        {Key: good.Key, Options: &Options{Tunnel: Tunnel{Set: true, Any: true, N: 1}}},
		"tunnel high":        {Key: good.Key, Options: &Options{Tunnel: Tunnel{Set: true, N: 1<<31 - 2}}},
		"too many":           {Key: good.Key, Options: &Options{From: make([]Pattern, 257)}},
	} {
		if s, err := l.Format(); err == nil || s != "" {
			t.Errorf("%s: printed as %q (%v)", name, s, err)
		} else {
			checkErrorText(t, err)
		}
		if s := l.String(); s != "" {
			t.Errorf("%s: String gives %q", name, s)
		}
	}
}

func TestEffective(t *testing.T) {
	all := Effective{true, true, true, true, true}
	for _, c := range []struct {
		options string
		want    Effective
	}{
		{"", all},
		{"cert-authority", all},
		{"restrict", Effective{}},
		{"restrict,pty", Effective{PTY: true}},
		{"pty,restrict", Effective{}},
		{"no-pty", Effective{PortForwarding: true, AgentForwarding: true, X11Forwarding: true, UserRC: true}},
		{"no-pty,pty", all},
		{"no-pty,restrict,user-rc", Effective{UserRC: true}},
		{"restrict,no-X11-forwarding,X11-forwarding,agent-forwarding,port-forwarding,no-port-forwarding", Effective{X11Forwarding: true, AgentForwarding: true}},
	} {
		l, err := ParseLine(strings.TrimSpace(c.options + " " + benchED25519))
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Options.Effective(); got != c.want {
			t.Errorf("%q: %+v, want %+v", c.options, got, c.want)
		}
	}
}

// checkErrorText wants what fits into one line of a log.
func checkErrorText(t *testing.T, err error) {
	t.Helper()
	s := err.Error()
	if len(s) > 250 {
		t.Errorf("error of %d bytes: %s", len(s), s)
	}
	for _, c := range s {
		if c < ' ' || c > '~' {
			t.Errorf("error %q holds %q", s, c)
			break
		}
	}
}
