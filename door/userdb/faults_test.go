package userdb

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/testenv"
)

const getInfo = `{"method":"org.varlink.service.GetInfo"}` + "\x00"

// TestNoCall: what is no call ends the connection at once, and nothing else.
func TestNoCall(t *testing.T) {
	ts := start(t, testDirectory(t, nil), nil)
	other := dial(t, ts)
	for name, msg := range map[string]string{
		"empty":         "\x00",
		"garbage":       "GET / HTTP/1.0\r\n\r\n\x00",
		"a list":        "[]\x00",
		"no method":     "{}\x00",
		"odd method":    `{"method":["a.b"]}` + "\x00",
		"no dot":        `{"method":"GetInfo"}` + "\x00",
		"two values":    `{"method":"a.b"}{"method":"a.b"}` + "\x00",
		"odd params":    `{"method":"a.b","parameters":[]}` + "\x00",
		"odd flag":      `{"method":"a.b","more":"yes"}` + "\x00",
		"not UTF-8":     "{\"method\":\"a.b\xff\"}\x00",
		"too deep":      `{"method":"a.b","parameters":{"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "}}\x00",
		"much too deep": strings.Repeat("[", 60000) + "\x00",
		"too long":      `{"method":"a.b","x":"` + strings.Repeat("x", maxMessage) + `"}` + "\x00",
		"endless":       strings.Repeat("x", maxMessage+1),
		"random":        random(5000) + "\x00",
	} {
		c := dial(t, ts)
		c.Write([]byte(msg)) // it may hang up in between
		if said := c.eof(t); said != "" {
			t.Errorf("%s: it says %q", name, said)
		}
	}
	other.send(t, getInfo)
	if got := other.next(t); !strings.Contains(got, "sekishod") {
		t.Error(got)
	}
	if got := ts.Stats(); got.Malformed != 15 {
		t.Errorf("%+v, want 15 malformed", got)
	}
	// The longest message there may be is answered.
	c := dial(t, ts)
	long := `{"method":"a.b","x":""}`
	c.send(t, strings.Replace(long, `""`, `"`+strings.Repeat("x", maxMessage-len(long))+`"`, 1)+"\x00")
	if got := c.next(t); !strings.Contains(got, "MethodNotFound") {
		t.Error(got)
	}
}

func random(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(1 + r.IntN(255))
	}
	return string(b)
}

// TestSilence: who says nothing, or half of something, is hung up on. Only one of
// the two times is short, so that it is that one which ends the connection.
func TestSilence(t *testing.T) {
	const short = 100 * time.Millisecond
	idle := start(t, testDirectory(t, nil), func(c *Config) { c.Idle = short })
	request := start(t, testDirectory(t, nil), func(c *Config) { c.Request = short })
	for said, ts := range map[string]*testServer{"": idle, `{"method":"org.var`: request, getInfo + `{"method`: request} {
		begin := time.Now()
		c := dial(t, ts)
		c.send(t, said)
		c.eof(t)
		if d := time.Since(begin); d < short {
			t.Errorf("after %q it hung up in %s", said, d)
		}
	}
	// A byte at a time does not gain time: the call as a whole has its limit.
	c := dial(t, request)
	for {
		if _, err := c.Write([]byte("x")); os.IsTimeout(err) {
			t.Fatal("drop by drop it goes on")
		} else if err != nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if said := c.eof(t); said != "" {
		t.Errorf("drop by drop: %q", said)
	}
	// Who does not take his answers is hung up on too.
	c = dial(t, request)
	for {
		if _, err := c.Write([]byte(strings.Repeat(getInfo, 100))); os.IsTimeout(err) {
			t.Fatal("answers that are not taken are waited for")
		} else if err != nil {
			break
		}
	}
	waitOpen(t, request, 0)
}

func waitOpen(t *testing.T, ts *testServer, n int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ts.Stats().Open != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections are open, want %d", ts.Stats().Open, n)
		}
	}
}

// TestTwoThousand: two thousand at once, among as many that say nothing, are
// all answered; and those that are too many are told so at once.
func TestTwoThousand(t *testing.T) {
	const n = 2000
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	if lim.Cur < 3*n+100 { // both ends are in this process
		t.Fatalf("only %d files may be open here: raise the limit (ulimit -n)", lim.Cur)
	}
	ts := start(t, testDirectory(t, nil), func(c *Config) { c.MaxConns = 6 * n })
	ask := fmt.Sprintf(`{"method":"%s.GetUserRecord","parameters":{"uid":20001,"service":"%s"}}`, userDatabase, Service) + "\x00"
	var all sync.WaitGroup
	var mu sync.Mutex
	var slowest time.Duration
	conns := make([]*client, n)
	for i := range conns {
		conns[i] = dial(t, ts)
	}
	for _, c := range conns {
		all.Go(func() {
			begin := time.Now()
			c.send(t, ask)
			if s, err := c.r.ReadString(0); err != nil || !strings.Contains(s, `"alice"`) {
				t.Errorf("%q, %v", s, err)
			}
			mu.Lock()
			slowest = max(slowest, time.Since(begin))
			mu.Unlock()
		})
	}
	all.Wait()
	t.Logf("%d at once: the slowest was answered in %s", n, slowest)

	few := start(t, testDirectory(t, nil), func(c *Config) { c.MaxConns = 40 })
	room := 40
	if os.Getuid() != 0 {
		room = 10
	}
	for range room {
		dial(t, few)
	}
	waitOpen(t, few, room)
	for range 20 {
		c := dial(t, few)
		c.Write([]byte(ask))
		if got := c.next(t); errorOf(t, got) != "ServiceNotAvailable" { // while all the others stay
			t.Errorf("one too many: %s", got)
		}
	}
	if s := few.Stats(); s.Busy != 20 {
		t.Errorf("%+v", s)
	}
}

// TestRoom: one user gets a quarter, two users half, and the next is told that
// there is no room.
func TestRoom(t *testing.T) {
	ts := start(t, testDirectory(t, nil), func(c *Config) { c.MaxConns = 40 })
	for dir, i := ts.path, 0; i < 3; dir, i = filepath.Dir(dir), i+1 { // for other users
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []int{10, 10, 0} {
		uid, got := 20001+i, 0
		for ; got <= want; got++ {
			nc, err := testenv.DialAs(ts.path, uid, uid, uid)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nc.Close() })
			nc.SetDeadline(time.Now().Add(time.Minute))
			c := &client{nc, bufio.NewReader(nc)}
			c.Write([]byte(getInfo))
			if errorOf(t, c.next(t)) == "ServiceNotAvailable" {
				break
			}
		}
		if got != want {
			t.Errorf("user %d got %d, want %d", uid, got, want)
		}
	}
	c := dial(t, ts)
	c.send(t, getInfo)
	if got := errorOf(t, c.next(t)); got != "" {
		t.Errorf("root: %s", got)
	}
	if s := ts.Stats(); s.Open != 21 || s.Busy != 3 {
		t.Errorf("%+v", s)
	}
}

// TestBind: a bound socket refuses at once, takes a dead one's place, and
// leaves a live one alone.
func TestBind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "er", Service)
	refused := func(what string) {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
			t.Errorf("%s: somebody answers", what)
		} else if !errors.Is(err, syscall.ECONNREFUSED) { // the kernel says that at once
			t.Errorf("%s: %v", what, err)
		}
	}
	f, err := Bind(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o666 {
		t.Errorf("%v, %v", st, err)
	}
	refused("bound")
	f.Close()
	refused("closed")
	if f, err = Bind(path); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := Listen(f)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Bind(path); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("a live socket: %v", err)
	}
	l.Close()
}

// TestStop: Serve ends although connections are open, and the answer that is
// under way gets out.
func TestStop(t *testing.T) {
	ts := start(t, testDirectory(t, nil), nil)
	for range 10 {
		c := dial(t, ts)
		c.send(t, getInfo)
		c.next(t)
	}
	dial(t, ts)
	ts.stop() // and no time is over that ends a connection
	if s := ts.Stats(); s.Open != 0 {
		t.Errorf("%+v", s)
	}
}

// TestManyGroups: a user who is in 5,000 groups, and a group of 50,000 with and
// without a limit that takes it.
func TestManyGroups(t *testing.T) {
	const groups, members = 5000, 50_000
	snap := testDirectory(t, func(e *broker.Edit) {
		for i := range groups {
			e.PutGroup(broker.Group{ID: broker.EntryID{9, byte(i >> 8), byte(i)}, DN: broker.DN(fmt.Sprintf("cn=g%d", i)),
				Name: broker.GroupName(fmt.Sprintf("g%d", i)), GID: uint32(100_000 + i), Members: []broker.DN{dn("uid", "alice")}})
		}
		big := broker.Group{ID: broker.EntryID{8}, DN: "cn=big", Name: "big", GID: 99_999}
		for i := range members {
			u := testUser(i+1000, fmt.Sprintf("m%d", i))
			u.ID = broker.EntryID{7, byte(i >> 16), byte(i >> 8), byte(i)}
			u.UID = uint32(200_000 + i)
			e.PutUser(u)
			big.Members = append(big.Members, u.DN)
		}
		e.PutGroup(big)
	})
	ts := start(t, snap, func(c *Config) { c.Members = members })
	c := dial(t, ts)
	begin := time.Now()
	if got := c.ask(t, "GetMemberships", `"userName":"alice"`); len(got) != groups+3 {
		t.Errorf("%d groups", len(got))
	}
	t.Logf("%d groups of one user: %s", groups, time.Since(begin))
	begin = time.Now()
	if got := c.ask(t, "GetMemberships", `"groupName":"big"`); len(got) != members {
		t.Errorf("%d members", len(got))
	}
	t.Logf("%d members of one group: %s", members, time.Since(begin))
	less := start(t, snap, func(c *Config) { c.Members = members - 1 })
	if got := dial(t, less).ask(t, "GetMemberships", `"groupName":"big"`); errorOf(t, got[0]) != "NoRecordFound" {
		t.Errorf("%d members of a group that is too large", len(got))
	}
}

func FuzzCall(f *testing.F) {
	for _, s := range []string{strings.TrimSuffix(getInfo, "\x00"),
		`{"method":"io.systemd.UserDatabase.GetUserRecord","parameters":{"userName":"alice","uid":20001,"service":"io.sekisho.Directory"},"more":false}`,
		`{"method":"io.systemd.UserDatabase.GetMemberships","parameters":{"groupName":"ops","userName":null,"service":"io.sekisho.Directory"},"more":true,"oneway":false,"upgrade":false}`,
		`{"method":"a.b","parameters":{"x":"\"[{","y":[[{}]]}}`, `{"Method":"a.b","method":"c.d"}`} {
		f.Add([]byte(s), uint32(20001))
	}
	ts := start(f, testDirectory(f, nil), func(c *Config) { c.Keys, c.Members = true, 100 })
	f.Fuzz(func(t *testing.T, msg []byte, uid uint32) {
		c, err := parseCall(msg)
		if err != nil {
			if c.method != "" || c.params != nil {
				t.Fatalf("a call beside the error %v: %+v", err, c)
			}
			return
		}
		if d := depth(msg); d > maxDepth {
			t.Fatalf("depth %d was let in", d)
		}
		out := ts.as(t, uid, string(msg))
		for line := range strings.SplitSeq(strings.TrimSuffix(out, "\n"), "\n") {
			errorOf(t, line) // is JSON
		}
		if strings.Contains(out, "AAAA") && uid != 0 && uid != 20001 {
			t.Fatalf("uid %d reads alice's keys: %s", uid, out)
		}
		if strings.Contains(out, `"record"`) && !strings.Contains(string(msg), "io.s") && !strings.Contains(string(msg), `\u`) {
			t.Fatalf("an answer without our service's name: %s", msg)
		}
	})
}
