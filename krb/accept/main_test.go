package accept_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sekisho/sekisho/krb/accept"
	"github.com/sekisho/sekisho/testenv"
)

// childEnv makes this program a service of its own, for tests that kill it: the
// directory has its keytab and its replay cache.
const childEnv = "SEKISHO_TEST_ACCEPT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := serve(dir); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testenv.Main(m)
}

// serve reads AP-REQs, a line each in hex, and says yes or no.
func serve(dir string) error {
	kt, err := accept.OpenKeytab(filepath.Join(dir, "keytab"))
	if err != nil {
		return err
	}
	r, err := accept.OpenReplay(accept.ReplayConfig{Path: filepath.Join(dir, "replay")})
	if err != nil {
		return err
	}
	a, err := accept.New(accept.Config{Keytab: kt, Replay: r})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		msg, err := hex.DecodeString(lines.Text())
		if err != nil {
			return err
		}
		if got, err := a.Accept(context.Background(), msg, accept.Options{}); err != nil {
			fmt.Println("no", err)
		} else {
			fmt.Println("yes", got.Client)
		}
	}
	return lines.Err()
}
