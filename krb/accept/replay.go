package accept

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Replay remembers which authenticators were seen.
type Replay interface {
	// Spend is one test-and-set: it says true for a mark once, and false from then
	// on until the time `until` is past, the last at which the authenticator could
	// be accepted. made is the time in the authenticator. True is not said before
	// the mark is kept. An error is "could not find out": the ticket is refused,
	// and the mark may or may not be spent.
	Spend(ctx context.Context, mark [32]byte, made, until time.Time) (fresh bool, err error)
}

// ErrReplayFull and ErrReplayLost are why a FileReplay cannot tell.
var (
	ErrReplayFull = errors.New("the replay cache is full of marks that are still needed: allow more of them")
	ErrReplayLost = errors.New("the authenticator is from a time of which the replay cache has lost track: sign in again")
)

// ReplayConfig is what a FileReplay needs.
type ReplayConfig struct {
	// Path is the file; beside it are made Path.lock and, for moments, Path.new.
	// Its directory must be writable by its owner only.
	Path string
	// Max is how many marks are kept, 0 is a million: 3,300 sign-ins a second with
	// the default skew (40 MB of file, 80 MB of memory). When all are in use,
	// further tickets are refused.
	Max int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// FileReplay is a Replay in one file of one process. It never forgets a mark
// that is still needed; where it may have, it refuses:
//
//   - A mark is written before Spend says true, so it outlives the process,
//     however that ends. It is not on the disk yet: the machine may lose it.
//   - So when the machine was started anew since, authenticators are refused that
//     were made before the file was opened or in the two seconds after: whoever
//     meets that signs in again. RFC 4120 §3.2.3 would refuse all for as long as
//     the clock skew, since some may be dated later than that, by a client whose
//     clock is ahead; here the mark of such a one is on the disk before Spend
//     says true.
//   - When the file is missing, those made before it was made are refused; when it
//     is damaged, those until the clock skew has passed.
//   - When the clock is set back, authenticators as old as the marks already
//     forgotten are refused.
type FileReplay struct {
	c    ReplayConfig
	boot func() (time.Duration, error) // time since the machine was started
	lock *os.File

	syncing sync.Mutex // held while the file is brought to the disk; before mu

	mu      sync.Mutex // guards all below
	f       *os.File   // nil once closed
	broken  error      // why the file may lack a mark or have half of one: it is written anew
	h       header
	marks   map[shortMark]times
	tidyAt  int           // how many marks make it worth to look for old ones
	tidied  time.Duration // when that was tried last
	written uint64        // counts the marks
	synced  uint64        // how many of them are on the disk
}

// shortMark is half a mark: nobody can find two authenticators that share it, and
// who could would only have his own refused.
type shortMark [16]byte

type times struct{ made, until int64 } // µs since 1970

const (
	defaultMax = 1_000_000
	minTidy    = 1 << 16
	tidyPause  = time.Second
	// grace is shorter than any machine takes to start.
	grace = 2 * time.Second
)

// OpenReplay opens or makes the file. It fails if another process has it open.
func OpenReplay(c ReplayConfig) (*FileReplay, error) {
	return openReplay(c, sinceBoot, bootID)
}

func openReplay(c ReplayConfig, boot func() (time.Duration, error), id func() (shortMark, error)) (*FileReplay, error) {
	if c.Max == 0 {
		c.Max = defaultMax
	}
	if c.Max < 1 || c.Path == "" {
		return nil, errors.New("a replay cache needs a path and room for at least one mark")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	r := &FileReplay{c: c, boot: boot}
	if err := r.open(id); err != nil {
		r.unlock()
		return nil, fmt.Errorf("opening the replay cache %s: %w", c.Path, err)
	}
	return r, nil
}

func (r *FileReplay) open(id func() (shortMark, error)) error {
	dir, err := os.Stat(filepath.Dir(r.c.Path))
	if err != nil {
		return err
	}
	if dir.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s may be written by others: chmod go-w it", filepath.Dir(r.c.Path))
	}
	r.lock, err = os.OpenFile(r.c.Path+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(r.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another process uses it: %w", err)
	}
	now, err := r.boot()
	if err != nil {
		return err
	}
	this, err := id()
	if err != nil {
		return err
	}
	old, err := readReplayFile(r.c.Path)
	if err != nil {
		return err
	}
	r.h, r.marks = old.h, old.marks
	switch {
	case old.missing:
		r.h.barrier = now - grace
	case old.h.boot != this && !old.headless:
		r.h.barrier = now
	case old.damaged:
		// Nor is it known whose clock was ahead.
		r.h.barrier = now + old.longest
	}
	r.h.boot = this
	return r.rewrite()
}

// Spend implements Replay.
func (r *FileReplay) Spend(ctx context.Context, mark [32]byte, made, until time.Time) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	r.mu.Lock()
	now := r.c.Now()
	fresh, err := r.spend(shortMark(mark[:]), times{made.UnixMicro(), until.UnixMicro()}, now)
	n := r.written
	r.mu.Unlock()
	if err != nil {
		return false, fmt.Errorf("replay cache %s: %w", r.c.Path, err)
	}
	if fresh && made.Sub(now) > grace {
		if err := r.sync(n); err != nil {
			return false, fmt.Errorf("replay cache %s: %w", r.c.Path, err)
		}
	}
	return fresh, nil
}

func (r *FileReplay) spend(m shortMark, t times, now time.Time) (bool, error) {
	if r.f == nil {
		return false, os.ErrClosed
	}
	if _, spent := r.marks[m]; spent {
		return false, nil
	}
	boot, err := r.boot()
	if err != nil {
		return false, err
	}
	// The barrier is kept as a time since the start of the machine, and is
	// compared by the clock as it is now: one that was wrong then does no harm.
	if t.made <= now.Add(r.h.barrier-boot+grace).UnixMicro() {
		return false, ErrReplayLost
	}
	if t.made <= r.h.floor {
		return false, fmt.Errorf("%w; our clock was set back, and if this goes on, stop, remove the file and start", ErrReplayLost)
	}
	if (r.broken != nil || len(r.marks) >= min(r.tidyAt, r.c.Max)) && boot-r.tidied >= tidyPause {
		r.tidied = boot
		r.rewrite()
	}
	if r.broken != nil {
		return false, r.broken
	}
	if len(r.marks) >= r.c.Max {
		return false, ErrReplayFull
	}
	record := formatMark(m, t)
	if _, err := r.f.Write(record[:]); err != nil {
		r.broken = err
		return false, err
	}
	r.marks[m] = t
	r.written++
	return true, nil
}

// sync brings the first n marks to the disk. Whoever waits for another's turn
// mostly finds that it was done with it.
func (r *FileReplay) sync(n uint64) error {
	r.syncing.Lock()
	defer r.syncing.Unlock()
	r.mu.Lock()
	f, upTo, done := r.f, r.written, r.synced >= n
	r.mu.Unlock()
	if done {
		return nil
	}
	if f == nil {
		return os.ErrClosed
	}
	err := f.Sync()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.synced >= n: // by rewrite, meanwhile
		return nil
	case err != nil:
		r.broken = err
		return err
	}
	r.synced = upTo
	return nil
}

// rewrite forgets the marks that are past and puts a new file in the place of the old.
func (r *FileReplay) rewrite() error {
	now := r.c.Now().UnixMicro()
	h, live := r.h, make(map[shortMark]times, len(r.marks))
	for m, t := range r.marks {
		if t.until < now {
			h.floor = max(h.floor, t.made)
		} else {
			live[m] = t
		}
	}
	f, err := writeReplayFile(r.c.Path, h, live)
	if f == nil {
		return err // the old file is as it was
	}
	if r.f != nil {
		r.f.Close()
	}
	r.f, r.h, r.marks, r.broken = f, h, live, err
	r.tidyAt = max(2*len(live), minTidy)
	if err == nil {
		r.synced = r.written
	}
	return err
}

// Close brings all to the disk and closes the file. A Spend after it is an error.
func (r *FileReplay) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f == nil {
		return nil
	}
	err := r.f.Sync()
	if cerr := r.f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		r.synced = r.written
	}
	r.f = nil
	r.unlock()
	return err
}

func (r *FileReplay) unlock() {
	if r.lock != nil {
		r.lock.Close()
	}
}

func sinceBoot() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0, fmt.Errorf("the time since the machine was started: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
