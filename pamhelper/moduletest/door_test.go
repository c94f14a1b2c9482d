package moduletest

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/wire"
)

// door is a scripted sekishod. The real one cannot be made to say all that is
// tested here; real_test.go has the real one.
type door struct {
	path string // of the socket
	dir  string // its folder; tickets is below

	mu     sync.Mutex
	plans  map[string][]wire.Answer // by the first request's "verb op" or "verb phase", or verb: the answers of a conversation, in order
	before func(wire.Request)       // called before a request is answered
	asked  []wire.Request
	extra  []string // what went wrong in talking
}

// newDoor listens in a folder of its own until the test ends.
func newDoor(t testing.TB) *door {
	t.Helper()
	return doorIn(t, filepath.Join(short(t), "run"))
}

// short makes a folder whose name leaves room for a socket's.
func short(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pam")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func doorIn(t testing.TB, dir string) *door {
	t.Helper()
	d := &door{dir: dir, path: filepath.Join(dir, "pam.sock"), plans: map[string][]wire.Answer{}}
	for _, f := range []struct {
		path string
		mode os.FileMode
	}{{dir, 0o755}, {filepath.Join(dir, "tickets"), 0o711}} {
		if err := os.Mkdir(f.path, f.mode); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d.path, 0o666); err != nil {
		t.Fatal(err)
	}
	d.serve(t, l)
	return d
}

// serve answers on l until the test ends.
func (d *door) serve(t testing.TB, l net.Listener) {
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(3 * time.Minute))
				d.talk(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
		for _, e := range d.extra {
			t.Errorf("the door: %s", e)
		}
	})
}

func (d *door) talk(c net.Conn) {
	var plan []wire.Answer
	for i := 0; ; i++ {
		r, err := wire.ReadRequest(c, nil)
		if err != nil {
			if err != io.EOF && !isReset(err) {
				d.note("reading: " + err.Error())
			}
			return
		}
		d.mu.Lock()
		d.asked = append(d.asked, r)
		if i == 0 {
			var ok bool
			if plan, ok = d.plans[r.Verb+" "+r.Get("op")+r.Get("phase")]; !ok {
				plan = d.plans[r.Verb]
			}
		}
		before := d.before
		d.mu.Unlock()
		if before != nil {
			before(r)
		}
		if i >= len(plan) {
			d.note("nothing is planned for " + r.Verb)
			return
		}
		b, err := wire.AppendAnswer(nil, plan[i])
		if err != nil {
			d.note(err.Error())
			return
		}
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

func isReset(err error) bool {
	return errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "reset")
}

func (d *door) note(s string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.extra = append(d.extra, s)
}

// plan says how conversations go that begin with verb, or with "verb op" or "verb phase".
func (d *door) plan(verb string, answers ...wire.Answer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plans[verb] = answers
}

// whenAsked has f called before each answer.
func (d *door) whenAsked(f func(wire.Request)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before = f
}

// heard returns the requests since the last call, as lines without the version.
func (d *door) heard() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, r := range d.asked {
		line := r.Verb
		for _, f := range r.Fields {
			line += " " + f.Name + "=" + f.Value
		}
		out = append(out, line)
	}
	d.asked = nil
	return out
}

func yes(body ...string) wire.Answer { return wire.Answer{Outcome: wire.Yes, Body: body} }

func no(reason, text string) wire.Answer {
	return wire.Answer{Outcome: wire.No, Reason: reason, Text: text}
}

func unknown(reason, text string) wire.Answer {
	return wire.Answer{Outcome: wire.Unknown, Reason: reason, Text: text}
}

func prompt(lines ...string) wire.Answer {
	return wire.Answer{Outcome: wire.No, Reason: "prompt", Body: lines}
}

// Of the right shape.
const (
	token     = "abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLM_01"
	folder    = "ABCDEFGHIJKLMNOPQRSTUV"
	sessionID = "0123456789abcdefghij-_"
)
