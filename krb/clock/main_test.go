package clock

import (
	"io"
	"testing"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/sekisho/sekisho/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testenv.Sandboxed(m)) }

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}
