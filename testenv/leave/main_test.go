package leave

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/leaks"
	"github.com/sekisho/sekisho/testenv/site"
)

// watch is for what must be seen nowhere; set before the world is made.
var watch *leaks.Watch

// world is the site of all tests. Immutable after setUp.
var world struct {
	*site.Site
	web, db *testenv.Host
}

// atOnce is how many sessions one user may have open on a host: more than any
// test but that of the limit opens.
const atOnce = 5

func TestMain(m *testing.M) { testenv.Main(runner(func() int { return run(m) })) }

type runner func() int

func (r runner) Run() int { return r() }

// run sets the site up, runs the tests, and looks for secrets in what is left.
func run(m *testing.M) int {
	watch = leaks.Start()
	watch.Below(site.State, site.State+"/realm")
	w, err := testenv.NewWorld(testenv.WorldConfig{})
	if err != nil {
		fmt.Fprintln(os.Stderr, "making a world:", err)
		return 1
	}
	code := 1
	if err := setUp(w); err != nil {
		fmt.Fprintln(os.Stderr, "setting up the site:", err)
	} else {
		code = m.Run()
	}
	if err := watch.Search(w); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: secrets:", err)
		code = max(code, 1)
	}
	if code != 0 {
		w.ShowLogs(func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) })
	}
	if err := w.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "closing the world:", err)
		code = max(code, 1)
	}
	return code
}

func setUp(w *testenv.World) (err error) {
	if world.Site, err = site.New(context.Background(), w, site.Config{Hosts: []string{"web1", "db1"}}); err != nil {
		return err
	}
	world.web, world.db = world.Hosts[0], world.Hosts[1]
	if err := world.StartRealm(); err != nil {
		return err
	}
	for _, h := range world.Hosts {
		if err := world.Join(h); err != nil {
			return err
		}
		if err := hostSecrets(h); err != nil {
			return err
		}
	}
	return limit(world.web)
}

// limit has a host refuse a user's sessions above atOnce.
func limit(h *testenv.Host) error {
	const file = "/etc/sekisho/sekishod.toml"
	conf, err := h.ReadFile(file)
	if err != nil {
		return err
	}
	if err := h.WriteFile(file, fmt.Appendf(conf, "\n[sessions]\nmax_per_user = %d\n", atOnce), 0o644); err != nil {
		return err
	}
	if err := world.Sekishod(h).Stop(); err != nil {
		return err
	}
	return world.Start(h)
}

// hostSecrets notes down the key by which a host follows the broker: its lines,
// and the number that it is.
func hostSecrets(h *testenv.Host) error {
	text, err := h.ReadFile("/etc/sekisho/host.key")
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return errors.New("host.key is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("host.key: %w", err)
	}
	switch k := key.(type) {
	case ed25519.PrivateKey:
		watch.Secret(string(k.Seed()))
	case *ecdsa.PrivateKey:
		raw, err := k.Bytes()
		if err != nil {
			return fmt.Errorf("host.key: %w", err)
		}
		watch.Secret(string(raw))
	default:
		return fmt.Errorf("host.key is a %T: say here how its secret is found", key)
	}
	lines := 0
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); len(line) > 40 {
			watch.Secret(line)
			lines++
		}
	}
	if lines == 0 {
		return errors.New("host.key has no line of 40 characters")
	}
	return nil
}

func need(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// patience is for what must come to pass, on a machine however slow.
const patience = 2 * time.Minute

func soon(t *testing.T, f func() error) {
	t.Helper()
	need(t, world.Soon(patience, f))
}
