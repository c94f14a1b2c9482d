// Package leaks looks for a test run's secrets where none may be: in the
// arguments and environments of all processes while they run, and at the end in
// the daemons' logs and what the hosts keep in files that others read.
package leaks

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

// Watch knows the secrets of a run and reads the arguments and environment of
// every process of the sandbox. Its methods may be called from any goroutine.
type Watch struct {
	stop, done chan struct{}
	seen       map[string]bool // by arguments and environment; the loop's until done

	mu      sync.Mutex
	secrets []string // guarded by mu
	folders []folder // guarded by mu
}

// folder is one of each host, with parts of it that are left out.
type folder struct {
	dir    string
	except []string
}

// Below has Search look at all files of a folder of each host too, except in some
// folders below it, which are there to hold secrets.
func (w *Watch) Below(dir string, except ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.folders = append(w.folders, folder{dir, except})
}

// Start begins to watch. Only inside the sandbox.
func Start() *Watch {
	w := &Watch{stop: make(chan struct{}), done: make(chan struct{}), seen: map[string]bool{}}
	go w.run()
	return w
}

// Secret notes s down for the search, and returns it. It must be long enough to
// be found nowhere by chance.
func (w *Watch) Secret(s string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets = append(w.secrets, s)
	return s
}

// needles are the forms in which a secret could have got out. Of base64 the
// last character may hold bits of what follows.
func (w *Watch) needles() (forms [][]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.secrets {
		b64 := base64.RawStdEncoding.EncodeToString([]byte(s))
		x := hex.EncodeToString([]byte(s))
		for _, f := range []string{s, x, strings.ToUpper(x), b64[:len(b64)-1]} {
			forms = append(forms, []byte(f))
		}
	}
	return forms
}

// holds names the secret in b by its first characters, or is empty.
func holds(b []byte, forms [][]byte) string {
	for _, f := range forms {
		if i := bytes.Index(b, f); i >= 0 {
			return fmt.Sprintf("%.8s… after %q", f, b[max(0, i-60):i])
		}
	}
	return ""
}

func (w *Watch) run() {
	defer close(w.done)
	looks := map[string]int{}
	for {
		select {
		case <-w.stop:
			return
		case <-time.After(10 * time.Millisecond):
		}
		procs, err := os.ReadDir("/proc")
		if err != nil {
			continue
		}
		for _, p := range procs {
			n := p.Name()
			if n[0] < '0' || n[0] > '9' || looks[n] >= 3 { // the first look may be before its execve
				continue
			}
			looks[n]++
			for _, f := range []string{"/cmdline", "/environ"} {
				if b, err := os.ReadFile("/proc/" + n + f); err == nil && len(b) > 0 {
					w.seen[string(b)] = true
				}
			}
		}
	}
}

// Search ends the watch and looks for every secret in the arguments and
// environments that were seen, in all daemons' logs, and in each host's /run,
// /var/log and snapshots. The error names each find.
func (w *Watch) Search(worlds ...*testenv.World) error {
	close(w.stop)
	<-w.done
	forms := w.needles()
	if len(forms) < 8 || len(w.seen) < 20 {
		return fmt.Errorf("the search saw %d forms of secrets and %d processes: it cannot be right", len(forms), len(w.seen))
	}
	var found []error
	for args := range w.seen {
		if what := holds([]byte(args), forms); what != "" {
			found = append(found, fmt.Errorf("a process's arguments or environment %.80q: %s", args, what))
		}
	}
	files := 0
	search := func(root string, want func(path string) bool) {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || !want(path) {
				return nil // gone meanwhile, or nothing to read
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			files++
			if what := holds(b, forms); what != "" {
				found = append(found, fmt.Errorf("%s: %s", path, what))
			}
			return nil
		})
		if err != nil {
			found = append(found, err)
		}
	}
	w.mu.Lock()
	folders := slices.Clone(w.folders)
	w.mu.Unlock()
	logs, below := 0, 0
	search("/mnt", func(path string) bool { // where testenv keeps the daemons' output
		ok := filepath.Base(filepath.Dir(path)) == "log"
		if ok {
			logs++
		}
		return ok
	})
	for _, world := range worlds {
		for _, h := range world.Hosts() {
			for _, dir := range []string{"/run", "/var/log", "/var/lib/sekisho/snapshot"} {
				search(h.Path(dir)+"/", func(path string) bool {
					return !strings.Contains(path, "/run/slapd-") // testenv's own directories, with all that they hold
				})
			}
			for _, f := range folders {
				before := files
				search(h.Path(f.dir)+"/", func(path string) bool {
					return !slices.ContainsFunc(f.except, func(e string) bool { return strings.HasPrefix(path, h.Path(e)+"/") })
				})
				below += files - before
			}
		}
	}
	if len(folders) > 0 && below < 4 {
		found = append(found, fmt.Errorf("the search read %d files of the hosts' folders: it cannot be right", below))
	}
	if logs < 4 || files < logs+4 {
		found = append(found, fmt.Errorf("the search read %d files, %d of them logs: it cannot be right", files, logs))
	}
	return errors.Join(found...)
}
