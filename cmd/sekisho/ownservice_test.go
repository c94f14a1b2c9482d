package main

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestOwnServiceStays: the realm's own service outlives the entry of its host.
func TestOwnServiceStays(t *testing.T) {
	run := func(name string, args ...string) {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	const own = "/var/lib/sekisho/realm/sekisho.keytab"
	run("sekisho", "host", "rm", testHost)
	defer run("sekisho", "host", "add", testHost, "--alias", "broker", "--addr", "203.0.113.1")
	cc := exec.Command("kinit", "-k", "-t", own, "sekisho/"+testHost)
	cc.Env = append(cc.Environ(), "KRB5_CONFIG=/run/sekisho/krb5.conf", "KRB5CCNAME=FILE:"+filepath.Join(t.TempDir(), "cc"))
	if out, err := cc.CombinedOutput(); err != nil {
		t.Errorf("the realm's own service has gone with its host: %v\n%s", err, out)
	}
}
