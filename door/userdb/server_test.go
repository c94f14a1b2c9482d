package userdb

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/keys"
	"github.com/sekisho/sekisho/testenv"
)

// The tests need root: callers of several users.
func TestMain(m *testing.M) { goleak.VerifyTestMain(testenv.Sandboxed(m)) }

var testNow = time.Date(2026, 3, 4, 10, 0, 0, 0, time.UTC)

func dn(kind, name string) broker.DN {
	return broker.DN(kind + "=" + name + ",dc=example,dc=test")
}

func testUser(i int, name string) broker.User {
	return broker.User{ID: broker.EntryID{1, byte(i >> 8), byte(i)}, DN: dn("uid", name), Name: broker.UserName(name), UID: uint32(20000 + i), GID: 30000,
		Gecos: "User " + name, Home: "/home/" + name, Shell: "/bin/bash"}
}

// testDirectory: alice in night in ops, with a key; bob in ops.
func testDirectory(t testing.TB, change func(*broker.Edit)) *broker.Snapshot {
	t.Helper()
	line, err := keys.ParseLine("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS alice")
	if err != nil {
		t.Fatal(err)
	}
	e := (*broker.Snapshot)(nil).Edit()
	alice := testUser(1, "alice")
	alice.Keys = []keys.Line{line}
	e.PutUser(alice)
	e.PutUser(testUser(2, "bob"))
	for i, g := range []broker.Group{
		{Name: "people", GID: 30000},
		{Name: "ops", GID: 30001, Members: []broker.DN{dn("cn", "night"), dn("uid", "bob")}},
		{Name: "night", GID: 30002, Members: []broker.DN{dn("uid", "alice"), dn("cn", "ops")}},
		{Name: "nonposix", Members: []broker.DN{dn("cn", "night")}},
	} {
		g.ID, g.DN = broker.EntryID{2, byte(i)}, dn("cn", string(g.Name))
		e.PutGroup(g)
	}
	if change != nil {
		change(e)
	}
	return e.Commit()
}

// testServer is a Server on a socket of its own.
type testServer struct {
	*Server
	path string
	log  *bytes.Buffer // read it after stop
	stop func()

	mu   sync.Mutex
	view broker.View // guarded by mu
}

func (ts *testServer) setView(v broker.View) { ts.mu.Lock(); ts.view = v; ts.mu.Unlock() }

// start serves a snapshot. Nothing ends because of its time, unless change says so.
func start(t testing.TB, snap *broker.Snapshot, change func(*Config)) *testServer {
	t.Helper()
	dir := t.TempDir()
	etc := filepath.Join(dir, "etc")
	write(t, filepath.Join(etc, "passwd"), "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/:/bin/false\ncarol:x:20050:20050::/home/carol:/bin/bash\n")
	write(t, filepath.Join(etc, "group"), "root:x:0:\nsudo:x:27:\ncarol:x:20050:\n")
	ts := &testServer{path: filepath.Join(dir, "s"), log: new(bytes.Buffer), view: broker.View{Snapshot: snap, AsOf: testNow, MaxAge: time.Hour}}
	log := logrus.New()
	log.SetOutput(ts.log)
	c := Config{View: func() broker.View { ts.mu.Lock(); defer ts.mu.Unlock(); return ts.view }, Now: func() time.Time { return testNow },
		Etc: etc, Idle: time.Hour, Request: time.Hour, Log: logrus.NewEntry(log)}
	if change != nil {
		change(&c)
	}
	var err error
	if ts.Server, err = New(c); err != nil {
		t.Fatal(err)
	}
	f, err := Bind(ts.path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- ts.Serve(ctx, l) }()
	ts.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(ts.stop)
	return ts
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// client is a raw socket.
type client struct {
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, ts *testServer) *client {
	t.Helper()
	c, err := net.Dial("unix", ts.path)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	t.Cleanup(func() { c.Close() })
	return &client{c, bufio.NewReader(c)}
}

// next reads one message without its NUL.
func (c *client) next(t testing.TB) string {
	t.Helper()
	s, err := c.r.ReadString(0)
	if err != nil {
		t.Fatalf("reading an answer: %v after %q", err, s)
	}
	return strings.TrimSuffix(s, "\x00")
}

func (c *client) send(t testing.TB, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
}

// ask sends a call of a UserDatabase method and reads all of its answer.
func (c *client) ask(t testing.TB, method, params string) []string {
	t.Helper()
	c.send(t, fmt.Sprintf(`{"method":"io.systemd.UserDatabase.%s","parameters":{%s,"service":"io.sekisho.Directory"},"more":true}`, method, params)+"\x00")
	var out []string
	for {
		m := c.next(t)
		var r struct{ Continues bool }
		if err := json.Unmarshal([]byte(m), &r); err != nil {
			t.Fatalf("%q: %v", m, err)
		}
		out = append(out, m)
		if !r.Continues {
			return out
		}
	}
}

// errorOf is the short name of an answer's error, or "".
func errorOf(t testing.TB, answer string) string {
	t.Helper()
	var r struct{ Error string }
	if err := json.Unmarshal([]byte(answer), &r); err != nil {
		t.Fatalf("%q: %v", answer, err)
	}
	return r.Error[strings.LastIndexByte(r.Error, '.')+1:]
}

// as makes an answer for a caller of another uid, which a test cannot become.
func (s *Server) as(t testing.TB, uid uint32, msg string) string {
	t.Helper()
	c, err := parseCall([]byte(msg))
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	k := sink{send: func(b []byte) error { out = append(out, b...); return nil }}
	s.answer(uid, c, &k)
	k.flush()
	return strings.ReplaceAll(string(out), "\x00", "\n")
}

// eof waits until the server hangs up, and returns what it said before.
func (c *client) eof(t testing.TB) string {
	t.Helper()
	b, err := io.ReadAll(c.r)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("waiting for the end: %v", err)
	}
	return string(b)
}

func TestAnswers(t *testing.T) {
	ts := start(t, testDirectory(t, nil), func(c *Config) { c.Members = 10 })
	c := dial(t, ts)
	alice := `{"parameters":{"record":{"userName":"alice","uid":20001,"gid":30000,"realName":"User alice","homeDirectory":"/home/alice","shell":"/bin/bash","disposition":"regular","service":"io.sekisho.Directory"},"incomplete":false}}`
	ops := `{"parameters":{"record":{"groupName":"ops","gid":30001,"disposition":"regular","service":"io.sekisho.Directory"},"incomplete":false}}`
	none := `{"error":"io.systemd.UserDatabase.NoRecordFound","parameters":{}}`
	conflict := `{"error":"io.systemd.UserDatabase.ConflictingRecordFound","parameters":{}}`
	list := `{"error":"io.systemd.UserDatabase.EnumerationNotSupported","parameters":{}}`
	in := func(u, g, end string) string {
		return fmt.Sprintf(`{"parameters":{"userName":"%s","groupName":"%s"}%s}`, u, g, end)
	}
	for _, q := range []struct {
		method, params string
		want           []string
	}{
		{"GetUserRecord", `"userName":"alice"`, []string{alice}},
		{"GetUserRecord", `"uid":20001`, []string{alice}},
		{"GetUserRecord", `"uid":20001,"userName":"alice"`, []string{alice}},
		{"GetUserRecord", `"uid":null,"userName":"alice"`, []string{alice}},
		{"GetUserRecord", `"uid":20002,"userName":"alice"`, []string{conflict}},
		{"GetUserRecord", `"uid":20009,"userName":"alice"`, []string{conflict}},
		{"GetUserRecord", `"uid":20001,"userName":"nobodyhere"`, []string{conflict}},
		{"GetUserRecord", `"uid":20009,"userName":"nobodyhere"`, []string{none}},
		{"GetUserRecord", `"userName":"Alice"`, []string{none}},
		{"GetUserRecord", `"userName":"alice "`, []string{none}},
		{"GetUserRecord", `"userName":""`, []string{none}},
		{"GetUserRecord", `"uid":4294967296`, []string{none}},
		{"GetUserRecord", `"uid":18446744073709551615`, []string{none}},
		{"GetUserRecord", `"x":1`, []string{list}},
		{"GetGroupRecord", `"groupName":"ops"`, []string{ops}},
		{"GetGroupRecord", `"gid":30001`, []string{ops}},
		{"GetGroupRecord", `"gid":30001,"groupName":"ops"`, []string{ops}},
		{"GetGroupRecord", `"gid":30002,"groupName":"ops"`, []string{conflict}},
		{"GetGroupRecord", `"groupName":"nonposix"`, []string{none}},
		{"GetGroupRecord", `"gid":0`, []string{none}},
		{"GetGroupRecord", `"groupName":"alice"`, []string{none}},
		{"GetGroupRecord", `"x":1`, []string{list}},
		// alice: people by her gid, night directly, ops through night. bob's ops is in night: a loop.
		{"GetMemberships", `"userName":"alice"`, []string{in("alice", "people", `,"continues":true`), in("alice", "ops", `,"continues":true`), in("alice", "night", "")}},
		{"GetMemberships", `"userName":"alice","groupName":"ops"`, []string{in("alice", "ops", "")}},
		{"GetMemberships", `"userName":"alice","groupName":"nonposix"`, []string{none}},
		{"GetMemberships", `"userName":"nobodyhere"`, []string{none}},
		{"GetMemberships", `"groupName":"night"`, []string{in("alice", "night", `,"continues":true`), in("bob", "night", "")}},
		{"GetMemberships", `"groupName":"nobodyhere"`, []string{none}},
		{"GetMemberships", `"x":1`, []string{list}},
	} {
		got := c.ask(t, q.method, q.params)
		if strings.Join(got, "\n") != strings.Join(q.want, "\n") {
			t.Errorf("%s %s:\n got %s\nwant %s", q.method, q.params, got, q.want)
		}
	}
}

func TestCalls(t *testing.T) {
	ts := start(t, testDirectory(t, nil), nil)
	c := dial(t, ts)
	for _, q := range []struct{ msg, want string }{
		{`{"method":"org.varlink.service.GetInfo"}`, `"interfaces":["org.varlink.service","io.systemd.UserDatabase"]`},
		{`{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"io.systemd.UserDatabase"}}`, `method GetUserRecord(uid: ?int,`},
		{`{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"a.b"}}`, `{"error":"org.varlink.service.InterfaceNotFound","parameters":{"interface":"a.b"}}`},
		{`{"method":"org.varlink.service.GetInterfaceDescription"}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"interface"}}`},
		{`{"method":"io.systemd.UserDatabase.Nope","parameters":{}}`, `{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"io.systemd.UserDatabase.Nope"}}`},
		{`{"method":"io.systemd.UserDatabase.GetUserRecord","parameters":{"userName":"alice","service":"io.systemd.NameServiceSwitch"}}`, `{"error":"io.systemd.UserDatabase.BadService","parameters":{}}`},
		{`{"method":"io.systemd.UserDatabase.GetUserRecord","parameters":{"userName":"alice"}}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"service"}}`},
		{`{"method":"io.systemd.UserDatabase.GetUserRecord","parameters":{"userName":7,"service":"io.sekisho.Directory"}}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"userName"}}`},
		{`{"method":"io.systemd.UserDatabase.GetUserRecord","parameters":{"uid":"0","service":"io.sekisho.Directory"}}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"uid"}}`},
		{`{"method":"io.systemd.UserDatabase.GetUserRecord","parameters":{"uid":-1,"service":"io.sekisho.Directory"}}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"uid"}}`},
		{`{"method":"io.systemd.UserDatabase.GetUserRecord","parameters":{"uid":2.0001e4,"service":"io.sekisho.Directory"}}`, `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"uid"}}`},
		{`{"method":"io.systemd.UserDatabase.GetUserRecord","parameters":{"userName":"alice","service":"io.sekisho.Directory"},"upgrade":true}`, `{"error":"org.varlink.service.MethodNotImplemented","parameters":{"method":"io.systemd.UserDatabase.GetUserRecord"}}`},
		// Names of members are exact, and unknown ones do not matter.
		{`{"method":"io.systemd.UserDatabase.GetUserRecord","parameters":{"USERNAME":"bob","userName":"alice","x":{"y":[1]},"service":"io.sekisho.Directory"},"z":null}`, `"userName":"alice","uid":20001`},
		// Several memberships, and the caller did not say that he takes several.
		{`{"method":"io.systemd.UserDatabase.GetMemberships","parameters":{"userName":"alice","service":"io.sekisho.Directory"}}`, `{"error":"org.varlink.service.ExpectedMore","parameters":{}}`},
		{`{"method":"io.systemd.UserDatabase.GetMemberships","parameters":{"userName":"alice","groupName":"ops","service":"io.sekisho.Directory"}}`, `{"parameters":{"userName":"alice","groupName":"ops"}}`},
		// Groups list no members unless they are asked to.
		{`{"method":"io.systemd.UserDatabase.GetMemberships","parameters":{"groupName":"ops","service":"io.sekisho.Directory"},"more":true}`, `{"error":"io.systemd.UserDatabase.NoRecordFound","parameters":{}}`},
	} {
		c.send(t, q.msg+"\x00")
		if got := c.next(t); !strings.Contains(got, q.want) {
			t.Errorf("%s\n got %s\nwant %s", q.msg, got, q.want)
		}
	}
	// One way: no answer, so the next answer is the next call's. Two calls in
	// one write, and one in three.
	c.send(t, `{"method":"org.varlink.service.GetInfo","oneway":true}`+"\x00"+`{"method":"a.First"}`+"\x00"+`{"meth`)
	c.send(t, `od":"a.Sec`)
	c.send(t, `ond"}`+"\x00")
	if a, b := c.next(t), c.next(t); !strings.Contains(a, "a.First") || !strings.Contains(b, "a.Second") {
		t.Errorf("%s, %s", a, b)
	}
}

func TestPrivileged(t *testing.T) {
	ts := start(t, testDirectory(t, nil), func(c *Config) { c.Keys = true })
	msg := `{"method":"io.systemd.UserDatabase.GetUserRecord","parameters":{"userName":"alice","service":"io.sekisho.Directory"}}`
	key := `"privileged":{"sshAuthorizedKeys":["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS alice"]}`
	for _, uid := range []uint32{0, 20001} {
		if got := ts.as(t, uid, msg); !strings.Contains(got, key) || !strings.Contains(got, `"incomplete":false`) {
			t.Errorf("uid %d: %s", uid, got)
		}
	}
	for _, uid := range []uint32{20002, 33, 1, 1<<32 - 1} {
		if got := ts.as(t, uid, msg); strings.Contains(got, "privileged") || strings.Contains(got, "AAAA") || !strings.Contains(got, `"incomplete":true`) {
			t.Errorf("uid %d: %s", uid, got)
		}
	}
	// By default keys are in no answer.
	plain := start(t, testDirectory(t, nil), nil)
	if got := plain.as(t, 0, msg); strings.Contains(got, "AAAA") || !strings.Contains(got, `"incomplete":false`) {
		t.Errorf("root: %s", got)
	}
}

// TestNeverShown: entries that must not become accounts of this machine, each
// asked for by name, by number and through its memberships.
func TestNeverShown(t *testing.T) {
	user := func(i int, name string, change func(*broker.User)) broker.User {
		u := testUser(i, name)
		change(&u)
		return u
	}
	users := []broker.User{
		user(100, "root", func(u *broker.User) {}),
		user(101, "toor", func(u *broker.User) { u.UID = 0 }),
		user(102, "web", func(u *broker.User) { u.UID = 33 }),
		user(103, "low", func(u *broker.User) { u.UID = 999 }),
		user(104, "nobody", func(u *broker.User) { u.UID = 65534 }),
		user(105, "dynamic", func(u *broker.User) { u.UID = 61184 }),
		user(106, "home", func(u *broker.User) { u.UID = 60001 }),
		user(107, "minus16", func(u *broker.User) { u.UID = 65535 }),
		user(108, "minus32", func(u *broker.User) { u.UID = 1<<32 - 1 }),
		user(109, "big", func(u *broker.User) { u.UID = 1 << 31 }),
		user(110, "gidroot", func(u *broker.User) { u.GID = 0 }),
		user(111, "gidsudo", func(u *broker.User) { u.GID = 27 }),
		user(112, "gidcarol", func(u *broker.User) { u.GID = 20050 }),
		user(113, "carol", func(u *broker.User) {}),
		user(114, "ascarol", func(u *broker.User) { u.UID = 20050 }),
		user(115, "dot.colon:", func(u *broker.User) {}),
		user(116, "-rf", func(u *broker.User) {}),
		user(117, "..", func(u *broker.User) {}),
		user(118, "123", func(u *broker.User) {}),
		user(119, "a\nroot", func(u *broker.User) {}),
		user(120, "slash/ed", func(u *broker.User) {}),
		user(121, "ümlaut", func(u *broker.User) {}),
		user(122, strings.Repeat("x", 32), func(u *broker.User) {}),
		user(123, "homeless", func(u *broker.User) { u.Home = "home/x" }),
		user(124, "homecolon", func(u *broker.User) { u.Home = "/home/x:/bin/sh" }),
		user(125, "homeline", func(u *broker.User) { u.Home = "/home/x\nroot::0:0::/:/bin/sh" }),
		user(126, "homeup", func(u *broker.User) { u.Home = "/home/../root" }),
		user(127, "homenul", func(u *broker.User) { u.Home = "/home/\x00" }),
		user(128, "homeutf", func(u *broker.User) { u.Home = "/home/\xff" }),
		user(129, "shellrel", func(u *broker.User) { u.Shell = "bash" }),
		user(130, "shellline", func(u *broker.User) { u.Shell = "/bin/sh\n" }),
		user(131, "twin1", func(u *broker.User) { u.UID = 25000 }),
		user(132, "twin2", func(u *broker.User) { u.UID = 25000 }),
		user(133, "same", func(u *broker.User) {}),
		user(134, "same", func(u *broker.User) {}),
	}
	groups := []broker.Group{
		{Name: "sudo", GID: 31000}, {Name: "wheel", GID: 27}, {Name: "asroot", GID: 0}, {Name: "ascarol", GID: 20050}, {Name: "reserved", GID: 62000},
		{Name: "bad:name", GID: 31001}, {Name: "tw1", GID: 31002}, {Name: "tw2", GID: 31002}, {Name: "same", GID: 31003}, {Name: "same", GID: 31004}, {Name: "huge", GID: 1 << 31},
	}
	ts := start(t, testDirectory(t, func(e *broker.Edit) {
		for _, u := range users {
			e.PutUser(u)
		}
		for i, g := range groups {
			g.ID, g.DN, g.Members = broker.EntryID{3, byte(i)}, broker.DN(fmt.Sprintf("cn=%d", i)), []broker.DN{dn("uid", "alice")}
			e.PutGroup(g)
		}
	}), func(c *Config) { c.Members = 100 })
	c := dial(t, ts)
	quote := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	for _, u := range users {
		for _, q := range []string{"GetUserRecord|userName|" + quote(string(u.Name)), fmt.Sprint("GetUserRecord|uid|", u.UID), "GetMemberships|userName|" + quote(string(u.Name))} {
			f := strings.Split(q, "|")
			if got := c.ask(t, f[0], `"`+f[1]+`":`+f[2]); errorOf(t, got[0]) != "NoRecordFound" {
				t.Errorf("%s: %s", q, got)
			}
		}
	}
	for _, g := range groups {
		for _, q := range []string{"GetGroupRecord|groupName|" + quote(string(g.Name)), fmt.Sprint("GetGroupRecord|gid|", g.GID), "GetMemberships|groupName|" + quote(string(g.Name))} {
			f := strings.Split(q, "|")
			if got := c.ask(t, f[0], `"`+f[1]+`":`+f[2]); errorOf(t, got[0]) != "NoRecordFound" {
				t.Errorf("%s: %s", q, got)
			}
		}
	}
	// alice is in all of those groups, and is told of none: her memberships
	// are the three that she has without them.
	if got := c.ask(t, "GetMemberships", `"userName":"alice"`); len(got) != 3 || strings.Contains(fmt.Sprint(got), "sudo") {
		t.Errorf("alice: %s", got)
	}
	// Nor is a group of hers found by members who must not be shown.
	ts.stop()
	if n := strings.Count(ts.log.String(), `dn=\"uid=toor`) + strings.Count(ts.log.String(), `dn="uid=toor`); n != 1 {
		t.Errorf("toor's fault was logged %d times, want once: %s", n, ts.log)
	}
}

// TestCleaned: what is shown, and how, where a value is missing or odd.
func TestCleaned(t *testing.T) {
	u := testUser(200, "odd")
	u.Gecos, u.Home, u.Shell = "Odd: User\nroot::0", "", ""
	v := testUser(201, "tidy")
	v.Gecos, v.Home = "Zoë \"O'Neil\" <z>", "/home//tidy/./"
	ts := start(t, testDirectory(t, func(e *broker.Edit) { e.PutUser(u); e.PutUser(v) }), nil)
	c := dial(t, ts)
	if got := c.ask(t, "GetUserRecord", `"userName":"odd"`)[0]; !strings.Contains(got, `"gid":30000,"homeDirectory":"/","shell":"/bin/sh"`) {
		t.Error(got)
	}
	var r struct {
		Parameters struct {
			Record struct{ RealName, HomeDirectory string }
		}
	}
	if err := json.Unmarshal([]byte(c.ask(t, "GetUserRecord", `"userName":"tidy"`)[0]), &r); err != nil || r.Parameters.Record.RealName != v.Gecos || r.Parameters.Record.HomeDirectory != "/home/tidy" {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestUnavailable: could not find out is never the same answer as no.
func TestUnavailable(t *testing.T) {
	ts := start(t, testDirectory(t, nil), nil)
	c := dial(t, ts)
	good := ts.view
	check := func(what, want string) {
		t.Helper()
		for _, q := range [][2]string{{"GetUserRecord", `"userName":"nobodyhere"`}, {"GetGroupRecord", `"gid":30001`}, {"GetMemberships", `"userName":"alice"`}} {
			got := errorOf(t, c.ask(t, q[0], q[1])[0])
			if want == "ServiceNotAvailable" && got != want || want == "" && got == "ServiceNotAvailable" {
				t.Errorf("%s: %s: %q", what, q[0], got)
			}
		}
	}
	check("a good view", "")
	ts.setView(broker.View{AsOf: testNow, MaxAge: time.Hour})
	check("no snapshot", "ServiceNotAvailable")
	ts.setView(broker.View{Snapshot: good.Snapshot, AsOf: testNow.Add(-time.Hour), MaxAge: time.Hour})
	check("as old as allowed", "")
	ts.setView(broker.View{Snapshot: good.Snapshot, AsOf: testNow.Add(-time.Hour - 1), MaxAge: time.Hour})
	check("too old", "ServiceNotAvailable")
	ts.setView(good)
	passwd := filepath.Join(ts.c.Etc, "passwd")
	if err := os.Rename(passwd, passwd+".away"); err != nil {
		t.Fatal(err)
	}
	check("no /etc/passwd", "ServiceNotAvailable")
	// It comes back with alice in it: she is local now.
	write(t, passwd+".new", "root:x:0:0:::\nalice:x:1500:1500:::\n")
	if err := os.Rename(passwd+".new", passwd); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{`"userName":"alice"`, `"uid":20001`} {
		if got := c.ask(t, "GetUserRecord", q)[0]; errorOf(t, got) != "NoRecordFound" {
			t.Errorf("a new local user does not shadow: %s", got)
		}
	}
	if got := c.ask(t, "GetUserRecord", `"userName":"bob"`)[0]; errorOf(t, got) != "" {
		t.Error(got)
	}
}

func TestConfig(t *testing.T) {
	good := Config{View: func() broker.View { return broker.View{} }, Now: time.Now, Log: logrus.NewEntry(logrus.New())}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"view": func(c *Config) { c.View = nil }, "now": func(c *Config) { c.Now = nil }, "log": func(c *Config) { c.Log = nil },
		"range": func(c *Config) { c.Min, c.Max = 5000, 4000 }, "etc": func(c *Config) { c.Etc = "etc" }, "members": func(c *Config) { c.Members = -1 },
		"conns": func(c *Config) { c.MaxConns = 1 }, "idle": func(c *Config) { c.Idle = -1 }, "request": func(c *Config) { c.Request = -1 },
	} {
		c := good
		change(&c)
		if s, err := New(c); err == nil || s != nil {
			t.Errorf("%s: taken", name)
		}
	}
	// A floor of 1 does not open uid 0.
	ts := start(t, testDirectory(t, func(e *broker.Edit) {
		u := testUser(300, "zero")
		u.UID = 0
		e.PutUser(u)
	}), func(c *Config) { c.Min = 1 })
	if got := ts.as(t, 0, `{"method":"io.systemd.UserDatabase.GetUserRecord","parameters":{"uid":0,"service":"io.sekisho.Directory"}}`); errorOf(t, got) != "NoRecordFound" {
		t.Error(got)
	}
}

// The group "users" (100) may be anybody's primary group, though it is a system
// group; but the directory cannot say who else is in it, or what it is called.
func TestPrimaryGroupUsers(t *testing.T) {
	ts := start(t, testDirectory(t, func(e *broker.Edit) {
		u := testUser(100, "plain")
		u.GID = 100
		e.PutUser(u)
		e.PutGroup(broker.Group{ID: broker.EntryID{3, 1}, DN: "cn=everybody", Name: "everybody", GID: 100, Members: []broker.DN{dn("uid", "alice")}})
	}), func(*Config) {})
	c := dial(t, ts)
	if got := c.ask(t, "GetUserRecord", `"userName":"plain"`)[0]; !strings.Contains(got, `"gid":100,`) {
		t.Errorf("a user of the group 100: %s", got)
	}
	for _, q := range [][2]string{{"GetGroupRecord", `"gid":100`}, {"GetGroupRecord", `"groupName":"everybody"`}, {"GetMemberships", `"groupName":"everybody"`}} {
		if got := c.ask(t, q[0], q[1])[0]; errorOf(t, got) != "NoRecordFound" {
			t.Errorf("%s %s: %s", q[0], q[1], got)
		}
	}
}
