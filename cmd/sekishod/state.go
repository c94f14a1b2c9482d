package main

import (
	"context"
	"path/filepath"

	"github.com/sekisho/sekisho/state"
)

// buildState opens what brokers share: a store in this process, or a cluster's. There
// need not be a cluster, nor room on the disk; until there is, what rests on the store
// says "could not find out".
func (d *daemon) buildState(ctx context.Context) (err error) {
	s := d.cfg.State
	c := state.Config{Log: d.log.WithField("part", "state"), Now: d.now}
	if len(s.Servers) > 0 {
		c.Servers, c.Replicas = s.Servers, s.Replicas
		c.CAFile, c.CertFile, c.KeyFile = s.CAFile, s.CertFile, s.KeyFile
	} else {
		c.Dir = filepath.Join(d.cfg.StateDir, "state")
	}
	d.state, err = state.Open(ctx, c)
	return err
}

// closeState comes last of all: doors and followers may write to it until they end.
func (d *daemon) closeState() {
	if err := d.state.Close(); err != nil {
		d.log.WithError(err).Warn("letting go of the state store")
	}
}
