package keys

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sshdSays starts one real sshd (Debian package openssh-server) on one
// connection, with the lines as authorized_keys, and a client that offers the
// probes, which are lines of public keys or certificates without a private key:
// sshd judges each, and nobody can log in. It gives sshd's debugging output.
// sshd runs as an unprivileged user, so that it needs no directory of its own
// in /run; PAM is on, so that it does not look for a password in shadow.
func sshdSays(t *testing.T, lines, probes, extra []string) string {
	t.Helper()
	// Not t.TempDir, which only its owner may enter.
	dir, err := os.MkdirTemp("", "keys-sshd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Chmod(dir, 0o755))
	me, err := user.Current()
	must(err)
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if me.Uid == "0" {
		me, err = user.Lookup("nobody")
		must(err)
		uid, err := strconv.ParseUint(me.Uid, 10, 32)
		must(err)
		gid, err := strconv.ParseUint(me.Gid, 10, 32)
		must(err)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	keygen(t, dir, "-q", "-t", "ed25519", "-N", "", "-f", "host")
	if attr.Credential != nil {
		must(os.Chown(filepath.Join(dir, "host"), int(attr.Credential.Uid), int(attr.Credential.Gid)))
	}
	authorized := filepath.Join(dir, "authorized")
	must(os.WriteFile(authorized, []byte(strings.Join(lines, "\n")+"\n"), 0o644))

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	must(err)
	client := []string{"-F", "none", "-p", port, "-l", me.Username, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
		"-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "PreferredAuthentications=publickey", "-o", "PubkeyAcceptedAlgorithms=*"}
	for i, p := range probes {
		name := filepath.Join(dir, fmt.Sprintf("probe%d.pub", i))
		must(os.WriteFile(name, []byte(p+"\n"), 0o600))
		client = append(client, "-i", name)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	ssh := exec.CommandContext(ctx, "ssh", append(client, "127.0.0.1", "true")...)
	var clientOut bytes.Buffer
	ssh.Stdout, ssh.Stderr = &clientOut, &clientOut
	must(ssh.Start())
	defer func() { cancel(); ssh.Wait() }()

	must(ln.(*net.TCPListener).SetDeadline(time.Now().Add(2 * time.Minute)))
	conn, err := ln.Accept()
	if err != nil {
		t.Fatalf("ssh does not connect: %v\n%s", err, clientOut.Bytes())
	}
	defer conn.Close()
	sock, err := conn.(*net.TCPConn).File()
	must(err)
	defer sock.Close()
	sshd := exec.CommandContext(ctx, "/usr/sbin/sshd", append([]string{"-i", "-e", "-f", "/dev/null",
		"-o", "HostKey=" + filepath.Join(dir, "host"), "-o", "AuthorizedKeysFile=" + authorized,
		"-o", "LogLevel=DEBUG3", "-o", "StrictModes=no", "-o", "UsePAM=yes", "-o", "PidFile=none", "-o", "UseDNS=no",
		"-o", "PermitUserEnvironment=yes", "-o", "MaxAuthTries=1000", "-o", "PubkeyAcceptedAlgorithms=*",
		"-o", "CASignatureAlgorithms=*"}, extra...)...)
	var out bytes.Buffer
	sshd.Stdin, sshd.Stdout, sshd.Stderr = sock, sock, &out
	sshd.SysProcAttr, sshd.Dir, sshd.WaitDelay = attr, "/", 10*time.Second
	if err := sshd.Run(); err == nil || ctx.Err() != nil || !strings.Contains(out.String(), "userauth-request") {
		t.Fatalf("sshd did not see the client to its end: %v (install openssh-server)\n%s\nclient:\n%s", err, &out, &clientOut)
	}
	return strings.ReplaceAll(out.String(), authorized+":", "LINE ")
}

// randomKey is the line of a public key that nobody has the private key of.
func randomKey(r *rand.Rand) string {
	pk := make([]byte, 32)
	for i := range pk {
		pk[i] = byte(r.Uint32())
	}
	return blob{}.str(ED25519).str(string(pk)).line()
}

// sshd's parser takes every options field that ours takes, as it came and as we
// print it; and it refuses what we refuse, but for what is marked as strict.
func TestSSHDOptions(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	type line struct {
		text string
		good bool
	}
	var want []line
	for _, c := range accepted {
		for _, o := range []string{c.in, c.out} {
			if o != "" {
				want = append(want, line{o, true})
			}
		}
	}
	for _, c := range refused {
		want = append(want, line{c.in, c.strict != ""})
	}
	var lines []string
	for _, w := range want {
		lines = append(lines, w.text+" "+randomKey(r))
	}
	// The client's key is in none of the lines, so sshd reads them all.
	out := sshdSays(t, lines, []string{randomKey(r)}, nil)

	verdict := map[int]string{} // "": taken
	current := 0
	for l := range strings.Lines(out) {
		_, at, ok := strings.Cut(l, "LINE ")
		num, rest, _ := strings.Cut(at, ":")
		switch n, err := strconv.Atoi(num); {
		case ok && err == nil && strings.Contains(rest, "check options"):
			current, verdict[n] = n, ""
		case ok && err == nil && (strings.Contains(rest, "bad key options") || strings.Contains(rest, "advance:")):
			verdict[n] = strings.TrimSpace(rest)
		case strings.Contains(l, "invalid key option string"):
			verdict[current] = strings.TrimSpace(l)
		}
	}
	for i, w := range want {
		v, seen := verdict[i+1]
		if !seen {
			t.Errorf("%s: sshd did not look at it", w.text)
		} else if (v == "") != w.good {
			t.Errorf("%s: sshd should take it: %v, but says %q", w.text, w.good, v)
		}
	}
}

// What Effective says, sshd does: its list of what a key may is compared for the
// flags in any order, as they came and as we print them.
func TestSSHDEffective(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	words := []string{"restrict", "pty", "no-pty", "port-forwarding", "no-port-forwarding", "agent-forwarding",
		"no-agent-forwarding", "X11-forwarding", "no-X11-forwarding", "user-rc", "no-user-rc",
		"no-touch-required", "touch-required", "verify-required", "no-verify-required"}
	var lines, probes, want []string
	for range 45 {
		var o []string
		for range 1 + r.IntN(7) {
			o = append(o, words[r.IntN(len(words))])
		}
		line := strings.Join(o, ",") + " " + randomKey(r)
		l := roundTrip(t, line)
		printed := l
		printed.Key = roundTrip(t, randomKey(r)).Key // sshd stops at the first line with a key
		for s, k := range map[string]Key{line: l.Key, printed.String(): printed.Key} {
			lines, probes = append(lines, s), append(probes, k.Type+" "+k.Base64())
			want = append(want, sshdList(l.Options))
		}
	}
	out := sshdSays(t, lines, probes, nil)
	for i, w := range want {
		mark := fmt.Sprintf("LINE %d: key options:", i+1)
		_, rest, ok := strings.Cut(out, mark)
		got, _, _ := strings.Cut(rest, "\n")
		if got = strings.TrimSpace(got); !ok || got != w {
			t.Errorf("%s\nsshd allows %q (%v)\n   we allow %q", lines[i], got, ok, w)
		}
	}
}

// sshdList is how sshd logs what a key may (auth_log_authopts).
func sshdList(o *Options) string {
	e := o.Effective()
	var out []string
	add := func(on bool, s string) {
		if on {
			out = append(out, s)
		}
	}
	add(e.AgentForwarding, "agent-forwarding")
	add(o != nil && o.NoTouchRequired, "no-touch-required")
	add(e.PortForwarding, "port-forwarding")
	add(e.PTY, "pty")
	add(o != nil && o.VerifyRequired, "uv")
	add(e.UserRC, "user-rc")
	add(e.X11Forwarding, "x11-forwarding")
	return strings.Join(out, " ")
}

// sshd understands every from= that we take, and expiry times mean what
// Expiry.At says.
func TestSSHDFromAndExpiry(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	now := time.Now()
	local := func(d time.Duration) string {
		return Expiry{Time: now.Add(d).UTC().Truncate(time.Second), Local: true}.String()
	}
	type probe struct {
		options string
		want    string // part of what sshd says of the line
	}
	const accept, elsewhere, expired = "key options:", "but not from a permitted host", "entry expired"
	probes := []probe{
		{`from="127.0.0.1"`, accept},
		{`from="127.0.0.0/8"`, accept},
		{`from="127.0.0.*"`, accept},
		{`from="::/0"`, elsewhere},
		{`from="*,!127.0.0.0/8"`, elsewhere},
		{`from="!127.0.0.1,*"`, elsewhere},
		{`from="!192.0.2.0/24"`, elsewhere},
		{`from="!192.0.2.0/24,127.?.?.1"`, accept},
		{`expiry-time="` + ExpiryAt(now.Add(time.Hour)).String() + `"`, accept},
		{`expiry-time="` + ExpiryAt(now.Add(-time.Minute)).String() + `"`, expired},
		// sshd runs in UTC+2 here.
		{`expiry-time="` + local(3*time.Hour) + `"`, accept},
		{`expiry-time="` + local(time.Hour) + `"`, expired},
	}
	for _, c := range accepted {
		if strings.HasPrefix(c.in, "from=") {
			probes = append(probes, probe{c.in, ""})
		}
	}
	t.Setenv("TZ", "UTC-2")
	var lines, offered []string
	for _, p := range probes {
		key := randomKey(r)
		l := roundTrip(t, p.options+" "+key)
		lines, offered = append(lines, l.String()), append(offered, key)
	}
	out := sshdSays(t, lines, offered, nil)
	for i, p := range probes {
		mark := fmt.Sprintf("LINE %d: ", i+1)
		said := ""
		for l := range strings.Lines(out) {
			if strings.Contains(l, mark) {
				said += l
			}
		}
		if said == "" || !strings.Contains(said, p.want) || strings.Contains(said, "invalid from criteria") {
			t.Errorf("%s: want %q; sshd says\n%s", lines[i], p.want, said)
		}
	}
}

// What sshd gives a command for %f, %t and %k is what Fingerprint, Type and
// Base64 say, for keys and for certificates.
func TestSSHDTokens(t *testing.T) {
	var probes []string
	for _, c := range plainBlobs(t) {
		k := roundTrip(t, c.blob.line()).Key
		if k.Type == DSA || k.Type == RSA {
			continue // of no use to a real client: they are no real keys
		}
		probes = append(probes, c.blob.line(), certParts{key: k}.sign(t).line(), certParts{key: k, sk: true}.sign(t).line())
	}
	probes = append(probes, benchRSA)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if me.Uid == "0" {
		me.Username = "nobody"
	}
	out := sshdSays(t, []string{"#"}, probes, []string{
		"-o", "AuthorizedKeysCommand=/bin/echo %f %t %k", "-o", "AuthorizedKeysCommandUser=" + me.Username})
	for _, p := range probes {
		k := roundTrip(t, p).Key
		if want := fmt.Sprintf(`"/bin/echo %s %s %s"`, k.Fingerprint(), k.Type, k.Base64()); !strings.Contains(out, want) {
			t.Errorf("sshd did not run %s", want)
		}
	}
	if t.Failed() {
		for l := range strings.Lines(out) {
			if strings.Contains(l, "/bin/echo") {
				t.Log(l)
			}
		}
	}
}
