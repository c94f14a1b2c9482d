package enrol

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// journal is what one run is about to change, and what was there.
type journal struct {
	Version  int       `json:"version"`
	Made     time.Time `json:"made"`
	Host     string    `json:"host"`
	Accounts []string  `json:"accounts,omitempty"` // that were not there
	StateDir bool      `json:"state_dir"`          // neither was sekishod's
	Unit     bool      `json:"unit,omitempty"`     // systemd may have been told of it
	SSH      bool      `json:"ssh,omitempty"`      // sshd may have been told to read anew
	Dirs     []string  `json:"dirs,omitempty"`     // that were not there, parents first
	Files    []record  `json:"files"`
}

// record is a file of a journal. Backup is the name of its former content in
// the run's folder; After the SHA-256 of what it will hold.
type record struct {
	Path    string    `json:"path"`
	Existed bool      `json:"existed"`
	Mode    uint32    `json:"mode,omitempty"`
	UID     int       `json:"uid,omitempty"`
	GID     int       `json:"gid,omitempty"`
	Changed time.Time `json:"changed,omitzero"`
	Backup  string    `json:"backup,omitempty"`
	After   string    `json:"after"`
}

const (
	journalFile = "journal.json"
	doneFile    = "done"
	stateDir    = "/var/lib/sekisho"
)

var runName = regexp.MustCompile(`^[0-9]{4}$`)

// store is the folder of all journals, locked.
type store struct {
	dir  string
	lock *os.File
}

// open makes the folder and locks it; another run that goes on is an error.
func open(dir string) (*store, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	var st syscall.Stat_t
	if err := syscall.Lstat(dir, &st); err != nil {
		return nil, err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFDIR || st.Mode&0o077 != 0 || int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%s must be a folder of root's with mode 0700: it says what root's files become", dir)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, errors.New("another sekisho host enrol is at work on this machine: wait for it")
	}
	s := &store{dir: dir, lock: f}
	for _, old := range s.names("new-", "gone-") { // what a killed run left; nothing counts on it
		if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *store) close() { s.lock.Close() }

// names lists what begins with one of the words.
func (s *store) names(prefixes ...string) (out []string) {
	es, _ := os.ReadDir(s.dir)
	for _, e := range es {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(e.Name(), p) }) {
			out = append(out, e.Name())
		}
	}
	return out
}

// run is one journal on disk.
type run struct {
	path string
	done bool
	journal
}

// runs are all journals, the first one first.
func (s *store) runs() ([]run, error) {
	es, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var out []run
	for _, e := range es {
		if !runName.MatchString(e.Name()) {
			continue
		}
		r := run{path: filepath.Join(s.dir, e.Name())}
		b, err := os.ReadFile(filepath.Join(r.path, journalFile))
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(b, &r.journal); err != nil || r.Version != 1 {
			return nil, fmt.Errorf("%s cannot be read: the former files are beside it, put them back by hand", filepath.Join(r.path, journalFile))
		}
		if _, err := os.Stat(filepath.Join(r.path, doneFile)); err == nil {
			r.done = true
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// commit writes a plan's journal, whole or not at all. After it, undo works.
func (s *store) commit(p *Plan, now time.Time) (run, error) {
	all, err := s.runs()
	if err != nil {
		return run{}, err
	}
	n := 1
	if len(all) > 0 {
		if n, err = strconv.Atoi(filepath.Base(all[len(all)-1].path)); err != nil {
			return run{}, err
		}
		n++
	}
	name := fmt.Sprintf("%04d", n)
	if !runName.MatchString(name) {
		return run{}, fmt.Errorf("%s is full: sekisho host enrol --undo", s.dir)
	}
	tmp := filepath.Join(s.dir, "new-"+name)
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return run{}, err
	}
	r := run{path: filepath.Join(s.dir, name), journal: journal{Version: 1, Made: now.UTC(), Host: p.Host,
		Accounts: p.Accounts, Unit: p.Unit, SSH: p.SSH, Dirs: p.dirs}}
	if _, err := os.Lstat(stateDir); errors.Is(err, fs.ErrNotExist) {
		r.StateDir = true
	} else if err != nil {
		return run{}, err
	}
	for i, ch := range p.changes {
		sum := sha256.Sum256(ch.after.data)
		e := record{Path: ch.path, Existed: ch.before.exists, After: hex.EncodeToString(sum[:])}
		if b := ch.before; b.exists {
			e.Mode, e.UID, e.GID, e.Changed, e.Backup = uint32(b.mode), b.uid, b.gid, b.changed, fmt.Sprintf("file-%d", i)
			if err := writeNew(filepath.Join(tmp, e.Backup), state{exists: true, data: b.data, mode: 0o600, uid: os.Geteuid(), gid: os.Getegid()}); err != nil {
				return run{}, err
			}
		}
		r.Files = append(r.Files, e)
	}
	b, err := json.MarshalIndent(r.journal, "", "  ")
	if err != nil {
		return run{}, err
	}
	if err := writeNew(filepath.Join(tmp, journalFile), state{exists: true, data: b, mode: 0o600, uid: os.Geteuid(), gid: os.Getegid()}); err != nil {
		return run{}, err
	}
	if err := syncDir(tmp); err != nil {
		return run{}, err
	}
	if err := os.Rename(tmp, r.path); err != nil {
		return run{}, err
	}
	return r, syncDir(s.dir)
}

// confirm marks a run as one that stays.
func (r run) confirm() error {
	if err := writeNew(filepath.Join(r.path, doneFile), state{exists: true, mode: 0o600, uid: os.Geteuid(), gid: os.Getegid()}); err != nil {
		return err
	}
	return syncDir(r.path)
}

// forget takes a run that was put back out of the journal.
func (s *store) forget(r run) error {
	gone := filepath.Join(s.dir, "gone-"+filepath.Base(r.path))
	if err := os.Rename(r.path, gone); err != nil {
		return err
	}
	if err := syncDir(s.dir); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// EditedError says that files were changed by somebody else since.
type EditedError struct{ Paths []string }

func (e *EditedError) Error() string {
	return "changed by somebody else since, and putting them back would lose that: " + strings.Join(e.Paths, ", ")
}

// former is what a file was before a run.
func (r run) former(e record) (state, error) {
	if !e.Existed {
		return state{}, nil
	}
	data, err := os.ReadFile(filepath.Join(r.path, e.Backup))
	return state{exists: true, data: data, mode: fs.FileMode(e.Mode), uid: e.UID, gid: e.GID, changed: e.Changed}, err
}

// edited are the files that are neither as they were before r nor as r made them.
func (r run) edited() (paths []string, err error) {
	for _, e := range r.Files {
		was, err := r.former(e)
		if err != nil {
			return nil, err
		}
		now, err := readState(e.Path)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(now.data)
		isOurs := now.exists && hex.EncodeToString(sum[:]) == e.After
		isFormer := now.exists == was.exists && string(now.data) == string(was.data)
		if !isOurs && !isFormer {
			paths = append(paths, e.Path)
		}
	}
	return paths, nil
}

// restore puts back what r changed, the last first; files that somebody else has
// changed are kept in keep. It may be broken off and begun again.
func (r run) restore(ctx context.Context, c Config, keep string) error {
	edited, err := r.edited()
	if err != nil {
		return err
	}
	if len(edited) > 0 && keep == "" {
		return &EditedError{edited}
	}
	made := func(path string) bool {
		return slices.ContainsFunc(r.Files, func(e record) bool { return e.Path == path && !e.Existed })
	}
	if made(configFile) {
		stopUnit(ctx, c)
	}
	for i := len(r.Files) - 1; i >= 0; i-- {
		e := r.Files[i]
		was, err := r.former(e)
		if err != nil {
			return err
		}
		now, err := readState(e.Path)
		if err != nil {
			return err
		}
		c.Step("undo " + e.Path)
		if slices.Contains(edited, e.Path) && now.exists {
			if err := os.MkdirAll(keep, 0o700); err != nil {
				return err
			}
			if err := write(filepath.Join(keep, strings.ReplaceAll(strings.Trim(e.Path, "/"), "/", "-")), now); err != nil {
				return fmt.Errorf("keeping %s: %w", e.Path, err)
			}
		}
		if err := os.Remove(beside(e.Path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if now.same(was) {
			continue
		}
		if err := write(e.Path, was); err != nil {
			return fmt.Errorf("putting back %s: %w", e.Path, err)
		}
	}
	for i := len(r.Dirs) - 1; i >= 0; i-- {
		c.Step("undo folder " + r.Dirs[i])
		if err := os.Remove(r.Dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
	}
	if r.Unit || r.SSH {
		c.Step("undo services")
		tellServices(ctx, c, r.SSH)
	}
	return r.restoreAccounts(ctx, c)
}

// restoreAccounts removes the accounts that r made, and what belongs to them.
func (r run) restoreAccounts(ctx context.Context, c Config) error {
	if len(r.Accounts) == 0 {
		return nil
	}
	if r.StateDir && slices.Contains(r.Accounts, User) {
		for _, dir := range []string{stateDir, "/run/sekisho"} {
			c.Step("undo " + dir)
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	for _, name := range r.Accounts {
		c.Step("undo account " + name)
		if err := removeAccount(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
