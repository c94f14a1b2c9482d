package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/testenv"
)

// TestStacks has a PAM stack of the host prove passwords: sekishod's first
// stage starts sekisho-pam, which runs it as root, and which ends with sekishod.
func TestStacks(t *testing.T) {
	if _, err := testenv.Program("sekisho-pam"); err != nil {
		t.Fatal(err)
	}
	p := newPlace(t, 4000, "[pam]\npassword = \"pam:site-login\"\notp = \"pam:site-code\"")
	p.write("/etc/pam.d/site-login", "auth required pam_exec.so expose_authtok quiet /usr/local/sbin/site-login\naccount required pam_permit.so\n", 0o644)
	p.write("/etc/pam.d/site-code", "auth required pam_exec.so expose_authtok quiet /usr/local/sbin/site-code\naccount required pam_permit.so\n", 0o644)
	p.write("/usr/local/sbin/site-login", "#!/bin/sh\n[ \"$(tr -d '\\000')\" = site-password ]\n", 0o755)
	p.write("/usr/local/sbin/site-code", "#!/bin/sh\n[ \"$(tr -d '\\000')\" = 123456 ]\n", 0o755)
	p.write("/etc/pam.d/stacks-test", "auth required /usr/local/lib/sekisho/pam_sekisho.so socket="+p.run+"/pam.sock\n"+
		"account required /usr/local/lib/sekisho/pam_sekisho.so socket="+p.run+"/pam.sock\n", 0o644)
	d := p.start(nil)
	p.sekisho("user", "add", "alice", "--no-password")
	p.sekisho("host", "add", testHost, "--addr", "203.0.113.1")
	p.sekisho("rule", "add", "r", "--subject", "user:alice", "--door", "pam", "--target", "host:"+testHost, "--proof", "password", "--proof", "otp")
	p.until("alice may", func() bool {
		out, err := p.try(t.Context(), "why", "alice", "pam", testHost, "--proof", "password,otp")
		return err == nil && strings.Contains(out, "YES")
	})
	for _, c := range []struct {
		typed string
		good  bool
	}{{"site-password\n123456\n", true}, {"site-password\n654321\n", false}, {"wrong\n123456\n", false}, {"123456\nsite-password\n", false}} {
		cmd := exec.CommandContext(t.Context(), "pamtester", "stacks-test", "alice", "authenticate", "acct_mgmt")
		cmd.Stdin = strings.NewReader(c.typed)
		out, err := cmd.CombinedOutput()
		if (err == nil) != c.good {
			t.Errorf("%q: %v: %s", c.typed, err, out)
		}
	}
	helper := func() bool {
		return exec.CommandContext(t.Context(), "pgrep", "-f", "sekisho-pam.*site-login").Run() == nil
	}
	if !helper() {
		t.Error("no sekisho-pam runs")
	}
	d.Kill()
	p.until("sekisho-pam ends with sekishod", func() bool { return !helper() })
}
