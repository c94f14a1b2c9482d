package site

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

// Live is an ssh that stays, with a terminal.
type Live struct {
	User string
	On   *testenv.Host
	Done chan struct{} // closed at its end

	cmd *testenv.Cmd
	uid string // which outlives the name on a host that no longer knows the user

	mu    sync.Mutex
	out   bytes.Buffer // guarded by mu
	ended time.Time    // guarded by mu; zero while it lasts
}

// Write takes over what ssh prints.
func (l *Live) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(b)
}

// Text is what ssh has printed so far.
func (l *Live) Text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

// Ended is when ssh ended; zero while it lasts.
func (l *Live) Ended() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// Line is what Sekisho has written on the terminal; empty: nothing.
func (l *Live) Line() string {
	for line := range strings.Lines(l.Text()) {
		if _, why, ok := strings.Cut(line, "sekisho: "); ok {
			return strings.TrimSpace(why)
		}
	}
	return ""
}

// Leave ends the client.
func (l *Live) Leave() {
	l.cmd.Process.Kill()
	<-l.Done
}

// What runs in sessions that stay. A hangup ends the plain one; the stubborn one
// it does not, and a child of it has left the terminal and the process group.
const (
	Plain    = "echo now-inside $(id -u).; sleep 600"
	Stubborn = "trap '' HUP TERM; echo now-inside $(id -u).; (setsid sleep 600 &); sleep 600"
)

var inside = regexp.MustCompile(`now-inside (\d+)\.`)

// Stay logs somebody in, on a terminal, with a stubborn program, and waits until
// he is in.
func (s *Site) Stay(user string, key *testenv.Key, on *testenv.Host) (*Live, error) {
	return s.StayWith(Stubborn, user, key, on)
}

// StayWith is Stay with another program, which says that it is inside as those do.
func (s *Site) StayWith(program, user string, key *testenv.Key, on *testenv.Host) (*Live, error) {
	l := &Live{User: user, On: on, Done: make(chan struct{})}
	l.cmd = s.Client.SSH(s.Ctx, testenv.SSHCall{To: on, User: user, Key: key, Options: []string{"RequestTTY=force"}, Command: program})
	l.cmd.Stdout, l.cmd.Stderr = l, l
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		l.cmd.Wait()
		l.mu.Lock()
		l.ended = time.Now()
		l.mu.Unlock()
		close(l.Done)
	}()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if said := inside.FindStringSubmatch(l.Text()); said != nil {
			l.uid = said[1]
			return l, nil
		}
		if over := !l.Ended().IsZero(); over || time.Now().After(end) {
			l.Leave()
			return nil, fmt.Errorf("%s did not get in to %s: %s", user, on.Name, strings.TrimSpace(l.Text()))
		}
	}
}

// Session is what is read of `sekisho sessions --json`.
type Session struct {
	ID, User, Host, Ending, Basis string
}

// Sessions are those that a machine's sekishod knows of a user; "" is all.
func (s *Site) Sessions(at *testenv.Host, user string) ([]Session, error) {
	args := []string{"sessions", "--json"}
	if user != "" {
		args = append(args, user)
	}
	out, err := at.Command(s.Ctx, Sekisho, args...).Output()
	if err != nil {
		return nil, fmt.Errorf("sekisho sessions: %w: %s", err, out)
	}
	var all []Session
	return all, json.Unmarshal(out, &all)
}

// Known waits until a machine's sekishod knows so many sessions of a user.
func (s *Site) Known(at *testenv.Host, user string, n int) error {
	return s.Soon(time.Minute, func() error {
		all, err := s.Sessions(at, user)
		if err == nil && len(all) != n {
			err = fmt.Errorf("%s knows %d sessions of %s, and there are %d: %v", at.Name, len(all), user, n, all)
		}
		return err
	})
}

// Out waits until sessions have ended, with every process of their users on the
// hosts, and says how long after since the last of it did.
func (s *Site) Out(since time.Time, lives ...*Live) (time.Duration, error) {
	limit := time.Now().Add(time.Minute) // which no slow machine takes
	var last time.Duration
	for _, l := range lives {
		select {
		case <-l.Done:
		case <-time.After(time.Until(limit)):
			return 0, fmt.Errorf("%s is still on %s", l.User, l.On.Name)
		}
		last = max(last, l.Ended().Sub(since))
		for {
			began := time.Since(since)
			out, err := l.On.Command(s.Ctx, "pgrep", "-u", l.uid, "-l").Output()
			if ExitCode(err) == 1 { // none
				break
			}
			if err != nil {
				return 0, fmt.Errorf("looking for processes of %s: %w", l.User, err)
			}
			if last = max(last, began); time.Now().After(limit) {
				return 0, fmt.Errorf("processes of %s are left on %s: %s", l.User, l.On.Name, out)
			}
		}
	}
	return last, nil
}
