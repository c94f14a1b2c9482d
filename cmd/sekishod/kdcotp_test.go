package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb/client"
	"github.com/sekisho/sekisho/otp"
	"github.com/sekisho/sekisho/wire"
)

// coder makes codes of one secret, each once.
type coder struct {
	secret []byte
	last   uint64
}

// next is the earliest code that counts and was not given out.
func (c *coder) next(t *testing.T) string {
	t.Helper()
	p := otp.Default()
	for {
		now, _ := p.Step(time.Now())
		if step := max(c.last+1, now); step <= now+1 {
			c.last = step
			code, err := p.Code(c.secret, step)
			if err != nil {
				t.Fatal(err)
			}
			return code
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// armor makes an armour. It takes a while, so it comes before a code is made.
func (p *place) armor(path string) string {
	p.t.Helper()
	if out, err := p.mit("", `kinit -n -c FILE:"$1"`, path); err != nil {
		p.t.Fatalf("making an armour: %v\n%s", err, out)
	}
	return path
}

// kinit signs in with an armour.
func (p *place) kinit(typed, armor string) (string, error) {
	return p.mit(typed, `kinit -T FILE:"$1" alice && klist`, armor)
}

// mit runs a script of MIT's programs.
func (p *place) mit(typed, script, armor string) (string, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", script, "sh", armor)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "KRB5_CONFIG="+p.run+"/krb5.conf", "KRB5CCNAME=FILE:"+armor+".cc")
	cmd.Stdin = strings.NewReader(typed + "\n")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestCodesAtKDC: of several at once with one code one gets a ticket; and neither a
// dead KDC nor a dead sekishod is a wrong password.
func TestCodesAtKDC(t *testing.T) {
	p := newPlace(t, 3900, "")
	d := p.start(nil)
	dir := t.TempDir()
	secret, password := filepath.Join(dir, "secret"), filepath.Join(dir, "password")
	c := &coder{secret: otp.NewSecret(otp.SHA1)}
	p.write(secret, otp.Text(c.secret), 0o600)
	p.write(password, "correct horse", 0o600)
	if out, err := exec.Command("sh", "-c", `sekisho user add alice --password-stdin --config "$1" <"$2"`, "sh", p.config, password).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.sekisho("otp", "enrol", "alice", "--yes", "--secret-file", secret)
	p.sekisho("user", "set", "alice", "--kdc-otp", "on")
	p.until("the KDC serves", func() bool {
		r := p.status().Realm
		return len(r) == 2 && r[1].Ready
	})

	var all sync.WaitGroup
	var got atomic.Int32
	var armors []string
	for i := range 4 {
		armors = append(armors, p.armor(filepath.Join(dir, fmt.Sprint("armor", i))))
	}
	code := c.next(t)
	for _, armor := range armors {
		all.Go(func() {
			out, err := p.kinit("correct horse"+code, armor)
			if err == nil {
				got.Add(1)
			} else if !strings.Contains(out, "Preauthentication failed") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	all.Wait()
	if got.Load() != 1 {
		t.Errorf("%d tickets for one code", got.Load())
	}
	p.until("there are four decisions in the log", func() bool { return strings.Count(d.Log(), `"door":"kdc"`) >= 4 })
	log := d.Log()
	if n := strings.Count(log, `"door":"kdc"`); n != 4 || strings.Count(log, "used-code") != 3 {
		t.Errorf("%d decisions of four, or used codes are not called so:\n%s", n, log)
	}
	if strings.Contains(log, code) || strings.Contains(log, "correct horse") {
		t.Error("the log holds a secret")
	}

	kdc := p.status().Realm[1].PID
	if err := syscall.Kill(kdc, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.until("the KDC is back", func() bool {
		r := p.status().Realm[1]
		return r.Ready && r.PID != kdc
	})
	armor := p.armor(filepath.Join(dir, "armor"))
	if out, err := p.kinit("correct horse"+c.next(t), armor); err != nil {
		t.Errorf("after the KDC's death: %v\n%s", err, out)
	}

	if err := syscall.Kill(d.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.Stop()
	if out, err := p.kinit("correct horse"+c.next(t), armor); err == nil || !strings.Contains(out, "Cannot contact any KDC") {
		t.Errorf("without sekishod: %v\n%s", err, out)
	}
	p.start(nil)
	p.until("the KDC is back", func() bool {
		r := p.status().Realm
		return len(r) == 2 && r[1].Ready
	})
	if out, err := p.kinit("correct horse"+c.next(t), armor); err != nil {
		t.Errorf("once it is back: %v\n%s", err, out)
	}
}

// auth speaks with the PAM socket as the module does, and gives the last answer and
// all that was shown.
func (p *place) auth(user string, replies ...string) (wire.Answer, string) {
	p.t.Helper()
	c, err := net.Dial("unix", p.run+"/pam.sock")
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		p.t.Fatal(err)
	}
	var shown []string
	r := wire.Request{Verb: "auth", Fields: []wire.Field{{Name: "user", Value: user}, {Name: "service", Value: "test"}}}
	for {
		a, err := wire.Ask(c, r)
		if err != nil {
			p.t.Fatal(err)
		}
		if a.Reason != "prompt" {
			return a, strings.Join(shown, "\n")
		}
		r = wire.Request{Verb: "answer"}
		for _, line := range a.Body {
			shown = append(shown, line)
			if kind, _, _ := strings.Cut(line, " "); kind != "info" && kind != "error" {
				if len(replies) == 0 {
					p.t.Fatalf("it asks for more than there is to say: %q", shown)
				}
				r.Fields = append(r.Fields, wire.Field{Name: fmt.Sprintf("a%d", len(r.Fields)+1), Value: replies[0]})
				replies = replies[1:]
			}
		}
	}
}

// TestPAMBesideKDC: on the realm's own machine somebody whom the KDC asks for codes
// signs in by password, with the code that his rule wants, and without a ticket.
func TestPAMBesideKDC(t *testing.T) {
	p := newPlace(t, 4000, "")
	p.start(nil)
	dir := t.TempDir()
	secret, password := filepath.Join(dir, "secret"), filepath.Join(dir, "password")
	c := &coder{secret: otp.NewSecret(otp.SHA1)}
	p.write(secret, otp.Text(c.secret), 0o600)
	p.write(password, "correct horse", 0o600)
	if out, err := exec.Command("sh", "-c", `sekisho user add alice --password-stdin --config "$1" <"$2"`, "sh", p.config, password).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.sekisho("otp", "enrol", "alice", "--yes", "--secret-file", secret)
	p.sekisho("user", "set", "alice", "--kdc-otp", "on")
	p.sekisho("host", "add", testHost, "--addr", "203.0.113.1")
	p.sekisho("rule", "add", "r", "--subject", "user:alice", "--door", "pam", "--target", "host:"+testHost, "--proof", "password", "--proof", "otp")
	p.until("the KDC serves", func() bool {
		r := p.status().Realm
		return len(r) == 2 && r[1].Ready
	})
	p.until("alice may enter", func() bool {
		a, _ := p.auth("alice", "wrong")
		return a.Reason == "wrong-password"
	})
	a, shown := p.auth("alice", "correct horse", c.next(t))
	if a.Outcome != wire.Yes || !strings.Contains(shown, client.TextNoTicket) || strings.Count(shown, "code: ") != 1 {
		t.Errorf("%+v\n%s", a, shown)
	}
	if files, err := filepath.Glob(p.run + "/tickets/*/*"); err != nil || len(files) > 0 {
		t.Errorf("a ticket came of it: %v, %v", files, err)
	}
	if a, _ := p.auth("alice", "correct horse", "000000"); a.Outcome != wire.No {
		t.Errorf("a wrong code: %+v", a)
	}
}
