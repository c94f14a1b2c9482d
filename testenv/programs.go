package testenv

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
)

// Where the programs of cmd/ are inside the sandbox. sshd wants every folder
// above an AuthorizedKeysCommand to be root's.
var programPaths = map[string]string{
	"sekishod":       "/usr/local/bin/sekishod",
	"sekisho":        "/usr/local/bin/sekisho",
	"sekisho-keys":   "/usr/local/lib/sekisho/sekisho-keys",
	"sekisho-pam":    "/usr/local/lib/sekisho/sekisho-pam",
	"sekisho-reaper": "/usr/local/lib/sekisho/sekisho-reaper",
	pamModule:        "/usr/local/lib/sekisho/" + pamModule,
}

// pamModule is no program but what PAM loads: /usr is read-only, and pam.d may
// name a module by its whole path.
const pamModule = "pam_sekisho.so"

// Of the programs, those that are no static ones: they link C.
var linksC = map[string]bool{"sekisho-pam": true}

// Of the programs, those that are run under the race detector when the tests are: it
// needs C, with which sekisho-reaper could not give up its rights for all threads.
var concurrent = map[string]bool{"sekishod": true}

// raceDetector tells whether this program was built with -race.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// Program is the path of a program of cmd/ ("sekishod", "sekisho",
// "sekisho-keys", "sekisho-pam", "sekisho-reaper") or of "pam_sekisho.so" inside the sandbox, or
// the reason why it is not there, with the compiler's words.
func Program(name string) (string, error) {
	path, ok := programPaths[name]
	if !ok {
		return "", fmt.Errorf("there is no program called %q", name)
	}
	b, err := os.ReadFile(filepath.Join(mntDir, "failed", name))
	if err == nil {
		return "", fmt.Errorf("building %s failed: %s", name, b)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("finding %s: %w (is this inside the sandbox?)", name, err)
	}
	return path, nil
}

// buildPrograms builds cmd/ into build/bin, as make build does, and the PAM module
// into build/lib, and returns the files and, by name, what could not be built. A program that is broken must
// not stop the tests that do not need it, so it is no error until one asks.
func buildPrograms(root string) (built, failed map[string]string) {
	built, failed = map[string]string{}, map[string]string{}
	bin := filepath.Join(root, "build", "bin")
	unlock, err := lockFile(filepath.Join(root, "build", ".lock"))
	if err != nil {
		for name := range programPaths {
			failed[name] = err.Error()
		}
		return built, failed
	}
	defer unlock()
	var names, withC, watched []string
	for name := range programPaths {
		if name == pamModule {
			continue
		}
		if _, err := os.Stat(filepath.Join(root, "cmd", name)); err != nil {
			failed[name] = err.Error()
			continue
		}
		if concurrent[name] && raceDetector() {
			watched = append(watched, name)
		} else if linksC[name] {
			withC = append(withC, name)
		} else {
			names = append(names, name)
		}
	}
	build := func(names []string, cgo, bin string, flags ...string) {
		if len(names) == 0 {
			return
		}
		whole := goBuild(root, bin, cgo, names, flags...)
		for _, name := range names {
			if whole != "" {
				failed[name] = goBuild(root, bin, cgo, []string{name}, flags...)
			}
			if failed[name] == "" {
				delete(failed, name)
				built[name] = filepath.Join(bin, name)
			}
		}
	}
	build(names, "0", bin)
	build(withC, "1", bin)
	build(watched, "1", filepath.Join(bin, "race"), "-race")
	if out := makeModule(root); out == "" {
		built[pamModule] = filepath.Join(root, "build", "lib", pamModule)
	} else {
		failed[pamModule] = out
	}
	return built, failed
}

// makeModule returns what went wrong, or "".
func makeModule(root string) string {
	cmd := exec.Command("make", "-s", "-C", filepath.Join(root, "pamhelper", "module"))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return ""
	}
	return fmt.Sprintf("%v\n%s", err, bytes.TrimSpace(out))
}

// goBuild returns what went wrong, or "". cgo is CGO_ENABLED.
func goBuild(root, bin, cgo string, names []string, flags ...string) string {
	args := append([]string{"build", "-trimpath", "-o", bin + "/"}, flags...)
	for _, n := range names {
		args = append(args, "./cmd/"+n)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return ""
	}
	return fmt.Sprintf("%v\n%s", err, bytes.TrimSpace(out))
}

// installPrograms copies what was built to where it belongs.
func installPrograms(spec *sandboxSpec) error {
	for _, dir := range []string{"/usr/local", "/usr/local/bin", "/usr/local/lib", "/usr/local/lib/sekisho"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.Chown(dir, 0, 0); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o755); err != nil { // Debian once made these group-writable
			return err
		}
	}
	if len(spec.Programs) > 0 {
		// Another run may be building them anew, in place.
		unlock, err := lockFile(filepath.Join(spec.Root, "build", ".lock"))
		if err != nil {
			return err
		}
		defer unlock()
	}
	for name, file := range spec.Programs {
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("installing %s: %w", name, err)
		}
		if err := os.WriteFile(programPaths[name], b, 0o755); err != nil {
			return fmt.Errorf("installing %s: %w", name, err)
		}
	}
	dir := filepath.Join(mntDir, "failed")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for name, why := range spec.Failed {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.TrimSpace(why)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// lockFile takes an exclusive lock that ends with the process at the latest.
func lockFile(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
