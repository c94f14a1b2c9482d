package enrol

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Enrolment is a run that was applied and waits to be confirmed. Exactly one of
// Confirm, RollBack and Close ends it; after Close, and after a crash, the next
// run or Undo puts back what was changed.
type Enrolment struct {
	c     Config
	store *store
	run   run
}

// Unfinished tells whether a run before was broken off.
func Unfinished(c Config) (bool, error) {
	if err := c.validate(); err != nil {
		return false, err
	}
	if _, err := os.Lstat(c.Dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	s, err := open(c.Dir)
	if err != nil {
		return false, err
	}
	defer s.close()
	all, err := s.runs()
	return len(all) > 0 && !all[len(all)-1].done, err
}

// Mend puts back a run that was broken off; the runs before stay.
func Mend(ctx context.Context, c Config) error {
	return undo(ctx, c, undoOptions{unfinished: true})
}

// Undo puts back all runs, the last one first. Files that somebody else has
// changed since are an *EditedError, unless keep is set: then what they hold is
// kept in a folder that is returned, "" for none.
func Undo(ctx context.Context, c Config, keep bool) (kept string, err error) {
	if err := c.validate(); err != nil {
		return "", err
	}
	o := undoOptions{}
	if keep {
		o.keep = filepath.Join(c.Dir, "kept-"+c.Now().UTC().Format("20060102-150405"))
	}
	if err := undo(ctx, c, o); err != nil {
		return "", err
	}
	if _, err := os.Stat(o.keep); o.keep == "" || err != nil {
		return "", nil
	}
	return o.keep, nil
}

type undoOptions struct {
	unfinished bool   // only a run that was not confirmed
	keep       string // a folder for what others have changed; "": that is an error
}

// ErrNothing says that there is nothing to undo.
var ErrNothing = errors.New("this machine was not enrolled: there is nothing to undo")

func undo(ctx context.Context, c Config, o undoOptions) error {
	if err := c.validate(); err != nil {
		return err
	}
	if _, err := os.Lstat(c.Dir); errors.Is(err, fs.ErrNotExist) {
		return ErrNothing
	}
	s, err := open(c.Dir)
	if err != nil {
		return err
	}
	defer s.close()
	all, err := s.runs()
	if err != nil {
		return err
	}
	if o.unfinished && (len(all) == 0 || all[len(all)-1].done) || len(all) == 0 {
		return ErrNothing
	}
	if o.unfinished {
		all = all[len(all)-1:]
	}
	if o.keep == "" {
		// Only the last run's files can have been changed by somebody: those before
		// it are what it says they were.
		last := all[len(all)-1]
		paths, err := last.edited()
		if err != nil {
			return err
		}
		if len(paths) > 0 {
			return &EditedError{paths}
		}
	}
	for i := len(all) - 1; i >= 0; i-- {
		if err := all[i].restore(ctx, c, o.keep); err != nil {
			return fmt.Errorf("putting back the run of %s: %w: what is left to do is remembered, say --undo again", all[i].Made.Format("2006-01-02 15:04:05 MST"), err)
		}
		c.Step("forget")
		if err := s.forget(all[i]); err != nil {
			return err
		}
	}
	return nil
}

// Apply takes all steps of a plan but telling the services. When one fails, what
// was done is put back and the error is the step's.
func Apply(ctx context.Context, c Config, p *Plan) (*Enrolment, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	s, err := open(c.Dir)
	if err != nil {
		return nil, err
	}
	c.Step("journal")
	r, err := s.commit(p, c.Now())
	if err != nil {
		s.close()
		return nil, fmt.Errorf("writing the journal: nothing was changed: %w", err)
	}
	e := &Enrolment{c: c, store: s, run: r}
	if err := e.apply(ctx, p); err != nil {
		return nil, e.failed(ctx, err)
	}
	return e, nil
}

func (e *Enrolment) apply(ctx context.Context, p *Plan) error {
	for _, name := range p.Accounts {
		e.c.Step("account " + name)
		if err := addAccount(ctx, name); err != nil {
			return err
		}
	}
	for _, d := range p.dirs {
		e.c.Step("folder " + d)
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := os.Chmod(d, 0o755); err != nil { // whatever the umask is
			return err
		}
	}
	for _, ch := range p.changes {
		e.c.Step("file " + ch.path)
		if ch.group != "" {
			gid, known, err := groupID(ch.group)
			if err != nil {
				return err
			}
			if !known {
				return fmt.Errorf("there is no group %s, which %s must belong to", ch.group, ch.path)
			}
			ch.after.gid = gid
		}
		now, err := readState(ch.path)
		if err != nil {
			return err
		}
		if !now.same(ch.before) {
			return fmt.Errorf("%s was changed by somebody else just now: begin again", ch.path)
		}
		if err := write(ch.path, ch.after); err != nil {
			return fmt.Errorf("writing %s: %w", ch.path, err)
		}
	}
	return ctx.Err()
}

// failed puts back all after an error.
func (e *Enrolment) failed(ctx context.Context, err error) error {
	if back := e.RollBack(ctx); back != nil {
		return fmt.Errorf("%w; and then %w", err, back)
	}
	return fmt.Errorf("%w: all was put back as it was", err)
}

// Confirm makes the enrolment stay.
func (e *Enrolment) Confirm() error {
	defer e.store.close()
	e.c.Step("confirm")
	if err := e.run.confirm(); err != nil {
		return fmt.Errorf("noting that the enrolment stays: %w", err)
	}
	return nil
}

// RollBack puts everything back. ctx may be over already.
func (e *Enrolment) RollBack(ctx context.Context) error {
	defer e.store.close()
	ctx = context.WithoutCancel(ctx)
	keep := filepath.Join(e.c.Dir, "kept-"+e.c.Now().UTC().Format("20060102-150405"))
	if err := e.run.restore(ctx, e.c, keep); err != nil {
		return fmt.Errorf("putting back: %w: sekisho host enrol --undo goes on with it", err)
	}
	return e.store.forget(e.run)
}
