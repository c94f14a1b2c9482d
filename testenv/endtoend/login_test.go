package endtoend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

// need is for what the test itself sets up.
func need(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// someone adds a user to the realm for one test.
func someone(t *testing.T, name string, args ...string) *person {
	t.Helper()
	p, err := world.newPerson(name, args...)
	need(t, err)
	return p
}

// rule adds a rule of the keys door to the realm, for any host unless args say otherwise.
func rule(t *testing.T, name, subject string, args ...string) {
	t.Helper()
	args = append([]string{"rule", "add", name, "--subject", subject, "--door", "keys"}, args...)
	if !strings.Contains(strings.Join(args, " "), "--target") {
		args = append(args, "--target", "host:web1")
	}
	need(t, world.realm.sekisho("", args...))
}

func sekisho(t *testing.T, args ...string) {
	t.Helper()
	need(t, world.realm.sekisho("", args...))
}

// addKey gives a user of the realm one more key, with options before it.
func addKey(t *testing.T, name, options string, key *testenv.Key) {
	t.Helper()
	line := string(key.Public)
	if options != "" {
		line = options + " " + line
	}
	c := world.broker.Command(t.Context(), "/usr/local/bin/sekisho", "key", "add", name, "-")
	c.Stdin = strings.NewReader(line)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("sekisho key add %s: %v: %s", name, err, out)
	}
}

func newKey(t *testing.T, comment string) *testenv.Key {
	t.Helper()
	k, err := testenv.NewKey(comment)
	need(t, err)
	return k
}

// caughtUp waits until v has seen everything that was written before the call.
func caughtUp(t testing.TB, v *site) {
	t.Helper()
	mark, err := v.realm.mark()
	need(t, err)
	soon(t, func() error {
		a, err := v.ask(wire.VerbWhy, "user", "alice", "door", "keys", "target", mark)
		if err == nil && (a.Outcome == wire.Unknown || a.Reason == "unknown-host") {
			err = fmt.Errorf("%s has not caught up: %v %s", v.Name, a.Outcome, a.Reason)
		}
		return err
	})
}

// patience is for what must come to pass, on a machine however slow.
const patience = 2 * time.Minute

// soon waits until f says nil.
func soon(t testing.TB, f func() error) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not in %s: %v", patience, err)
		}
	}
}

// dial connects to the local socket as root.
func (v *site) dial() (net.Conn, error) {
	c, err := net.DialTimeout("unix", v.Path(socketPath), patience)
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(patience))
}

// ask puts one question on the local socket, as root.
func (v *site) ask(verb string, pairs ...string) (wire.Answer, error) {
	c, err := v.dial()
	if err != nil {
		return wire.Answer{}, err
	}
	defer c.Close()
	return wire.Ask(c, request(verb, pairs...))
}

func request(verb string, pairs ...string) wire.Request {
	r := wire.Request{Verb: verb}
	for i := 0; i < len(pairs); i += 2 {
		r.Fields = append(r.Fields, wire.Field{Name: pairs[i], Value: pairs[i+1]})
	}
	return r
}

// keyAnswer is what sekishod tells sshd about a key, asked directly.
func (v *site) keyAnswer(login string, key *testenv.Key) (wire.Answer, error) {
	f := strings.Fields(string(key.Public))
	return v.ask(wire.VerbKeys, "user", login, "type", f[0], "key", f[1])
}

// call is one login from the client.
type call struct {
	to      *site
	as      string // default: the person's own name
	with    *testenv.Key
	from    string // one of the client's addresses
	command string // default: id -un
	port    int
	options []string
	env     []string
}

// ssh runs Debian's ssh; what it says on both outputs is returned.
func (p *person) ssh(ctx context.Context, c call) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if c.as == "" {
		c.as = p.name
	}
	if c.with == nil {
		c.with = p.key
	}
	if c.command == "" {
		c.command = "id -un"
	}
	sc := testenv.SSHCall{To: c.to.Host, User: c.as, Key: c.with, Command: c.command, Port: c.port, Options: c.options}
	if c.from != "" {
		sc.Options = append(sc.Options, "BindAddress="+c.from)
		sc.IPv6 = strings.Contains(c.from, ":")
	}
	cmd := world.client.SSH(ctx, sc)
	cmd.Env = append(cmd.Env, c.env...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// refusal tells whether an ssh that failed was refused for want of a key, as
// against any other failure.
func refusal(out string, err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return fmt.Errorf("was let in: %s", out)
	case !errors.As(err, &exit) || exit.ExitCode() != 255 || !strings.Contains(out, "Permission denied (publickey)"):
		return fmt.Errorf("failed, but not by refusal: %w: %s", err, out)
	}
	return nil
}

// in logs in and returns what the command printed.
func (p *person) in(t testing.TB, c call) string {
	t.Helper()
	out, err := p.ssh(t.Context(), c)
	if err != nil {
		t.Fatalf("%s: %v: %s", p.what(c), err, out)
	}
	if want := c.as; c.command == "" {
		if want == "" {
			want = p.name
		}
		if !strings.HasSuffix(out, want) {
			t.Fatalf("%s: logged in as %q", p.what(c), out)
		}
	}
	return out
}

// out wants the login refused.
func (p *person) out(t testing.TB, c call) {
	t.Helper()
	if err := refusal(p.ssh(t.Context(), c)); err != nil {
		t.Errorf("%s: %v", p.what(c), err)
	}
}

func (p *person) what(c call) string {
	s := p.name + " to " + c.to.Name
	if c.as != "" {
		s += " as " + c.as
	}
	if c.from != "" {
		s += " from " + c.from
	}
	return s
}
