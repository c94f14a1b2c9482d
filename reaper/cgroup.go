package reaper

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	topName    = "sekisho"  // our folder at the mount's root
	daemonName = "daemon"   // in it: sekishod, if it was started in a session
	ownPrefix  = "sekisho-" // a session's folder
	maxProcs   = 4096       // processes of a session that are signalled one by one
)

var (
	scopeForm   = regexp.MustCompile(`^session-([A-Za-z0-9]+)\.scope$`)
	managerForm = regexp.MustCompile(`^user@[0-9]+\.service$`)
	folderForm  = regexp.MustCompile(`^sekisho-([A-Za-z0-9_-]{1,64})\.([1-9][0-9]{0,6})\.([0-9]{1,20})$`)
)

// hierarchy is a mount of cgroup2 in which we may write.
type hierarchy struct {
	mount string // where it is
	root  string // the cgroup that is seen there
	top   string // our folder in it
}

// findHierarchy takes the first cgroup2 mount in which our folder can be made;
// nil: there is none. It needs root's full rights, the first time.
func findHierarchy() (*hierarchy, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for _, h := range cgroup2Mounts(b) {
		if h.prepare() == nil {
			return &h, nil
		}
	}
	return nil, nil
}

// cgroup2Mounts reads proc(5), mountinfo. What is mounted over others comes
// first.
func cgroup2Mounts(mountinfo []byte) []hierarchy {
	var out []hierarchy
	sc := bufio.NewScanner(bytes.NewReader(mountinfo))
	for sc.Scan() {
		before, after, ok := strings.Cut(sc.Text(), " - ")
		f, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(kind) < 1 || kind[0] != "cgroup2" {
			continue
		}
		at := unescapeMount(f[4])
		out = append([]hierarchy{{mount: at, root: unescapeMount(f[3]), top: filepath.Join(at, topName)}}, out...)
	}
	return out
}

// unescapeMount undoes what the kernel does to blanks and backslashes.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// prepare makes our folder.
func (h *hierarchy) prepare() error {
	var fs2 unix.Statfs_t
	if err := unix.Statfs(h.mount, &fs2); err != nil || fs2.Type != unix.CGROUP2_SUPER_MAGIC {
		return errors.New("something else is mounted over it")
	}
	if err := os.Mkdir(h.top, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if !rootsFolder(h.top) {
		return fmt.Errorf("%s is not root's", h.top)
	}
	return unix.Access(filepath.Join(h.top, "cgroup.procs"), unix.W_OK)
}

// rootsFolder: only root can make folders in it, or move processes out of it.
func rootsFolder(dir string) bool {
	var st unix.Stat_t
	return unix.Lstat(dir, &st) == nil && st.Uid == 0 && st.Mode&(unix.S_IFMT|0o022) == unix.S_IFDIR
}

// of is the folder that a process is in.
func (h *hierarchy) of(pid int32) (string, error) {
	b, err := os.ReadFile(procFile(pid, "cgroup"))
	if gone(err) {
		return "", fmt.Errorf("%w: there is no process %d", ErrProcess, pid)
	}
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		rel, err := filepath.Rel(h.root, path)
		if err != nil || !filepath.IsLocal(rel) {
			return "", fmt.Errorf("process %d is in %s, which is not to be seen in %s", pid, path, h.mount)
		}
		return filepath.Join(h.mount, rel), nil
	}
	return "", fmt.Errorf("process %d is in no folder of cgroup2", pid)
}

// words are the names below the mount, of the folders from its root to dir.
func (h *hierarchy) words(dir string) []string {
	rel, err := filepath.Rel(h.mount, dir)
	if err != nil || rel == "." {
		return nil
	}
	return strings.Split(rel, "/")
}

// within: it is in a session, a session's service manager included.
func (h *hierarchy) within(dir string) bool {
	for _, w := range h.words(dir) {
		if scopeForm.MatchString(w) || folderForm.MatchString(w) || managerForm.MatchString(w) {
			return true
		}
	}
	return false
}

// parent chooses where the folder of a session is made whose process is in cur.
func (h *hierarchy) parent(cur string, pid int32, fresh bool) (string, How, error) {
	how, own := InFolder, false
	for _, w := range h.words(cur) {
		if managerForm.MatchString(w) {
			return "", "", fmt.Errorf("%w: it is a user's service manager (take pam_sekisho.so out of systemd-user)", ErrRefused)
		}
		own = false
		if m := scopeForm.FindStringSubmatch(w); m != nil {
			how, own = InScope, leaderOf(m[1]) == pid
		}
	}
	switch {
	case own, !fresh && cur != h.mount && (h.within(cur) || !strings.HasPrefix(cur+"/", h.top+"/")) && rootsFolder(cur):
		return cur, how, nil
	}
	return h.top, InFolder, nil
}

// leaderOf is the process that a session of logind was made for; 0 when that is
// not known.
func leaderOf(session string) int32 {
	b, err := os.ReadFile("/run/systemd/sessions/" + session)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "LEADER="); ok {
			n, err := strconv.ParseInt(v, 10, 32)
			if err != nil {
				return 0
			}
			return int32(n)
		}
	}
	return 0
}

// folderName is a session's.
func folderName(id string, pid int32, started uint64) string {
	return fmt.Sprintf("%s%s.%d.%d", ownPrefix, id, pid, started)
}

func readFolderName(name string) (id string, pid int32, started uint64, ok bool) {
	m := folderForm.FindStringSubmatch(name)
	if m == nil {
		return "", 0, 0, false
	}
	p, err := decimal(m[2])
	started, err2 := decimal(m[3])
	return m[1], int32(p), started, err == nil && err2 == nil
}

// sessions are the folders of sessions, wherever they are.
func (h *hierarchy) sessions() ([]string, error) {
	var out []string
	err := filepath.WalkDir(h.mount, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // it has gone meanwhile
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case managerForm.MatchString(d.Name()):
			return fs.SkipDir
		}
		// A user may have folders of his own, of any name.
		if _, _, _, ok := readFolderName(d.Name()); ok && rootsFolder(path) && rootsFolder(filepath.Dir(path)) {
			out = append(out, path)
		}
		return nil
	})
	return out, err
}

// move puts a process, with all its threads, into dir.
func move(dir string, pid int32) error {
	err := writeFile(dir, "cgroup.procs", strconv.Itoa(int(pid)))
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w: there is no process %d", ErrProcess, pid)
	}
	return err
}

// writeFile never makes one.
func writeFile(dir, name, text string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

// populated: there is a process in dir or below it. One that is only not waited
// for yet does not count.
func populated(dir string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	switch text := "\n" + string(b); {
	case strings.Contains(text, "\npopulated 0\n"):
		return false, nil
	case strings.Contains(text, "\npopulated 1\n"):
		return true, nil
	}
	return false, fmt.Errorf("reading %s/cgroup.events: it has another form", dir)
}

// inFolder are the pids in dir and below it, at most limit.
func inFolder(dir string, limit int) ([]int32, error) {
	var out []int32
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			var b []byte
			if b, err = os.ReadFile(filepath.Join(path, "cgroup.procs")); err == nil {
				for word := range strings.FieldsSeq(string(b)) {
					if len(out) == limit {
						return fs.SkipAll
					}
					// 0 is a process that our pid namespace does not have.
					if n, err := strconv.ParseInt(word, 10, 32); err == nil && n > 0 {
						out = append(out, int32(n))
					}
				}
			}
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil // it has gone meanwhile
		}
		return err
	})
	return out, err
}

// killFolder kills all in dir and below it, whatever they do meanwhile.
func killFolder(dir string) error {
	err := writeFile(dir, "cgroup.kill", "1")
	if !errors.Is(err, fs.ErrNotExist) || !rootsFolder(dir) {
		return err
	}
	// Linux before 5.14. What is frozen can be killed, and starts nothing.
	if err := writeFile(dir, "cgroup.freeze", "1"); err != nil {
		return err
	}
	pids, err := inFolder(dir, 1<<22)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if p, err := readProcess(pid); err == nil {
			signalTo(p, inDir(pid, dir), unix.SIGKILL)
		}
	}
	return writeFile(dir, "cgroup.freeze", "0")
}

// inDir makes sure that a pid is one of dir's.
func inDir(pid int32, dir string) func() bool {
	return func() bool {
		b, err := os.ReadFile(procFile(pid, "cgroup"))
		base := filepath.Base(dir)
		for line := range strings.Lines(string(b)) {
			if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok && err == nil {
				return strings.Contains(path+"/", "/"+base+"/") // the name has id, pid and start time
			}
		}
		return false
	}
}

// removeFolder removes dir and what is below it; all must be empty.
func removeFolder(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := unix.Rmdir(dirs[i]); err != nil && err != unix.ENOENT {
			return fmt.Errorf("removing %s: %w", dirs[i], err)
		}
	}
	return nil
}
