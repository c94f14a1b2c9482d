package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

// sekishodConfig says how a sekishod follows a directory.
type sekishodConfig struct {
	host   *testenv.Host // nil: the sandbox itself
	name   string        // of its folders
	url    string
	caFile string // empty: no TLS
	userdb bool
	pam    bool // passwords by bind; not without TLS
	users  int  // that it must have read to be ready
	state  string
}

// sekishod is a running one, an external directory's.
type sekishod struct {
	*testenv.Daemon
	socket string        // as this process sees it
	first  time.Duration // from its start to an answer from all of the directory
}

// startSekishod starts it and waits until it answers from the whole directory.
func startSekishod(ctx context.Context, c sekishodConfig) (*sekishod, error) {
	conf := fmt.Sprintf("host = \"web\"\nstate_dir = %q\nruntime_dir = %q\n[directory]\nurl = [%q]\nbase = %q\nbind_dn = %q\npassword_file = \"/etc/sekisho/password\"\nca_file = %q\n[userdb]\nenabled = %v\n[pam]\nenabled = %v\n",
		c.state, c.runtime(), c.url, suffix, readerDN, c.caFile, c.userdb, c.pam)
	confFile := "/etc/sekisho/" + c.name + ".toml"
	if err := writeOn(c.host, confFile, conf, 0o644); err != nil {
		return nil, err
	}
	if err := writeOn(c.host, "/etc/sekisho/password", readerPW+"\n", 0o600); err != nil {
		return nil, err
	}
	return c.launch(ctx, confFile)
}

// runtime is where its sockets are.
func (c sekishodConfig) runtime() string {
	if c.host == nil {
		return "/run/sekisho-" + c.name
	}
	return "/run/sekisho"
}

// launch starts it with a configuration that is there.
func (c sekishodConfig) launch(ctx context.Context, confFile string) (s *sekishod, err error) {
	s = &sekishod{socket: c.runtime() + "/sekisho.sock"}
	if c.host != nil {
		s.socket = c.host.Path(s.socket)
	}
	path, err := testenv.Program("sekishod")
	if err != nil {
		return nil, err
	}
	start := time.Now()
	dc := testenv.DaemonConfig{
		Name: "sekishod", Path: path, Args: []string{"--config", confFile},
		ReadyTimeout: 10 * time.Minute, StopTimeout: time.Minute,
		Ready: func(ctx context.Context) error { return s.awaitUsers(ctx, c.users) },
	}
	if c.host != nil {
		s.Daemon, err = c.host.Start(ctx, dc)
	} else {
		s.Daemon, err = testenv.StartDaemon(ctx, dc)
	}
	s.first = time.Since(start)
	return s, err
}

func writeOn(h *testenv.Host, path, text string, perm os.FileMode) error {
	if h != nil {
		return h.WriteFile(path, []byte(text), perm)
	}
	if err := os.MkdirAll("/etc/sekisho", 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), perm)
}

// awaitUsers waits, in small steps, until the snapshot has that many users.
func (s *sekishod) awaitUsers(ctx context.Context, users int) error {
	c, err := net.Dial("unix", s.socket)
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		if d, ok := ctx.Deadline(); ok {
			c.SetDeadline(d)
		}
		a, err := wire.Ask(c, wire.Request{Verb: wire.VerbStatus})
		if err != nil {
			return err
		}
		var st struct {
			Sync struct {
				Loaded    bool   `json:"loaded"`
				Users     int    `json:"users"`
				State     string `json:"state"`
				LastError string `json:"last_error"`
			} `json:"sync"`
		}
		if a.Outcome != wire.Yes || len(a.Body) != 1 {
			return fmt.Errorf("status answers %s: %s", a.Outcome, a.Text)
		}
		if err := json.Unmarshal([]byte(a.Body[0]), &st); err != nil {
			return err
		}
		if st.Sync.Loaded && st.Sync.Users >= users {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it has read %d of %d users, and is %s (%s)", st.Sync.Users, users, st.Sync.State, st.Sync.LastError)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// memory reads the resident memory and its peak, in bytes (proc(5)).
func (s *sekishod) memory() (rss, peak float64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Pid()))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "kB" {
			continue
		}
		n, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			return 0, 0, err
		}
		switch f[0] {
		case "VmRSS:":
			rss = n * 1024
		case "VmHWM:":
			peak = n * 1024
		}
	}
	if rss == 0 || peak == 0 {
		return 0, 0, errors.New("the kernel does not tell its memory")
	}
	return rss, peak, nil
}

// cpuOf is the time that a daemon's threads have run so far, by the
// scheduler's count in nanoseconds. Threads that have ended are not in it;
// those of Go and of slapd stay.
func cpuOf(d *testenv.Daemon) (time.Duration, error) {
	dir := fmt.Sprintf("/proc/%d/task", d.Pid())
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, t := range tasks {
		b, err := os.ReadFile(dir + "/" + t.Name() + "/schedstat")
		if err != nil {
			return 0, err
		}
		run, _, _ := bytes.Cut(b, []byte(" "))
		n, err := strconv.ParseInt(string(run), 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum), nil
}
