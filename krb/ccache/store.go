package ccache

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Store is one credential cache at its place. Its methods may be called at the
// same time; each finds the place anew.
type Store struct {
	name string
	back backend
}

// backend is one type of cache.
type backend interface {
	read(ctx context.Context) (Cache, error)
	write(ctx context.Context, c Cache) error
	destroy(ctx context.Context) error
	// choose makes the cache the one that its collection's name stands for.
	choose() error
	warnings() []string
}

// Name is the full name, as KRB5CCNAME takes it: TYPE:residual.
func (s *Store) Name() string { return s.name }

// Read reads the cache. It is ErrNone when there is none.
func (s *Store) Read(ctx context.Context) (Cache, error) {
	c, err := s.back.read(ctx)
	if err != nil {
		return Cache{}, s.wrap("reading", err)
	}
	return c, nil
}

// Write replaces the cache by a new one, or makes it. A file is new each time
// (mode 0600, the caller's), so that no reader ever sees half of one.
func (s *Store) Write(ctx context.Context, c Cache) error {
	return s.wrap("writing", s.back.write(ctx, c))
}

// Rewrite changes a FILE cache in place, under MIT's lock, so that its owner and
// mode stay: for a cache that belongs to somebody else, whose owner may try to
// have another file written instead. Symbolic links, files of several names and
// files that hold no cache are refused. An error of change leaves the cache as it
// is.
func (s *Store) Rewrite(ctx context.Context, change func(Cache) (Cache, error)) error {
	f, ok := s.back.(*file)
	if !ok {
		return s.wrap("changing", errors.New("only a cache in a file is changed in place"))
	}
	return s.wrap("changing", f.rewrite(ctx, change))
}

// Destroy removes the cache, as kdestroy does: a file is unlinked and its bytes
// overwritten. It is ErrNone when there is none.
func (s *Store) Destroy(ctx context.Context) error {
	return s.wrap("destroying", s.back.destroy(ctx))
}

// Choose makes the cache the primary one of its collection (DIR, KEYRING); for a
// FILE it does nothing.
func (s *Store) Choose() error { return s.wrap("choosing", s.back.choose()) }

// Warnings are reasons to distrust the cache where it is: it is somebody else's,
// or others may read it. There are none where nothing can be seen.
func (s *Store) Warnings() []string { return s.back.warnings() }

func (s *Store) wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", doing, s.name, err)
}

// Open finds the cache of a name: FILE:path, a bare path, DIR:directory (its
// primary cache), DIR::directory/tktNAME, KEYRING:anchor:collection[:cache]. It
// makes nothing but what must be there to name a cache: the directory of a DIR.
func Open(name string) (*Store, error) {
	kind, rest, ok := strings.Cut(name, ":")
	if !ok || strings.HasPrefix(name, "/") {
		kind, rest = "FILE", name
	}
	var err error
	s := new(Store)
	switch kind {
	case "FILE":
		s, err = openFile(rest)
	case "DIR":
		s, err = openDir(rest)
	case "KEYRING":
		s, err = openKeyring(rest)
	case "KCM":
		err = errors.New("a cache of type KCM is kept by a daemon that Sekisho does not speak to: set KRB5CCNAME to a FILE, DIR or KEYRING cache")
	case "API", "MSLSA":
		err = errors.New("there are caches of that type on other systems only: set KRB5CCNAME to a FILE, DIR or KEYRING cache")
	case "MEMORY":
		err = errors.New("a cache of type MEMORY would be gone when the program ends: set KRB5CCNAME to a FILE, DIR or KEYRING cache")
	default:
		err = fmt.Errorf("there is no cache type %q: there are FILE, DIR and KEYRING", kind)
	}
	if err != nil {
		return nil, fmt.Errorf("credential cache %.200q: %w", name, err)
	}
	return s, nil
}
