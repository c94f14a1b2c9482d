package state

import (
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"
)

// These make the test program something else, for tests that kill it: a
// nats-server with a configuration file, or a broker that spends marks in a folder.
const (
	serverEnv = "SEKISHO_TEST_NATS_CONF"
	brokerEnv = "SEKISHO_TEST_STATE_DIR"
)

func TestMain(m *testing.M) {
	var err error
	switch {
	case os.Getenv(serverEnv) != "":
		err = natsServer(os.Getenv(serverEnv))
	case os.Getenv(brokerEnv) != "":
		err = spender(os.Getenv(brokerEnv))
	default:
		goleak.VerifyTestMain(m)
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// natsServer is a nats-server with a configuration file, until its standard input
// ends: that is when the test does, however it does.
func natsServer(conf string) error {
	o, err := server.ProcessConfigFile(conf)
	if err != nil {
		return err
	}
	o.NoSigs = true
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	s.Start()
	io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
	return nil
}
