package enrol

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/cmd/internal/accounts"
)

// commandTime bounds each command that is run.
const commandTime = time.Minute

// command runs a program with a fixed environment; the error has what it said.
func command(ctx context.Context, name string, args ...string) ([]byte, error) {
	return commandEnv(ctx, nil, name, args...)
}

func commandEnv(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	path := name
	for _, dir := range []string{"/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"} {
		if _, err := os.Stat(dir + name); err == nil && !filepath.IsAbs(name) {
			path = dir + name
			break
		}
	}
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s is not installed", name)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}, env...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, printable(strings.TrimSpace(said.String())))
	}
	if said.Len() > 0 && out.Len() == 0 {
		return said.Bytes(), nil
	}
	return out.Bytes(), nil
}

func addAccount(ctx context.Context, name string) error {
	if _, err := accounts.Lookup(name); err == nil {
		return nil
	}
	if _, err := command(ctx, "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
		"--shell", "/usr/sbin/nologin", name); err != nil {
		return fmt.Errorf("making the account %s: %w", name, err)
	}
	return nil
}

// removeAccount removes an account and its group, of which a kill may have left
// one alone.
func removeAccount(ctx context.Context, name string) error {
	if _, err := accounts.Lookup(name); err == nil {
		if _, err := command(ctx, "userdel", name); err != nil {
			return fmt.Errorf("removing the account %s: %w (stop sekishod first)", name, err)
		}
	} else if !errors.Is(err, accounts.ErrUnknown) {
		return err
	}
	if _, known, err := groupID(name); err != nil {
		return err
	} else if known {
		if _, err := command(ctx, "groupdel", name); err != nil {
			return fmt.Errorf("removing the group %s: %w", name, err)
		}
	}
	return nil
}

// Problems tells what keeps this machine from being enrolled, each with its
// mend. It changes nothing.
func Problems(ctx context.Context, c Config) (problems []string) {
	if err := c.validate(); err != nil {
		return []string{err.Error()}
	}
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	programs := []string{filepath.Join(c.Bin, "sekishod"), filepath.Join(c.Bin, "sekisho")}
	if c.SSH {
		programs = append(programs, filepath.Join(c.Lib, "sekisho-keys"))
	}
	if c.PAM {
		programs = append(programs, filepath.Join(c.Lib, "pam_sekisho.so"), filepath.Join(c.Lib, "sekisho-reaper"))
	}
	for _, p := range programs {
		if err := rootsOwn(p); err != nil {
			add("%v", err)
		}
	}
	if len(glob("libnss_systemd.so.2")) == 0 {
		add("libnss-systemd is not installed, by which the directory's users become this machine's: apt-get install libnss-systemd")
	}
	if c.PAM {
		if len(glob("security/pam_localuser.so")) == 0 {
			add("PAM has no pam_localuser.so, by which this machine's own users pass by us: apt-get install libpam-modules")
		}
		if err := loadable(ctx, filepath.Join(c.Lib, "pam_sekisho.so")); err != nil {
			add("%v", err)
		}
	}
	if c.SSH {
		set, err := SSHD(ctx)
		if err != nil {
			add("sshd's present configuration is not good, or sshd is not there: %v (mend it first, or use --no-ssh)", err)
			return problems
		}
		ours := filepath.Join(c.Lib, "sekisho-keys") + " "
		if cmd := set["authorizedkeyscommand"]; cmd != "none" && cmd != "" && !strings.HasPrefix(cmd+" ", ours) {
			add("sshd asks %s for keys, and can ask one program only: take its AuthorizedKeysCommand out first, or use --no-ssh", cmd)
		}
	}
	return problems
}

// glob finds files in the folders of libraries.
func glob(name string) (found []string) {
	for _, dir := range []string{"/usr/lib/*/", "/lib/*/", "/usr/lib/", "/lib/", "/usr/lib64/", "/lib64/"} {
		some, _ := filepath.Glob(dir + name)
		found = append(found, some...)
	}
	return found
}

// rootsOwn makes sure that a program is root's and nobody else can change it:
// sshd demands that, and it runs as root.
func rootsOwn(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("%s is not there: install it first", path)
	}
	for p := real; ; p = filepath.Dir(p) {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if st.Uid != 0 || st.Mode&0o022 != 0 {
			return fmt.Errorf("%s can be changed by others than root: chown root %s; chmod go-w %s", p, p, p)
		}
		if p == "/" {
			return nil
		}
	}
}

// loadable has the dynamic linker load a module and resolve all that it needs.
func loadable(ctx context.Context, path string) error {
	out, err := commandEnv(ctx, []string{"LD_PRELOAD=" + path, "LD_BIND_NOW=1"}, "true")
	if err != nil {
		return fmt.Errorf("%s cannot be loaded: %w", path, err)
	}
	if len(out) > 0 { // it could not be preloaded, and was ignored
		return fmt.Errorf("%s cannot be loaded: %s", path, printable(strings.TrimSpace(string(out))))
	}
	return nil
}

// SSHD is what sshd's configuration comes to for root, by sshd's own words: the
// keywords are in lower case.
func SSHD(ctx context.Context) (map[string]string, error) {
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd wants it even to read
		return nil, err
	}
	out, err := command(ctx, "sshd", "-T", "-C", "user=root,host=localhost,addr=127.0.0.1")
	if err != nil {
		return nil, err
	}
	set := map[string]string{}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if _, twice := set[key]; !twice {
			set[key] = value
		}
	}
	return set, nil
}

// Verify finds out whether what was applied is what programs read.
func (e *Enrolment) Verify(ctx context.Context) error {
	if err := e.verify(ctx); err != nil {
		return e.failed(ctx, err)
	}
	return nil
}

func (e *Enrolment) verify(ctx context.Context) error {
	e.c.Step("check sekishod")
	if _, err := command(ctx, filepath.Join(e.c.Bin, "sekishod"), "--check"); err != nil {
		return fmt.Errorf("checking the configuration: %w", err)
	}
	if !e.c.SSH {
		return nil
	}
	e.c.Step("check sshd")
	if _, err := command(ctx, "sshd", "-t"); err != nil {
		return fmt.Errorf("checking sshd's configuration: %w", err)
	}
	set, err := SSHD(ctx)
	if err != nil {
		return fmt.Errorf("checking sshd's configuration: %w", err)
	}
	want := map[string]string{
		"authorizedkeyscommand":     filepath.Join(e.c.Lib, "sekisho-keys") + " %u %f %t %k",
		"authorizedkeyscommanduser": KeysUser, "gssapiauthentication": "yes",
	}
	if e.c.PAM {
		want["usepam"], want["kbdinteractiveauthentication"] = "yes", "yes"
	}
	for key, value := range want {
		if set[key] != value {
			return fmt.Errorf("sshd goes by %s %q and not by %s: something in %s, or in a file that it includes, says so earlier; take it out there, or use --no-ssh", key, set[key], sshdSnippet, sshdConf)
		}
	}
	return nil
}

// Start starts what it can, and returns what the administrator must do himself.
func (e *Enrolment) Start(ctx context.Context) (todo []string, err error) {
	if !systemd() {
		todo = append(todo, "start sekishod, or start it anew: "+filepath.Join(e.c.Bin, "sekishod"))
		if e.c.SSH {
			todo = append(todo, "have sshd read its configuration anew: kill -HUP its process")
		}
		return todo, nil
	}
	e.c.Step("start sekishod")
	for _, args := range [][]string{{"daemon-reload"}, {"enable", "sekishod.service"}, {"restart", "sekishod.service"}} {
		if _, err := command(ctx, "systemctl", args...); err != nil {
			return nil, e.failed(ctx, err)
		}
	}
	if e.c.SSH {
		e.c.Step("reload sshd")
		if err := reloadSSHD(ctx); err != nil {
			return nil, e.failed(ctx, err)
		}
	}
	return nil, nil
}

// reloadSSHD has a running sshd read its configuration anew. Open sessions stay.
func reloadSSHD(ctx context.Context) error {
	_, err := command(ctx, "systemctl", "try-reload-or-restart", "ssh.service")
	if err != nil {
		_, err = command(ctx, "systemctl", "try-reload-or-restart", "sshd.service")
	}
	return err
}

// stopUnit ends a sekishod that is about to lose its configuration, and would
// come up as a realm of its own without one.
func stopUnit(ctx context.Context, c Config) {
	if !systemd() {
		return
	}
	if _, err := command(ctx, "systemctl", "cat", "sekishod.service"); err != nil {
		return // there is none
	}
	if _, err := command(ctx, "systemctl", "disable", "--now", "sekishod.service"); err != nil {
		c.Note("sekishod could not be stopped: " + err.Error())
	}
}

// tellServices has the services go by what is there after an undo.
func tellServices(ctx context.Context, c Config, ssh bool) {
	if !systemd() {
		return
	}
	if _, err := command(ctx, "systemctl", "daemon-reload"); err != nil {
		c.Note(err.Error())
	}
	if ssh {
		if err := reloadSSHD(ctx); err != nil {
			c.Note("sshd goes by the configuration that is no more: " + err.Error())
		}
	}
	if _, err := os.Lstat(configFile); err == nil {
		if _, err := command(ctx, "systemctl", "try-restart", "sekishod.service"); err != nil {
			c.Note(err.Error())
		}
	}
}
