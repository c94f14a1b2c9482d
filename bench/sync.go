package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/testenv"
)

// stateMount is where the folders of sekishod's snapshots are: on the disk
// that the module is on, not in the sandbox's memory.
const stateMount = "/var/lib/sekisho-bench"

const maxPerUser = 700 // bytes resident

// measureSync compares first syncs with ldapsearch, and looks at memory and at
// changes with the largest directory.
func measureSync(ctx context.Context, b *bench) (err error) {
	sizes := []struct{ users, rounds int }{{10_000, 15}, {100_000, 7}, {1_000_000, 3}}
	if *quick {
		sizes = []struct{ users, rounds int }{{2000, 2}, {10_000, 2}}
	}
	unmount, err := mountState()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	search, err := searchOf(ctx, sizes[0].users)
	if err != nil {
		return fmt.Errorf("learning what sekishod searches for: %w", err)
	}
	for i, size := range sizes {
		if size.users > *most {
			break
		}
		last := i == len(sizes)-1 || sizes[i+1].users > *most
		if err := syncs(ctx, b, syncRun{users: size.users, rounds: size.rounds, search: search, last: last, small: sizes[0].users}); err != nil {
			return fmt.Errorf("%s users: %w", thousands(size.users), err)
		}
	}
	return nil
}

// mountState gives sekishod's snapshots a place on the disk.
func mountState() (unmount func() error, err error) {
	dir := filepath.Join(workDir, "state")
	if err := os.RemoveAll(dir); err != nil { // of a run that was killed
		return nil, err
	}
	for _, d := range []string{dir, stateMount} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := ownerOf(workDir); err != nil {
		return nil, err
	}
	if err := unix.Mount(dir, stateMount, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("mounting %s: %w", dir, err)
	}
	return func() error {
		return errors.Join(unix.Unmount(stateMount, unix.MNT_DETACH), os.RemoveAll(dir))
	}, nil
}

type syncRun struct {
	users, rounds int
	search        []string // ldapsearch's filter and attributes
	last          bool     // the largest: look at memory and changes, too
	small         int      // users to compare changes with
}

func syncs(ctx context.Context, b *bench, r syncRun) (err error) {
	d, err := startDirectory(ctx, r.users, 1389, "0")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	peer, err := ldapsearch(d, r.search)
	if err != nil {
		return err
	}
	here, stop := startOn(nil)
	defer func() { err = errors.Join(err, stop()) }()
	if r := here.run(peer); r.err != nil { // slapd's caches are warm for both
		return r.err
	}
	var ours, theirs, cpu, peerCPU, slapdCPU []float64
	for i := range r.rounds {
		if err := ctx.Err(); err != nil {
			return err
		}
		before, err := cpuOf(d.Daemon)
		if err != nil {
			return err
		}
		s, err := firstSync(ctx, d, r.users)
		if err != nil {
			return err
		}
		after, err := cpuOf(d.Daemon)
		if err != nil {
			return err
		}
		used, err := cpuOf(s.Daemon)
		if err != nil {
			return err
		}
		ours = append(ours, s.first.Seconds())
		cpu = append(cpu, used.Seconds())
		slapdCPU = append(slapdCPU, (after - before).Seconds())
		if r.last && i == r.rounds-1 {
			err = resting(ctx, b, r, d, s)
		}
		if err := errors.Join(err, s.Stop()); err != nil {
			return err
		}
		t := here.run(peer)
		if t.err != nil {
			return t.err
		}
		theirs = append(theirs, t.took.Seconds())
		peerCPU = append(peerCPU, t.cpu.Seconds())
	}
	b.table.add(row{name: "first sync of " + thousands(r.users) + " users", ours: median(ours), peer: median(theirs),
		peerName: "ldapsearch of the same to /dev/null", unit: "s", bound: bound{"ratio", "<=", 1.3},
		note: fmt.Sprintf("%d rounds; of CPU, sekishod used %.2f s, ldapsearch %.2f s, and slapd %.2f s for a search, on %d cores",
			r.rounds, median(cpu), median(peerCPU), median(slapdCPU), runtime.NumCPU())})
	return nil
}

// firstSync starts a sekishod that knows nothing.
func firstSync(ctx context.Context, d *testenv.Slapd, users int) (*sekishod, error) {
	name := thousands(users)
	state := filepath.Join(stateMount, name)
	if err := os.RemoveAll(state); err != nil {
		return nil, err
	}
	return startSekishod(ctx, sekishodConfig{name: name, url: d.URL, users: users, state: state})
}

// resting looks at a sekishod that has read the largest directory.
func resting(ctx context.Context, b *bench, r syncRun, d *testenv.Slapd, s *sekishod) error {
	if err := memoryOf(ctx, b, r.users, s); err != nil {
		return err
	}
	if err := visible(ctx, b, r.users, d, s); err != nil {
		return err
	}
	return changes(ctx, b, r, d, s)
}

// memoryOf waits until what the sync needed is given back, and takes the
// median of some looks.
func memoryOf(ctx context.Context, b *bench, users int, s *sekishod) error {
	var looks []float64
	var highest float64
	for i := range pick(100, 10) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		rss, peak, err := s.memory()
		if err != nil {
			return err
		}
		if highest = peak; i >= pick(50, 5) {
			looks = append(looks, rss)
		}
	}
	rss := median(looks)
	b.table.add(row{name: "resident memory of sekishod, " + thousands(users) + " users", ours: rss / float64(users), peer: math.NaN(),
		unit: "bytes/user", bound: bound{"ours", "<=", maxPerUser}})
	b.table.add(row{name: "its peak, in the first sync", ours: highest / float64(users), peer: math.NaN(), unit: "bytes/user"})
	return nil
}

// ldapsearch is the peer: the same search, the same bind, its output thrown
// away.
func ldapsearch(d *testenv.Slapd, search []string) (command, error) {
	const file = "/run/bench-password" // ldapsearch takes a newline for a part of it
	if err := os.WriteFile(file, []byte(readerPW), 0o600); err != nil {
		return command{}, err
	}
	args := []string{"/usr/bin/ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", d.URL, "-D", readerDN, "-y", file, "-b", suffix}
	return command{args: append(args, search...)}, nil
}

var (
	searchLine = regexp.MustCompile(`(conn=\d+ op=\d+) SRCH base="` + suffix + `" scope=2 deref=\d filter="(.*)"`)
	attrLine   = regexp.MustCompile(`(conn=\d+ op=\d+) SRCH attr=(.*)`)
)

// searchOf lets a sekishod read a directory and takes its filter and
// attributes from slapd's log, so that the peer asks for just the same.
func searchOf(ctx context.Context, users int) (_ []string, err error) {
	d, err := startDirectory(ctx, users, 1389, "stats")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	s, err := firstSync(ctx, d, users)
	if err != nil {
		return nil, err
	}
	if err := s.Stop(); err != nil {
		return nil, err
	}
	op := ""
	var search []string
	for line := range strings.Lines(d.Log()) {
		if m := searchLine.FindStringSubmatch(line); m != nil && op == "" {
			op, search = m[1], []string{m[2]}
		}
		if m := attrLine.FindStringSubmatch(line); m != nil && m[1] == op {
			search = append(search, strings.Fields(m[2])...)
		}
	}
	if len(search) < 2 {
		return nil, errors.New("slapd's log does not show a search of the whole tree with attributes")
	}
	return search, nil
}
