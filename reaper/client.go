package reaper

import (
	"context"
	"errors"
	"os"
)

// Client asks a sekisho-reaper. It is safe for any number of goroutines.
type Client struct{}

// Pair makes the two ends, close-on-exec: one to hold, one for sekisho-reaper.
func Pair() (hold, give *os.File, err error) { return nil, nil, errors.New("not yet") }

// Dial takes over f, the first end of a Pair, and closes it. With nil there is
// no sekisho-reaper: all methods say ErrAbsent.
func Dial(f *os.File) (*Client, error) { return &Client{}, nil }

// Adopt takes the process that opens a session, and all that it will start. It
// is fine to do so again for the same process. An error under errors.Is:
// ErrAbsent, ErrEnded, ErrExists, ErrProcess, ErrRefused, ErrLimit, or ctx's.
func (c *Client) Adopt(ctx context.Context, o Opening) (How, error) { return "", ErrAbsent }

// End ends all processes of a session and returns when the last has gone, or
// when some cannot be ended (Ended.Left). The error is ErrUnknown when it had
// none any more.
func (c *Client) End(ctx context.Context, o Order) (Ended, error) { return Ended{}, ErrAbsent }

// Forget lets go of a session: its processes go on, and nobody is told of their
// end. An id that is not known is fine.
func (c *Client) Forget(ctx context.Context, id string) error { return ErrAbsent }

// Recover are all adopted sessions, those too that a sekisho-reaper before this
// one adopted, in the order of their ids.
func (c *Client) Recover(ctx context.Context) ([]Session, error) { return nil, ErrAbsent }

// Alive are those of the sessions that have processes.
func (c *Client) Alive(ctx context.Context, ids []string) ([]string, error) { return nil, ErrAbsent }

// Events calls emptied with the id of each session whose last process has gone
// without an End, those too that went before the call. It returns nil when ctx
// ends, ErrEnded when sekisho-reaper does, or ErrAbsent at once. It is called by
// one goroutine.
func (c *Client) Events(ctx context.Context, emptied func(id string)) error { return ErrAbsent }

// Close ends sekisho-reaper. It may be called twice.
func (c *Client) Close() error { return nil }
