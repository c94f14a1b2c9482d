package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/site"
)

// scene is the site and what the story needs of it.
type scene struct {
	*site.Site
	web, db    *testenv.Host
	alice, bob *testenv.Key
	failed     bool
	said       string // what the present step has to say
}

// world runs inside the sandbox: it tells the story and then stays, as the
// parent of every daemon in it.
func world() (int, error) {
	ctx, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	w, err := testenv.NewWorld(testenv.WorldConfig{})
	if err != nil {
		return 1, err
	}
	s := &scene{}
	if s.Site, err = site.New(ctx, w, site.Config{Hosts: []string{"web1", "db1"}}); err != nil {
		return 1, err
	}
	s.web, s.db = s.Hosts[0], s.Hosts[1]
	s.tell()
	code := 0
	if s.failed {
		code = 1
		w.ShowLogs(func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) })
	}
	fmt.Printf("%s%d\n", endMark, code)
	select {} // until the sandbox is stopped
}

// step runs one part of the story and prints how it went and how long it took.
// After a part that failed the story goes on only when the rest can stand
// without it.
func (s *scene) step(what string, f func() error) bool {
	t := time.Now()
	s.said = ""
	err := f()
	took := time.Since(t)
	if err != nil {
		s.failed = true
		fmt.Printf("FAIL  %-74s %8s\n      %s\n", what, round(took), strings.ReplaceAll(err.Error(), "\n", "\n      "))
		return false
	}
	fmt.Printf("ok    %-74s %8s\n", what, round(took))
	if s.said != "" {
		fmt.Printf("      %s\n", strings.ReplaceAll(s.said, "\n", "\n      "))
	}
	return true
}

// note is printed below a step that went well.
func (s *scene) note(format string, args ...any) { s.said = fmt.Sprintf(format, args...) }

func round(d time.Duration) string {
	if d < 100*time.Millisecond {
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}

// why asks the host itself, and wants its answer to hold all of the words.
func (s *scene) why(on *testenv.Host, user string, code int, words ...string) error {
	target := s.web.Name
	args := []string{"why", user, "keys", target}
	out, err := on.Command(s.Ctx, "/usr/local/bin/sekisho", args...).CombinedOutput()
	if got := site.ExitCode(err); got != code {
		return fmt.Errorf("sekisho %s: exit code %d, want %d: %s", strings.Join(args, " "), got, code, out)
	}
	for _, w := range words {
		if !strings.Contains(string(out), w) {
			return fmt.Errorf("sekisho %s does not say %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
	return nil
}

// machines makes them known to demo enter, and the client able to log in.
func (s *scene) machines() error {
	if err := os.MkdirAll(pidDir, 0o755); err != nil {
		return err
	}
	for _, h := range append(s.All(), s.Client) {
		if err := os.WriteFile(pidDir+"/"+h.Name, fmt.Append(nil, h.Pid), 0o644); err != nil {
			return err
		}
	}
	var err error
	if s.alice, err = testenv.NewKey("alice@client"); err != nil {
		return err
	}
	if s.bob, err = testenv.NewKey("bob@client"); err != nil {
		return err
	}
	// For a person who comes to look: `ssh alice@web1` on the client just works.
	conf := "Host *\n  IdentityFile /root/.ssh/%r\n  IdentitiesOnly yes\n  KexAlgorithms curve25519-sha256\n"
	for path, data := range map[string][]byte{"alice": s.alice.Private, "bob": s.bob.Private, "config": []byte(conf)} {
		if err := s.Client.WriteFile("/root/.ssh/"+path, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
