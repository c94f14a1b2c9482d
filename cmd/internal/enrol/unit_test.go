package enrol

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/testenv"
)

// TestUnitFile: systemd's own checker finds nothing wrong.
func TestUnitFile(t *testing.T) {
	if _, err := testenv.Program("sekishod"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sekishod.service")
	if err := os.WriteFile(path, []byte(unitText(binDir)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", path).CombinedOutput()
	if err != nil || strings.Contains(string(out), "sekishod.service") {
		t.Errorf("%v: %s", err, out)
	}
	if got := unitText("/usr/bin"); !strings.Contains(got, "ExecStart=/usr/bin/sekishod\n") {
		t.Error(got)
	}
}

// systemctl stands in for systemd, which cannot be pid 1 here: it notes what it
// is told, and starts and stops sekishod. With /run/broken, a start fails.
const systemctl = `#!/bin/sh
echo "$*" >>/run/systemctl.log
stop() { kill $(ps -eo pid,comm | awk '$2 == "sekishod" {print $1}') 2>/dev/null && while ps -eo comm | grep -qx sekishod; do sleep 0.05; done; }
case "$*" in
"restart sekishod.service")
	[ ! -e /run/broken ] || { echo "it is broken" >&2; exit 1; }
	stop
	setsid /usr/local/bin/sekishod </dev/null >/run/sekishod.log 2>&1 & ;;
"disable --now sekishod.service") stop ;;
esac
exit 0
`

// TestSystemd: with systemd, services are started, and put back with the rest.
func TestSystemd(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.put(s.web, "/run/fake/systemctl", systemctl, 0o755)
	err := s.web.Inside(func() error {
		if err := os.MkdirAll("/run/systemd/system", 0o755); err != nil {
			return err
		}
		return unix.Mount("/run/fake/systemctl", "/usr/bin/systemctl", "", unix.MS_BIND, "")
	})
	if err != nil {
		t.Fatal(err)
	}
	told := func() string {
		b, _ := s.web.ReadFile("/run/systemctl.log")
		s.put(s.web, "/run/systemctl.log", "", 0o644)
		return string(b)
	}
	before := s.tree()

	s.put(s.web, "/run/broken", "", 0o644)
	if out, code := s.enrol(s.bundle, "--yes"); code != 1 || !strings.Contains(out, "it is broken: all was put back") {
		t.Errorf("%d %s", code, out)
	}
	s.unchanged(before, "sekishod did not start")
	s.must(s.web, "rm", "/run/broken")
	told()

	out := s.enrolled(s.bundle, "--yes")
	if !strings.Contains(out, "+++ /etc/systemd/system/sekishod.service") || strings.Contains(out, "now: ") {
		t.Error(out)
	}
	want := "daemon-reload\nenable sekishod.service\nrestart sekishod.service\ntry-reload-or-restart ssh.service\n"
	if got := told(); got != want {
		t.Errorf("systemd was told\n%s, want\n%s", got, want)
	}
	s.startSSHD()
	s.works(s.login("alice", s.key))
	s.works(s.byPassword("alice", password))

	s.enrolled("--undo")
	want = "cat sekishod.service\ndisable --now sekishod.service\ndaemon-reload\ntry-reload-or-restart ssh.service\n"
	if got := told(); got != want {
		t.Errorf("systemd was told\n%s, want\n%s", got, want)
	}
	s.unchanged(before, "after --undo")

	// A directory that does not know the host: it would refuse everybody.
	s.sekisho("", "host", "rm", "web1")
	if out, code := s.enrol(s.bundle, "--yes"); code != 1 || !strings.Contains(out, "has no host") || !strings.Contains(out, "everything was put back") {
		t.Errorf("%d %s", code, out[max(0, len(out)-500):])
	}
	s.unchanged(before, "the directory has no such host")
}
