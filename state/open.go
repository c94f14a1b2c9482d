package state

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// Open opens the store. In process it reads the folder first, and fails if another
// process has it, or if it is damaged beyond what time mends. A cluster need not
// be there: until it is, calls say ErrUnavailable.
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

func (s *store) openDir(ctx context.Context) error {
	var err error
	if s.local, err = openLocal(s.c.Dir); err != nil {
		return err
	}
	e, err := s.local.start(&s.c)
	if err != nil {
		s.local.close()
		return fmt.Errorf("%w; %w", err, errMend)
	}
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	if err := s.admit(ctx, e); err != nil {
		e.close()
		s.local.close()
		if ctx.Err() != nil {
			return fmt.Errorf("it takes too long: %w", err)
		}
		return fmt.Errorf("%w; %w", err, errMend)
	}
	s.work.Go(s.nurse)
	return nil
}
