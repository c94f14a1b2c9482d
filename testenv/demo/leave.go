package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/site"
)

// four opens sessions of alice: two on each of two hosts; and they are known.
func (s *scene) four() (out []*site.Live, err error) {
	for _, h := range []*testenv.Host{s.web, s.db, s.web, s.db} {
		l, err := s.Stay("alice", s.alice, h)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, s.Known(s.Broker, "alice", 4)
}

// out wants sessions to be over soon after since: in less than a second, if the
// machine does not stall.
func (s *scene) out(since time.Time, lives ...*site.Live) (time.Duration, error) {
	took, err := s.Out(since, lives...)
	if err == nil && took > 5*time.Second {
		err = fmt.Errorf("the last one ended only after %v", took)
	}
	return took, err
}

// leaves takes alice's right away by do, and gives it back by undo: her four
// sessions end, bob's stays.
func (s *scene) leaves(how string, bob *site.Live, do, undo func() error) {
	s.step(how, func() (err error) {
		fours, err := s.four()
		if err != nil {
			return err
		}
		defer func() {
			err = errors.Join(err, undo(), s.Soon(time.Minute, func() error { return s.Login("alice", s.alice, s.db) }))
		}()
		if err := do(); err != nil {
			return err
		}
		took, err := s.out(time.Now(), fours...)
		if err != nil {
			return err
		}
		if !bob.Ended().IsZero() {
			return errors.New("bob's session has ended too")
		}
		line := ""
		for _, l := range fours { // a busy machine's sshd may not come to send each of them on
			line = cmp.Or(line, l.Line())
		}
		if line == "" {
			return errors.New("no terminal says why")
		}
		s.note("all four ended %d ms after the directory's answer; on the terminal: %s", took.Milliseconds(), line)
		return s.Known(s.Broker, "alice", 0)
	})
}

// leaveAtOnce is the story of those who must go.
func (s *scene) leaveAtOnce() {
	var bob *site.Live
	if !s.step("bob, with a rule of his own, stays logged in on web1 through all of this", func() (err error) {
		if err = s.Run("", "rule", "add", "bobs", "--subject", "user:bob", "--door", "keys", "--target", "host:web1"); err != nil {
			return err
		}
		return s.Soon(time.Minute, func() error { bob, err = s.Stay("bob", s.bob, s.web); return err })
	}) {
		return
	}
	s.leaves("alice, four sessions on two hosts, is taken out of a nested group", bob,
		func() error { return s.Run("", "group", "set", "admins", "--remove", "alice") },
		func() error { return s.Run("", "group", "set", "admins", "--add", "alice") })
	s.leaves("the same: her account is locked", bob,
		func() error { return s.Run("", "user", "set", "alice", "--lock") },
		func() error { return s.Run("", "user", "set", "alice", "--unlock") })
	s.leaves("the same: the key that she came in by is taken away", bob,
		func() error { return s.Run("", "key", "rm", "alice", "alice@client") },
		func() error { return s.Run("", "key", "add", "alice", "/root/alice.pub") })
	s.leaves("the same: the rule's time window is closed", bob,
		func() error {
			return s.Run("", "rule", "set", "operators", "--time", time.Now().UTC().Add(72*time.Hour).Format("Mon")+" 00:00-23:59 UTC")
		},
		func() error { return s.Run("", "rule", "set", "operators", "--time", "") })
	s.expiry(bob)
	s.step("`sekisho kill alice`: both of her sessions end, and she may come back", func() error {
		a, err := s.Stay("alice", s.alice, s.web)
		if err != nil {
			return err
		}
		b, err := s.Stay("alice", s.alice, s.db)
		if err != nil {
			return err
		}
		if err := s.Known(s.Broker, "alice", 2); err != nil {
			return err
		}
		began := time.Now()
		if err := s.Run("", "kill", "alice"); err != nil {
			return err
		}
		took, err := s.out(began, a, b)
		s.note("after %d ms", took.Milliseconds())
		return errors.Join(err, s.Login("alice", s.alice, s.web))
	})
	s.brokerDies(bob)
	s.revoke(bob)
	s.step("bob is still there; `sekisho kill` ends his session too, and none is left", func() error {
		if !bob.Ended().IsZero() {
			return fmt.Errorf("he is not: %s", bob.Text())
		}
		if err := s.Run("", "kill", "bob"); err != nil {
			return err
		}
		return errors.Join(s.Known(s.Broker, "bob", 0), s.Run("", "rule", "rm", "bobs"))
	})
	s.audit()
}

// expiry: the rule's own end comes.
func (s *scene) expiry(bob *site.Live) {
	s.step("the same: the rule expires, with nothing written to the directory", func() error {
		fours, err := s.four()
		if err != nil {
			return err
		}
		end := time.Now().Add(3 * time.Second).Truncate(time.Second)
		if err := s.Run("", "rule", "set", "operators", "--expires", end.UTC().Format(time.RFC3339)); err != nil {
			return err
		}
		time.Sleep(time.Until(end))
		took, err := s.out(end, fours...)
		if err != nil {
			return err
		}
		s.note("all four ended %d ms after it", took.Milliseconds())
		if !bob.Ended().IsZero() {
			return errors.New("bob's session has ended too")
		}
		if err := s.Run("", "rule", "set", "operators", "--expires", ""); err != nil {
			return err
		}
		return s.Soon(time.Minute, func() error { return s.Login("alice", s.alice, s.db) })
	})
}

// brokerDies: sessions outlive sekishod, and are found again.
func (s *scene) brokerDies(bob *site.Live) {
	s.step("sekishod on the broker and on web1 killed (-9) with sessions open, and started again", func() error {
		a, err := s.Stay("alice", s.alice, s.web)
		if err != nil {
			return err
		}
		before, err := s.Sessions(s.Broker, "alice")
		if err != nil {
			return err
		}
		for _, h := range []*testenv.Host{s.Broker, s.web} {
			s.Sekishod(h).Kill()
		}
		for _, h := range []*testenv.Host{s.Broker, s.web} {
			if err := s.Start(h); err != nil {
				return err
			}
		}
		if err := s.Known(s.Broker, "alice", 1); err != nil {
			return err
		}
		after, err := s.Sessions(s.Broker, "alice")
		if err != nil || len(before) != 1 || after[0].ID != before[0].ID {
			return fmt.Errorf("before %v, after %v: %w", before, after, err)
		}
		if !a.Ended().IsZero() || !bob.Ended().IsZero() {
			return errors.New("a session ended with it")
		}
		began := time.Now()
		if err := s.Run("", "kill", after[0].ID); err != nil {
			return err
		}
		_, err = s.out(began, a)
		return err
	})
}

// revoke: everywhere, with a host that cannot be reached.
func (s *scene) revoke(bob *site.Live) {
	s.step("`sekisho revoke alice --wait`, db1 cut off: it says so, web1 has confirmed", func() error {
		a, err := s.Stay("alice", s.alice, s.web)
		if err != nil {
			return err
		}
		if err := s.db.Partition(); err != nil {
			return err
		}
		out, err := s.Broker.Command(s.Ctx, "/usr/local/bin/sekisho", "revoke", "alice", "--wait").CombinedOutput()
		if site.ExitCode(err) != 3 || !strings.Contains(string(out), "out after") || !strings.Contains(string(out), "NOT CONFIRMED") {
			return site.Said(fmt.Errorf("it ends with %w", err), string(out))
		}
		if _, err := s.out(time.Now(), a); err != nil {
			return err
		}
		return s.db.Heal()
	})
	s.step("db1 is back: again, and every host confirms", func() error {
		return s.Soon(time.Minute, func() error {
			out, err := s.Broker.Command(s.Ctx, "/usr/local/bin/sekisho", "revoke", "alice", "--wait").CombinedOutput()
			if err == nil {
				s.note("%s", strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "\n      "))
			}
			return site.Said(err, string(out))
		})
	})
	s.step("and she is let in again", func() error {
		if err := s.Run("", "user", "set", "alice", "--unlock"); err != nil {
			return err
		}
		return s.Soon(time.Minute, func() error { return s.Login("alice", s.alice, s.web) })
	})
}

// audit: the record is whole, and a changed byte is found.
func (s *scene) audit() {
	s.step("`sekisho audit verify`: the record is whole; with one byte changed it is not", func() error {
		verify := func(args ...string) (string, error) {
			out, err := s.Broker.Command(s.Ctx, "/usr/local/bin/sekisho", append([]string{"audit", "verify"}, args...)...).CombinedOutput()
			return string(out), err
		}
		if out, err := verify(); err != nil {
			return site.Said(err, out)
		}
		const copied = "/root/audit"
		script := "rm -rf " + copied + " && cp -r /var/lib/sekisho/audit " + copied + ` && f=$(ls ` + copied + `/*.jsonl | head -1) && sed -i '0,/alice/s//alicf/' "$f"`
		if out, err := s.Broker.Command(s.Ctx, "sh", "-c", script).CombinedOutput(); err != nil {
			return site.Said(err, string(out))
		}
		out, err := verify("--dir", copied)
		if site.ExitCode(err) != 1 {
			return site.Said(fmt.Errorf("a changed byte is not found: %w", err), out)
		}
		return nil
	})
}
