package ldapsync

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/testenv"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		child(dir)
	}
	testenv.Main(m)
}

// directory is a real slapd with a client that may do everything.
type directory struct {
	*testenv.Slapd
	t     testing.TB
	admin *Client
}

const testBase = "dc=example,dc=org"

func startDirectory(t testing.TB, cfg testenv.SlapdConfig) *directory {
	t.Helper()
	s, err := testenv.StartSlapd(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	d := &directory{Slapd: s, t: t}
	t.Cleanup(func() {
		if d.admin != nil {
			d.admin.Close()
		}
		if t.Failed() {
			log := s.Log()
			t.Logf("slapd:\n%s", log[max(0, len(log)-4000):])
		}
		if err := d.Stop(); err != nil {
			t.Errorf("stopping slapd: %v", err)
		}
	})
	d.connect()
	d.tree()
	return d
}

// connect binds the admin's client, anew after a restart.
func (d *directory) connect() {
	d.t.Helper()
	if d.admin != nil {
		d.admin.Close()
	}
	c, err := Dial(context.Background(), ClientConfig{Provider: Provider{URLs: []string{d.LDAPI}, External: true, Timeout: 30 * time.Second}})
	if err != nil {
		d.t.Fatal(err)
	}
	d.admin = c
}

func (d *directory) tree() {
	d.t.Helper()
	for _, ou := range []string{"people", "groups", "hosts", "access", "policies"} {
		d.add("ou="+ou+","+testBase, "objectClass", "organizationalUnit")
	}
}

// add makes an entry of attribute, value pairs.
func (d *directory) add(dn string, pairs ...string) {
	d.t.Helper()
	if err := d.tryAdd(dn, pairs...); err != nil {
		d.t.Fatal(err)
	}
}

func (d *directory) tryAdd(dn string, pairs ...string) error {
	r := ldap.NewAddRequest(dn, nil)
	vals := map[string][]string{}
	var order []string
	for i := 0; i < len(pairs); i += 2 {
		if vals[pairs[i]] == nil {
			order = append(order, pairs[i])
		}
		vals[pairs[i]] = append(vals[pairs[i]], pairs[i+1])
	}
	for _, a := range order {
		r.Attribute(a, vals[a])
	}
	return d.admin.Add(context.Background(), r)
}

func userDN(name string) string  { return "uid=" + name + ",ou=people," + testBase }
func groupDN(name string) string { return "cn=" + name + ",ou=groups," + testBase }

// user makes a user; pairs are added to the usual attributes.
func (d *directory) user(name string, uid int, pairs ...string) {
	d.t.Helper()
	d.add(userDN(name), append([]string{"objectClass", "inetOrgPerson", "objectClass", "posixAccount", "objectClass", "ldapPublicKey",
		"objectClass", "shadowAccount", "uid", name, "cn", "User " + name, "sn", name, "uidNumber", fmt.Sprint(uid), "gidNumber", "5000",
		"homeDirectory", "/home/" + name, "loginShell", "/bin/bash"}, pairs...)...)
}

func (d *directory) group(name string, members ...string) {
	d.t.Helper()
	pairs := []string{"objectClass", "groupOfNames", "cn", name}
	if len(members) == 0 {
		members = []string{groupDN(name)}
	}
	for _, m := range members {
		pairs = append(pairs, "member", m)
	}
	d.add(groupDN(name), pairs...)
}

// modify applies changes: "add", "delete" or "replace", attribute, value…
func (d *directory) modify(dn string, how, attr string, values ...string) {
	d.t.Helper()
	if err := d.tryModify(dn, how, attr, values...); err != nil {
		d.t.Fatal(err)
	}
}

func (d *directory) tryModify(dn string, how, attr string, values ...string) error {
	r := ldap.NewModifyRequest(dn, nil)
	switch how {
	case "add":
		r.Add(attr, values)
	case "delete":
		r.Delete(attr, values)
	default:
		r.Replace(attr, values)
	}
	return d.admin.Modify(context.Background(), r)
}

func (d *directory) delete(dn string) {
	d.t.Helper()
	if err := d.admin.Delete(context.Background(), dn); err != nil {
		d.t.Fatal(err)
	}
}

// testKey is an authorized_keys line; every n gives another key.
func testKey(n int, comment string) string {
	b := binary.BigEndian.AppendUint32(nil, 11)
	b = append(b, "ssh-ed25519"...)
	b = binary.BigEndian.AppendUint32(b, 32)
	k := make([]byte, 32)
	binary.BigEndian.PutUint64(k[8:], uint64(n)+0x1234567)
	k[0] = 9
	b = append(b, k...)
	return strings.TrimSpace("ssh-ed25519 " + base64.StdEncoding.EncodeToString(b) + " " + comment)
}

// syncLog gathers what a Sync logs.
type syncLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *syncLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *syncLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running is a Sync that runs until stop or the test's end.
type running struct {
	*Sync
	t    testing.TB
	log  *syncLog
	stop func()
}

func (d *directory) config(t testing.TB) Config {
	return Config{Provider: Provider{URLs: []string{d.LDAPI}, External: true, Timeout: 20 * time.Second},
		BaseDN: testBase, StateDir: t.TempDir(), ProbeEvery: 100 * time.Millisecond, BackoffMin: 20 * time.Millisecond,
		BackoffMax: 200 * time.Millisecond, RollbackWait: 500 * time.Millisecond}
}

func startSync(t testing.TB, c Config) *running {
	t.Helper()
	r := &running{t: t, log: &syncLog{}}
	l := logrus.New()
	l.SetOutput(io.Writer(r.log))
	l.SetLevel(logrus.DebugLevel)
	c.Log = logrus.NewEntry(l)
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	r.Sync = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("Run: %v", err)
				}
			case <-time.After(time.Minute):
				t.Errorf("Run does not end")
			}
		})
	}
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Logf("sync:\n%s\nstatus: %+v", r.log, s.Status())
		}
	})
	return r
}

// until waits until f is true of the view.
func (r *running) until(what string, f func(broker.View) bool) broker.View {
	r.t.Helper()
	var v broker.View
	wait(r.t, what, func() bool {
		v = r.View()
		return v.Snapshot != nil && f(v)
	})
	return v
}

func wait(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain waited until: %s", what)
		}
	}
}

// younger waits until AsOf moves on, by the stream that is followed: not because that
// was taken for lagging, and begun anew.
func (r *running) younger() {
	r.t.Helper()
	was := r.View().AsOf
	wait(r.t, "AsOf moves", func() bool { return r.View().AsOf.After(was) })
	if strings.Contains(r.log.String(), "following anew") {
		r.t.Error("AsOf stood still")
	}
}

// standsStill is that AsOf does not move for a second, many probes long.
func (r *running) standsStill() bool {
	was := r.View().AsOf
	for range 100 {
		time.Sleep(10 * time.Millisecond)
		if r.View().AsOf.After(was) {
			return false
		}
	}
	return true
}

func (r *running) live() {
	r.t.Helper()
	wait(r.t, "the sync is live", func() bool { return r.Status().State == Live })
}

func hasUser(name string) func(broker.View) bool {
	return func(v broker.View) bool { u, _ := v.User(broker.UserName(name)); return u != nil }
}

func hasNoUser(name string) func(broker.View) bool {
	return func(v broker.View) bool { u, _ := v.User(broker.UserName(name)); return u == nil }
}

// inGroup tells whether a user is in a group, by the view.
func inGroup(v broker.View, user, group string) bool {
	u, _ := v.User(broker.UserName(user))
	if u == nil {
		return false
	}
	_, in := v.InGroup(u, broker.GroupName(group))
	return in
}

func newRename(dn, rdn string) *ldap.ModifyDNRequest {
	return ldap.NewModifyDNRequest(dn, rdn, true, "")
}

// rebuild restores a backup. Now and then slapadd says "context entry is
// missing" of a file that it takes the next time.
func (d *directory) rebuild(ldif []byte) {
	d.t.Helper()
	var err error
	for range 3 {
		if err = d.Rebuild(context.Background(), ldif); err == nil || !strings.Contains(err.Error(), "context entry is missing") {
			break
		}
	}
	if err != nil {
		d.t.Fatal(err)
	}
}
