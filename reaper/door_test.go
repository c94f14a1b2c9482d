package reaper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

// The tests need root, and sshd's sessions.
func TestMain(m *testing.M) {
	for arg, do := range map[string]func(string) error{doorArg: runDoor, sessionArg: runSession} {
		if len(os.Args) == 3 && os.Args[1] == arg {
			if err := do(os.Args[2]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	testenv.Main(m)
}

const (
	doorArg  = "the-door-of-a-test" // makes this program a door, and sekishod
	doorPath = "/run/sekisho/pam.sock"
	ctlPath  = "/run/door.ctl"
)

// Door stands for sekishod on a host: it starts sekisho-reaper, says yes to all
// that pam_sekisho.so asks, and adopts every session. A test talks to it by
// net/rpc.
type Door struct {
	client *Client

	mu      sync.Mutex
	n       int
	opened  []Opened
	conns   map[string]*net.UnixConn // of open sessions, kept for tests
	emptied []string
	end     string // why Events has returned
}

// Opened is a session that PAM has opened, and how Adopt went.
type Opened struct {
	ID, Service, User string
	PID               int32
	Started           uint64
	How               How
	Err               string
	Took              time.Duration
}

func runDoor(program string) error {
	hold, give, err := Pair()
	if err != nil {
		return err
	}
	cmd := exec.Command(program, "--fd", "3", "--socket", doorPath)
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{give}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("starting sekisho-reaper: %w", err)
	}
	give.Close()
	d := &Door{conns: map[string]*net.UnixConn{}}
	if d.client, err = Dial(hold); err != nil {
		return err
	}
	go func() {
		err := d.client.Events(context.Background(), func(id string) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.emptied = append(d.emptied, id)
		})
		d.mu.Lock()
		defer d.mu.Unlock()
		d.end = fmt.Sprint(err)
	}()
	if err := os.MkdirAll(filepath.Dir(doorPath), 0o755); err != nil {
		return err
	}
	os.Remove(doorPath)
	os.Remove(ctlPath)
	l, err := net.Listen("unix", doorPath)
	if err != nil {
		return err
	}
	if err := os.Chmod(doorPath, 0o666); err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go d.talk(c.(*net.UnixConn))
		}
	}()
	ctl, err := net.Listen("unix", ctlPath)
	if err != nil {
		return err
	}
	s := rpc.NewServer()
	if err := s.Register(d); err != nil {
		return err
	}
	go s.Accept(ctl)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	return nil
}

func (d *Door) talk(c *net.UnixConn) {
	for {
		r, err := wire.ReadRequest(c, nil)
		if err != nil {
			return // c stays open: tests misuse it
		}
		a := wire.Answer{Outcome: wire.Yes}
		if r.Verb == "session" && r.Get("op") == "open" {
			a = d.open(c, r)
		}
		b, err := wire.AppendAnswer(nil, a)
		if err != nil {
			panic(err)
		}
		c.Write(b)
	}
}

func (d *Door) open(c *net.UnixConn, r wire.Request) wire.Answer {
	pid, _ := strconv.Atoi(r.Get("pid"))
	o := Opened{Service: r.Get("service"), User: r.Get("user"), PID: int32(pid)}
	d.mu.Lock()
	d.n++
	o.ID = fmt.Sprintf("s-%d_%d", os.Getpid(), d.n)
	d.mu.Unlock()
	p, err := readProcess(o.PID)
	if err == nil {
		begin := time.Now()
		o.Started = p.started
		o.How, err = d.client.Adopt(context.Background(), Opening{ID: o.ID, PID: o.PID, Started: o.Started, Fresh: r.Has("authinfo"), Conn: c})
		o.Took = time.Since(begin)
	}
	if err != nil {
		o.Err = err.Error()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened, d.conns[o.ID] = append(d.opened, o), c
	return wire.Answer{Outcome: wire.Yes, Body: []string{"session " + o.ID}}
}

// Nothing is net/rpc's need for a second argument.
type Nothing struct{}

// All are the sessions that were opened.
func (d *Door) All(_ Nothing, to *[]Opened) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	*to = append(*to, d.opened...)
	return nil
}

// Events are the ids that became empty, and last why no more come.
func (d *Door) Events(_ Nothing, to *[]string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	*to = append(append(*to, d.emptied...), d.end)
	return nil
}

// End ends a session.
func (d *Door) End(o Order, to *Ended) (err error) {
	*to, err = d.client.End(context.Background(), o)
	return err
}

// Forget lets go of one.
func (d *Door) Forget(id string, _ *Nothing) error { return d.client.Forget(context.Background(), id) }

// Recover lists them.
func (d *Door) Recover(_ Nothing, to *[]Session) (err error) {
	*to, err = d.client.Recover(context.Background())
	return err
}

// Adoption is a false one: of the session From, with what is not zero instead.
type Adoption struct {
	From, ID   string
	PID        int32
	Ticks      int64 // added to the start time
	Connection string
}

// Adopt tries one, and gives the error's words.
func (d *Door) Adopt(a Adoption, to *string) error {
	d.mu.Lock()
	var from Opened
	for _, o := range d.opened {
		if o.ID == a.From {
			from = o
		}
	}
	o := Opening{ID: a.ID, PID: from.PID, Started: from.Started + uint64(a.Ticks), Conn: d.conns[a.From]}
	d.mu.Unlock()
	if a.PID != 0 {
		p, err := readProcess(a.PID)
		if err != nil {
			return err
		}
		o.PID, o.Started = a.PID, p.started
	}
	var err error
	switch a.Connection {
	case "":
	case "client": // ours to somebody else: his pid, but not to the door
		os.Remove("/run/sekisho/false")
		os.Remove(doorPath + ".new")
		l, err := net.Listen("unix", "/run/sekisho/false")
		if err != nil {
			return err
		}
		defer l.Close()
		dialer := net.Dialer{LocalAddr: &net.UnixAddr{Name: doorPath + ".new", Net: "unix"}}
		c, err := dialer.Dial("unix", "/run/sekisho/false")
		if err != nil {
			return err
		}
		defer c.Close()
		o.Conn = c.(*net.UnixConn)
	case "pair":
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fds[0]), "")
		defer f.Close()
		defer syscall.Close(fds[1])
		o.Conn = f
	case "file":
		f, err := os.Open("/dev/null")
		if err != nil {
			return err
		}
		defer f.Close()
		o.Conn = f
	default:
		return errors.New("no such connection")
	}
	if _, err = d.client.Adopt(context.Background(), o); err != nil {
		*to = err.Error()
	}
	return nil
}

// Raw sends nonsense.
func (d *Door) Raw(b []byte, _ *Nothing) error {
	d.client.send.Lock()
	defer d.client.send.Unlock()
	_, err := d.client.conn.Write(b)
	return err
}
