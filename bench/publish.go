package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/keys"
)

// measurePublish compares, in this process, what it costs to make one user's
// change into a new snapshot: with few users and with many. The cost is CPU
// time. Garbage is collected between the batches and does not count: both
// snapshots are in one heap. It is part of what measureSync finds.
func measurePublish(ctx context.Context, b *bench) error {
	small, large := min(10_000, *most), min(1_000_000, *most)
	if *quick {
		small, large = 1000, 10_000
	}
	snaps := []*broker.Snapshot{nil, nil}
	sizes := []int{small, large}
	for i, n := range sizes {
		var err error
		if snaps[i], err = snapshotOf(n); err != nil {
			return err
		}
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	took := [][]float64{nil, nil}
	random := rand.New(rand.NewPCG(1, 2))
	each := pick(5000, 200)
	for r := range pick(20, 4) {
		for i := range sizes {
			if err := ctx.Err(); err != nil {
				return err
			}
			i = (r + i) % 2
			var us []broker.User
			for range each {
				u, err := userOf(random.IntN(sizes[i]), r+1)
				if err != nil {
					return err
				}
				us = append(us, u)
			}
			runtime.GC()
			before, err := ownCPU()
			if err != nil {
				return err
			}
			for _, u := range us {
				e := snaps[i].Edit()
				e.PutUser(u)
				snaps[i] = e.Commit()
			}
			after, err := ownCPU()
			if err != nil {
				return err
			}
			took[i] = append(took[i], (after-before).Seconds()/float64(each))
		}
	}
	us := medians(took, 1e6)
	b.table.add(row{name: "publishing a user's change, " + thousands(large) + " users, snapshot alone", ours: us[1], peer: us[0],
		peerName: "the same with " + thousands(small), unit: "µs", bound: bound{"ratio", "<=", 2}})
	return nil
}

// ownCPU is what all threads of this process have used so far.
func ownCPU() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

func snapshotOf(n int) (*broker.Snapshot, error) {
	e := (*broker.Snapshot)(nil).Edit()
	for i := range n {
		u, err := userOf(i, 0)
		if err != nil {
			return nil, err
		}
		e.PutUser(u)
	}
	return e.Commit(), nil
}

// userOf is user n as the sync would hand him on; another version has another
// first key, and a new version of a user without keys has one.
func userOf(n, version int) (broker.User, error) {
	p := personOf(n)
	u := broker.User{
		DN: broker.DN(p.dn()), Name: broker.UserName(p.name), UID: uint32(p.uid()), GID: usersGID,
		Gecos: p.gecos(), Home: p.home(), Shell: p.shell(),
	}
	binary.BigEndian.PutUint64(u.ID[8:], uint64(n)*0x9e3779b97f4a7c15) // spread, as entryUUIDs are
	binary.BigEndian.PutUint64(u.ID[:8], uint64(n))
	lines := p.keys
	if version > 0 {
		lines = append([]string{keyOf(n, version+10) + " " + p.name + "@new"}, lines[min(1, len(lines)):]...)
	}
	for _, s := range lines {
		l, err := keys.ParseLine(s)
		if err != nil {
			return u, err
		}
		u.Keys = append(u.Keys, l)
	}
	return u, nil
}

// thousands is a number of users as people say it: 10k, 1M.
func thousands(n int) string {
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 1000 && n%1000 == 0:
		return fmt.Sprintf("%dk", n/1000)
	}
	return fmt.Sprint(n)
}
