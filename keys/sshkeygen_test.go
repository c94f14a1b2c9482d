package keys

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// keygen runs the real ssh-keygen (Debian package openssh-client) in dir.
func keygen(t *testing.T, dir string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssh-keygen", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen %v: %v (install openssh-client)\n%s", args, err, out)
	}
	return string(out)
}

// listed is what ssh-keygen -l says of one key.
type listed struct {
	bits        int
	fingerprint string
}

// list gives the lines, each with the comment "#N", to one ssh-keygen -l, and
// tells for each line what it is; the zero value where ssh-keygen finds no key.
func list(t *testing.T, lines []string) []listed {
	t.Helper()
	dir := t.TempDir()
	var file strings.Builder
	for i, l := range lines {
		fmt.Fprintf(&file, "%s line%d\n", l, i)
	}
	// ssh-keygen fails if there is no key at all, so the last is a good one.
	fmt.Fprintf(&file, "%s\n", benchED25519)
	if err := os.WriteFile(filepath.Join(dir, "keys"), []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out := make([]listed, len(lines))
	n := 0
	for l := range strings.Lines(keygen(t, dir, "-l", "-f", "keys")) {
		f := strings.Fields(l)
		if len(f) < 4 {
			t.Fatalf("ssh-keygen -l says %q", l)
		}
		comment, ok := strings.CutPrefix(f[len(f)-2], "line")
		if !ok {
			continue
		}
		i, err := strconv.Atoi(comment)
		if err != nil {
			t.Fatalf("ssh-keygen -l says %q", l)
		}
		bits, err := strconv.Atoi(f[0])
		if err != nil {
			t.Fatalf("ssh-keygen -l says %q", l)
		}
		out[i] = listed{bits, f[1]}
		n++
	}
	if n == 0 {
		t.Fatal("ssh-keygen -l found no key at all: this test proves nothing")
	}
	return out
}

func readFile(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// roundTrip parses, prints and parses again.
func roundTrip(t *testing.T, line string) Line {
	t.Helper()
	l, err := ParseLine(line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	s, err := l.Format()
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	again, err := ParseLine(s)
	if err != nil || !reflect.DeepEqual(again, l) {
		t.Fatalf("%s:\nprinted %s\nread back as %v, %v", line, s, again, err)
	}
	return l
}

// Each type of key that ssh-keygen makes without a token: the line is parsed and
// printed as it was, and size and fingerprint are those of ssh-keygen -l.
func TestKeygenKeys(t *testing.T) {
	dir := t.TempDir()
	var lines []string
	for _, c := range []struct{ typ, bits, want string }{
		{"rsa", "1024", RSA}, {"rsa", "2047", RSA}, {"rsa", "3072", RSA},
		{"dsa", "1024", DSA}, {"ecdsa", "256", ECDSA256}, {"ecdsa", "384", ECDSA384},
		{"ecdsa", "521", ECDSA521}, {"ed25519", "256", ED25519},
	} {
		name := c.typ + c.bits
		keygen(t, dir, "-q", "-t", c.typ, "-b", c.bits, "-N", "", "-C", "me @ "+name, "-f", name)
		line := strings.TrimSuffix(readFile(t, dir, name+".pub"), "\n")
		l := roundTrip(t, line)
		if l.String() != line || l.Comment != "me @ "+name || l.Options != nil || l.Key.Type != c.want {
			t.Errorf("%s\nparsed as %+v", line, l)
		}
		lines = append(lines, line)
	}
	for _, c := range plainBlobs(t) {
		lines = append(lines, c.blob.line())
	}
	for i, want := range list(t, lines) {
		k := roundTrip(t, lines[i]).Key
		if got := (listed{k.Bits(), k.Fingerprint()}); got != want {
			t.Errorf("%s\n got %v\nwant %v", lines[i], got, want)
		}
	}
}

// Certificates over each type of key by each type of CA, with all options of
// ssh-keygen; those that a sk- CA makes are signed by hand and verified here by
// ssh-keygen, which shows that the hand makes real ones.
func TestKeygenCertificates(t *testing.T) {
	dir := t.TempDir()
	var cas []string
	for _, c := range [][2]string{{"rsa", "2048"}, {"dsa", "1024"}, {"ecdsa", "256"}, {"ecdsa", "384"}, {"ecdsa", "521"}, {"ed25519", "256"}} {
		name := "ca-" + c[0] + c[1]
		keygen(t, dir, "-q", "-t", c[0], "-b", c[1], "-N", "", "-f", name)
		cas = append(cas, name)
	}
	var lines []string
	for i, c := range plainBlobs(t) {
		if c.bits == 16384 {
			continue // sshd could take it, but it only costs time here
		}
		sub := fmt.Sprintf("key%d", i)
		if err := os.WriteFile(filepath.Join(dir, sub+".pub"), []byte(c.blob.line()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		ca := cas[i%len(cas)]
		keygen(t, dir, "-q", "-s", ca, "-I", "alice é", "-z", "18446744073709551615", "-n", "alice,bob",
			"-V", "20200101:20301231", "-O", "clear", "-O", "force-command=/bin/echo \"x\"", "-O", "source-address=192.0.2.0/24,2001:db8::/32",
			"-O", "verify-required", "-O", "no-touch-required", "-O", "permit-pty", "-O", "extension:login@example.org=alice", sub+".pub")
		line := strings.TrimSpace(readFile(t, dir, sub+"-cert.pub"))
		lines = append(lines, line)
		cert, err := roundTrip(t, line).Key.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		caKey := roundTrip(t, strings.TrimSpace(readFile(t, dir, ca+".pub"))).Key
		signed := cert.SignedWith
		if want := map[string]string{RSA: "rsa-sha2-512"}[caKey.Type]; want != "" && signed != want || want == "" && signed != caKey.Type {
			t.Errorf("%s signed with %s", ca, signed)
		}
		cert.SignedWith = ""
		want := Certificate{
			Key: Key{Type: string(c.blob[4 : 4+c.blob[3]]), Blob: string(c.blob)}, CA: caKey,
			Serial: 1<<64 - 1, Type: UserCertificate, KeyID: "alice é", Principals: []string{"alice", "bob"},
			ValidAfter:  uint64(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC).Unix()),
			ValidBefore: uint64(time.Date(2030, 12, 31, 0, 0, 0, 0, time.UTC).Unix()),
			Critical: []CertOption{{"force-command", `/bin/echo "x"`}, {"source-address", "192.0.2.0/24,2001:db8::/32"},
				{"verify-required", ""}},
			Extensions: []CertOption{{"login@example.org", "alice"}, {"no-touch-required", ""}, {"permit-pty", ""}},
		}
		if !reflect.DeepEqual(cert, want) {
			t.Errorf("%s by %s:\n got %+v\nwant %+v", want.Key.Type, ca, cert, want)
		}
	}
	keygen(t, dir, "-q", "-s", cas[0], "-h", "-I", "web1", "-n", "web1.example.org", "-t", "rsa-sha2-256", "key7.pub")
	lines = append(lines, strings.TrimSpace(readFile(t, dir, "key7-cert.pub")))
	host, err := roundTrip(t, lines[len(lines)-1]).Key.Certificate()
	if err != nil || host.Type != HostCertificate || host.SignedWith != "rsa-sha2-256" {
		t.Errorf("host certificate: %+v, %v", host, err)
	}
	lines = append(lines, certParts{}.sign(t).line(), certParts{sk: true}.sign(t).line())
	for i, want := range list(t, lines) {
		k := roundTrip(t, lines[i]).Key
		if got := (listed{k.Bits(), k.Fingerprint()}); got != want || !k.IsCertificate() {
			t.Errorf("%s\n got %v\nwant %v", lines[i], got, want)
		}
	}
}

// What we refuse, ssh-keygen refuses, but for what is marked as strict.
func TestKeygenRefuses(t *testing.T) {
	bad := badBlobs(t)
	var lines []string
	for _, c := range bad {
		line := "x " + "AAAA"
		if len(c.blob) > 4 && int(c.blob[3])+4 <= len(c.blob) && len(c.blob) < MaxBlob {
			line = c.blob.line()
		}
		lines = append(lines, line)
	}
	for i, l := range list(t, lines) {
		if taken := l != (listed{}); taken != (bad[i].strict != "") {
			t.Errorf("%s (%s): ssh-keygen takes it: %v; marked as strict: %q", lines[i], bad[i].err, taken, bad[i].strict)
		}
	}
}

// Thousands of keys with some bytes changed: what we take, ssh-keygen takes, as
// the same key. What only ssh-keygen takes must have one of few reasons.
func TestKeygenMutated(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var blobs []blob
	for _, c := range plainBlobs(t) {
		if len(c.blob) > 1000 {
			continue
		}
		for range 400 {
			b := append(blob{}, c.blob...)
			for range 1 + r.IntN(2) {
				switch i := r.IntN(len(b)); r.IntN(4) {
				case 0:
					b[i] ^= 1 << r.IntN(8)
				case 1:
					b[i] = byte(r.Uint32())
				case 2:
					b = append(b[:i], b[i+1:]...)
				case 3:
					b = append(b[:i], append(blob{byte(r.Uint32())}, b[i:]...)...)
				}
			}
			// The word on the line must be right, or nothing is looked at.
			if n := 4 + int(c.blob[3]); len(b) > n && string(b[:n]) == string(c.blob[:n]) {
				blobs = append(blobs, b)
			}
		}
	}
	var lines []string
	for _, b := range blobs {
		lines = append(lines, b.line())
	}
	both, ours, strict := 0, 0, 0
	for i, theirs := range list(t, lines) {
		k, err := ParseBlob(blobs[i])
		switch {
		case err == nil && theirs == listed{k.Bits(), k.Fingerprint()}:
			both++
		case err == nil:
			t.Errorf("%s\nwe take it as %d %s, ssh-keygen as %v", lines[i], k.Bits(), k.Fingerprint(), theirs)
		case theirs == listed{}:
			ours++
		default:
			strict++
			known := false
			for _, s := range []string{"even", "leading zeros", "odd number above 1", "q is not", "g is not", "y is not", "application", "at most 8 are", "exponent is zero", "p is even"} {
				known = known || strings.Contains(err.Error(), s)
			}
			if !known {
				t.Errorf("%s\nssh-keygen takes it; we say %v", lines[i], err)
			}
		}
	}
	t.Logf("%d taken by both, %d refused by both, %d refused by us only", both, ours, strict)
	if both < 100 || ours < 100 || strict < 10 {
		t.Error("the mutations do not reach enough: change them")
	}
}
