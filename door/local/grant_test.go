package local

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/keys"
)

// TestLimited is the table of what a key's own options and a grant make
// together.
func TestLimited(t *testing.T) {
	until := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	for _, c := range []struct {
		own    string   // options of the directory's value
		permit []string // sekishoPermit; nil is pty, user-rc
		from   string
		until  time.Time
		want   string // options printed; empty: the key is left out
	}{
		{own: "", want: "restrict,pty,user-rc"},
		{own: "", permit: []string{"none"}, want: "restrict"},
		{own: "", permit: []string{"pty", "sessions:2"}, want: "restrict,pty"}, // sshd has no word for it
		{own: "", permit: []string{"pty", "port-forwarding", "agent-forwarding", "x11-forwarding", "user-rc"}, want: "restrict,pty,port-forwarding,agent-forwarding,X11-forwarding,user-rc"},

		// The key's own flags narrow, and never widen.
		{own: "restrict", want: "restrict"},
		{own: "restrict,pty", permit: []string{"agent-forwarding"}, want: "restrict"},
		{own: "restrict,pty", permit: []string{"pty", "agent-forwarding"}, want: "restrict,pty"},
		{own: "no-agent-forwarding,no-user-rc", permit: []string{"pty", "agent-forwarding", "user-rc"}, want: "restrict,pty"},
		{own: "port-forwarding,X11-forwarding", want: "restrict,pty,user-rc"},
		{own: "verify-required,no-touch-required", want: "restrict,pty,user-rc,no-touch-required,verify-required"},

		// Networks.
		{own: "", from: "203.0.113.0/24", want: `restrict,pty,user-rc,from="203.0.113.0/24"`},
		{own: "", from: "2001:db8::/32", want: `restrict,pty,user-rc,from="2001:db8::/32"`},
		{own: `from="198.51.100.7"`, want: `restrict,pty,user-rc,from="198.51.100.7"`},
		{own: `from="203.0.113.7,198.51.100.7"`, from: "203.0.113.0/24", want: `restrict,pty,user-rc,from="203.0.113.7"`},
		{own: `from="203.0.0.0/16"`, from: "203.0.113.0/24", want: `restrict,pty,user-rc,from="203.0.113.0/24"`},
		{own: `from="!203.0.113.9,203.0.113.0/28"`, from: "203.0.113.0/24", want: `restrict,pty,user-rc,from="!203.0.113.9,203.0.113.0/28"`},
		{own: `from="*,!*.example.com"`, from: "203.0.113.0/24", want: `restrict,pty,user-rc,from="203.0.113.0/24,!*.example.com"`},
		{own: `from="*.example.com,203.0.113.7"`, from: "203.0.113.0/24", want: `restrict,pty,user-rc,from="203.0.113.7"`},
		{own: `from="*.example.com"`, from: "203.0.113.0/24"},
		{own: `from="198.51.100.0/24"`, from: "203.0.113.0/24"},
		{own: `from="2001:db8::/32"`, from: "203.0.113.0/24"},
		{own: `from="!203.0.113.9"`, from: "203.0.113.0/24"},

		// Ends.
		{own: "", until: until, want: `restrict,pty,user-rc,expiry-time="20260506070809Z"`},
		{own: `expiry-time="20260101Z"`, until: until, want: `restrict,pty,user-rc,expiry-time="20260101000000Z"`},
		{own: `expiry-time="20270101Z"`, until: until, want: `restrict,pty,user-rc,expiry-time="20260506070809Z"`},
		{own: `expiry-time="20260101"`, until: until, want: `restrict,pty,user-rc,expiry-time="20260101000000"`},
		{own: `expiry-time="20270101"`, want: `restrict,pty,user-rc,expiry-time="20270101000000"`},

		// Forced commands.
		{own: "", permit: []string{"command:backup", "pty"}, want: `restrict,pty,command="backup"`},
		{own: `command="mine"`, want: `restrict,pty,user-rc,command="mine"`},
		{own: `command="backup"`, permit: []string{"command:backup"}, want: `restrict,command="backup"`},
		{own: `command="mine"`, permit: []string{"command:backup"}},

		// The key's environment is whoever's who edits the key.
		{own: `environment="LD_PRELOAD=/tmp/x.so"`, permit: []string{"environment:LANG=C"}, want: `restrict,environment="LANG=C"`},
		{own: `environment="LANG=C"`, want: `restrict,pty,user-rc`},

		// Tunnels.
		{own: "", permit: []string{"tunnel:3"}, want: `restrict,tunnel="3"`},
		{own: "", permit: []string{"tunnel:any"}, want: `restrict,tunnel="any"`},
		{own: `tunnel="3"`, permit: []string{"tunnel:any"}, want: `restrict,tunnel="3"`},
		{own: `tunnel="any"`, permit: []string{"tunnel:3"}, want: `restrict,tunnel="3"`},
		{own: `tunnel="3"`, want: `restrict,pty,user-rc`},
		{own: `tunnel="any"`, want: `restrict,pty,user-rc`},
		{own: `tunnel="3"`, permit: []string{"tunnel:4"}},

		// Forwarding of ports: one direction never opens the other.
		{own: "", permit: []string{"permitopen:db1:5432"}, want: `restrict,port-forwarding,permitopen="db1:5432",permitlisten="none.invalid:1"`},
		{own: "", permit: []string{"permitlisten:8080"}, want: `restrict,port-forwarding,permitopen="none.invalid:1",permitlisten="*:8080"`},
		{own: "", permit: []string{"permitopen:[2001:db8::1]:22", "permitlisten:localhost:*"}, want: `restrict,port-forwarding,permitopen="[2001:db8::1]:22",permitlisten="localhost:*"`},
		{own: "no-port-forwarding", permit: []string{"permitopen:db1:5432", "port-forwarding"}, want: "restrict"},
		{own: "restrict", permit: []string{"permitopen:db1:5432"}, want: "restrict"},
		{own: `permitopen="db1:5432"`, permit: []string{"port-forwarding"}, want: `restrict,port-forwarding,permitopen="db1:5432"`},
		{own: `permitopen="db1:5432",permitopen="db2:*"`, permit: []string{"permitopen:db2:22", "permitopen:db3:22"}, want: `restrict,port-forwarding,permitopen="db2:22",permitlisten="none.invalid:1"`},
		{own: `permitopen="*:22"`, permit: []string{"permitopen:db2:*"}, want: `restrict,port-forwarding,permitopen="db2:22",permitlisten="none.invalid:1"`},
		{own: `permitopen="db1:5432"`, permit: []string{"permitopen:db2:22"}, want: `restrict,port-forwarding,permitopen="none.invalid:1",permitlisten="none.invalid:1"`},
	} {
		permit, err := broker.ParsePermissions(c.permit)
		if err != nil {
			t.Fatal(err)
		}
		g := broker.Grant{User: "alice", Login: "alice", Permit: permit, Until: c.until}
		if c.from != "" {
			g.From = netip.MustParsePrefix(c.from)
		}
		text, err := limited(keyLine(t, c.own, "k"), g)
		if c.want == "" {
			if err == nil || text != "" {
				t.Errorf("%q with %v from %v: printed %q", c.own, c.permit, c.from, text)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q with %v: %v", c.own, c.permit, err)
			continue
		}
		if !strings.Contains(c.want, "tunnel=") { // no tunnel is granted
			c.want += `,tunnel="2147483645"`
		}
		options, _, _ := strings.Cut(text, " "+keys.ED25519)
		if got, want := sortedOptions(options), sortedOptions(c.want); got != want {
			t.Errorf("%q with %v from %v:\n got %s\nwant %s", c.own, c.permit, c.from, got, want)
		}
		if !strings.HasPrefix(text, "restrict") {
			t.Errorf("%q does not begin with restrict", text)
		}
		if _, err := keys.ParseLine(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// sortedOptions makes the order of options, which means nothing after
// restrict, not matter.
func sortedOptions(s string) string {
	l, err := keys.ParseLine(s + " " + keys.ED25519 + " " + key("k").Base64())
	if err != nil {
		return "bad: " + s
	}
	text, err := l.Format()
	if err != nil {
		return "bad: " + s
	}
	return text
}

// TestGrantsInOrder: sshd tries the lines from the top, so the narrow network
// stands first.
func TestGrantsInOrder(t *testing.T) {
	d, b := newDirectory(t)
	d.user(t, "alice", aliceUID, keyLine(t, "", "k"))
	d.rule(t, broker.RuleAttributes{Name: "anywhere", Permit: []string{"none"}})
	d.rule(t, broker.RuleAttributes{Name: "office", From: []string{"203.0.113.0/24"}, Permit: []string{"pty"}})
	path, _ := start(t, config(b))
	a := ask(t, dial(t, path), "keys", "user", "alice")
	if len(a.Body) != 2 || !strings.HasPrefix(a.Body[0], `restrict,pty,from="203.0.113.0/24",`) || strings.Contains(a.Body[1], "pty") || strings.Contains(a.Body[1], "from=") {
		t.Errorf("%q", a.Body)
	}
}
