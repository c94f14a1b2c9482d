package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestExternal follows a directory that is somebody else's, over ldaps with a
// service account, and goes on without it.
func TestExternal(t *testing.T) {
	owner := newPlace(t, 3800, "")
	realm := owner.start(nil)
	const service = "cn=web1,ou=services,dc=sekisho,dc=internal"
	file := t.TempDir() + "/web1.secret"
	owner.sekisho("service", "add", "web1", "--secret-file", file)
	secret, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	secret = bytes.TrimSpace(secret)
	owner.sekisho("user", "add", "alice", "--no-password")
	owner.sekisho("host", "add", testHost, "--addr", "203.0.113.1")
	owner.sekisho("rule", "add", "r", "--subject", "user:alice", "--door", "keys", "--target", "host:"+testHost)

	p := newPlace(t, 0, fmt.Sprintf(`
[userdb]
enabled = false
[directory]
url = ["ldaps://127.0.0.1:1", "ldaps://127.0.0.1:3801"]
base = "dc=sekisho,dc=internal"
bind_dn = %q
password_file = %q
ca_file = "%s/ca.crt"`, service, file, owner.run))
	d := p.start(nil)
	p.until("it answers from the directory", func() bool { return p.status().Sync.State == "live" })
	p.sekisho("why", "alice", "keys", testHost)

	// The password is nowhere that others can look.
	for _, f := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", d.Pid(), f))
		if err != nil || bytes.Contains(b, secret) {
			t.Errorf("%s: %v, or it shows the password", f, err)
		}
	}
	if strings.Contains(d.Log(), string(secret)) {
		t.Error("the log shows the password")
	}
	if s := proc(t, d.Pid()); s["CapEff"] != "0000000000000000" || s["CapBnd"] != "0000000000000000" {
		t.Errorf("without a realm there are capabilities: %s, %s", s["CapEff"], s["CapBnd"])
	}
	if out := p.sekisho("status"); strings.Contains(out, "slapd") {
		t.Errorf("a realm is shown that is not there:\n%s", out)
	}

	// The command line says what it cannot do there.
	if _, err := p.try(t.Context(), "passwd", "alice"); err == nil || !strings.Contains(err.Error(), "with its own tools") {
		t.Errorf("passwd: %v", err)
	}

	// The directory goes away, and so does sekishod: the snapshot is still there,
	// and says how old it is.
	if err := realm.Stop(); err != nil {
		t.Error(err)
	}
	d.Kill()
	p.start(nil)
	out := p.sekisho("why", "alice", "keys", testHost)
	if !strings.HasPrefix(out, "YES: alice") {
		t.Errorf("got %s", out)
	}
	if s := p.status(); s.Sync.State == "live" || !s.Sync.Loaded {
		t.Errorf("sync is %+v", s.Sync)
	}
	p.until("the age shows", func() bool { return p.status().Sync.AgeSeconds > 0 })
}

// TestNoDirectory: without a directory and a snapshot the answer is "could not
// find out", and the cause is shown to root.
func TestNoDirectory(t *testing.T) {
	p := newPlace(t, 0, `
[userdb]
enabled = false
[directory]
url = ["ldaps://127.0.0.1:1"]
base = "dc=example,dc=org"`)
	path := p.config
	cmd := exec.CommandContext(t.Context(), "sekishod", "--config", path)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("after SIGINT: %v: %s", err, &log)
		}
	}()
	code := func(args ...string) int {
		_, err := p.try(t.Context(), args...)
		if err == nil {
			return 0
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode()
		}
		return -1
	}
	p.until("it listens", func() bool { _, err := os.Stat(p.run + "/sekisho.sock"); return err == nil })
	if got := code("status"); got != 3 {
		t.Errorf("status ends with %d", got)
	}
	if got := code("why", "alice", "keys", "web1"); got != 3 {
		t.Errorf("why ends with %d", got)
	}
	p.until("the cause is shown", func() bool { return strings.Contains(p.status().Sync.LastError, "127.0.0.1:1") })
}
