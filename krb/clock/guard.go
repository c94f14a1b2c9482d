package clock

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"
)

// Config says whom to ask.
type Config struct {
	// Servers are NTP servers, host or host:port (default port 123). Four are
	// good: three outvote one that is wrong. None: only the KDC tells.
	Servers []string
	// Skew is how far two clocks may differ for tickets; it is the realm's
	// clockskew. Default 5 minutes.
	Skew time.Duration
	// NearShare is the share of Skew from which on a clock is Near. Default 0.6.
	NearShare float64
	// Interval is the time between two looks when all is well; it is shorter
	// when it is not. Default 5 minutes.
	Interval time.Duration
	// Probe, if set, asks the KDC and the directory at each look, and says what
	// they say by Observe and ObserveDirectory. It obeys its context.
	Probe func(ctx context.Context)
	// Now is this machine's clock. Default time.Now.
	Now func() time.Time
	// Log gets one line for each change of state. Must be set.
	Log *logrus.Entry
}

// Guard watches the clocks. Its methods may be called from any goroutine.
type Guard struct{ c Config }

// New makes a guard that knows nothing yet.
func New(c Config) (*Guard, error) {
	if c.Log == nil {
		return nil, errors.New("configuring the clock guard: no Log")
	}
	return &Guard{c: c}, nil
}

// Run samples the time servers until ctx ends. It may be called once.
func (g *Guard) Run(ctx context.Context) { <-ctx.Done() }

// Poll is one look at all sources: what doctor needs.
func (g *Guard) Poll(ctx context.Context) {}

// Observe takes note of a KDC's clock as an answer of its showed it: it was
// offset ahead of this machine's (negative: behind), give or take bound, which
// includes the answer's resolution and the time it may have been on its way.
func (g *Guard) Observe(source string, offset, bound time.Duration) {}

// ObserveDirectory is Observe for a directory server.
func (g *Guard) ObserveDirectory(source string, offset, bound time.Duration) {}

// Status is what is known now.
func (g *Guard) Status() Status { return Status{} }

// Check says whether tickets may be issued and accepted: nil if so, and when
// nothing is known. Else it has the sentence that names the wrong clock.
func (g *Guard) Check() *Refusal { return nil }

// Client judges one authenticator whose time stamp is ahead of this machine's
// clock by ahead (negative: behind): nil within the skew.
func (g *Guard) Client(ahead time.Duration) *Refusal { return nil }

// ClientText is the sentence for an authenticator that is so far ahead: "the
// clock of the client is 10 min 2 s ahead", or which clock else is to blame.
func (g *Guard) ClientText(ahead time.Duration) string { return "" }
