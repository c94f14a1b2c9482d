package testenv

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/beevik/ntp"
)

// ahead is how far the time that a program prints (seconds since 1970) is ahead
// of ours.
func ahead(t *testing.T, c *Cmd) float64 {
	t.Helper()
	before := time.Now()
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v: %v %s", c.Args, err, stderr(err))
	}
	s, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	if err != nil {
		t.Fatal(err)
	}
	middle := before.Add(time.Since(before) / 2)
	return s - float64(middle.UnixNano())/1e9
}

// about fails unless got is want to within 30 s: the machine is slow at times.
func about(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 30 {
		t.Errorf("%s: %.1f s ahead, want %.1f", what, got, want)
	}
}

// clockProgram prints what each of the calls says, in seconds.
const clockProgram = `
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
int main(int n, char **v)
{
	struct timespec t = {0};
	struct timeval u = {0};
	if (n < 2) return 1;
	if (!strcmp(v[1], "realtime")) clock_gettime(CLOCK_REALTIME, &t);
	else if (!strcmp(v[1], "coarse")) clock_gettime(CLOCK_REALTIME_COARSE, &t);
	else if (!strcmp(v[1], "timespec_get")) timespec_get(&t, TIME_UTC);
	else if (!strcmp(v[1], "time")) t.tv_sec = time(NULL);
	else if (!strcmp(v[1], "gettimeofday")) { gettimeofday(&u, NULL); t.tv_sec = u.tv_sec; t.tv_nsec = 1000L * u.tv_usec; }
	else if (!strcmp(v[1], "monotonic")) clock_gettime(CLOCK_MONOTONIC, &t);
	else return 1;
	if (t.tv_nsec < 0 || t.tv_nsec >= 1000000000) return 2;
	printf("%ld.%09ld\n", (long)t.tv_sec, t.tv_nsec);
	return 0;
}
`

func compile(t *testing.T, out string, flags ...string) {
	t.Helper()
	c := exec.Command("gcc", append(flags, "-O2", "-x", "c", "-o", out, "-")...)
	c.Stdin = strings.NewReader(clockProgram)
	if b, err := c.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v %s", err, b)
	}
}

func TestMoveClock(t *testing.T) {
	ctx := testContext(t)
	w := ForTest(t)
	a, b := w.Need(t, "a"), w.Need(t, "b")
	dynamic, static := t.TempDir()+"/clock", t.TempDir()+"/clock"
	compile(t, dynamic)
	compile(t, static, "-static")
	read := func(d *bufio.Reader) float64 {
		line, err := d.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		s, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
		if err != nil {
			t.Fatal(err)
		}
		return s - float64(time.Now().UnixNano())/1e9
	}
	// perl asks the C library anew for each line that it is sent.
	running := func() (*bufio.Reader, func()) {
		c := a.Command(ctx, "perl", "-MTime::HiRes", "-e", `$| = 1; while (<STDIN>) { printf "%.6f\n", Time::HiRes::time() }`)
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close(); c.Wait() })
		return bufio.NewReader(out), func() { fmt.Fprintln(in) }
	}
	old, askOld := running()
	if err := a.MoveClock(0); err != nil {
		t.Fatal(err)
	}
	followed, ask := running()
	for _, offset := range []time.Duration{0, 10 * time.Minute, -7*time.Minute - 12*time.Second - 400*time.Millisecond, 24 * 365 * time.Hour, 0} {
		if err := a.MoveClock(offset); err != nil {
			t.Fatal(err)
		}
		for _, call := range []string{"realtime", "coarse", "timespec_get", "time", "gettimeofday"} {
			about(t, call+" of "+offset.String(), ahead(t, a.Command(ctx, dynamic, call)), offset.Seconds())
			about(t, "static "+call, ahead(t, a.Command(ctx, static, call)), 0)
			about(t, call+" of the other host", ahead(t, b.Command(ctx, dynamic, call)), 0)
		}
		ask()
		about(t, "a running program", read(followed), offset.Seconds())
		askOld()
		about(t, "a program from before", read(old), 0)
		var up float64
		if b, err := os.ReadFile("/proc/uptime"); err != nil {
			t.Fatal(err)
		} else if _, err := fmt.Sscan(string(b), &up); err != nil {
			t.Fatal(err)
		}
		mono := ahead(t, a.Command(ctx, dynamic, "monotonic")) + float64(time.Now().Unix())
		about(t, "the monotonic clock", mono-up, 0)
	}
	// faketime's library goes to the kernel past ours.
	if err := a.MoveClock(time.Hour); err != nil {
		t.Fatal(err)
	}
	about(t, "under faketime", ahead(t, a.Command(ctx, "faketime", "-f", "+600s", dynamic, "realtime")), 600)
}

// Programs that the kernel runs with the rights of another (AT_SECURE) take no
// preload from their environment, but from the file; and they still work.
func TestMoveClockOfSetuidPrograms(t *testing.T) {
	ctx := testContext(t)
	w := ForTest(t)
	h := w.Need(t, "a")
	if err := h.AddUser(LocalUser{Name: "alice", UID: 2001}); err != nil {
		t.Fatal(err)
	}
	if err := h.WriteFile("/etc/sudoers.d/alice", []byte("alice ALL=(ALL) NOPASSWD: ALL\n"), 0o440); err != nil {
		t.Fatal(err)
	}
	compile(t, "/usr/local/bin/clock-setuid")
	if err := os.Chmod("/usr/local/bin/clock-setuid", 0o4755); err != nil {
		t.Fatal(err)
	}
	if err := h.MoveClock(time.Hour); err != nil {
		t.Fatal(err)
	}
	about(t, "a setuid program", ahead(t, h.CommandAs(ctx, "alice", "/usr/local/bin/clock-setuid", "realtime")), 3600)
	about(t, "through sudo", ahead(t, h.CommandAs(ctx, "alice", "sudo", "-n", "date", "+%s.%N")), 3600)
	about(t, "through su", ahead(t, h.Command(ctx, "su", "alice", "-c", "date +%s.%N")), 3600)
	if out, err := h.CommandAs(ctx, "alice", "sudo", "-n", "id", "-u").CombinedOutput(); err != nil || string(out) != "0\n" {
		t.Errorf("sudo says %q, %v", out, err)
	}
	// A Go program, static, with the preload file there.
	if p, err := Program("sekisho"); err != nil {
		t.Error(err)
	} else if out, err := h.Command(ctx, p, "--version").CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "sekisho version") {
		t.Errorf("%s --version: %v: %s", p, err, out)
	}
}

func TestChronyd(t *testing.T) {
	ctx := testContext(t)
	w := ForTest(t)
	h := w.Need(t, "ntp1")
	if err := h.MoveClock(0); err != nil {
		t.Fatal(err)
	}
	d, err := h.StartChronyd(ctx, ChronydConfig{Port: 11123})
	if err != nil {
		t.Fatal(err)
	}
	for _, offset := range []time.Duration{0, 10 * time.Minute, -432 * time.Second, 0} {
		if err := h.MoveClock(offset); err != nil {
			t.Fatal(err)
		}
		r, err := queryNTP(ctx, net.JoinHostPort(h.Addr.String(), "11123"))
		if err != nil {
			t.Fatalf("at %s: %v\n%s", offset, err, d.Log())
		}
		about(t, offset.String(), r.ClockOffset.Seconds(), offset.Seconds())
		if r.Stratum != 3 {
			t.Errorf("stratum %d", r.Stratum)
		}
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
}

// queryNTP asks until a good answer comes.
func queryNTP(ctx context.Context, addr string) (*ntp.Response, error) {
	for {
		r, err := ntp.QueryWithOptions(addr, ntp.QueryOptions{Timeout: time.Second})
		if err == nil {
			err = r.Validate()
		}
		if err == nil || ctx.Err() != nil {
			return r, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}
