package signon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
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

// someone is a person whom a rule lets in, known to the hosts.
func (r *realm) someone(t testing.TB, name string, on *site, args ...string) *person {
	t.Helper()
	p, err := r.admitted(name, args...)
	need(t, err)
	need(t, r.caughtUp(on))
	return p
}

func soon(t testing.TB, f func() error) {
	t.Helper()
	if err := poll(f); err != nil {
		t.Fatal(err)
	}
}

// dial connects to a unix socket of the host, as root.
func (v *site) dial(path string) (net.Conn, error) {
	c, err := net.DialTimeout("unix", v.Path(path), patience)
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(patience))
}

const pamSocket = "/run/sekisho/pam.sock"

// ask puts one question on the local socket.
func (v *site) ask(verb string, pairs ...string) (wire.Answer, error) {
	c, err := v.dial("/run/sekisho/sekisho.sock")
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

// signIn speaks with the PAM socket as the module does: replies are given in
// turn, messages are passed over.
func (v *site) signIn(user string, replies ...string) (wire.Answer, error) {
	c, err := v.dial(pamSocket)
	if err != nil {
		return wire.Answer{}, err
	}
	defer c.Close()
	return converse(c, request("auth", "user", user, "service", "test"), replies...)
}

func converse(c net.Conn, r wire.Request, replies ...string) (wire.Answer, error) {
	for {
		a, err := wire.Ask(c, r)
		if err != nil || a.Reason != "prompt" {
			return a, err
		}
		r = request("answer")
		for _, line := range a.Body {
			if kind, _, _ := strings.Cut(line, " "); kind == "info" || kind == "error" {
				continue
			}
			if len(replies) == 0 {
				return a, errors.New("it asks for more than there is to say")
			}
			r.Fields = append(r.Fields, wire.Field{Name: fmt.Sprintf("a%d", len(r.Fields)+1), Value: replies[0]})
			replies = replies[1:]
		}
	}
}

// call is one ssh from the client.
type call struct {
	to       *site
	as       string // default: the person's own name
	port     int
	method   string // PreferredAuthentications
	key      *testenv.Key
	replies  []string // to the questions, in turn
	ticket   string   // KRB5CCNAME
	command  string   // default: id -un
	options  []string
	faketime string // such as +10m
}

var (
	byKey      = call{method: "publickey"}
	byTicket   = call{method: "gssapi-with-mic"}
	byPassword = call{method: "keyboard-interactive"}
)

// asker is a program for SSH_ASKPASS that gives the replies in turn; what it was
// asked is in its name with .log.
func asker(dir string, replies []string) (string, error) {
	for i, r := range replies {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("ask.reply%d", i+1)), []byte(r+"\n"), 0o600); err != nil {
			return "", err
		}
	}
	ask := filepath.Join(dir, "ask")
	return ask, os.WriteFile(ask, []byte(`#!/bin/sh
n=$(($(cat "$0.n" 2>/dev/null || echo 0) + 1))
echo $n >"$0.n"
printf '%s\n' "$1" >>"$0.log"
exec cat "$0.reply$n"
`), 0o755)
}

// ssh runs Debian's ssh; what it says and what it asked is returned.
func (p *person) ssh(ctx context.Context, c call) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd, done, err := p.sshCommand(ctx, c)
	if err != nil {
		return "", err
	}
	defer done()
	out, err := cmd.CombinedOutput()
	log, _ := os.ReadFile(filepath.Join(cmd.dir, "ask.log"))
	return string(log) + strings.TrimSpace(string(out)), err
}

type sshCmd struct {
	*testenv.Cmd
	dir string
}

func (p *person) sshCommand(ctx context.Context, c call) (*sshCmd, func(), error) {
	dir, err := os.MkdirTemp("", "ssh")
	if err != nil {
		return nil, nil, err
	}
	ask, err := asker(dir, c.replies)
	if err != nil {
		return nil, nil, err
	}
	if c.as == "" {
		c.as = p.name
	}
	if c.command == "" {
		c.command = "id -un"
	}
	options := append(c.options, "NumberOfPasswordPrompts=1")
	if len(c.replies) > 0 {
		options = append(options, "BatchMode=no")
	}
	if c.method != "" {
		options = append(options, "PreferredAuthentications="+c.method)
	}
	if c.ticket != "" {
		options = append(options, "GSSAPIAuthentication=yes")
	}
	cmd := p.r.client.SSH(ctx, testenv.SSHCall{To: c.to.Host, User: c.as, Key: c.key, Command: c.command, Port: c.port, Options: options})
	if c.faketime != "" {
		args := cmd.Args
		env := cmd.Env
		cmd = p.r.client.Command(ctx, "faketime", append([]string{"-f", c.faketime}, args...)...)
		cmd.Env = env
	}
	cmd.Env = append(cmd.Env, "SSH_ASKPASS="+ask, "SSH_ASKPASS_REQUIRE=force", "DISPLAY=:0")
	if c.ticket != "" {
		cmd.Env = append(cmd.Env, "KRB5CCNAME="+c.ticket)
	}
	return &sshCmd{cmd, dir}, func() { os.RemoveAll(dir) }, nil
}

// in logs in and returns what was printed.
func (p *person) in(t testing.TB, c call) string {
	t.Helper()
	out, err := p.ssh(t.Context(), c)
	if err != nil {
		t.Errorf("%s to %s by %s: %v: %s", p.name, c.to.Name, c.method, err, out)
		return ""
	}
	want := c.as
	if want == "" {
		want = p.name
	}
	if c.command == "" && !strings.HasSuffix(out, want) {
		t.Errorf("%s to %s by %s: it printed %q", p.name, c.to.Name, c.method, out)
	}
	return out
}

// out wants a login refused, and returns what was printed.
func (p *person) out(t testing.TB, c call) string {
	t.Helper()
	c.command = "echo was let in"
	out, err := p.ssh(t.Context(), c)
	switch {
	case err == nil || strings.Contains(out, "was let in"):
		t.Errorf("%s to %s by %s: was let in: %s", p.name, c.to.Name, c.method, out)
	case !strings.Contains(out, "Permission denied") && !strings.Contains(out, "Connection closed by") && exitCode(err) != noSession:
		t.Errorf("%s to %s by %s: failed, but not by refusal: %v: %s", p.name, c.to.Name, c.method, err, out)
	}
	return out
}

// noSession is how sshd ends a session that PAM did not open.
const noSession = 254

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

func (c call) on(v *site) call { c.to = v; return c }

func (c call) with(p *person) call {
	switch c.method {
	case "publickey":
		c.key = p.key
	case "keyboard-interactive", "password":
		c.replies = []string{p.password}
	case "gssapi-with-mic":
		c.ticket = p.cache()
	}
	return c
}

func (c call) saying(replies ...string) call { c.replies = replies; return c }

// cache is the person's credential cache on the client.
func (p *person) cache() string { return "FILE:/root/" + p.name + ".cc" }

// kinit is MIT's, on the client.
func (p *person) kinit(ctx context.Context, password string, args ...string) (string, error) {
	return p.onClient(ctx, password+"\n", "kinit", append(args, p.name)...)
}

func (p *person) onClient(ctx context.Context, stdin, name string, args ...string) (string, error) {
	c := p.r.client.Command(ctx, name, args...)
	c.Env = append(c.Env, "KRB5CCNAME="+p.cache(), "LDAPTLS_CACERT=/root/ca.crt")
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	return string(out), err
}

// bind is ldapwhoami over ldaps.
func (p *person) bind(ctx context.Context, password string) (string, error) {
	dir, err := os.MkdirTemp("", "bind")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "password")
	if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
		return "", err
	}
	return p.onClient(ctx, "", "ldapwhoami", "-x", "-H", "ldaps://"+p.r.broker.FQDN, "-D", dn(p.name), "-y", file, "-e", "ppolicy")
}

// pamtester runs operations on the host; code is its exit code's meaning.
func (v *site) pamtester(ctx context.Context, stdin, service, user string, ops ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := v.Command(ctx, "pamtester", append([]string{"-v", service, user}, ops...)...)
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	return string(out), err
}

// What pamtester says for PAM's codes (pam_strerror).
const (
	saysAuthErr = "Authentication failure"
	saysUnavail = "Authentication service cannot retrieve authentication info"
	saysDenied  = "Permission denied"
	saysExpired = "User account has expired"
)

// dialogue is a program whose prompts are answered as they come.
type dialogue struct {
	t   *testing.T
	cmd *testenv.Cmd
	in  io.WriteCloser

	mu  sync.Mutex
	out bytes.Buffer
	at  int // what was answered ends here
}

func (d *dialogue) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.out.Write(bytes.ReplaceAll(b, []byte("\r"), nil)) // a terminal's
	return len(b), nil
}

func talk(t *testing.T, cmd *testenv.Cmd) *dialogue {
	t.Helper()
	d := &dialogue{t: t, cmd: cmd}
	r, w, err := os.Pipe()
	need(t, err)
	defer r.Close()
	d.in = w
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, d, d
	need(t, cmd.Start())
	return d
}

// say waits for a prompt and answers it.
func (d *dialogue) say(prompt, reply string) {
	d.t.Helper()
	err := poll(func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		i := strings.Index(d.out.String()[d.at:], prompt)
		if i < 0 {
			return fmt.Errorf("no prompt %q", prompt)
		}
		d.at += i + len(prompt)
		return nil
	})
	if err != nil {
		d.t.Errorf("%v; it printed\n%s", err, d.text())
		return
	}
	io.WriteString(d.in, reply+"\n")
}

func (d *dialogue) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.String()
}

// end waits for the program's end.
func (d *dialogue) end() (string, error) {
	err := d.cmd.Wait()
	d.in.Close()
	return d.text(), err
}

// onTerminal runs a command of the host as root on a terminal of its own.
func (v *site) onTerminal(ctx context.Context, command string) *testenv.Cmd {
	return v.Command(ctx, "script", "-qec", command, "/dev/null")
}

// logged waits until a log has all words: sekishod writes a line a little after the
// answer.
func logged(t testing.TB, log func() string, words ...string) {
	t.Helper()
	soon(t, func() error {
		text := log()
		for _, w := range words {
			if !strings.Contains(text, w) {
				return fmt.Errorf("the log does not say %q:\n%s", w, text)
			}
		}
		return nil
	})
}

// says fails unless text holds all words.
func says(t testing.TB, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("it does not say %q:\n%s", w, text)
		}
	}
}
