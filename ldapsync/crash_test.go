package ldapsync

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/testenv"
)

// childEnv names the state directory for a child process that only syncs, and
// after a space its URL.
const childEnv = "SEKISHO_LDAPSYNC_CHILD"

// child follows the directory until it is killed.
func child(arg string) {
	dir, url, _ := strings.Cut(arg, " ")
	s, err := New(Config{Provider: Provider{URLs: []string{url}, External: true}, BaseDN: testBase, StateDir: dir, Log: quietLog(),
		ProbeEvery: 20 * time.Millisecond, BackoffMin: 5 * time.Millisecond})
	if err == nil {
		err = s.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestKilled kills a syncing process again and again while changes go on. What
// is on disk is always a state that the directory had, and never an older one
// than before.
func TestKilled(t *testing.T) {
	const users = 10
	d := startDirectory(t, testenv.SlapdConfig{Debug: "0", NoSync: true})
	for i := range users {
		d.user(fmt.Sprintf("u%d", i), 2001+i, "gecos", "0")
	}
	dir := t.TempDir()
	step, before, progress, idle := 0, 0, 0, 0
	for round := 0; round < 40 || progress < 10; round++ {
		if round == 200 {
			t.Fatalf("only in %d of %d rounds something came to the disk: the test tests nothing", progress, round)
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), childEnv+"="+dir+" "+d.LDAPI)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// On a slow machine it gets nowhere in so short a life: then the next one lives longer.
		life := time.Duration(20+rand.IntN(150)*(1+idle)) * time.Millisecond
		for end := time.Now().Add(life); time.Now().Before(end); {
			step++
			d.modify(userDN(fmt.Sprintf("u%d", step%users)), "replace", "gecos", strconv.Itoa(step))
		}
		cmd.Process.Kill()
		cmd.Wait()
		if stderr.Len() > 0 {
			t.Fatalf("the child said %s", stderr.String())
		}
		b, l := readStore(t, dir)
		b.s.stop()
		for _, f := range l.faults {
			// What was being written, be it a file's first record, is no fault of the
			// disk's, but it is told.
			if !strings.Contains(f.Error(), "cut or damaged") {
				t.Error(f)
			}
		}
		if b.m.cur == nil {
			if before > 0 {
				t.Fatalf("round %d: the snapshot is lost", round)
			}
			idle++
			continue
		}
		at := 0
		got := map[int]int{}
		b.m.cur.Users(func(u *broker.User) bool {
			n, err := strconv.Atoi(u.Gecos)
			if err != nil {
				t.Fatal(err)
			}
			i, _ := strconv.Atoi(string(u.Name[1:]))
			got[i] = n
			at = max(at, n)
			return true
		})
		for i := range users {
			want := at - (at-i+10*users)%users
			if want < 0 {
				want = 0
			}
			if i == 0 && want == 0 || got[i] == want {
				continue
			}
			t.Fatalf("round %d: at step %d user %d stands at %d, not %d: this was never so", round, at, i, got[i], want)
		}
		if at < before {
			t.Fatalf("round %d: step %d, but step %d was on disk before", round, at, before)
		}
		idle++
		if at > before {
			progress++
			idle = 0
		}
		before = at
	}
}
