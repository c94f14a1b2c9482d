package outside

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/testenv"
)

// inHolder is what this binary does when TestHolder runs it in the sandbox.
func inHolder(mark string) error {
	w, err := testenv.NewWorld(testenv.WorldConfig{Name: "held"})
	if err != nil {
		return err
	}
	h, err := w.Host("web1")
	if err != nil {
		return err
	}
	_, err = h.Start(context.Background(), testenv.DaemonConfig{Path: "/usr/bin/sleep", Args: []string{mark}})
	return err
}

// visitHolder finds the world of inHolder from another process.
func visitHolder() error {
	w, err := testenv.OpenWorld("held")
	if err != nil {
		return err
	}
	for _, h := range w.Hosts() {
		out, err := h.Command(context.Background(), "hostname").Output()
		if err != nil {
			return err
		}
		fmt.Printf("%s", out)
	}
	return nil
}

func TestHolder(t *testing.T) {
	ctx := testContext(t)
	if os.Geteuid() != 0 {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(ctx, "sudo", "-n", "--", exe, "-test.run=^TestHolder$", "-test.v").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestHolder") {
			t.Errorf("as root: %v\n%s", err, out)
		}
		return
	}
	before := machine(t)
	dir := filepath.Join("..", "..", "build", "held-"+strconv.Itoa(os.Getpid()))
	mark := strconv.Itoa(200_000 + os.Getpid())
	defer testenv.StopHolder(dir)
	if _, err := testenv.OpenHolder(dir); !errors.Is(err, testenv.ErrNoHolder) {
		t.Errorf("found %v, want ErrNoHolder", err)
	}
	h, err := testenv.StartHolder(testenv.HolderConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testenv.StartHolder(testenv.HolderConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second one: %v", err)
	}
	cmd := h.Command(ctx, "/proc/self/exe")
	cmd.Env = append(cmd.Env, "SEKISHO_OUTSIDE=make "+mark)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("making a world: %v\n%s", err, out)
	}
	if n := len(processes(mark)); n != 1 {
		t.Errorf("%d marked daemons run, want 1", n)
	}
	// As later commands do.
	again, err := testenv.OpenHolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	cmd = again.Command(ctx, "/proc/self/exe")
	cmd.Env = append(cmd.Env, "SEKISHO_OUTSIDE=visit")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "web1.example.org\n" {
		t.Errorf("visiting: %v %q", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "world.log"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := testenv.StopHolder(dir); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the daemons to be gone", func() bool { return len(processes(mark)) == 0 })
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
	checkMachine(t, before)
	if err := testenv.StopHolder(dir); err != nil {
		t.Errorf("stopped twice: %v", err)
	}
	if err := again.Command(ctx, "true").Run(); err == nil {
		t.Error("ran something in a sandbox that is stopped")
	}
}

func TestHolderLeavesOthersFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "thesis")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := testenv.StartHolder(testenv.HolderConfig{Dir: dir}); err == nil {
		t.Error("a sandbox was started for a folder that is in use")
	}
	if err := testenv.StopHolder(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("somebody's file is gone: %v", err)
	}
}

// A pid in an old state file may be anybody's by now.
func TestHolderIsNotMistaken(t *testing.T) {
	ctx := testContext(t)
	bystander := exec.CommandContext(ctx, "sleep", "600")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer bystander.Wait()
	defer bystander.Process.Kill()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	for name, state := range map[string]string{
		"another start": fmt.Sprintf(`{"Pid":%d,"Start":"1","Boot":%q}`, bystander.Process.Pid, strings.TrimSpace(string(boot))),
		"another boot":  fmt.Sprintf(`{"Pid":%d,"Start":"1","Boot":"x"}`, bystander.Process.Pid),
		"pid 1":         fmt.Sprintf(`{"Pid":1,"Start":"1","Boot":%q}`, strings.TrimSpace(string(boot))),
		"empty":         `{}`,
	} {
		dir := filepath.Join(t.TempDir(), "held")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte(state), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := testenv.StopHolder(dir); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %s is left", name, dir)
		}
	}
	if ws, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", bystander.Process.Pid)); err != nil || strings.Contains(string(ws), ") Z ") {
		t.Errorf("the bystander was killed: %s %v", ws, err)
	}
}
