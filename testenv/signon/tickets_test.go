package signon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const ticketsDir = "/run/sekisho/tickets"

// ticketDirs are the folders of tickets that belong to one of the users.
func (v *site) ticketDirs(users ...string) (found []string, err error) {
	uids := map[string]string{}
	for _, u := range users {
		uid, known := v.uids.Load(u)
		if !known { // NSS asks sekishod, which may be dead the next time
			out, err := v.Command(context.Background(), "id", "-u", u).Output()
			if err != nil {
				return nil, err
			}
			uid = strings.TrimSpace(string(out))
			v.uids.Store(u, uid)
		}
		uids[uid.(string)] = u
	}
	err = v.Inside(func() error {
		dirs, err := os.ReadDir(ticketsDir)
		if err != nil {
			return err
		}
		for _, d := range dirs {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(ticketsDir, d.Name()), &st); err != nil {
				continue // gone meanwhile
			}
			if uids[fmt.Sprint(st.Uid)] != "" {
				found = append(found, d.Name())
			}
		}
		return nil
	})
	return found, err
}

// noTickets is nil when none of the users has tickets on the host.
func (v *site) noTickets(users ...string) error {
	dirs, err := v.ticketDirs(users...)
	if err == nil && len(dirs) > 0 {
		err = fmt.Errorf("tickets are left: %q", dirs)
	}
	return err
}

// session is an ssh session that stays open until its standard input ends.
type session struct {
	cmd   *sshCmd
	done  func()
	stdin io.WriteCloser
	cache string // KRB5CCNAME without FILE:
	pid   int    // of its shell, on the host
}

// session opens one by password.
func (p *person) session(t *testing.T, on *site) *session {
	t.Helper()
	c := byPassword.on(on).with(p)
	c.command = "echo $$ ${KRB5CCNAME#FILE:}; exec cat"
	cmd, done, err := p.sshCommand(t.Context(), c)
	need(t, err)
	r, w, err := os.Pipe()
	need(t, err)
	or, ow, err := os.Pipe()
	need(t, err)
	cmd.Stdin, cmd.Stdout = r, ow
	need(t, cmd.Start())
	r.Close()
	ow.Close()
	line, err := bufio.NewReader(or).ReadString('\n')
	need(t, err)
	s := &session{cmd: cmd, done: done, stdin: w}
	if _, err := fmt.Sscan(line, &s.pid, &s.cache); err != nil {
		t.Fatalf("the session printed %q", line)
	}
	return s
}

func (s *session) end() {
	s.stdin.Close()
	s.cmd.Wait()
	s.done()
}

func TestTickets(t *testing.T) {
	t.Parallel()
	p, other := calm.someone(t, "ticketed", calm.db), calm.someone(t, "curious", calm.db)
	s := p.session(t, calm.db)
	dir := filepath.Dir(s.cache)
	if filepath.Dir(dir) != ticketsDir || filepath.Base(s.cache) != "cc" {
		t.Fatalf("KRB5CCNAME is %s", s.cache)
	}
	var st [2]unix.Stat_t
	need(t, calm.db.Inside(func() error { return errors.Join(unix.Stat(dir, &st[0]), unix.Stat(s.cache, &st[1])) }))
	if st[0].Mode&0o7777 != 0o770 || st[1].Mode&0o7777 != 0o660 || st[0].Uid != st[1].Uid || st[0].Uid < 1000 {
		t.Errorf("folder %o of %d, file %o of %d", st[0].Mode, st[0].Uid, st[1].Mode, st[1].Uid)
	}
	// Others: not the folder, not the file, not even the names.
	for _, cmd := range []string{"cat " + s.cache, "ls " + dir, "ls " + ticketsDir} {
		out, err := calm.db.CommandAs(t.Context(), other.name, "sh", "-c", cmd).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "Permission denied") {
			t.Errorf("%s as another user: %v: %s", cmd, err, out)
		}
	}
	// No process of the session was told the token.
	var environs string
	need(t, calm.db.Inside(func() error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.pid))
		environs = string(b)
		return err
	}))
	if strings.Contains(environs, "SEKISHO_LOGIN") || !strings.Contains(environs, "KRB5CCNAME=") {
		t.Errorf("the shell was born with %q", environs)
	}
	// The ticket leads on.
	c := byPassword.on(calm.db).with(p)
	c.command = "ssh -o GSSAPIAuthentication=yes -o BatchMode=yes -o StrictHostKeyChecking=no " + calm.web.FQDN + " 'id -un; hostname'"
	if out, err := p.ssh(t.Context(), c); err != nil || !strings.HasSuffix(out, p.name+"\n"+calm.web.FQDN) {
		t.Errorf("on to web1: %v: %s", err, out)
	}
	s.end()
	soon(t, func() error { return calm.db.noTickets(p.name) })
}

// The tickets of a session go with it also when it is killed, and when sekishod
// was started again, or is not there, meanwhile. A host of its own, since its
// sekishod is killed.
func TestTicketsAfterKill(t *testing.T) {
	t.Parallel()
	v, err := calm.join(t.Context(), joining{name: "web3", prover: "kdc"})
	need(t, err)
	p := calm.someone(t, "killed", v)
	for _, how := range []string{"kill -9", "kill -9 after a restart", "logout after a restart", "logout while sekishod is dead"} {
		s := p.session(t, v)
		if err := v.noTickets(p.name); err == nil {
			t.Fatalf("%s: there are no tickets to begin with", how)
		}
		if strings.Contains(how, "restart") || strings.Contains(how, "dead") {
			v.daemon.Kill()
		}
		if strings.Contains(how, "restart") {
			need(t, v.start(t.Context()))
			if err := v.noTickets(p.name); err == nil {
				t.Errorf("%s: the restart took the tickets of an open session", how)
			}
		}
		if strings.HasPrefix(how, "kill") {
			need(t, v.killMonitor(s.pid))
		}
		s.end()
		if err := poll(func() error { return v.noTickets(p.name) }); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		if strings.Contains(how, "dead") {
			need(t, v.start(t.Context()))
		}
	}
}

// killMonitor kills the sshd processes above a session's shell: the user's, and
// the monitor that opened the session.
func (v *site) killMonitor(shell int) error {
	var line []string // from the monitor down
	for pid := fmt.Sprint(shell); ; {
		b, err := v.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			return err
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(f) < 2 {
			return fmt.Errorf("/proc/%s/stat is %q", pid, b)
		}
		up, err := v.ReadFile("/proc/" + f[1] + "/cmdline")
		if err != nil {
			return err
		}
		if !strings.HasPrefix(string(up), "sshd: killed") { // the listener
			break
		}
		pid = f[1]
		line = append([]string{pid}, line...)
	}
	if len(line) != 2 {
		return fmt.Errorf("the session's sshd are %q", line)
	}
	return v.Command(context.Background(), "kill", append([]string{"-KILL"}, line...)...).Run()
}
