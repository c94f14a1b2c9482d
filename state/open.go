package state

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// Open opens the store. In process it reads the folder first, and fails if another
// process has it, or if it is damaged beyond what time mends. There need not be a
// cluster, nor room on the disk: until there is, calls say ErrUnavailable.
func Open(ctx context.Context, c Config) (Store, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	c.MaxKeys = maps.Clone(c.MaxKeys)
	s := &store{c: c, high: map[string]uint64{}, barred: map[string]time.Time{}, rooms: map[string]*room{}}
	for _, b := range buckets {
		s.rooms[b.name] = &room{}
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if len(c.Servers) > 0 {
		e, err := s.c.connect()
		if err != nil {
			s.cancel()
			return nil, err
		}
		s.eng = e
		return s, nil
	}
	if err := s.openDir(ctx); err != nil {
		s.cancel()
		return nil, fmt.Errorf("opening the state store in %s: %w", c.Dir, err)
	}
	return s, nil
}

var errMend = errors.New("mend it: bring the folder back from a backup, or move it away and start after two minutes: " +
	"tickets made before are refused then, but a one-time code of the last minutes, or a recovery code, that was used could be used again")

// openDir is Open for a folder. A full disk is no error: until there is room, calls
// say ErrUnavailable.
func (s *store) openDir(ctx context.Context) error {
	s.local = &local{dir: s.c.Dir, sick: make(chan *engine, 1)}
	err := s.begin(ctx)
	if err == nil {
		s.work.Go(s.nurse)
		return nil
	}
	if !noRoom(err) {
		s.local.close()
		return err
	}
	s.c.Log.Error("the disk of the state store is full: what must be marked as spent says \"could not find out\", all else goes on; " +
		"make room, a MiB at least, and it works without a restart")
	s.why = err
	s.work.Go(func() {
		s.revive(err)
		s.nurse()
	})
	return nil
}
