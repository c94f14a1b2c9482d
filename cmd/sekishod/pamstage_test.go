package main

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/pamhelper"
	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

func TestRootsOwn(t *testing.T) {
	program, err := testenv.Program("sekisho-pam")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	open := dir + "/open"
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{dir + "/mine", open + "/x"} {
		if err := os.WriteFile(f, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir+"/mine", 4711, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir+"/mine", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if got, err := rootsOwn(program); err != nil || got != program {
		t.Errorf("%q, %v", got, err)
	}
	for _, path := range []string{dir + "/mine", open + "/x", dir + "/link", dir + "/none"} {
		if got, err := rootsOwn(path); err == nil {
			t.Errorf("%s: %q is taken", path, got)
		}
	}
}

// TestStartPAM: what the first stage starts answers who holds the pair's end,
// as the service user, and says at once what it cannot run.
func TestStartPAM(t *testing.T) {
	if err := os.WriteFile("/etc/pam.d/sekisho-test", []byte("auth required pam_permit.so\naccount required pam_permit.so\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// startPAM looks beside this program; a test binary lies elsewhere.
	exe, err := testenv.Program("sekisho-pam")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := startPAMAt(exe, "sekisho", []string{"sekisho-test", "there-is-none"}); err == nil || !strings.Contains(err.Error(), "said why") {
		t.Error(err)
	}
	f, err := startPAMAt(exe, "sekisho", []string{"sekisho-test"})
	if err != nil {
		t.Fatal(err)
	}
	held, err := pamhelper.Hold(f)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	nobody := func(context.Context, []pamhelper.Prompt) ([]string, error) { return nil, nil }
	got, err := pamhelper.Stack{Dial: held.Dial}.Run(t.Context(), pamhelper.Call{Service: "sekisho-test", User: "root"}, nobody)
	if err != nil || got.Outcome != wire.Yes {
		t.Errorf("%+v, %v", got, err)
	}
}
