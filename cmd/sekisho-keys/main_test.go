package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/wire"
)

// binary is the program as it is shipped, built once by TestMain.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sekisho-keys")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "sekisho-keys")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=1.2.3", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// TestLinksLittle holds what the program links. sshd starts it for each
// offered key, inside a login: a package more needs a reason here.
func TestLinksLittle(t *testing.T) {
	allowed := map[string]bool{}
	for _, p := range strings.Fields("cmp errors io io/fs iter math/bits os path slices strconv sync sync/atomic syscall time unicode/utf8 unsafe runtime" +
		" github.com/sekisho/sekisho/wire github.com/sekisho/sekisho/cmd/sekisho-keys") {
		allowed[p] = true
	}
	cmd := exec.Command("go", "list", "-deps", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if !allowed[p] && !strings.HasPrefix(p, "internal/") {
			t.Errorf("%s is linked", p)
		}
	}
	// Of those below internal/, the ones that come with net and fmt are named.
	for _, p := range []string{"internal/fmtsort", "internal/nettrace", "internal/singleflight"} {
		if strings.Contains(string(out), p+"\n") {
			t.Errorf("%s is linked", p)
		}
	}
}

func TestStatic(t *testing.T) {
	info, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 2<<20 {
		t.Errorf("%d bytes", info.Size())
	}
	b, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("ld-linux")) {
		t.Error("a dynamic linker is named")
	}
}

// result is one run of the program.
type result struct {
	code     int
	out, err string
	took     time.Duration
}

func keys(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	// The environment must not move the socket.
	cmd.Env = []string{"SEKISHO_SOCKET=/nonexistent", "HOME=/nonexistent"}
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if n := strings.Count(stderr.String(), "\n"); n > 1 || (n == 0 && stderr.Len() > 0) {
		t.Errorf("standard error is not one line: %q", stderr.String())
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), stderr.String(), took}
}

// folder makes a folder that guard lets pass, short enough for a socket's
// path.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// serve answers connections with f until the test ends, and returns the
// socket's path. A broker cannot show these faults; door/local is tested
// with the program elsewhere.
func serve(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(folder(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(2 * time.Minute))
			f(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return path
}

// saying serves one fixed reply.
func saying(t *testing.T, reply string) string {
	return serve(t, func(c net.Conn) {
		if _, err := wire.ReadRequest(c, nil); err == nil {
			io.WriteString(c, reply)
		}
	})
}

const (
	fp   = "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDbv4o1eP5vQyIdGJ0"
	blob = "AAAAC3NzaC1lZDI1NTE5AAAAIHUOtF4yqFJBVWyfV2yKZx8kGZ1bJ1oV3y5e0p7Qw9xA"
	line = "restrict,pty,from=\"203.0.113.0/24\" ssh-ed25519 " + blob + " alice@laptop"
)

func TestYes(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	path := serve(t, func(c net.Conn) {
		buf := make([]byte, 4096)
		n, _ := c.Read(buf)
		got <- string(buf[:n])
		io.WriteString(c, "1 yes 2\n"+line+"\n ssh-rsa AAAA  two  \n")
	})
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"alice"}, "1 keys user=alice\n"},
		{[]string{"al ice%"}, "1 keys user=al%20ice%25\n"},
		{[]string{"alice", fp}, "1 keys user=alice fp=" + fp + "\n"},
		{[]string{"alice", fp, "ssh-ed25519", blob}, "1 keys user=alice fp=" + fp + " type=ssh-ed25519 key=" + blob + "\n"},
	} {
		r := keys(t, append([]string{"--socket", path}, c.args...)...)
		if r.code != 0 || r.out != line+"\n ssh-rsa AAAA  two  \n" || r.err != "" {
			t.Errorf("%v: %+v", c.args, r)
		}
		if sent := <-got; sent != c.want {
			t.Errorf("sent %q, want %q", sent, c.want)
		}
	}
}

func TestNo(t *testing.T) {
	t.Parallel()
	r := keys(t, "--socket", saying(t, "1 no 1 reason=no-rule text=no%20rule%20for%20alic%C3%A9\n"+line+"\n"), "alice")
	if r.code != 1 || r.out != "" || r.err != "sekisho-keys: no key: no rule for alic?? (no-rule)\n" {
		t.Errorf("%+v", r)
	}
}

// TestCouldNotFindOut: whatever goes wrong, nothing is printed, the code is
// 75, and it does not take longer than the budget.
func TestCouldNotFindOut(t *testing.T) {
	t.Parallel()
	yes := "1 yes 1\n" + line + "\n"
	for name, c := range map[string]struct {
		path func(t *testing.T) string
		says string
		slow bool // the budget must be used up
	}{
		"no socket": {path: func(t *testing.T) string { return filepath.Join(folder(t), "s") }, says: "start sekishod"},
		"no folder": {path: func(t *testing.T) string { return filepath.Join(folder(t), "no", "s") }, says: "start sekishod"},
		"not a socket": {path: func(t *testing.T) string {
			p := filepath.Join(folder(t), "s")
			if err := os.WriteFile(p, []byte(yes), 0o644); err != nil {
				t.Fatal(err)
			}
			return p
		}, says: "start sekishod"},
		"nobody listens": {path: func(t *testing.T) string {
			p := filepath.Join(folder(t), "s")
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			l.Close()
			return p
		}, says: "start sekishod"},
		"path too long":  {path: func(t *testing.T) string { return folder(t) + "/" + strings.Repeat("s", 108) }, says: "invalid argument"},
		"silence":        {path: func(t *testing.T) string { return serve(t, hold) }, says: "no answer in 2 seconds", slow: true},
		"never accepted": {path: func(t *testing.T) string { return deaf(t, false) }, says: "no answer in 2 seconds", slow: true},
		"backlog full":   {path: func(t *testing.T) string { return deaf(t, true) }, says: "no answer in 2 seconds", slow: true},
		"byte by byte":   {path: func(t *testing.T) string { return serve(t, dribble) }, says: "no answer in 2 seconds", slow: true},
		"half and hold":  {path: func(t *testing.T) string { return serve(t, half) }, says: "no answer in 2 seconds", slow: true},
		"busy, at once": {path: func(t *testing.T) string {
			return serve(t, func(c net.Conn) { io.WriteString(c, "1 unknown 0 reason=busy text=too%20many\n") })
		}, says: "could not find out: too many (busy)"},
		"hang-up at once": {path: func(t *testing.T) string { return serve(t, func(net.Conn) {}) }},
		"hang-up":         {path: func(t *testing.T) string { return saying(t, "") }, says: "EOF"},
		"half a header":   {path: func(t *testing.T) string { return saying(t, "1 yes") }, says: "unexpected EOF"},
		"half a body":     {path: func(t *testing.T) string { return saying(t, yes[:len(yes)-1]) }, says: "unexpected EOF"},
		"a line missing":  {path: func(t *testing.T) string { return saying(t, "1 yes 2\n"+line+"\n") }, says: "unexpected EOF"},
		"a line more":     {path: func(t *testing.T) string { return saying(t, yes+line+"\n") }, says: "bytes follow"},
		"garbage":         {path: func(t *testing.T) string { return saying(t, "\x00\xff\x1b[2J\n") }, says: "control character"},
		"another tongue":  {path: func(t *testing.T) string { return saying(t, "HTTP/1.1 200 OK\r\n\r\n") }},
		"control in body": {path: func(t *testing.T) string { return saying(t, "1 yes 1\nssh-rsa AA\x1b[0mAA\n") }, says: "control character"},
		"version 2":       {path: func(t *testing.T) string { return saying(t, "2 yes 1\n"+line+"\n") }, says: "version 2 of the sekisho socket protocol and this program version 1"},
		"unknown":         {path: func(t *testing.T) string { return saying(t, "1 unknown 1 reason=no-snapshot text=wait\n"+line+"\n") }, says: "could not find out: wait (no-snapshot)"},
		"yes, no key":     {path: func(t *testing.T) string { return saying(t, "1 yes 0\n") }, says: "sent no key"},
		"too much":        {path: func(t *testing.T) string { return serve(t, flood) }, says: "over the limit"},
		"line too long":   {path: func(t *testing.T) string { return saying(t, "1 yes 1\n"+strings.Repeat("a", 1<<17)+"\n") }, says: "over the limit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := keys(t, "--socket", c.path(t), "alice", fp)
			if r.code != 75 || r.out != "" || r.err == "" || !strings.Contains(r.err, c.says) {
				t.Errorf("%+v", r)
			}
			if r.took > budget+20*time.Second || (c.slow && r.took < budget-100*time.Millisecond) {
				t.Errorf("took %v", r.took)
			}
		})
	}
}

// hold says nothing until the peer has gone.
func hold(c net.Conn) { io.Copy(io.Discard, c) }

func half(c net.Conn) {
	io.WriteString(c, "1 yes 1\n"+line)
	hold(c)
}

// dribble never lets a single read wait long.
func dribble(c net.Conn) {
	for _, b := range []byte("1 yes 1\n" + line + "\n") {
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func flood(c net.Conn) {
	wire.ReadRequest(c, nil)
	io.WriteString(c, "1 yes 16384\n")
	for {
		if _, err := io.WriteString(c, strings.Repeat(line+"\n", 100)); err != nil {
			return
		}
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	path := saying(t, "1 yes 1\n"+line+"\n")
	for _, args := range [][]string{
		{}, {""}, {"-x"}, {"--", "alice"}, {"alice", fp, "ssh-ed25519", blob, "more"}, {"alice", ""},
		{"al\nice"}, {"alice\x00"[:5] + "\x01"}, {"a\x7f"}, {strings.Repeat("a", maxUser+1)},
		{"alice", "MD5:00:11"}, {"alice", fp + "="}, {"alice", fp[:49]}, {"alice", "sha256" + fp[6:]}, {"alice", fp[:49] + " "},
		{"alice", fp, ""}, {"alice", fp, "ssh ed25519"}, {"alice", fp, strings.Repeat("t", maxType+1)},
		{"alice", fp, "ssh-rsa", ""}, {"alice", fp, "ssh-rsa", "===="}, {"alice", fp, "ssh-rsa", "AAA"}, {"alice", fp, "ssh-rsa", "AA A"},
		{"alice", fp, "ssh-rsa", "AA=A"}, {"alice", fp, "ssh-rsa", strings.Repeat("A", maxKey+4)},
		{"alice", "--socket", "/x"}, {"--socket"}, {"--help", "alice"}, {"--version", "alice"}, {"--socket", path, "--socket", path, "alice"},
	} {
		if len(args) == 0 || args[0] != "--socket" {
			args = append([]string{"--socket", path}, args...)
		}
		if r := keys(t, args...); r.code != 2 || r.out != "" || r.err == "" {
			t.Errorf("%.80q: %+v", args, r)
		}
	}
	// The longest arguments that are let in fit in one request.
	r := keys(t, "--socket", path, strings.Repeat(" ", maxUser), fp, strings.Repeat("t", maxType), strings.Repeat("A", maxKey))
	if r.code != 0 || r.out != line+"\n" {
		t.Errorf("%+v", r)
	}
}

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	r := keys(t, "--help")
	if r.code != 0 || !strings.Contains(r.out, "AuthorizedKeysCommand /") || !strings.Contains(r.out, "75") || !strings.Contains(r.out, defaultSocket) {
		t.Errorf("%+v", r)
	}
	if r := keys(t, "--version"); r.code != 0 || r.out != "sekisho-keys 1.2.3\n" {
		t.Errorf("%+v", r)
	}
}

// TestFullDisk: keys that could not be written are not reported as given.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	cmd := exec.Command(binary, "--socket", saying(t, "1 yes 1\n"+line+"\n"), "alice")
	cmd.Stdout = full
	if cmd.Run(); cmd.ProcessState.ExitCode() != 75 {
		t.Error(cmd.ProcessState)
	}
}
