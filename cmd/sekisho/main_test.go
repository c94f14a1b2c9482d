package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sekisho/sekisho/testenv"
)

// The stories run against one embedded realm, started for all of them; each
// uses names of its own.
func TestMain(m *testing.M) {
	testenv.Main(runner(func() int {
		d, err := startRealm()
		if err != nil {
			fmt.Fprintln(os.Stderr, "starting sekishod:", err)
			return 1
		}
		code := m.Run()
		if err := d.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stopping sekishod:", err)
			code = 1
		}
		if code != 0 {
			fmt.Fprintln(os.Stderr, d.Log())
		}
		return code
	}))
}

type runner func() int

func (r runner) Run() int { return r() }

const testHost = "broker.example.org"

func startRealm() (*testenv.Daemon, error) {
	for _, name := range []string{"sekisho", "sekishod"} {
		if _, err := testenv.Program(name); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll("/etc/sekisho", 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile("/etc/sekisho/sekishod.toml", []byte("host = \""+testHost+"\"\n"), 0o644); err != nil {
		return nil, err
	}
	hosts, err := os.OpenFile("/etc/hosts", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer hosts.Close()
	if _, err := hosts.WriteString("127.0.0.1 " + testHost + "\n"); err != nil {
		return nil, err
	}
	path, _ := testenv.Program("sekishod")
	d, err := testenv.StartDaemon(context.Background(), testenv.DaemonConfig{Path: path, Ready: func(ctx context.Context) error {
		if err := exec.CommandContext(ctx, "sekisho", "status").Run(); err != nil {
			return err
		}
		c, err := net.DialTimeout("tcp", "127.0.0.1:464", 10*time.Second) // what starts last, after the KDC
		if err != nil {
			return err
		}
		return c.Close()
	}})
	if err != nil {
		return nil, err
	}
	// What every story may name.
	for _, args := range [][]string{{"host", "add", testHost, "--alias", "broker", "--addr", "203.0.113.1"}} {
		if out, err := exec.Command("sekisho", args...).CombinedOutput(); err != nil {
			d.Stop()
			return nil, fmt.Errorf("sekisho %v: %w: %s", args, err, out)
		}
	}
	return d, nil
}

func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("SEKISHO_UPDATE_STORIES") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", "/root")
			e.Setenv("TZ", "UTC")
			return os.Chmod(e.WorkDir, 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"await": await, "as": as, "code": code},
	})
}

// await runs a command until it succeeds (or, with !, fails): what was written
// is in the snapshot a moment later, on a machine that is not busy.
func await(ts *testscript.TestScript, neg bool, args []string) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := ts.Exec(args[0], args[1:]...)
		if (err != nil) == neg {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("in a minute it never came so: %v", err)
		}
	}
}

// as runs a command as a directory user: as NAME UID COMMAND…
func as(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: as NAME UID COMMAND...")
	}
	err := ts.Exec("setpriv", append([]string{"--reuid", args[1], "--regid", args[1], "--clear-groups",
		"env", "USER=" + args[0], "LOGNAME=" + args[0]}, args[2:]...)...)
	if (err != nil) != neg {
		ts.Fatalf("as %v: %v", args, err)
	}
}

// code runs a command that must end with an exit code: code N COMMAND…
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND...")
	}
	got := "0"
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = fmt.Sprint(exit.ExitCode())
	} else if err != nil {
		ts.Fatalf("%v: %v", args, err)
	}
	if got != args[0] {
		ts.Fatalf("%v ended with %s", args[1:], got)
	}
}

// TestNumbers: users who are added at the same time get numbers of their own.
func TestNumbers(t *testing.T) {
	var all sync.WaitGroup
	const n = 12
	errs := make([]error, n)
	for i := range n {
		all.Go(func() {
			out, err := exec.Command("sekisho", "user", "add", fmt.Sprintf("num-%d", i), "--no-password").CombinedOutput()
			if err != nil {
				errs[i] = fmt.Errorf("%w: %s", err, out)
			}
		})
	}
	all.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else if !strings.Contains(err.Error(), "is taken: give another one") {
			t.Error(err)
		}
	}
	if made < n/2 {
		t.Errorf("only %d of %d were made", made, n)
	}
	out, err := exec.Command("sekisho", "user", "ls", "num-*", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var users []struct {
		Name string
		UID  uint32
	}
	if err := json.Unmarshal(out, &users); err != nil || len(users) != made {
		t.Fatalf("%d users, %v", len(users), err)
	}
	seen := map[uint32]string{}
	for _, u := range users {
		if seen[u.UID] != "" {
			t.Errorf("%s and %s have the number %d", u.Name, seen[u.UID], u.UID)
		}
		seen[u.UID] = u.Name
	}
	out, err = exec.Command("sekisho", "group", "ls", "num-*", "--all", "--json").Output()
	var groups []struct{ Name string }
	if err := errors.Join(err, json.Unmarshal(out, &groups)); err != nil || len(groups) != made {
		t.Errorf("%d groups for %d users, %v", len(groups), made, err)
	}
}
