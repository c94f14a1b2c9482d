package main

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// tell is the story: each step is against the unmodified program.
func (s *scene) tell() {
	ready := s.step("four machines: broker, web1, db1, client", s.machines) &&
		s.step("broker: sekishod with an embedded realm (slapd and a KDC), first start", s.StartRealm) &&
		s.step("web1 and db1 join by `sekisho host enrol`: NSS, PAM, sshd, Kerberos", func() error {
			return errors.Join(s.Join(s.web), s.Join(s.db))
		}) &&
		s.step("sekisho user, key, group and rule add: alice, bob, who may where", s.people)
	if !ready {
		return
	}
	s.step("alice logs in to web1 by the key that LDAP holds", func() error { return s.Login("alice", s.alice, s.web) })
	s.step("bob, who has a key too, is refused: no rule lets him", func() error { return s.Refused("bob", s.bob, s.web) })
	s.step("`sekisho why bob keys web1` on the broker says so, and what would help", func() error {
		return s.why(s.Broker, "bob", 1, "no-rule", "group set ops --add bob")
	})
	s.step("web1 itself was never told of bob: he is no user of it", func() error {
		return s.why(s.web, "bob", 1, "unknown-user", "on the broker")
	})
	s.step("`sekisho why alice keys web1` names the rule and the way through groups", func() error {
		return s.why(s.web, "alice", 0, "operators", "admins", "ops")
	})
	s.keyAndGroup()
	s.signOn()
	s.leaveAtOnce()
	s.oneTimeCodes()
	s.spray()
	s.clocks()
	s.noKDC()
	s.outages()
	s.goodbye()
}

// password is alice's, in this world.
const password = "correct horse battery"

// people makes alice and bob, nested groups and one rule.
func (s *scene) people() error {
	for name, data := range map[string]string{"alice.pub": string(s.alice.Public), "bob.pub": string(s.bob.Public)} {
		if err := s.Broker.WriteFile("/root/"+name, []byte(data), 0o600); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		stdin string
		args  []string
	}{
		{password + "\n", []string{"user", "add", "alice", "--name", "Alice Example", "--key", "/root/alice.pub", "--password-stdin"}},
		{"", []string{"user", "add", "bob", "--name", "Bob Example", "--key", "/root/bob.pub", "--no-password"}},
		{"", []string{"group", "add", "admins", "--add", "alice"}},
		{"", []string{"group", "add", "ops", "--add-group", "admins"}},
		{"", []string{"rule", "add", "operators", "--subject", "group:ops", "--door", "keys", "--door", "pam", "--target", "host:*"}},
	} {
		if err := s.Run(c.stdin, c.args...); err != nil {
			return err
		}
	}
	// The hosts hear of it by themselves.
	return s.Soon(time.Minute, func() error { return s.why(s.web, "alice", 0) })
}

// keyAndGroup takes away a key, then a group, and gives them back.
func (s *scene) keyAndGroup() {
	s.step("alice's key is removed from LDAP: her next login is refused", func() error {
		if err := s.Run("", "key", "rm", "alice", "alice@client"); err != nil {
			return err
		}
		return s.Soon(time.Minute, func() error { return s.Refused("alice", s.alice, s.web) })
	})
	s.step("the key is put back: she gets in again", func() error {
		if err := s.Run("", "key", "add", "alice", "/root/alice.pub"); err != nil {
			return err
		}
		return s.Soon(time.Minute, func() error { return s.Login("alice", s.alice, s.web) })
	})
	s.step("alice is taken out of a group inside the rule's group: refused", func() error {
		if err := s.Run("", "group", "set", "admins", "--remove", "alice"); err != nil {
			return err
		}
		return s.Soon(time.Minute, func() error { return s.Refused("alice", s.alice, s.web) })
	})
	s.step("and put back: she gets in again", func() error {
		if err := s.Run("", "group", "set", "admins", "--add", "alice"); err != nil {
			return err
		}
		return s.Soon(time.Minute, func() error { return s.Login("alice", s.alice, s.web) })
	})
}

// aged waits until web1 says that its snapshot is at least d old.
func (s *scene) aged(d time.Duration) error {
	return s.Soon(d+time.Minute, func() error {
		st, err := s.Status(s.web)
		if err == nil && st.Sync.Age < d.Seconds() {
			err = fmt.Errorf("the snapshot's age is %.1f s", st.Sync.Age)
		}
		return err
	})
}

// live waits until web1 follows the directory.
func (s *scene) live(d time.Duration) error {
	return s.Soon(d, func() error {
		st, err := s.Status(s.web)
		if err == nil && st.Sync.State != "live" {
			err = fmt.Errorf("the sync is %s, the snapshot %.0f s old", st.Sync.State, st.Sync.Age)
		}
		return err
	})
}

// outages take the directory away in four ways.
func (s *scene) outages() {
	s.step("slapd hangs (SIGSTOP): alice still gets in, and nothing waits for it", func() error {
		if err := s.Signal("slapd", syscall.SIGSTOP); err != nil {
			return err
		}
		return s.Login("alice", s.alice, s.web)
	})
	s.step("and the answer's age shows", func() error {
		if err := s.aged(3 * time.Second); err != nil {
			return err
		}
		return s.why(s.web, "alice", 0, "snapshot")
	})
	s.step("slapd is killed (SIGKILL): alice still gets in", func() error {
		if err := s.Signal("slapd", syscall.SIGKILL); err != nil {
			return err
		}
		return s.Login("alice", s.alice, s.web)
	})
	s.step("sekishod has started slapd again, and web1 has caught up", func() error {
		return s.live(30 * time.Second)
	})
	s.step("broker off the network, sekishod on web1 killed (-9) and started again", func() error {
		if err := s.Broker.Partition(); err != nil {
			return err
		}
		s.Sekishod(s.web).Kill()
		return s.Start(s.web)
	})
	s.step("alice gets in, from the last good snapshot", func() error { return s.Login("alice", s.alice, s.web) })
	s.step("its answer says how old it is", func() error {
		if st, err := s.Status(s.web); err != nil || st.Sync.State == "live" {
			return errors.Join(err, fmt.Errorf("the sync is %s without a network", st.Sync.State))
		}
		return s.aged(3 * time.Second)
	})
	s.step("and bob does not get in", func() error { return s.Refused("bob", s.bob, s.web) })
	s.step("broker back on the network: web1 follows again", func() error {
		if err := s.Broker.Heal(); err != nil {
			return err
		}
		return s.live(60 * time.Second)
	})
}

func (s *scene) goodbye() {
	fmt.Print(`
The world goes on running. Look around in it (sudo when you are not root):

    build/bin/demo enter client ssh alice@web1     log in as alice
    build/bin/demo enter client ssh bob@web1       be refused as bob
    build/bin/demo enter broker sekisho why bob keys web1
    build/bin/demo enter broker sekisho sessions
    build/bin/demo enter broker sekisho user ls
    build/bin/demo enter broker                    a shell; sekisho --help

    make demo-stop                                 removes every trace
`)
}
