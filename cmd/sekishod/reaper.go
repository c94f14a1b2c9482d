package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sekisho/sekisho/door/pam"
	"github.com/sekisho/sekisho/reaper"
)

// buildReaper takes over the end of sekisho-reaper that the first stage handed
// on; without one, sessions are noted and cannot be ended.
func (d *daemon) buildReaper(in inherited) (err error) {
	f := in[fdReaper]
	if f == nil {
		return nil
	}
	delete(in, fdReaper)
	d.reaper, err = reaper.Dial(f)
	return err
}

// reaperOfPAM is sekisho-reaper as the door needs it; nil without one.
func (d *daemon) reaperOfPAM() pam.Reaper {
	if d.reaper == nil {
		return nil
	}
	return sessionReaper{d.reaper, time.Duration(d.cfg.Sessions.Grace)}
}

// sessionReaper is a pam.Reaper.
type sessionReaper struct {
	*reaper.Client
	grace time.Duration
}

func (r sessionReaper) Adopt(ctx context.Context, o pam.Opening) error {
	_, err := r.Client.Adopt(ctx, reaper.Opening{ID: o.ID, PID: o.PID, Started: o.Started, Fresh: o.Fresh, Conn: o.Conn})
	return err
}

func (r sessionReaper) End(ctx context.Context, id, text string) error {
	e, err := r.Client.End(ctx, reaper.Order{ID: id, Text: text, Grace: r.grace})
	switch {
	case errors.Is(err, reaper.ErrUnknown): // it has ended by itself
		return nil
	case err != nil:
		return err
	case len(e.Left) > 0:
		return fmt.Errorf("%d processes are left, such as %d (%s, state %c): they wait for a device", len(e.Left), e.Left[0].PID, e.Left[0].Name, e.Left[0].State)
	}
	return nil
}

// reap passes on which sessions have lost their last process, until ctx ends.
func (d *daemon) reap(ctx context.Context) {
	if d.pam == nil || d.reaper == nil {
		return
	}
	if err := d.reaper.Events(ctx, d.pam.Emptied); err != nil && ctx.Err() == nil {
		d.log.WithError(err).Error("sessions cannot be ended any more")
	}
}
