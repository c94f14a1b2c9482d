package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/testenv/site"
)

// measureTracked takes teams out of staff, and staff out of access, with very many
// sessions open on simulated hosts, and measures from the directory's answer.
func measureTracked(ctx context.Context, b *bench) (err error) {
	s, w, err := newSite(ctx, site.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	dir, err := os.MkdirTemp("/dev/shm", "bench-crowd")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	run, stop := context.WithCancel(ctx)
	c, err := newCrowd(run, s, dir)
	defer func() { stop(); err = errors.Join(err, c.wait()) }()
	if err != nil {
		return err
	}
	sekishod := &sekishod{Daemon: s.Sekishod(s.Broker)}
	before, _, err := sekishod.memory()
	if err != nil {
		return err
	}
	n := len(c.ids)
	if err := c.open(0, n); err != nil {
		return err
	}
	after, _, err := sekishod.memory()
	if err != nil {
		return err
	}
	of := fmt.Sprintf(" of %s tracked sessions", thousands(n))
	team := c.team * c.perUser
	teams := pick(10, 2)
	for _, change := range []struct{ size, rounds int }{{team, teams}, {n, 1}} {
		if change.size == n { // those that have left are there again
			back := ldap.NewModifyRequest(places.GroupDN("staff"), nil)
			for r := range teams {
				back.Add("member", []string{places.GroupDN(teamName(r))})
			}
			if err := c.conn.Modify(back); err != nil {
				return err
			}
			if err := c.open(0, teams*team); err != nil {
				return err
			}
		}
		var orders, ends []float64
		for r := range change.rounds {
			group, parent, first := teamName(r), "staff", r*team
			if change.size == n {
				group, parent = "staff", "access"
			}
			o, e, err := c.leave(group, parent, first, change.size)
			if err != nil {
				return fmt.Errorf("round %d of %d sessions: %w", r, change.size, err)
			}
			orders, ends = append(orders, o...), append(ends, e...)
		}
		for _, to := range []struct {
			what string
			took []float64
		}{{"its host's order", orders}, {"the broker's record of its end", ends}} {
			for _, q := range []struct {
				name string
				q    float64
			}{{"median", 0.5}, {"p99", 0.99}, {"the last", 1}} {
				b.table.add(row{name: fmt.Sprintf("revocation of %s%s, to %s, %s", thousands(change.size), of, to.what, q.name), ours: quantile(to.took, q.q), peer: math.NaN(), unit: "ms"})
			}
		}
	}
	b.table.add(row{name: "resident memory of the broker," + of[3:], ours: after / (1 << 20), peer: math.NaN(), unit: "MiB",
		note: fmt.Sprintf("%.0f MiB before they were reported; %d users on %d hosts, which are simulated in one process on this machine; under 0 ms is before the directory's answer was read", before/(1<<20), c.users, len(c.hosts))})
	return nil
}
