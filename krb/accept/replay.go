package accept

import (
	"context"
	"errors"
	"time"
)

// Replay remembers which authenticators were seen.
type Replay interface {
	// Spend is one test-and-set: for each mark it says true once, until the time
	// `until` (the last at which the authenticator could be accepted) is past.
	// It must not say true before the mark is kept. An error is "could not find
	// out": the ticket is refused, and the mark may or may not be spent.
	Spend(ctx context.Context, mark [32]byte, until time.Time) (fresh bool, err error)
}

// ReplayConfig is what a FileReplay needs.
type ReplayConfig struct {
	// Path is the file; beside it are made Path.lock and, for moments, Path.new.
	// Its directory must be writable by us only.
	Path string
	// Skew is that of the Acceptor; 0 is DefaultSkew.
	Skew time.Duration
	// Max is how many marks are kept, 0 is a million (32 MB of file, 60 MB of
	// memory). When all are in use, further tickets are refused.
	Max int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// FileReplay is a Replay in one file of one process.
type FileReplay struct{}

// OpenReplay opens or makes the file. It fails if another process has it open.
func OpenReplay(c ReplayConfig) (*FileReplay, error) { return nil, errors.New("not yet written") }

// Spend implements Replay.
func (r *FileReplay) Spend(ctx context.Context, mark [32]byte, until time.Time) (bool, error) {
	return false, errors.New("not yet written")
}

// Close closes the file. A Spend after it is an error.
func (r *FileReplay) Close() error { return nil }
