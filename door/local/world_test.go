package local

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/keys"
	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

// The tests need root: callers of several users.
func TestMain(m *testing.M) { goleak.VerifyTestMain(testenv.Sandboxed(m)) }

const (
	hostWeb1  = "web1.sekisho.internal"
	aliceUID  = 61001
	bobUID    = 61002
	keysUID   = 61003
	nobodyUID = 61004 // not in the directory
)

var now = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// key makes an Ed25519 key out of a name (RFC 8709 §4).
func key(name string) keys.Key {
	seed := sha256.Sum256([]byte(name))
	pub := ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
	var blob []byte
	for _, part := range [][]byte{[]byte(keys.ED25519), pub} {
		blob = binary.BigEndian.AppendUint32(blob, uint32(len(part)))
		blob = append(blob, part...)
	}
	k, err := keys.ParseBlob(blob)
	if err != nil {
		panic(err)
	}
	return k
}

// keyLine is a directory value: options, then the key, then the comment.
func keyLine(t testing.TB, options, name string) keys.Line {
	t.Helper()
	if options != "" {
		options += " "
	}
	l, err := keys.ParseLine(options + keys.ED25519 + " " + key(name).Base64() + " " + name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func id(s string) (e broker.EntryID) {
	sum := sha256.Sum256([]byte(s))
	copy(e[:], sum[:])
	return e
}

type directory struct {
	mu   sync.Mutex
	view broker.View
	now  time.Time
	err  error // of the recorder
}

func (d *directory) set(f func(*directory)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

// edit changes the snapshot.
func (d *directory) edit(f func(*broker.Edit)) {
	d.set(func(d *directory) {
		e := d.view.Edit()
		f(e)
		d.view.Snapshot = e.Commit()
	})
}

func (d *directory) user(t testing.TB, name string, uid uint32, lines ...keys.Line) {
	t.Helper()
	d.edit(func(e *broker.Edit) {
		e.PutUser(broker.User{ID: id(name), DN: broker.DN("uid=" + name), Name: broker.UserName(name), UID: uid, GID: uid,
			Home: "/home/" + name, Shell: "/bin/sh", Keys: lines})
	})
}

func (d *directory) rule(t testing.TB, a broker.RuleAttributes) {
	t.Helper()
	if a.Subject == nil {
		a.Subject = []string{"*"}
	}
	if a.Door == nil {
		a.Door = []string{"keys"}
	}
	if a.Target == nil {
		a.Target = []string{"host:" + hostWeb1}
	}
	r, err := broker.ParseRule(a)
	if err != nil {
		t.Fatal(err)
	}
	r.ID, r.DN = id("rule "+a.Name), broker.DN("cn="+a.Name)
	d.edit(func(e *broker.Edit) { e.PutRule(r) })
}

// newDirectory knows the host web1, and nobody.
func newDirectory(t testing.TB) (*directory, *broker.Broker) {
	t.Helper()
	d := &directory{now: now}
	e := (*broker.Snapshot)(nil).Edit()
	e.PutHost(broker.Host{ID: id("web1"), DN: "cn=web1", Names: []broker.HostName{hostWeb1, "web1"}})
	d.view = broker.View{Snapshot: e.Commit(), AsOf: now, MaxAge: time.Hour}
	b, err := broker.New(broker.Config{
		Directory: func() broker.View { d.mu.Lock(); defer d.mu.Unlock(); return d.view },
		Record:    func(broker.Request, broker.Decision) error { d.mu.Lock(); defer d.mu.Unlock(); return d.err },
		Now:       func() time.Time { d.mu.Lock(); defer d.mu.Unlock(); return d.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return d, b
}

func config(b *broker.Broker) Config {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return Config{Broker: b, Host: hostWeb1, KeysCallers: []uint32{keysUID}, Log: logrus.NewEntry(log)}
}

// start serves until the test ends.
func start(t testing.TB, c Config) (path string, s *Server) {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{dir: 0o755, path: 0o666} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path, s
}

// dial connects as the user of the test.
func dial(t testing.TB, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

// dialAs connects as another user.
func dialAs(t testing.TB, path string, uid int) net.Conn {
	t.Helper()
	c, err := testenv.DialAs(path, uid, uid, uid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

func ask(t testing.TB, c io.ReadWriter, verb string, pairs ...string) wire.Answer {
	t.Helper()
	r := wire.Request{Verb: verb}
	for i := 0; i < len(pairs); i += 2 {
		r.Fields = append(r.Fields, wire.Field{Name: pairs[i], Value: pairs[i+1]})
	}
	a, err := wire.Ask(c, r)
	if err != nil {
		t.Fatalf("%s %v: %v", verb, pairs, err)
	}
	return a
}
