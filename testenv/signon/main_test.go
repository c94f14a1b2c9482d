package signon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/leaks"
)

// watch is for what must be seen nowhere; set before any world is made.
var watch *leaks.Watch

// calm is the realm that all tests share which disturb nobody: web1 and db1
// prove passwords by the KDC, ldap1 by a bind. Immutable after setUp.
var calm struct {
	*realm
	web, db, ldap *site
}

// worlds are all that were made, closed and searched at the end.
var worlds struct {
	mu  sync.Mutex
	all []*testenv.World
}

func TestMain(m *testing.M) { testenv.Main(runner(func() int { return run(m) })) }

type runner func() int

func (r runner) Run() int { return r() }

func showLogs() {
	for _, w := range worlds.all {
		w.ShowLogs(func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) })
	}
}

// run sets the calm realm up, runs the tests, and looks for secrets in what is
// left.
func run(m *testing.M) int {
	watch = leaks.Start()
	if err := setUp(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "setting up the world:", err)
		showLogs()
		return 1
	}
	code := m.Run()
	if err := watch.Search(worlds.all...); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: secrets:", err)
		code = max(code, 1)
	}
	if code != 0 {
		showLogs()
	}
	for _, w := range worlds.all {
		if err := w.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "closing a world:", err)
			code = max(code, 1)
		}
	}
	return code
}

func setUp(ctx context.Context) (err error) {
	for _, p := range []string{"sekisho", "sekishod", "sekisho-keys", "pam_sekisho.so"} {
		if _, err := testenv.Program(p); err != nil {
			return err
		}
	}
	if calm.realm, err = newRealm(ctx); err != nil {
		return err
	}
	if err := calm.client.AddUser(testenv.LocalUser{Name: "visitor"}); err != nil {
		return err
	}
	if err := calm.policies(); err != nil {
		return err
	}
	var errs [3]error
	var all sync.WaitGroup
	for i, h := range []struct {
		name, prover string
		to           **site
	}{{"web1", "kdc", &calm.web}, {"db1", "kdc", &calm.db}, {"ldap1", "ldap", &calm.ldap}} {
		all.Go(func() { *h.to, errs[i] = calm.join(ctx, joining{name: h.name, prover: h.prover}) })
	}
	all.Wait()
	return errors.Join(errs[:]...)
}
