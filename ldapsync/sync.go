package ldapsync

import (
	"context"
	"errors"

	"github.com/sekisho/sekisho/broker"
)

// Sync follows a directory. Its methods may be called from any goroutine.
type Sync struct{ c Config }

// New checks the configuration and takes hold of StateDir; it reads and
// connects to nothing yet. The error tells what is wrong with c, or that
// StateDir cannot be used.
func New(c Config) (*Sync, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	return &Sync{c: c}, errors.New("not yet")
}

// Run loads the last good snapshot, then follows the directory until ctx is
// done; then it returns nil. It may be called once. Faults of the directory
// are mended by trying again and seen in Status; an error is returned only
// when nothing can be done at all.
func (s *Sync) Run(ctx context.Context) error { return errors.New("not yet") }

// View is the published snapshot. It answers from memory, at once; the
// Snapshot is nil until one was loaded or read.
func (s *Sync) View() broker.View { return broker.View{} }

// Wait returns the view once its generation is greater than after (0: any),
// or ctx's error. A watcher calls it in a loop.
func (s *Sync) Wait(ctx context.Context, after uint64) (broker.View, error) {
	return broker.View{}, errors.New("not yet")
}

// Status tells how it is going.
func (s *Sync) Status() Status { return Status{} }

// Accept publishes the change that is held back; ErrNothingHeld when none is.
func (s *Sync) Accept() error { return ErrNothingHeld }

// ErrNothingHeld says that Accept found nothing to accept.
var ErrNothingHeld = errors.New("no change is held back")

// Close lets go of StateDir; after Run has returned, or instead of it.
func (s *Sync) Close() error { return nil }
