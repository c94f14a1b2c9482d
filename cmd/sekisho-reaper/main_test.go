package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/sekisho/sekisho/reaper"
	"github.com/sekisho/sekisho/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestUsage(t *testing.T) {
	program, err := testenv.Program("sekisho-reaper")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		as   uint32
		code int
		said string
	}{
		"help":           {[]string{"--help"}, 0, 0, "Usage: sekisho-reaper"},
		"version":        {[]string{"--version"}, 0, 0, "sekisho-reaper "},
		"nothing":        {nil, 0, 2, "--fd N"},
		"a standard one": {[]string{"--fd", "1", "--socket", "/x"}, 0, 2, "--fd N"},
		"no socket":      {[]string{"--fd", "3"}, 0, 2, "--socket PATH"},
		"not absolute":   {[]string{"--fd", "3", "--socket", "x"}, 0, 2, "--socket PATH"},
		"an argument":    {[]string{"--fd", "3", "--socket", "/x", "y"}, 0, 2, "\"y\""},
		"an unknown one": {[]string{"--kill"}, 0, 2, "not defined"},
		"no pair":        {[]string{"--fd", "3", "--socket", "/x"}, 0, 1, "no end of a pair"},
		"not root":       {[]string{"--fd", "3", "--socket", "/x"}, 4711, 1, "not root"},
	} {
		cmd := exec.Command(program, c.args...)
		if c.as != 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.as, Gid: c.as}}
		}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(out.String(), c.said) {
			t.Errorf("%s: exit code %d, %q", name, code, out.String())
		}
	}
}

// TestWithoutRight: a bounding set without CAP_KILL, as an old unit has it, is
// said at the start and not when a session must end.
func TestWithoutRight(t *testing.T) {
	program, err := testenv.Program("sekisho-reaper")
	if err != nil {
		t.Fatal(err)
	}
	hold, give, err := reaper.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	defer give.Close()
	cmd := exec.Command("setpriv", "--bounding-set", "-kill", program, "--fd", "3", "--socket", "/run/sekisho/pam.sock")
	cmd.ExtraFiles = []*os.File{give}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "CAP_KILL") {
		t.Errorf("%v: %s", err, out)
	}
}
