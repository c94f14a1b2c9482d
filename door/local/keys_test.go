package local

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/keys"
	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

// printed is the line expected for a key.
func printed(options, name string) string {
	return options + `,tunnel="2147483645" ` + keys.ED25519 + " " + key(name).Base64() + " " + name
}

// people sets up the directory of the tests of keys.
func people(t *testing.T, d *directory) {
	d.user(t, "alice", aliceUID, keyLine(t, "", "laptop"), keyLine(t, "no-pty", "phone"), keyLine(t, "cert-authority", "ca"))
	d.user(t, "bob", bobUID, keyLine(t, "", "bobs"), keyLine(t, "", "shared"))
	d.user(t, "carol", 61010, keyLine(t, "", "shared"))
	d.user(t, "dave", 61011)
	d.rule(t, broker.RuleAttributes{Name: "people", Subject: []string{"user:alice", "user:dave"}})
	d.rule(t, broker.RuleAttributes{Name: "admins", Subject: []string{"user:carol"}, Login: []string{"root", "www"}, Permit: []string{"pty"}})
}

func TestKeys(t *testing.T) {
	d, b := newDirectory(t)
	people(t, d)
	path, s := start(t, config(b))
	c := dial(t, path)
	for _, q := range []struct {
		name    string
		fields  []string
		outcome wire.Outcome
		reason  string
		body    []string
	}{
		{"all keys", []string{"user", "alice"}, wire.Yes, "", []string{printed("restrict,pty,user-rc", "laptop"), printed("restrict,user-rc", "phone")}},
		{"the offered key", []string{"user", "alice", "fp", key("phone").Fingerprint()}, wire.Yes, "", []string{printed("restrict,user-rc", "phone")}},
		{"as sshd asks", []string{"user", "alice", "fp", key("laptop").Fingerprint(), "type", keys.ED25519, "key", key("laptop").Base64()}, wire.Yes, "", []string{printed("restrict,pty,user-rc", "laptop")}},
		{"the key alone", []string{"user", "alice", "key", key("laptop").Base64()}, wire.Yes, "", []string{printed("restrict,pty,user-rc", "laptop")}},
		{"key of another fingerprint", []string{"user", "alice", "fp", key("laptop").Fingerprint(), "key", key("phone").Base64()}, wire.No, "no-key", nil},
		{"key of another type", []string{"user", "alice", "fp", key("laptop").Fingerprint(), "type", keys.RSA}, wire.No, "no-key", nil},
		{"nobody's key", []string{"user", "alice", "fp", key("none").Fingerprint()}, wire.No, "no-key", nil},
		{"a key that signs certificates", []string{"user", "alice", "fp", key("ca").Fingerprint()}, wire.No, "no-key", nil},
		{"a certificate", []string{"user", "alice", "fp", key("laptop").Fingerprint(), "type", "ssh-ed25519-cert-v01@openssh.com"}, wire.No, "certificate", nil},
		{"another's key", []string{"user", "alice", "fp", key("bobs").Fingerprint()}, wire.No, "no-rule", nil},
		{"no rule", []string{"user", "bob"}, wire.No, "no-rule", nil},
		{"no keys", []string{"user", "dave"}, wire.No, "no-key", nil},
		{"unknown user", []string{"user", "mallory"}, wire.No, "no-key", nil},
		{"shared account", []string{"user", "root", "fp", key("shared").Fingerprint()}, wire.Yes, "", []string{printed("restrict,pty", "shared")}},
		{"shared account, no key named", []string{"user", "root"}, wire.No, "no-key", nil},
		{"own account, key listed by two", []string{"user", "bob", "fp", key("shared").Fingerprint()}, wire.No, "no-rule", nil},
		{"no user", nil, wire.Unknown, "malformed", nil},
		{"empty user", []string{"user", ""}, wire.Unknown, "malformed", nil},
		{"unknown field", []string{"user", "alice", "fingerprint", "x"}, wire.Unknown, "malformed", nil},
		{"md5", []string{"user", "alice", "fp", "MD5:00:11"}, wire.Unknown, "malformed", nil},
		{"empty fp", []string{"user", "alice", "fp", ""}, wire.Unknown, "malformed", nil},
		{"short fp", []string{"user", "alice", "fp", "SHA256:AAAA"}, wire.Unknown, "malformed", nil},
		{"long fp", []string{"user", "alice", "fp", key("laptop").Fingerprint() + "A"}, wire.Unknown, "malformed", nil},
		{"bad key", []string{"user", "alice", "key", "!"}, wire.Unknown, "malformed", nil},
		{"a key of nonsense", []string{"user", "alice", "key", "AAAA"}, wire.Unknown, "malformed", nil},
	} {
		a := ask(t, c, wire.VerbKeys, q.fields...)
		if a.Outcome != q.outcome || a.Reason != q.reason || !reflect.DeepEqual(a.Body, q.body) {
			t.Errorf("%s: %+v", q.name, a)
		}
	}
	if got := s.Stats(); got.Requests != 16 || got.Malformed != 9 || got.Open != 1 {
		t.Errorf("%+v", got)
	}
}

// TestKeysFollowTheDirectory: each change counts at the next question, on the
// same connection.
func TestKeysFollowTheDirectory(t *testing.T) {
	d, b := newDirectory(t)
	people(t, d)
	path, _ := start(t, config(b))
	c := dial(t, path)
	want := func(outcome wire.Outcome, reason string) {
		t.Helper()
		if a := ask(t, c, wire.VerbKeys, "user", "alice", "fp", key("laptop").Fingerprint()); a.Outcome != outcome || a.Reason != reason {
			t.Errorf("%+v", a)
		}
	}
	want(wire.Yes, "")
	d.user(t, "alice", aliceUID, keyLine(t, "", "phone"))
	want(wire.No, "no-key")
	d.user(t, "alice", aliceUID, keyLine(t, "", "laptop"))
	want(wire.Yes, "")
	d.edit(func(e *broker.Edit) {
		e.PutUser(broker.User{ID: id("alice"), DN: "uid=alice", Name: "alice", UID: aliceUID, Shell: "/bin/sh",
			Keys: []keys.Line{keyLine(t, "", "laptop")}, State: broker.AccountState{Locked: true}})
	})
	want(wire.No, "locked")
	d.user(t, "alice", aliceUID, keyLine(t, "", "laptop"))
	d.set(func(d *directory) { d.err = errors.New("disk full") })
	want(wire.Unknown, "recorder")
	d.set(func(d *directory) { d.err = nil; d.now = now.Add(2 * time.Hour) })
	want(wire.Unknown, "stale")
	d.set(func(d *directory) { d.now = now; d.view.Snapshot = nil })
	want(wire.Unknown, "no-snapshot")
}

// TestNeverNoFromAStaleSnapshot: a key or user that an old snapshot does not
// know may be there by now.
func TestNeverNoFromAStaleSnapshot(t *testing.T) {
	d, b := newDirectory(t)
	d.set(func(d *directory) { d.now = now.Add(2 * time.Hour) })
	path, _ := start(t, config(b))
	if a := ask(t, dial(t, path), wire.VerbKeys, "user", "erin", "fp", key("erins").Fingerprint()); a.Outcome != wire.Unknown || a.Reason != "stale" {
		t.Errorf("%+v", a)
	}
}

func TestRuleAsksForMoreThanAKey(t *testing.T) {
	d, b := newDirectory(t)
	d.user(t, "alice", aliceUID, keyLine(t, "", "laptop"))
	d.rule(t, broker.RuleAttributes{Name: "otp", Proof: []string{"key", "otp"}})
	path, _ := start(t, config(b))
	if a := ask(t, dial(t, path), wire.VerbKeys, "user", "alice"); a.Outcome != wire.No || a.Reason != "proof" || a.Body != nil {
		t.Errorf("%+v", a)
	}
}

// TestOneKeyOfManyOwners: the first owner whom a rule lets in counts, and an
// unknown is not forgotten behind a no.
func TestOneKeyOfManyOwners(t *testing.T) {
	d, b := newDirectory(t)
	d.user(t, "alice", aliceUID, keyLine(t, "", "k"))
	d.user(t, "bob", bobUID, keyLine(t, "", "k"))
	d.rule(t, broker.RuleAttributes{Name: "young", Subject: []string{"user:bob"}, Login: []string{"www"}, MaxAge: "1m"})
	path, _ := start(t, config(b))
	c := dial(t, path)
	q := []string{"user", "www", "fp", key("k").Fingerprint()}
	if a := ask(t, c, wire.VerbKeys, q...); a.Outcome != wire.Yes || len(a.Body) != 1 {
		t.Errorf("%+v", a)
	}
	d.set(func(d *directory) { d.now = now.Add(5 * time.Minute) })
	if a := ask(t, c, wire.VerbKeys, q...); a.Outcome != wire.Unknown || a.Reason != "stale" {
		t.Errorf("%+v", a)
	}
}

// TestSekishoKeys runs the real client against the door.
func TestSekishoKeys(t *testing.T) {
	d, b := newDirectory(t)
	people(t, d)
	path, _ := start(t, config(b))
	bin, err := testenv.Program("sekisho-keys")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		out  string
	}{
		{[]string{"alice", key("laptop").Fingerprint(), keys.ED25519, key("laptop").Base64()}, 0, printed("restrict,pty,user-rc", "laptop") + "\n"},
		{[]string{"alice"}, 0, printed("restrict,pty,user-rc", "laptop") + "\n" + printed("restrict,user-rc", "phone") + "\n"},
		{[]string{"bob"}, 1, ""},
		{[]string{"mallory"}, 1, ""},
	} {
		cmd := exec.Command(bin, append([]string{"--socket", path}, c.args...)...)
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if cmd.ProcessState.ExitCode() != c.code || string(out) != c.out {
			t.Errorf("%v: %v: %q", c.args, err, out)
		}
	}
	d.set(func(d *directory) { d.view.Snapshot = nil })
	cmd := exec.Command(bin, "--socket", path, "alice")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if out, _ := cmd.Output(); cmd.ProcessState.ExitCode() != 75 || len(out) != 0 || !strings.Contains(stderr.String(), "no-snapshot") {
		t.Errorf("%v %q %q", cmd.ProcessState, out, stderr.String())
	}
}

// However many users list a key, its own account's user is asked about.
func TestKeyListedByMany(t *testing.T) {
	d, b := newDirectory(t)
	for i := range 3 * maxOwners {
		d.user(t, fmt.Sprintf("a%d", i), 62000+uint32(i), keyLine(t, "", "shared"))
	}
	d.user(t, "zoe", 61020, keyLine(t, "", "shared"))
	d.user(t, "zed", 61021, keyLine(t, "", "other"))
	d.rule(t, broker.RuleAttributes{Name: "people"})
	path, _ := start(t, config(b))
	c := dial(t, path)
	if a := ask(t, c, wire.VerbKeys, "user", "zoe", "fp", key("shared").Fingerprint()); a.Outcome != wire.Yes || len(a.Body) != 1 {
		t.Errorf("her own: %+v", a)
	}
	if a := ask(t, c, wire.VerbKeys, "user", "zed", "fp", key("shared").Fingerprint()); a.Outcome != wire.No || a.Body != nil {
		t.Errorf("a key that he does not list: %+v", a)
	}
}

// A rule that wants more than the key: the key passes where PAM judges the
// account's sessions again, and nowhere else.
func TestKeysThatAreNotEnough(t *testing.T) {
	d, b := newDirectory(t)
	people(t, d)
	d.rule(t, broker.RuleAttributes{Name: "people", Subject: []string{"user:alice"}, Login: []string{"self", "deploy"}, Proof: []string{"key", "password"}})
	offer := func(c io.ReadWriter, login string) string {
		a := ask(t, c, wire.VerbKeys, "user", login, "fp", key("laptop").Fingerprint())
		return a.Outcome.String() + " " + a.Reason
	}
	path, _ := start(t, config(b))
	if got := offer(dial(t, path), "alice"); got != "no proof" {
		t.Errorf("without PAM: %s", got)
	}
	c := config(b)
	c.ProofsDeferred = func(l broker.Login) bool { return l == "alice" }
	path, _ = start(t, c)
	for login, want := range map[string]string{"alice": "yes ", "deploy": "no proof", "root": "no no-rule"} {
		if got := offer(dial(t, path), login); got != want {
			t.Errorf("%s: %s, not %s", login, got, want)
		}
	}
}
