package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb/clock"
	"github.com/sekisho/sekisho/testenv"
)

func source(k clock.Kind, name string, offset, bound time.Duration, v clock.Verdict, why string) clock.Source {
	return clock.Source{Clock: clock.Clock{Kind: k, Name: name}, Offset: offset, Bound: bound, Verdict: v, Why: why}
}

func TestDoctorLayout(t *testing.T) {
	tool := func(names ...string) mends {
		return mends{func(p string) bool { return strings.Contains(strings.Join(names, " "), p) }}
	}
	for name, tc := range map[string]struct {
		report doctorReport
		mends  mends
		want   string
	}{
		"good": {doctorReport{Kernel: kernelClock{true, 15 * time.Millisecond}, Status: clock.Status{
			State: clock.Good, Text: "this host's clock is right (3 ms behind +/- 8 ms, by 2 time servers and the KDC)",
			Sources: []clock.Source{
				source(clock.TimeServer, "ntp1.example.org", 3*time.Millisecond, 8*time.Millisecond, clock.Right, ""),
				source(clock.TimeServer, "ntp2.example.org", -time.Hour, 9*time.Millisecond, clock.False, "most of the others contradict it"),
				source(clock.TimeServer, "ntp3.example.org", 0, 0, clock.Silent, "no answer in 2.0 s"),
				source(clock.TimeServer, "ntp4.example.org", 0, 0, clock.Denied, "it says DENY: it is not asked again before a restart"),
				source(clock.KDC, "kdc1.example.org", -200*time.Millisecond, 500*time.Millisecond, clock.Right, ""),
			}}}, tool(), `web1: the clocks are good for tickets (5 min 0 s is allowed)
this host's clock is right (3 ms behind +/- 8 ms, by 2 time servers and the KDC)

  CLOCK        SOURCE            AGAINST THIS HOST  +/-     VERDICT
  this host    web1                                 15 ms   good, kept by a time service
  time server  ntp1.example.org  3 ms ahead         8 ms    good
  time server  ntp2.example.org  1 h 0 min behind   9 ms    not believed: most of the others contradict it
  time server  ntp3.example.org                             no time: no answer in 2.0 s
  time server  ntp4.example.org                             it says DENY: it is not asked again before a restart
  KDC          kdc1.example.org  200 ms behind      500 ms  good

mend time server ntp2.example.org:
  mend it, or take it out of clock.servers
`},
		"host": {doctorReport{Notes: []string{"no KDC is asked: \x1b[31m"}, Status: clock.Status{
			State: clock.Beyond, Culprit: clock.Clock{Kind: clock.Host}, Offset: -432 * time.Second, Bound: 8 * time.Millisecond,
			Text: "this host's clock is 7 min 12 s behind (+/- 8 ms, by 1 time server)",
			Sources: []clock.Source{
				source(clock.TimeServer, "ntp1.example.org", 432*time.Second, 8*time.Millisecond, clock.Right, ""),
				source(clock.KDC, "127.0.0.1", 0, time.Millisecond, clock.Wrong, ""),
			}}}, tool("systemd-timesyncd"), `web1: CLOCKS TOO FAR APART: tickets fail now (5 min 0 s is allowed)
this host's clock is 7 min 12 s behind (+/- 8 ms, by 1 time server)

  CLOCK        SOURCE            AGAINST THIS HOST  +/-   VERDICT
  this host    web1                                       7 min 12 s behind, kept by no time service
  time server  ntp1.example.org  7 min 12 s ahead   8 ms  good
  KDC          127.0.0.1         0 ms ahead         1 ms  WRONG

mend this host:
  timedatectl set-ntp true
  systemctl restart systemd-timesyncd

note: no KDC is asked: \x1b[31m
`},
		"kdc": {doctorReport{Status: clock.Status{
			State: clock.Near, Culprit: clock.Clock{Kind: clock.KDC, Name: "kdc1.example.org"}, Offset: 4 * time.Minute, Text: "the clock of KDC kdc1.example.org is 4 min 0 s ahead",
			Sources: []clock.Source{source(clock.KDC, "kdc1.example.org", 4*time.Minute, time.Second, clock.Off, "")}}}, tool("chronyc"),
			`web1: CLOCKS DRIFT APART: tickets still work (5 min 0 s is allowed)
the clock of KDC kdc1.example.org is 4 min 0 s ahead

  CLOCK      SOURCE            AGAINST THIS HOST  +/-    VERDICT
  this host  web1                                        good, kept by no time service
  KDC        kdc1.example.org  4 min 0 s ahead    1.0 s  wrong, but tickets still work

mend on KDC kdc1.example.org:
  chronyc makestep    # or: timedatectl set-ntp true && systemctl restart systemd-timesyncd
`},
		"between": {doctorReport{Status: clock.Status{
			State: clock.Beyond, Between: clock.Clock{Kind: clock.KDC, Name: "kdc1.example.org"}, Offset: 10 * time.Minute, Text: "they are 10 min 0 s apart",
			Sources: []clock.Source{source(clock.KDC, "kdc1.example.org", 10*time.Minute, time.Second, clock.Alone, "")}}}, tool("chronyc"),
			`web1: CLOCKS TOO FAR APART: tickets fail now (5 min 0 s is allowed)
they are 10 min 0 s apart

  CLOCK      SOURCE            AGAINST THIS HOST  +/-    VERDICT
  this host  web1                                        not known, kept by no time service
  KDC        kdc1.example.org  10 min 0 s ahead   1.0 s  nobody to judge it by

mend this host or KDC kdc1.example.org:
  sekisho doctor --ntp SERVER    # tells which of the two is wrong
`},
		"unknown": {doctorReport{Status: clock.Status{Text: "nobody has told this host the time yet"}}, tool(),
			`web1: NOT KNOWN whether the clocks are right (5 min 0 s is allowed)
nobody has told this host the time yet

  CLOCK      SOURCE  AGAINST THIS HOST  +/-  VERDICT
  this host  web1                            not known, kept by no time service

mend the question:
  sekisho doctor --ntp SERVER    # or name servers in sekishod.toml: [clock] servers = ["ntp1.example.org", ...]
`},
	} {
		t.Run(name, func(t *testing.T) {
			tc.report.Host, tc.report.Skew = "web1", 5*time.Minute
			tc.report.Mends = tc.mends.of(tc.report.Status)
			var b bytes.Buffer
			if err := printDoctor(&b, tc.report); err != nil {
				t.Fatal(err)
			}
			if b.String() != tc.want {
				t.Errorf("got:\n%s\nwant:\n%s", b.String(), tc.want)
			}
		})
	}
}

func TestMendHere(t *testing.T) {
	both := func(string) bool { return true }
	none := func(string) bool { return false }
	for _, tc := range []struct {
		has    func(string) bool
		offset time.Duration
		want   string
	}{
		{both, 0, "chronyc makestep"},
		{none, -432*time.Second - 300*time.Millisecond, "date -s '+432 seconds'"},
		{none, 2 * time.Hour, "date -s '-7200 seconds'"},
	} {
		if got := (mends{tc.has}).here(tc.offset); got[0] != tc.want {
			t.Errorf("%s: %q, want %q", tc.offset, got, tc.want)
		}
	}
	// GNU date takes it so.
	out, err := exec.Command("date", "-u", "-d", "+432 seconds", "+%s").Output()
	at, perr := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if ahead := time.Until(time.Unix(at, 0)); err != nil || perr != nil || ahead < 400*time.Second || ahead > 433*time.Second {
		t.Errorf("date: %s %v", out, err)
	}
}

// TestDoctor asks real time servers, KDCs and directories, and moves their clocks.
func TestDoctor(t *testing.T) {
	ctx := t.Context()
	w := testenv.ForTest(t)
	var ntp []string
	hosts := map[string]*testenv.Host{}
	move := func(name string, offset time.Duration) {
		t.Helper()
		if err := hosts[name].MoveClock(offset); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"ntp1", "ntp2", "ntp3", "kdc1"} {
		hosts[name] = w.Need(t, name)
		move(name, 0)
		if name == "kdc1" {
			continue
		}
		if _, err := hosts[name].StartChronyd(ctx, testenv.ChronydConfig{}); err != nil {
			t.Fatal(err)
		}
		ntp = append(ntp, "--ntp", hosts[name].Addr.String())
	}
	kdc, err := testenv.StartKDC(ctx, testenv.KDCConfig{Dir: t.TempDir(), Host: hosts["kdc1"]})
	if err != nil {
		t.Fatal(err)
	}
	defer kdc.Close()
	run := func(want int, words []string, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		cmd := exec.CommandContext(ctx, "sekisho", append([]string{"doctor"}, args...)...)
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.Env = append(os.Environ(), "KRB5_CONFIG="+kdc.KRB5Conf)
		begin := time.Now()
		err := cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("%v: exit code %d (%v), want %d:\n%s", args, code, err, want, out.String())
		}
		// What a slow machine makes of the round trips is at most some seconds.
		text := regexp.MustCompile(`\b7 min (9|1\d) s`).ReplaceAllString(out.String(), "7 min 12 s")
		text = regexp.MustCompile(`\b(9 min 5[5-9]|10 min [0-5]) s`).ReplaceAllString(text, "10 min 0 s")
		for _, word := range words {
			if !strings.Contains(text, word) {
				t.Errorf("%v: no %q in:\n%s", args, word, out.String())
			}
		}
		if d := time.Since(begin); d > time.Minute {
			t.Errorf("%v took %s", args, d)
		}
		return out.String()
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, _, err := clock.ProbeKDC(ctx, "127.0.0.1:88", "SEKISHO.INTERNAL", time.Now); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	// This machine has an embedded realm, with a KDC and a directory.
	t.Log(run(0, []string{"the clocks are good", "by 3 time servers)", "KDC          localhost", "directory    localhost"}, ntp...))
	var doc struct {
		State   string
		Culprit struct{ Kind, Name string }
		Offset  time.Duration `json:"offset_ns"`
		Sources []struct{ Kind, Verdict string }
		Mends   []mend
	}
	move("ntp1", time.Hour)
	out := run(0, nil, append([]string{"--json", "--kdc", kdc.Addr, "--realm", kdc.Realm}, ntp...)...)
	if err := json.Unmarshal([]byte(out), &doc); err != nil || doc.State != "good" || len(doc.Sources) != 5 || doc.Sources[0].Verdict != "false" || len(doc.Mends) != 1 {
		t.Errorf("%v: %+v\n%s", err, doc, out)
	}
	for _, n := range []string{"ntp1", "ntp2", "ntp3"} {
		move(n, 432*time.Second)
	}
	t.Log(run(1, []string{"CLOCKS TOO FAR APART", "this host's clock is 7 min 12 s behind", "mend this host:\n"}, ntp...))
	for _, n := range []string{"ntp1", "ntp2", "ntp3"} {
		move(n, 0)
	}
	move("kdc1", 10*time.Minute)
	name := hosts["kdc1"].Addr.String()
	run(1, []string{"the clock of KDC " + name + " is 10 min 0 s ahead", "mend on KDC " + name + ":\n  chronyc makestep"},
		append([]string{"--kdc", name, "--realm", kdc.Realm}, ntp...)...)
	run(1, []string{"this host's clock and that of KDC " + name + " are 10 min 0 s apart", "sekisho doctor --ntp"}, "--kdc", name, "--realm", kdc.Realm)
	move("kdc1", 0)

	// A host without a realm of its own: krb5.conf names the KDC, sekishod.toml the
	// directory, which tells nobody its time.
	s, err := testenv.StartSlapd(ctx, testenv.SlapdConfig{Port: 3899, Schemas: testenv.PackagedSchemas("core")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	config := filepath.Join(t.TempDir(), "c.toml")
	text := fmt.Sprintf("host = \"web1.example.org\"\n[directory]\nurl = [%q]\nbase = \"dc=example,dc=org\"\n[clock]\nservers = [%q]\n", s.URL, ntp[1])
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run(0, []string{"by 1 time server and the KDC", name, "does not tell its time", "directory    localhost:3899"}, "--config", config)
	// Nobody can be asked.
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	run(3, []string{"NOT KNOWN", "no answer in 2.0 s"}, "--config", config, "--ntp", silent.LocalAddr().String(), "--kdc", "127.0.0.1:1")
	// Wrong usage.
	run(2, []string{"write HOST or HOST:PORT"}, "--kdc", "a b")
	run(2, []string{"is no port"}, "--kdc", "a:nosuch")
	run(2, []string{"time server"}, "--ntp", "http://x")
}
