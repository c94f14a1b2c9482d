package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/sekisho/sekisho/krb/accept"
	"github.com/sekisho/sekisho/krb/gss"
	"github.com/sekisho/sekisho/testenv"
)

// measureAccept counts the initiators' tokens that one core accepts and answers,
// with a replay cache in a file: ours and MIT's own with its default one. Both get
// the same tokens, which MIT's library made, in rounds that begin with an empty
// replay cache. CPU time is what counts; the wall's time is in the note.
func measureAccept(ctx context.Context, b *bench) (err error) {
	t, err := newTickets(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	n := pick(5000, 500)
	var ours, theirs, ourWall, theirWall []float64 // seconds for one
	for r := range pick(8, 3) {
		cpu, wall, err := t.round(ctx, n, r%2)
		if err != nil {
			return err
		}
		if r == 0 {
			continue // a warm-up
		}
		ours, theirs = append(ours, cpu[0]), append(theirs, cpu[1])
		ourWall, theirWall = append(ourWall, wall[0]), append(theirWall, wall[1])
	}
	b.table.add(row{name: "AP-REQs accepted and answered, one core, replay cache in a file", ours: 1 / median(ours), peer: 1 / median(theirs),
		peerName: "gss_accept_sec_context", unit: "1/s", bound: bound{"ratio", ">=", 2},
		note: fmt.Sprintf("by CPU time; by the clock on the wall %.0f and %.0f a second", 1/median(ourWall), 1/median(theirWall))})
	return nil
}

// tickets is a KDC of its own and what is needed to make and judge AP-REQs.
type tickets struct {
	dir, program, keytab string
	kdc                  *testenv.KDC
}

func newTickets(ctx context.Context) (_ *tickets, err error) {
	t := &tickets{}
	if t.dir, err = os.MkdirTemp("", "bench-accept"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	if t.program, err = compile(ctx, t.dir, "accept", "-lgssapi_krb5"); err != nil {
		return nil, err
	}
	if t.kdc, err = testenv.StartKDC(ctx, testenv.KDCConfig{Dir: t.dir}); err != nil {
		return nil, err
	}
	t.keytab = filepath.Join(t.dir, "keytab")
	const password = "correct horse"
	if err := errors.Join(t.kdc.AddUser(ctx, "alice", password), t.kdc.AddService(ctx, "host/web.example.org", t.keytab)); err != nil {
		return nil, err
	}
	kinit := t.command(ctx, "kinit", "alice")
	kinit.Stdin = strings.NewReader(password + "\n")
	_, err = output(kinit)
	return t, err
}

func (t *tickets) close() error {
	var err error
	if t.kdc != nil {
		err = t.kdc.Close()
	}
	return errors.Join(err, os.RemoveAll(t.dir))
}

func (t *tickets) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "KRB5_CONFIG=" + t.kdc.KRB5Conf, "KRB5CCNAME=FILE:" + t.dir + "/cc",
		"KRB5_KTNAME=FILE:" + t.keytab, "KRB5RCACHEDIR=" + t.dir}
	return c
}

// round has n fresh tokens judged by both, and returns the seconds that one took,
// ours at 0; first says who goes first.
func (t *tickets) round(ctx context.Context, n, first int) (cpu, wall [2]float64, err error) {
	// Before the tokens are made: our replay cache refuses what is older than it.
	replay, err := accept.OpenReplay(accept.ReplayConfig{Path: filepath.Join(t.dir, "replay")})
	if err != nil {
		return cpu, wall, err
	}
	defer func() { err = errors.Join(err, replay.Close(), t.forget()) }()
	file := filepath.Join(t.dir, "tokens")
	if _, err := output(t.command(ctx, t.program, "make", "host@web.example.org", fmt.Sprint(n), file)); err != nil {
		return cpu, wall, err
	}
	for _, who := range []int{first, 1 - first} {
		judge := t.theirs
		if who == 0 {
			judge = func(ctx context.Context, file string, n int) (float64, float64, error) {
				return t.ours(ctx, replay, file, n)
			}
		}
		if cpu[who], wall[who], err = judge(ctx, file, n); err != nil {
			return cpu, wall, err
		}
	}
	return cpu, wall, nil
}

// theirs has MIT's library judge the tokens of a file.
func (t *tickets) theirs(ctx context.Context, file string, n int) (cpu, wall float64, err error) {
	out, err := output(t.command(ctx, t.program, "judge", file))
	if err != nil {
		return 0, 0, err
	}
	var judged int
	if _, err := fmt.Sscan(out, &judged, &cpu, &wall); err != nil || judged != n {
		return 0, 0, fmt.Errorf("MIT's side judged %d tokens of %d: %q: %w", judged, n, out, err)
	}
	return cpu / float64(n) / 1e9, wall / float64(n) / 1e9, nil
}

// forget removes both replay caches.
func (t *tickets) forget() error {
	theirs := filepath.Join(t.dir, fmt.Sprintf("krb5_%d.rcache2", os.Geteuid()))
	if _, err := os.Stat(theirs); err != nil {
		return fmt.Errorf("MIT's replay cache was not used: %w", err)
	}
	return errors.Join(os.Remove(theirs), os.Remove(filepath.Join(t.dir, "replay")))
}

// ours has our acceptor judge them.
func (t *tickets) ours(ctx context.Context, replay accept.Replay, file string, n int) (cpu, wall float64, err error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, 0, err
	}
	var tokens [][]byte
	for len(raw) >= 4 {
		size := binary.NativeEndian.Uint32(raw)
		tokens = append(tokens, raw[4:4+size])
		raw = raw[4+size:]
	}
	if len(tokens) != n {
		return 0, 0, fmt.Errorf("%d tokens of %d were made", len(tokens), n)
	}
	keytab, err := accept.OpenKeytab(t.keytab)
	if err != nil {
		return 0, 0, err
	}
	judge, err := accept.New(accept.Config{Keytab: keytab, Replay: replay})
	if err != nil {
		return 0, 0, err
	}
	acceptor, err := gss.NewAcceptor(gss.Config{Tickets: judge})
	if err != nil {
		return 0, 0, err
	}
	runtime.GC()
	before, err := ownCPU()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	for _, token := range tokens {
		c, reply, err := acceptor.Accept(ctx, token, gss.Peer{})
		if err != nil {
			return 0, 0, err
		}
		if c.Flags()&gss.Mutual == 0 || len(reply) == 0 {
			return 0, 0, errors.New("a token without mutual authentication")
		}
	}
	took := time.Since(start)
	after, err := ownCPU()
	return (after - before).Seconds() / float64(n), took.Seconds() / float64(n), err
}

// compile makes a program of bench/NAME.c in dir.
func compile(ctx context.Context, dir, name string, libs ...string) (string, error) {
	path := filepath.Join(dir, name)
	args := append([]string{"-O2", "-Wall", "-Werror", "-o", path, "bench/" + name + ".c"}, libs...)
	if out, err := exec.CommandContext(ctx, "cc", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("compiling bench/%s.c: %w: %s", name, err, out)
	}
	return path, nil
}

// output runs a command; the error has what it said.
func output(c *exec.Cmd) (string, error) {
	out, err := c.Output()
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		err = fmt.Errorf("%q: %w: %s", c.Args, err, e.Stderr)
	}
	return string(out), err
}
