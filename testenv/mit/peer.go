package mit

import (
	"bufio"
	_ "embed"
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

	"github.com/sekisho/sekisho/krb/gss"
)

//go:embed testdata/peer.c
var peerSource string

//go:embed testdata/othermech.c
var otherMechSource string

// Peer is a running testdata/peer.c.
type Peer struct {
	in  io.WriteCloser
	out *bufio.Reader
}

// BuildPeer compiles the program.
func BuildPeer(t testing.TB) string {
	t.Helper()
	return compile(t, "peer", peerSource, "-lgssapi_krb5")
}

// OtherMech compiles a mechanism that Kerberos is not, and gives the environment that
// has MIT's library load it.
func OtherMech(t testing.TB) string {
	t.Helper()
	so := compile(t, "othermech.so", otherMechSource, "-shared", "-fPIC")
	conf := filepath.Join(filepath.Dir(so), "mech")
	if err := os.WriteFile(conf, []byte("other 1.3.6.1.4.1.999 "+so+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return "GSS_MECH_CONFIG=" + conf
}

func compile(t testing.TB, name, source string, more ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	cmd := exec.CommandContext(within(t, 5*time.Minute), "gcc", append([]string{"-Wall", "-Werror", "-o", out, "-x", "c", "-", "-x", "none"}, more...)...)
	cmd.Stdin = strings.NewReader(source)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, msg)
	}
	return out
}

// StartPeer runs it; testdata/peer.c says how it is called.
func StartPeer(t testing.TB, env []string, bin string, args ...string) *Peer {
	t.Helper()
	cmd := exec.CommandContext(within(t, 5*time.Minute), bin, args...)
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
	return &Peer{in, bufio.NewReaderSize(out, 1<<20)}
}

// Answer reads the lines up to ".", by their first word.
func (p *Peer) Answer(t testing.TB) map[string]string {
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

// Ask sends a line and reads the answer.
func (p *Peer) Ask(t testing.TB, words ...string) map[string]string {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, strings.Join(words, " ")); err != nil {
		t.Fatal(err)
	}
	return p.Answer(t)
}

// Hex is how the program reads bytes.
func Hex(b []byte) string {
	if len(b) == 0 {
		return "-"
	}
	return hex.EncodeToString(b)
}

// Unhex is the inverse of Hex.
func Unhex(t testing.TB, s string) []byte {
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

// Messages passes messages both ways between our context and the peer's.
func (p *Peer) Messages(t testing.TB, c *gss.Context) {
	t.Helper()
	for _, msg := range [][]byte{nil, []byte("a"), []byte("sixteen bytes ..."), []byte(strings.Repeat("long ", 2000))} {
		mic := Unhex(t, p.Ask(t, "mic", Hex(msg))["mic"])
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
		if got := p.Ask(t, "verify", Hex(msg), Hex(mic)); got["error"] != "" {
			t.Errorf("our MIC: %s", got["error"])
		}
		for _, seal := range []string{"0", "1"} {
			got, sealed, err := c.Unwrap(Unhex(t, p.Ask(t, "wrap", seal, Hex(msg))["wrap"]))
			if err != nil || sealed != (seal == "1") || string(got) != string(msg) {
				t.Errorf("MIT's Wrap token, sealed %s: %q, %v", seal, got, err)
			}
			tok, err := c.Wrap(msg, seal == "1")
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Ask(t, "unwrap", Hex(tok)); got["unwrap"] != seal+" "+Hex(msg) {
				t.Errorf("our Wrap token, sealed %s: %q", seal, got)
			}
		}
	}
}
