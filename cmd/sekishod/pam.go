package main

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/accounts"
	"github.com/sekisho/sekisho/door/pam"
)

// buildPAM makes the door of pam_sekisho.so, and its socket.
func (d *daemon) buildPAM() (err error) {
	if !d.cfg.PAM.Enabled {
		return nil
	}
	d.pam, err = pam.New(pam.Config{
		Broker: d.broker, Host: broker.HostName(d.cfg.Host), Realm: d.passwords.realm, Renew: d.passwords.renew, Now: d.now,
		Tickets: filepath.Join(d.cfg.RuntimeDir, "tickets"), Sessions: filepath.Join(d.cfg.StateDir, "sessions"),
		Reaper: d.reaperOfPAM(), Log: d.log.WithField("part", "pam"),
	})
	if err != nil {
		return err
	}
	d.broker.Keep(pam.Keeper, d.pam.End)
	d.pamSocket, err = listen(d.cfg.PAMSocket())
	return err
}

// servePAM starts the door's parts.
func (d *daemon) servePAM(doors *crew, fail context.CancelCauseFunc) {
	if d.pam == nil {
		return
	}
	doors.do("pam", fail, func(ctx context.Context) error { return d.pam.Serve(ctx, d.pamSocket) })
	doors.all.Go(func() { d.pam.Run(doors.ctx) })
}

// proofsDeferred is for the keys door: PAM judges the sessions of the directory's
// users, where the configuration says so, and passes a host's own accounts by.
func (d *daemon) proofsDeferred() func(broker.Login) bool {
	if !d.cfg.Keys.PAM {
		return nil
	}
	return func(l broker.Login) bool {
		_, err := accounts.Lookup(string(l))
		return errors.Is(err, accounts.ErrUnknown)
	}
}
