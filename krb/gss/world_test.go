package gss_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/accept"
	"github.com/sekisho/sekisho/krb/client"
	"github.com/sekisho/sekisho/krb/gss"
	"github.com/sekisho/sekisho/testenv"
)

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// realm is a KDC with alice, a service of each encryption type, and all their keys.
type realm struct {
	*testenv.KDC
	dir, keytab string
	client      *client.Client
}

// services have keys of one type each, so that the session keys are of it too.
var services = []struct {
	etype     int32
	mit, name string
}{
	{krb.AES128SHA1, "aes128-cts-hmac-sha1-96", "host/e17.example.org"},
	{krb.AES256SHA1, "aes256-cts-hmac-sha1-96", "host/e18.example.org"},
	{krb.AES128SHA2, "aes128-cts-hmac-sha256-128", "host/e19.example.org"},
	{krb.AES256SHA2, "aes256-cts-hmac-sha384-192", "host/e20.example.org"},
}

const alicePassword = "correct horse"

func newRealm(t testing.TB, more ...string) *realm {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, time.Minute)
	k, err := testenv.StartKDC(ctx, testenv.KDCConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the KDC's log:\n%s", k.Log())
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &realm{KDC: k, dir: dir, keytab: filepath.Join(dir, "keytab")}
	if err := k.AddUser(ctx, "alice", alicePassword); err != nil {
		t.Fatal(err)
	}
	for _, s := range services {
		if err := k.AddService(ctx, s.name, r.keytab, s.mit); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range more {
		if err := k.AddService(ctx, name, r.keytab); err != nil {
			t.Fatal(err)
		}
	}
	if r.client, err = client.New(client.Config{Realm: k.Realm, KDCs: []string{k.Addr}}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *realm) principal(t testing.TB, name string) krb.Principal {
	t.Helper()
	p, err := krb.NewPrincipal(name, r.Realm)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// tgt signs alice in.
func (r *realm) tgt(t testing.TB) krb.Credential {
	t.Helper()
	c, err := r.client.Login(within(t, 10*time.Second), r.principal(t, "alice"), alicePassword, client.LoginOptions{Forwardable: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (r *realm) ticket(t testing.TB, tgt krb.Credential, service string) krb.Credential {
	t.Helper()
	c, err := r.client.Service(within(t, 10*time.Second), tgt, r.principal(t, service))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (r *realm) forward(t testing.TB, tgt krb.Credential) *krb.Credential {
	t.Helper()
	c, err := r.client.Forward(within(t, 10*time.Second), tgt, client.ForwardOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

// acceptor is one with the realm's keytab and a replay cache of its own; change, if
// not nil, alters its configuration.
func (r *realm) acceptor(t testing.TB, change func(*gss.Config, *accept.Config)) *gss.Acceptor {
	t.Helper()
	keytab, err := accept.OpenKeytab(r.keytab)
	if err != nil {
		t.Fatal(err)
	}
	replay, err := accept.OpenReplay(accept.ReplayConfig{Path: filepath.Join(t.TempDir(), "replay")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { replay.Close() })
	ac := accept.Config{Keytab: keytab, Replay: replay}
	var gc gss.Config
	if change != nil {
		change(&gc, &ac)
	}
	if gc.Tickets, err = accept.New(ac); err != nil {
		t.Fatal(err)
	}
	a, err := gss.NewAcceptor(gc)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// env is the environment of MIT's programs.
func (r *realm) env(ccache string) []string {
	return []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "KRB5_CONFIG=" + r.KRB5Conf, "KRB5_KTNAME=FILE:" + r.keytab,
		"KRB5CCNAME=FILE:" + ccache, "KRB5RCACHENAME=none:"}
}

// kinit signs alice in with MIT's program and gives the cache.
func (r *realm) kinit(t testing.TB) string {
	t.Helper()
	cc := filepath.Join(t.TempDir(), "cc")
	cmd := exec.CommandContext(within(t, 20*time.Second), "kinit", "-f", "alice")
	cmd.Env = r.env(cc)
	cmd.Stdin = strings.NewReader(alicePassword + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("kinit: %v\n%s", err, out)
	}
	return cc
}

// peer is a running testdata/peer.c.
type peer struct {
	in  io.WriteCloser
	out *bufio.Reader
}

// buildPeer compiles testdata/peer.c.
func buildPeer(t testing.TB) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "peer")
	out, err := exec.CommandContext(within(t, time.Minute), "gcc", "-Wall", "-Werror", "-o", bin, "testdata/peer.c", "-lgssapi_krb5").CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return bin
}

func startPeer(t testing.TB, env []string, bin string, args ...string) *peer {
	t.Helper()
	cmd := exec.CommandContext(within(t, time.Minute), bin, args...)
	cmd.Env = env
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s %q: %v", filepath.Base(bin), args, err)
		}
	})
	return &peer{in, bufio.NewReaderSize(out, 1<<20)}
}

// answer reads the lines up to ".", by their first word.
func (p *peer) answer(t testing.TB) map[string]string {
	t.Helper()
	got := map[string]string{}
	for {
		line, err := p.out.ReadString('\n')
		if err != nil {
			t.Fatalf("the peer has ended: %v", err)
		}
		line = strings.TrimSpace(line)
		if line == "." {
			return got
		}
		word, rest, _ := strings.Cut(line, " ")
		got[word] = rest
	}
}

func (p *peer) ask(t testing.TB, words ...string) map[string]string {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, strings.Join(words, " ")); err != nil {
		t.Fatal(err)
	}
	return p.answer(t)
}

func toHex(b []byte) string {
	if len(b) == 0 {
		return "-"
	}
	return hex.EncodeToString(b)
}

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	if s == "-" {
		return nil
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// messages passes messages both ways between our context and the peer's.
func (p *peer) messages(t testing.TB, c *gss.Context) {
	t.Helper()
	for _, msg := range [][]byte{nil, []byte("a"), []byte("sixteen bytes ..."), []byte(strings.Repeat("long ", 2000))} {
		mic := fromHex(t, p.ask(t, "mic", toHex(msg))["mic"])
		if err := c.VerifyMIC(msg, mic); err != nil {
			t.Errorf("MIT's MIC: %v", err)
		}
		if err := c.VerifyMIC(append(msg, 'x'), mic); !errors.Is(err, gss.ErrToken) {
			t.Errorf("MIT's MIC of another message: %v", err)
		}
		if c.Flags()&gss.Replay != 0 {
			if err := c.VerifyMIC(msg, mic); !errors.Is(err, gss.ErrReplayed) {
				t.Errorf("MIT's MIC twice: %v", err)
			}
		}
		mic, err := c.GetMIC(msg)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.ask(t, "verify", toHex(msg), toHex(mic)); got["error"] != "" {
			t.Errorf("our MIC: %s", got["error"])
		}
		for _, seal := range []string{"0", "1"} {
			got, sealed, err := c.Unwrap(fromHex(t, p.ask(t, "wrap", seal, toHex(msg))["wrap"]))
			if err != nil || sealed != (seal == "1") || string(got) != string(msg) {
				t.Errorf("MIT's Wrap token, sealed %s: %q, %v", seal, got, err)
			}
			tok, err := c.Wrap(msg, seal == "1")
			if err != nil {
				t.Fatal(err)
			}
			if got := p.ask(t, "unwrap", toHex(tok)); got["unwrap"] != seal+" "+toHex(msg) {
				t.Errorf("our Wrap token, sealed %s: %q", seal, got)
			}
		}
	}
}
