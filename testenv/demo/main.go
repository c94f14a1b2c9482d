// Command demo shows Sekisho at work in a small world of its own: the embedded
// realm, two hosts with unmodified sshd and a client, each in namespaces of the
// kernel. It leaves the world running; nothing on the machine is changed.
//
//	demo up                      makes the world, tells the story, exits 0 if all went well
//	demo enter HOST [COMMAND…]   runs a command (default: a shell) on a host of it
//	demo down                    removes every trace of it
//
// It needs root. `make demo` builds it, installs what it needs and starts it.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

const (
	stateDir = "build/demo"     // remembers the sandbox; relative to the module
	pidDir   = "/run/demo"      // in the sandbox: the pid of each host's init
	endMark  = "\x04"           // the world's last word, before the exit code
	limit    = 10 * time.Minute // for the whole story
)

func main() {
	testenv.Reexec()
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(args []string) (code int, err error) {
	if os.Geteuid() != 0 {
		return 2, errors.New("this needs root: say make demo, which uses sudo")
	}
	switch {
	case len(args) == 1 && args[0] == "up":
		return show()
	case len(args) == 1 && args[0] == "down":
		return 0, testenv.StopHolder(stateDir)
	case len(args) > 1 && args[0] == "enter":
		return enter(args[1], args[2:])
	case len(args) == 1 && args[0] == "world" && testenv.Inside():
		return world()
	}
	return 2, errors.New("usage: demo up | demo enter HOST [COMMAND…] | demo down")
}

// show starts the world and passes its story on until its last word.
func show() (int, error) {
	if err := testenv.StopHolder(stateDir); err != nil {
		return 1, fmt.Errorf("removing the demo of before: %w", err)
	}
	fmt.Println("building, and making the world …")
	h, err := testenv.StartHolder(testenv.HolderConfig{Dir: stateDir})
	if err != nil {
		return 1, err
	}
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	log, err := os.Create(stateDir + "/world.log")
	if err != nil {
		return 1, err
	}
	defer log.Close()
	cmd := h.Command(context.Background(), self, "world")
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("starting the world: %w", err)
	}
	timer := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	defer timer.Stop()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if code, last := strings.CutPrefix(lines.Text(), endMark); last {
			if code == "0" {
				return 0, nil
			}
			return 1, fmt.Errorf("something went wrong: the logs are in %s/world.log", stateDir)
		}
		fmt.Println(lines.Text())
	}
	err = cmd.Wait()
	return 1, fmt.Errorf("the world ended before its story: %w; see %s/world.log", err, stateDir)
}

// enter runs a command on a host of the running world, on this terminal.
func enter(host string, command []string) (int, error) {
	h, err := testenv.OpenHolder(stateDir)
	if err != nil {
		return 1, fmt.Errorf("%w: say make demo first", err)
	}
	if strings.ContainsAny(host, "/.") {
		return 2, fmt.Errorf("no host %q", host)
	}
	ctx := context.Background()
	pid, err := h.Command(ctx, "cat", pidDir+"/"+host).Output()
	if err != nil {
		return 2, fmt.Errorf("no host %q: there are broker, web1, db1 and client", host)
	}
	if len(command) == 0 {
		command = []string{"bash", "-i"}
	}
	args := append([]string{"-t", strings.TrimSpace(string(pid)), "-m", "-u", "-i", "-n", "-p", "--wd=/root", "--"}, command...)
	cmd := h.Command(ctx, "nsenter", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}
