package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/site"
	"github.com/sekisho/sekisho/wire"
)

// seed is the secret of alice's token, which her app would have by the QR code.
const seed = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"

// code is what her app shows now, by Debian's oathtool.
func (s *scene) code() (string, error) {
	out, err := s.Client.Command(s.Ctx, "oathtool", "--totp", "-b", seed).Output()
	return strings.TrimSpace(string(out)), err
}

// nextCode waits for a code that was not shown yet: one is good once.
func (s *scene) nextCode(last string) (string, error) {
	for {
		c, err := s.code()
		if err != nil || c != last {
			return c, err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// byCode is an ssh that is asked for the password and a code, and gives them.
func (s *scene) byCode(code string, to *testenv.Host) (string, error) {
	script := "#!/bin/sh\ncase $1 in *ode*) echo " + code + " ;; *) echo '" + fresh + "' ;; esac\n"
	if err := s.Client.WriteFile("/root/askpass", []byte(script), 0o700); err != nil {
		return "", err
	}
	c := s.Client.SSH(s.Ctx, testenv.SSHCall{To: to, User: "alice", Command: "id -un", Options: []string{
		"BatchMode=no", "PreferredAuthentications=keyboard-interactive", "NumberOfPasswordPrompts=1"}})
	c.Env = append(c.Env, "SSH_ASKPASS=/root/askpass", "SSH_ASKPASS_REQUIRE=force", "DISPLAY=none")
	out, err := c.CombinedOutput()
	return string(out), err
}

// oneTimeCodes: at the doors, and at the KDC.
func (s *scene) oneTimeCodes() {
	var used string
	s.step("`sekisho otp enrol alice`; a rule asks for password and code", func() error {
		if err := s.Broker.WriteFile("/root/seed", []byte(seed+"\n"), 0o600); err != nil {
			return err
		}
		return errors.Join(
			s.Run("", "otp", "enrol", "alice", "--yes", "--secret-file", "/root/seed"),
			s.Run("", "rule", "set", "operators", "--proof", "password", "--proof", "otp"))
	})
	s.step("ssh asks for both: she gets in; the password alone does not do", func() (err error) {
		err = s.Soon(time.Minute, func() error {
			if _, err := s.byPassword(fresh, s.web, "true"); err == nil {
				return errors.New("the password alone opens web1")
			}
			return nil
		})
		if err != nil {
			return err
		}
		if used, err = s.code(); err != nil {
			return err
		}
		out, err := s.byCode(used, s.web)
		return site.Said(err, out)
	})
	s.step("the same code again, on the other host: refused", func() error {
		if out, err := s.byCode(used, s.db); err == nil {
			return site.Said(errors.New("a used code opens db1"), out)
		}
		return nil
	})
	s.step("the KDC asks for it too: kinit, with an armour by anonymous PKINIT", func() (err error) {
		if err := s.Run("", "user", "set", "alice", "--kdc-otp", "on"); err != nil {
			return err
		}
		if err := s.onClient("", "kinit", "-n", "-c", "FILE:/root/armour"); err != nil {
			return err
		}
		if s.kinit(fresh) == nil {
			return errors.New("kinit does without the code")
		}
		if used, err = s.nextCode(used); err != nil {
			return err
		}
		if err := s.onClient(fresh+used+"\n", "kinit", "-T", "FILE:/root/armour", "alice"); err != nil {
			return err
		}
		if s.onClient(fresh+used+"\n", "kinit", "-T", "FILE:/root/armour", "alice") == nil {
			return errors.New("kinit takes a code twice")
		}
		return nil
	})
	s.step("her password and a code still open web1, where the broker is asked for both", func() (err error) {
		if used, err = s.nextCode(used); err != nil {
			return err
		}
		out, err := s.byCode(used, s.web)
		return site.Said(err, out)
	})
	s.step("without codes again, for the rest of the story", func() error {
		return errors.Join(s.Run("", "user", "set", "alice", "--kdc-otp", "off"), s.Run("", "otp", "rm", "alice", "--yes"),
			s.Run("", "rule", "set", "operators", "--proof", ""),
			s.Soon(time.Minute, func() error { _, err := s.byPassword(fresh, s.web, "true"); return err }))
	})
}

// guesses is how many wrong passwords a spray tries.
const guesses = 5000

// spray: many wrong passwords from many networks, for alice and everybody else,
// while she signs in.
func (s *scene) spray() {
	s.step(fmt.Sprintf("%d wrong passwords from 250 networks; alice signs in at once meanwhile", guesses), func() error {
		stop := make(chan struct{})
		work := make(chan int)
		var all sync.WaitGroup
		var mu sync.Mutex
		answers := map[string]int{}
		for range 400 {
			all.Go(func() {
				for n := range work {
					word, err := s.guess(n)
					if err != nil {
						word = err.Error()
					}
					mu.Lock()
					answers[word]++
					mu.Unlock()
				}
			})
		}
		go func() {
			defer close(work)
			for n := range guesses {
				select {
				case work <- n:
				case <-stop:
					return
				}
			}
		}()
		var slowest time.Duration
		var failed error
		for range 5 {
			began := time.Now()
			out, err := s.byPassword(fresh, s.web, "true")
			slowest = max(slowest, time.Since(began))
			if failed = site.Said(err, out); failed != nil {
				break
			}
			time.Sleep(time.Second)
		}
		if failed != nil {
			close(stop)
		}
		all.Wait()
		if failed != nil {
			return fmt.Errorf("she does not get in: %w; the others heard %v", failed, answers)
		}
		for word := range answers {
			if !strings.HasPrefix(word, wire.No.String()) && !strings.HasPrefix(word, wire.Unknown.String()) {
				return fmt.Errorf("a guess heard %q", word)
			}
		}
		s.note("her slowest sign-in took %d ms", slowest.Milliseconds())
		return nil
	})
	s.step("`sekisho lockouts ls` names who must wait; clear forgets them", func() error {
		out, err := s.Broker.Command(s.Ctx, site.Sekisho, "lockouts", "ls", "--json").Output()
		if err != nil {
			return site.Said(err, string(out))
		}
		var list json.RawMessage
		if err := json.Unmarshal(out, &list); err != nil || len(list) < 10 {
			return site.Said(errors.Join(err, errors.New("nobody must wait")), string(out))
		}
		return s.Run("", "lockouts", "clear", "--all")
	})
}

// guess tries one wrong password at web1's PAM door, as sshd would from some
// network, and returns what it hears.
func (s *scene) guess(n int) (string, error) {
	user := "alice"
	if n%3 != 0 {
		user = fmt.Sprintf("user%d", n%97)
	}
	conn, err := net.Dial("unix", s.web.Path("/run/sekisho/pam.sock"))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	a, err := wire.Ask(conn, wire.Request{Verb: "auth", Fields: []wire.Field{{Name: "user", Value: user}, {Name: "service", Value: "sshd"},
		{Name: "rhost", Value: fmt.Sprintf("198.18.%d.%d", n%250, 1+n/250%250)}}})
	if err != nil || a.Reason != "prompt" {
		return "", fmt.Errorf("instead of a prompt: %v, %w", a, err)
	}
	if a, err = wire.Ask(conn, wire.Request{Verb: "answer", Fields: []wire.Field{{Name: "a1", Value: fmt.Sprintf("guess %d", n)}}}); err != nil {
		return "", err
	}
	return a.Outcome.String() + " " + a.Text, nil
}
