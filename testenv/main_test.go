package testenv

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestMain has a second face for the tests of outside, which look at a run of
// this very binary from the machine.
func TestMain(m *testing.M) {
	if code, err := strconv.Atoi(os.Getenv("SEKISHO_TESTENV_EXIT")); err == nil {
		Main(runner(func() int { return code }))
	}
	if ready := os.Getenv("SEKISHO_TESTENV_HANG"); ready != "" {
		Main(runner(func() int { return hang(ready) }))
	}
	Main(m)
}

type runner func() int

func (r runner) Run() int { return r() }

// hang makes a world with a few daemons, writes the file ready and waits to be killed.
func hang(ready string) int {
	ctx := context.Background()
	err := func() error {
		w, err := NewWorld(WorldConfig{})
		if err != nil {
			return err
		}
		for _, name := range []string{"a", "b"} {
			h, err := w.Host(name)
			if err != nil {
				return err
			}
			if _, err := h.StartSSHD(ctx, SSHDConfig{}); err != nil {
				return err
			}
			// Its argument is what outside looks for.
			if _, err := h.Start(ctx, DaemonConfig{Path: "/usr/bin/sleep", Args: []string{os.Getenv("SEKISHO_TESTENV_MARK")}}); err != nil {
				return err
			}
		}
		return os.WriteFile(ready, nil, 0o644)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	select {}
}

func FuzzKeepEnv(f *testing.F) {
	f.Add("SSH_AUTH_SOCK=/x")
	f.Fuzz(func(t *testing.T, kv string) {
		env := keepEnv([]string{kv})
		for _, secret := range []string{"SSH_", "KRB5", "LDAP", "AWS_"} {
			for _, got := range env {
				if strings.HasPrefix(got, secret) {
					t.Errorf("%q got through", got)
				}
			}
		}
	})
}
