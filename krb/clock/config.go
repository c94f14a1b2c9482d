package clock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
)

// Config says whom to ask.
type Config struct {
	// Servers are NTP servers, host or host:port (default port 123), at most 16.
	// Four are good: three outvote one that is wrong. None: only the KDC tells.
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
	// they answer by Observe and ObserveDirectory. It obeys its context, which
	// ends after 5 seconds. Without it a KDC whose clock was mended is believed
	// wrong until it is asked for other reasons, or an hour has passed.
	Probe func(ctx context.Context, g *Guard)
	// Now is this machine's clock. Default time.Now.
	Now func() time.Time
	// Log gets a line for each change of state, and when a time server is given
	// up. Must be set.
	Log *logrus.Entry

	spacing time.Duration // between samples of one look
	query   func(ctx context.Context, addr string, now func() time.Time) (sample, error)
}

const maxServers = 16

func (c Config) validate() (Config, error) {
	if c.Log == nil {
		return c, errors.New("no Log")
	}
	if c.Skew == 0 {
		c.Skew = 5 * time.Minute
	}
	if c.NearShare == 0 {
		c.NearShare = 0.6
	}
	if c.Interval == 0 {
		c.Interval = 5 * time.Minute
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.query == nil {
		c.query = query
	}
	if c.spacing == 0 {
		c.spacing = 2 * time.Second // ntpd refuses who asks more often
	}
	switch {
	case c.Skew < time.Second || c.Skew > 24*time.Hour:
		return c, fmt.Errorf("a skew of %s: between a second and a day", c.Skew)
	case !(c.NearShare > 0 && c.NearShare < 1):
		return c, fmt.Errorf("a share of %g: between 0 and 1", c.NearShare)
	case c.Interval < time.Second:
		return c, fmt.Errorf("an interval of %s: at least a second", c.Interval)
	case len(c.Servers) > maxServers:
		return c, fmt.Errorf("%d time servers: at most %d are asked", len(c.Servers), maxServers)
	}
	for i, s := range c.Servers {
		if _, err := serverAddr(s); err != nil {
			return c, err
		}
		if slices.Contains(c.Servers[:i], s) {
			return c, fmt.Errorf("time server %s is named twice: each has one vote", s)
		}
	}
	c.Servers = slices.Clone(c.Servers)
	return c, nil
}

// limits are the bounds of the states: a state is left when the clock is better
// than its bound by a twentieth of the skew.
func (c Config) limits() limits {
	return limits{
		near:   time.Duration(float64(c.Skew) * c.NearShare),
		beyond: c.Skew,
		slack:  c.Skew / 20,
	}
}
