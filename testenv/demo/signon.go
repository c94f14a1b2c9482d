package main

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/site"
)

// fresh is alice's password after she has changed it.
const fresh = "battery horse stays correct"

// signOn is what a password and a ticket open, while all is well.
func (s *scene) signOn() {
	s.step("alice: kinit on her machine, then ssh to web1 without a password", func() error {
		if err := s.kinit(password); err != nil {
			return err
		}
		return s.byTicket(s.web)
	})
	s.step("the same after `sekisho login`, without MIT's tools", func() error {
		if err := s.onClient("", "kdestroy"); err != nil {
			return err
		}
		if s.byTicket(s.web) == nil {
			return errors.New("she was let in without a ticket")
		}
		if err := s.onClient(password+"\n", "sekisho", "login", "alice", "--password-file", "-"); err != nil {
			return err
		}
		return s.byTicket(s.web)
	})
	s.step("alice signs in by password: the session's ticket leads on to db1", func() error {
		out, err := s.byPassword(password, s.web, "klist -s && ssh -o GSSAPIAuthentication=yes -o BatchMode=yes -o StrictHostKeyChecking=no "+s.db.FQDN+" 'id -un; hostname'")
		if err == nil && out != "alice\n"+s.db.FQDN+"\n" {
			err = errors.New("it printed something else")
		}
		return site.Said(err, out)
	})
	s.step("passwd in the session: ssh, kinit and an LDAP bind know the new one at once", s.passwd)
	s.step("and none of them the old one", func() error {
		if s.kinit(password) == nil || s.bind(password) == nil {
			return errors.New("the old password still works")
		}
		if out, err := s.byPassword(password, s.web, "true"); err == nil {
			return site.Said(errors.New("the old password still opens web1"), out)
		}
		return nil
	})
	s.step("alice is locked: neither her key, nor a ticket, nor her password", func() error {
		if err := s.Run("", "user", "set", "alice", "--lock"); err != nil {
			return err
		}
		if err := s.Soon(time.Minute, func() error { return s.Refused("alice", s.alice, s.web) }); err != nil {
			return err
		}
		if s.byTicket(s.web) == nil {
			return errors.New("her ticket still opens web1")
		}
		if out, err := s.byPassword(fresh, s.web, "true"); err == nil {
			return site.Said(errors.New("her password still opens web1"), out)
		}
		return nil
	})
	s.step("and unlocked: all of them", func() error {
		if err := s.Run("", "user", "set", "alice", "--unlock"); err != nil {
			return err
		}
		return s.Soon(time.Minute, func() error {
			_, err := s.byPassword(fresh, s.web, "true")
			return errors.Join(s.Login("alice", s.alice, s.web), err)
		})
	})
}

// passwd changes alice's password by Debian's passwd, in a session on web1.
func (s *scene) passwd() error {
	c := s.Client.SSH(s.Ctx, testenv.SSHCall{To: s.web, User: "alice", Key: s.alice, Command: "passwd"})
	c.Stdin = strings.NewReader(password + "\n" + fresh + "\n" + fresh + "\n")
	if out, err := c.CombinedOutput(); err != nil {
		return site.Said(err, string(out))
	}
	out, err := s.byPassword(fresh, s.web, "true")
	return errors.Join(site.Said(err, out), s.kinit(fresh), s.bind(fresh))
}

// clocks moves the clocks of the KDC and the time servers by 10 minutes: to the
// hosts that look at them it is their own that is wrong.
func (s *scene) clocks() {
	const away = "10 min"
	s.step("clocks 10 min apart: `sekisho login` names it, no word of a wrong password", func() error {
		if err := s.Broker.MoveClock(10 * time.Minute); err != nil {
			return err
		}
		err := s.onClient(fresh+"\n", "sekisho", "login", "alice", "--password-file", "-")
		if err == nil || !strings.Contains(err.Error(), away) || strings.Contains(err.Error(), "wrong password") {
			return fmt.Errorf("it says: %w", err)
		}
		return nil
	})
	s.step("and the door does: \"this host's clock is 10 min 0 s behind\"", func() error {
		return s.Soon(time.Minute, func() error {
			out, err := s.byPassword(fresh, s.web, "true")
			if err == nil || !strings.Contains(out, "this host's clock is 10 min 0 s behind") {
				return site.Said(fmt.Errorf("the door says otherwise: %w", err), out)
			}
			return nil
		})
	})
	s.step("`sekisho why` and `doctor` say it too; alice's key still opens web1", func() error {
		out, _ := s.web.Command(s.Ctx, "/usr/local/bin/sekisho", "why", "alice", "pam", s.web.Name).CombinedOutput()
		doctor, err := s.web.Command(s.Ctx, "/usr/local/bin/sekisho", "doctor").CombinedOutput()
		if site.ExitCode(err) != 1 || !strings.Contains(string(out), away) || !strings.Contains(string(doctor), away) {
			return site.Said(fmt.Errorf("doctor ends with %v", err), string(out)+string(doctor))
		}
		return s.Login("alice", s.alice, s.web)
	})
	s.step("the clocks are mended: passwords and tickets work again", func() error {
		if err := s.Broker.MoveClock(0); err != nil {
			return err
		}
		return s.Soon(time.Minute, func() error {
			out, err := s.byPassword(fresh, s.web, "true")
			return site.Said(err, out)
		})
	})
}

// noKDC kills the KDC, and keeps its keeper from starting it again.
func (s *scene) noKDC() {
	s.step("the KDC is killed, and stays dead: alice's key still opens web1", func() error {
		if err := s.Sekishod(s.Broker).Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		if err := s.Broker.Command(s.Ctx, "pkill", "-KILL", "-x", "krb5kdc").Run(); err != nil {
			return err
		}
		return s.Login("alice", s.alice, s.web)
	})
	s.step("her password is not called wrong: \"could not be found out\"", func() error {
		out, err := s.byPassword(fresh, s.web, "true")
		if err == nil || !strings.Contains(out, "could not be found out") {
			return site.Said(fmt.Errorf("sshd says otherwise: %w", err), out)
		}
		return nil
	})
	s.step("the KDC is back: she signs in by password, nothing else was restarted", func() error {
		if err := s.Sekishod(s.Broker).Signal(syscall.SIGCONT); err != nil {
			return err
		}
		return s.Soon(time.Minute, func() error {
			out, err := s.byPassword(fresh, s.web, "true")
			return site.Said(err, out)
		})
	})
}

// onClient runs a command as root on the client's machine, with alice's
// credential cache.
func (s *scene) onClient(stdin, name string, args ...string) error {
	c := s.Client.Command(s.Ctx, name, args...)
	c.Env = append(c.Env, "KRB5CCNAME=FILE:/root/alice.cc")
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	return site.Said(err, string(out))
}

func (s *scene) kinit(password string) error { return s.onClient(password+"\n", "kinit", "alice") }

// bind is ldapwhoami as alice.
func (s *scene) bind(password string) error {
	if err := s.Client.WriteFile("/root/password", []byte(password), 0o600); err != nil {
		return err
	}
	c := s.Client.Command(s.Ctx, "ldapwhoami", "-x", "-H", "ldaps://"+s.Broker.FQDN, "-D", "uid=alice,ou=people,dc=sekisho,dc=internal", "-y", "/root/password")
	c.Env = append(c.Env, "LDAPTLS_CACERT=/root/ca.crt")
	out, err := c.CombinedOutput()
	return site.Said(err, string(out))
}

// byTicket is an ssh that has nothing but the ticket in alice's cache.
func (s *scene) byTicket(to *testenv.Host) error {
	c := s.Client.SSH(s.Ctx, testenv.SSHCall{To: to, User: "alice", Command: "id -un", Options: []string{
		"GSSAPIAuthentication=yes", "PreferredAuthentications=gssapi-with-mic"}})
	c.Env = append(c.Env, "KRB5CCNAME=FILE:/root/alice.cc")
	out, err := c.CombinedOutput()
	return site.Said(err, string(out))
}

// byPassword is an ssh that is asked for the password, and gives it.
func (s *scene) byPassword(password string, to *testenv.Host, command string) (string, error) {
	script := "#!/bin/sh\nprintf '%s\\n' '" + password + "'\n"
	if err := s.Client.WriteFile("/root/askpass", []byte(script), 0o700); err != nil {
		return "", err
	}
	c := s.Client.SSH(s.Ctx, testenv.SSHCall{To: to, User: "alice", Command: command, Options: []string{
		"BatchMode=no", "PreferredAuthentications=keyboard-interactive", "NumberOfPasswordPrompts=1"}})
	c.Env = append(c.Env, "SSH_ASKPASS=/root/askpass", "SSH_ASKPASS_REQUIRE=force", "DISPLAY=none")
	out, err := c.CombinedOutput()
	return string(out), err
}
