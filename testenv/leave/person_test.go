package leave

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/site"
	"github.com/sekisho/sekisho/wire"
)

// uids are the users' numbers, by which their processes are found on a host that
// no longer knows their names.
var uids atomic.Int64

// person is a user with a key and a password.
type person struct {
	name, password string
	uid            string
	key            *testenv.Key
}

// someone makes a user whom no rule lets in.
func someone(t *testing.T, name string) *person {
	t.Helper()
	p := &person{name: name, password: watch.Secret("the long word of " + name + " 4711"), uid: fmt.Sprint(20000 + 100*uids.Add(1))}
	var err error
	p.key, err = testenv.NewKey(name + "@client")
	need(t, err)
	file := "/root/" + name + ".pub"
	need(t, world.Broker.WriteFile(file, p.key.Public, 0o600))
	need(t, world.Run(p.password+"\n", "user", "add", name, "--name", name, "--uid", p.uid, "--key", file, "--password-stdin"))
	return p
}

// rule adds one, of the name of whom it is for.
func (p *person) rule(t *testing.T, more ...string) {
	t.Helper()
	need(t, world.Run("", append([]string{"rule", "add", p.name, "--subject", "user:" + p.name}, more...)...))
}

// stay logs somebody in by key, for good, as soon as the host has heard that he may.
func (p *person) stay(t *testing.T, on *testenv.Host) (l *site.Live) {
	t.Helper()
	soon(t, func() (err error) {
		l, err = world.Stay(p.name, p.key, on)
		return err
	})
	t.Cleanup(l.Leave)
	return l
}

// noProcess says that a user has none on a host.
func (p *person) noProcess(on *testenv.Host) error {
	out, err := on.Command(world.Ctx, "pgrep", "-a", "-u", p.uid).Output()
	switch site.ExitCode(err) {
	case 1:
		return nil
	case 0:
		return fmt.Errorf("processes of %s are left on %s: %s", p.name, on.Name, out)
	}
	return fmt.Errorf("looking for processes of %s: %w", p.name, err)
}

// byReplies is an ssh without a key that is asked for password and code.
func (p *person) byReplies(code string, to *testenv.Host) (string, error) {
	file := "/root/askpass-" + p.name + "-" + to.Name
	script := "#!/bin/sh\ncase $1 in *One-time*) echo " + code + " ;; *) echo '" + p.password + "' ;; esac\n"
	if err := world.Client.WriteFile(file, []byte(script), 0o700); err != nil {
		return "", err
	}
	c := world.Client.SSH(world.Ctx, testenv.SSHCall{To: to, User: p.name, Command: "id -un", Options: []string{
		"BatchMode=no", "PreferredAuthentications=keyboard-interactive", "NumberOfPasswordPrompts=1"}})
	c.Env = append(c.Env, "SSH_ASKPASS="+file, "SSH_ASKPASS_REQUIRE=force", "DISPLAY=none")
	out, err := c.CombinedOutput()
	return string(out), err
}

// try gives a password at a host's PAM door, as sshd would for a client at from.
func (p *person) try(password string, on *testenv.Host, from string) (wire.Answer, error) {
	conn, err := net.Dial("unix", on.Path("/run/sekisho/pam.sock"))
	if err != nil {
		return wire.Answer{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return wire.Answer{}, err
	}
	a, err := wire.Ask(conn, wire.Request{Verb: "auth", Fields: []wire.Field{
		{Name: "user", Value: p.name}, {Name: "service", Value: "sshd"}, {Name: "rhost", Value: from}}})
	if err != nil || a.Reason != "prompt" {
		return a, fmt.Errorf("instead of a prompt: %v, %w", a, err)
	}
	return wire.Ask(conn, wire.Request{Verb: "answer", Fields: []wire.Field{{Name: "a1", Value: password}}})
}

// terminal is an ssh with a terminal that can be typed on.
type terminal struct {
	cmd *testenv.Cmd
	in  interface{ Write([]byte) (int, error) }

	mu  sync.Mutex
	out bytes.Buffer // guarded by mu
}

func (d *terminal) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.Write(b)
}

func (d *terminal) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.String()
}

// open runs a command on a terminal of a host.
func (p *person) open(t *testing.T, on *testenv.Host, command string) *terminal {
	t.Helper()
	d := &terminal{cmd: world.Client.SSH(world.Ctx, testenv.SSHCall{To: on, User: p.name, Key: p.key, Options: []string{"RequestTTY=force"}, Command: command})}
	d.cmd.Stdout, d.cmd.Stderr = d, d
	in, err := d.cmd.StdinPipe()
	need(t, err)
	d.in = in
	need(t, d.cmd.Start())
	ended := make(chan struct{})
	go func() {
		d.cmd.Wait() // it is killed, mostly
		close(ended)
	}()
	t.Cleanup(func() {
		d.cmd.Process.Kill()
		<-ended
	})
	return d
}

// sees waits for words on the terminal.
func (d *terminal) sees(t *testing.T, words string) {
	t.Helper()
	soon(t, func() error {
		if !strings.Contains(d.text(), words) {
			return fmt.Errorf("%q is not on the terminal: %q", words, d.text())
		}
		return nil
	})
}

func (d *terminal) types(t *testing.T, line string) {
	t.Helper()
	_, err := d.in.Write([]byte(line + "\n"))
	need(t, err)
}
