package clock

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/testenv"
)

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// expect polls until the guard is in the state and says the words.
func expect(t *testing.T, g *Guard, want State, words ...string) Status {
	t.Helper()
	var s Status
	for end := time.Now().Add(time.Minute); ; {
		g.Poll(within(t, time.Minute))
		s = g.Status()
		said := s.State == want
		for _, w := range words {
			said = said && strings.Contains(s.Text, w)
		}
		if said {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %q, want %s: %q; %+v", s.State, s.Text, want, words, s.Sources)
		}
	}
}

// move moves the clock of a host.
func move(t *testing.T, h *testenv.Host, offset time.Duration) {
	t.Helper()
	if err := h.MoveClock(offset); err != nil {
		t.Fatal(err)
	}
}

// TestRealClocks: three chronyd, a KDC and a directory, each on a host of its own,
// whose clocks go wrong while they run and are mended again.
func TestRealClocks(t *testing.T) {
	patient(t)
	ctx := within(t, 9*time.Minute)
	w := testenv.ForTest(t)
	var times []*testenv.Host
	var servers []string
	for i := range 3 {
		h := w.Need(t, fmt.Sprint("ntp", i+1))
		move(t, h, 0)
		if _, err := h.StartChronyd(ctx, testenv.ChronydConfig{Port: 11123}); err != nil {
			t.Fatal(err)
		}
		times = append(times, h)
		servers = append(servers, net.JoinHostPort(h.Addr.String(), "11123"))
	}
	kdcHost, ldapHost, client := w.Need(t, "kdc1"), w.Need(t, "ldap1"), w.Need(t, "client")
	move(t, kdcHost, 0)
	move(t, ldapHost, 0)
	kdc, err := testenv.StartKDC(ctx, testenv.KDCConfig{Dir: t.TempDir(), Host: kdcHost})
	if err != nil {
		t.Fatal(err)
	}
	defer kdc.Close()
	if err := kdc.AddUser(ctx, "alice", "alice's password"); err != nil {
		t.Fatal(err)
	}
	ca, err := testenv.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	slapd, err := testenv.StartSlapd(ctx, testenv.SlapdConfig{Host: ldapHost, CA: ca, Schemas: testenv.PackagedSchemas("core"),
		Config: "dn: cn=module{1},cn=config\nobjectClass: olcModuleList\ncn: module{1}\nolcModulePath: /usr/lib/ldap\nolcModuleLoad: back_monitor\n\n" +
			"dn: olcDatabase={2}monitor,cn=config\nobjectClass: olcDatabaseConfig\nobjectClass: olcMonitorConfig\nolcDatabase: {2}monitor\nolcAccess: to * by * read\n"})
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, ca.PEM, 0o644); err != nil {
		t.Fatal(err)
	}
	directory := ldapsync.ClientConfig{Provider: ldapsync.Provider{URLs: []string{slapd.TLSURL}, CAFile: caFile}}
	probe := func(ctx context.Context, g *Guard) {
		if err := g.AskKDC(ctx, kdc.Addr, kdc.Realm); err != nil {
			t.Log(err)
		}
		c, err := ldapsync.Dial(ctx, directory)
		if err != nil {
			t.Log(err)
			return
		}
		defer c.Close()
		at, err := c.Time(ctx)
		if err != nil {
			t.Log(err)
			return
		}
		offset, bound := at.Offset()
		g.ObserveDirectory("ldap1", offset, bound)
	}
	guard := func(now func() time.Time, servers ...string) *Guard {
		g, err := New(Config{Log: quiet(), Servers: servers, Probe: probe, Now: now, spacing: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	g, kdcAlone := guard(nil, servers...), guard(nil)
	name := kdcHost.Addr.String()

	expect(t, g, Good, "this host's clock is right", "by 3 time servers, the KDC and the directory")
	expect(t, kdcAlone, Good, "the clocks of this host and of KDC "+name+" agree")

	// A time server goes wrong: left out, named, and no more than that.
	move(t, times[0], 10*time.Minute)
	s := expect(t, g, Good, "by 2 time servers, the KDC")
	if s.Sources[0].Verdict != False || (s.Sources[0].Offset-10*time.Minute).Abs() > s.Sources[0].Bound {
		t.Errorf("%+v", s.Sources[0])
	}
	// Two that contradict each other: the KDC tips the scales.
	expect(t, guard(nil, servers[:2]...), Good, "by 1 time server, the KDC")
	// All of them and the KDC: then it is us.
	for _, h := range append(times, kdcHost) {
		move(t, h, 432*time.Second)
	}
	s = expect(t, g, Beyond, "this host's clock is 7 min 12 s behind (+/- ", "by 3 time servers and the KDC)",
		"the clock of the directory ldap1 is 7 min 12 s behind")
	if s.Culprit != (Clock{Kind: Host}) || (s.Offset+432*time.Second).Abs() > s.Bound+time.Second/100 {
		t.Errorf("%+v", s)
	}
	expect(t, kdcAlone, Beyond, "this host's clock and that of KDC "+name+" are 7 min 12 s apart (the KDC's is ahead")
	// The same seen from a host whose clock is behind.
	for _, h := range append(times, kdcHost) {
		move(t, h, 0)
	}
	behind := guard(func() time.Time { return time.Now().Add(-432 * time.Second) }, servers...)
	expect(t, behind, Beyond, "this host's clock is 7 min 12 s behind (+/- ", "by 3 time servers and the KDC)")
	if r := behind.Client(432 * time.Second); r == nil || !strings.Contains(r.Text, "this host's clock is 7 min 12 s behind") {
		t.Errorf("of a client that is right: %v", r)
	}
	// A real client knows the same: kinit's own clock against the KDC's.
	kinit := func(offset string) error {
		c := client.Command(ctx, "faketime", "-f", offset, "kinit", "alice")
		c.Env = append(c.Env, "KRB5_CONFIG="+kdc.KRB5Conf)
		c.Stdin = strings.NewReader("alice's password\n")
		out, err := c.CombinedOutput()
		if err != nil && !strings.Contains(string(out), "Clock skew too great") {
			t.Errorf("kinit %s: %v %s", offset, err, out)
		}
		return err
	}
	expect(t, g, Good, "3 time servers, the KDC and the directory")
	conf, err := os.ReadFile(kdc.KRB5Conf)
	if err == nil {
		conf = []byte(strings.Replace(string(conf), "[libdefaults]", "[libdefaults]\n  kdc_timesync = 0", 1))
		err = os.WriteFile(kdc.KRB5Conf, conf, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []int{0, 290, -290, 310, -310, 602} {
		refused := kinit(fmt.Sprintf("%+ds", d)) != nil
		if ours := g.Client(time.Duration(d) * time.Second); (ours != nil) != refused {
			t.Errorf("a client %d s ahead: the KDC refuses: %v; we say %v", d, refused, ours)
		}
	}
	if r := g.Client(602 * time.Second); r == nil || r.Text != "the clock of the client is 10 min 2 s ahead" {
		t.Errorf("%v", r)
	}
	// The KDC alone.
	move(t, kdcHost, 10*time.Minute)
	expect(t, g, Beyond, "the clock of KDC "+name+" is 10 min 0 s ahead (+/- ", "by 3 time servers and this host)")
	if err := kinit("+0s"); err == nil {
		t.Error("kinit works with a KDC that is 10 minutes ahead, and we say it cannot")
	}
	move(t, kdcHost, 4*time.Minute)
	expect(t, g, Near, "the clock of KDC "+name+" is 4 min 0 s ahead")
	if err := kinit("+0s"); err != nil {
		t.Error("kinit fails with a KDC that is 4 minutes ahead, and we say it works")
	}
	move(t, kdcHost, 0)
	expect(t, g, Good, "3 time servers")
	// The directory alone: named, and tickets go on.
	move(t, ldapHost, -10*time.Minute)
	s = expect(t, g, Good, "the clock of the directory ldap1 is 10 min 0 s behind")
	if s.Culprit != (Clock{Directory, "ldap1"}) {
		t.Errorf("%+v", s.Culprit)
	}
	move(t, ldapHost, 0)
	// The network is gone, and comes back.
	for _, h := range append(times, kdcHost, ldapHost) {
		if err := h.Partition(); err != nil {
			t.Fatal(err)
		}
	}
	fresh := guard(nil, servers...)
	fresh.Poll(ctx)
	if s := fresh.Status(); s.State != Unknown {
		t.Errorf("%s: %q", s.State, s.Text)
	}
	for _, h := range append(times, kdcHost, ldapHost) {
		if err := h.Heal(); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, fresh, Good, "3 time servers")
}

// A KDC on this very machine, by whatever address, says nothing about its clock.
func TestOwnKDC(t *testing.T) {
	patient(t)
	ctx := within(t, 2*time.Minute)
	kdc, err := testenv.StartKDC(ctx, testenv.KDCConfig{Dir: t.TempDir()}) // on the bridge's address, which is ours
	if err != nil {
		t.Fatal(err)
	}
	defer kdc.Close()
	g, err := New(Config{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.AskKDC(ctx, kdc.Addr, kdc.Realm); err != nil {
		t.Fatal(err)
	}
	if s := g.Status(); s.State != Unknown || !strings.Contains(s.Text, "the KDC is this host") {
		t.Errorf("%+v", s)
	}
}

// While Run runs: the KDC goes wrong and is mended, and nobody does anything.
func TestRunFollowsRealClocks(t *testing.T) {
	patient(t)
	ctx := within(t, 9*time.Minute)
	w := testenv.ForTest(t)
	h := w.Need(t, "kdc1")
	move(t, h, 0)
	if _, err := h.StartChronyd(ctx, testenv.ChronydConfig{}); err != nil {
		t.Fatal(err)
	}
	kdc, err := testenv.StartKDC(ctx, testenv.KDCConfig{Dir: t.TempDir(), Host: h})
	if err != nil {
		t.Fatal(err)
	}
	defer kdc.Close()
	g, err := New(Config{Log: quiet(), Servers: []string{h.Addr.String()}, Interval: time.Second, spacing: 50 * time.Millisecond,
		Probe: func(ctx context.Context, g *Guard) { g.AskKDC(ctx, kdc.Addr, kdc.Realm) }})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { g.Run(running); close(done) }()
	defer func() { stop(); <-done }()
	await := func(want State, words string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			s := g.Status()
			if s.State == want && strings.HasPrefix(s.Text, words) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%+v, want %s, %q", s, want, words)
			}
		}
		if (g.Check() != nil) != (want == Beyond) {
			t.Errorf("Check says %v", g.Check())
		}
	}
	await(Good, "")
	move(t, h, 10*time.Minute)
	await(Beyond, "this host's clock is 10 min 0 s behind")
	move(t, h, 0)
	await(Good, "")
}
