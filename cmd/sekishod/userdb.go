package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/sekisho/sekisho/door/userdb"
)

// usersDoor is the users door and its socket, which listens only once there is
// a snapshot: until then a caller is refused at once instead of kept waiting.
type usersDoor struct {
	server *userdb.Server
	bound  *os.File
	on     atomic.Bool
}

// buildUserDB takes over the socket that the first stage made, or makes it.
func (d *daemon) buildUserDB(in inherited) error {
	c := d.cfg.UserDB
	if !c.Enabled {
		return nil
	}
	f := in[fdUserDB]
	if f == nil {
		var err error
		if f, err = userdb.Bind(userdb.SocketPath); err != nil {
			return fmt.Errorf("%w: start sekishod as root, or set userdb.enabled = false", err)
		}
	}
	s, err := userdb.New(userdb.Config{View: d.sync.View, Now: d.now, Min: c.UIDMin, Max: c.UIDMax,
		Log: d.log.WithField("part", "userdb")})
	if err != nil {
		return err
	}
	d.users = &usersDoor{server: s, bound: f}
	return nil
}

// serve waits for a snapshot, and then answers.
func (u *usersDoor) serve(ctx context.Context, d *daemon) error {
	defer u.bound.Close()
	if _, err := d.sync.Wait(ctx, 0); err != nil {
		return nil // ctx has ended
	}
	l, err := userdb.Listen(u.bound)
	if err != nil {
		return err
	}
	u.on.Store(true)
	return u.server.Serve(ctx, l)
}

// userDBState is the word for it in a status.
func (d *daemon) userDBState() string {
	switch {
	case d.users == nil:
		return "off"
	case d.users.on.Load():
		return "on"
	}
	return "waiting for a first snapshot"
}
