package accept

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sekisho/sekisho/krb"
)

// Keytab is a set of service keys, of several principals and versions. It may
// be used by many goroutines at once.
type Keytab struct {
	path  string // "" for a set that never changes
	keys  atomic.Pointer[keySet]
	since func() time.Duration // a clock that nobody sets

	looked atomic.Int64 // when the file was last looked at, by since

	mu    sync.Mutex    // guards what follows, and is held while the file is read
	seen  fileID        // what was read last
	read  time.Duration // when, by since
	again bool          // read it again, changed or not
	err   error
}

// keySet is immutable.
type keySet struct {
	names []krb.Principal         // in the order of the file
	keys  map[string][]serviceKey // by the principal's name; the newest first
}

type serviceKey struct {
	krb.Key
	kvno   int
	ticket *krb.UsageKey // opens tickets
}

// Limits and paces.
const (
	lookEvery = time.Second     // how often the file is looked at
	settled   = 2 * time.Second // a file that was changed so recently may change again unseen
	maxTries  = 8               // keys that are tried for a ticket that names no version
)

// fileID changes whenever a file does, but for two changes within one tick of
// its clock that leave the size the same.
type fileID struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// OpenKeytab reads a keytab file, and reads it again when it has changed, so that
// keys are rolled over without a restart: it looks once a second, and at once
// when a ticket asks for a key that it does not have. While the new file cannot
// be read the old keys stay in use, and Err tells why.
func OpenKeytab(path string) (*Keytab, error) {
	began := time.Now()
	k := &Keytab{path: path, since: func() time.Duration { return time.Since(began) }}
	k.look()
	if k.err != nil {
		return nil, k.err
	}
	return k, nil
}

// StaticKeytab is a set that never changes.
func StaticKeytab(entries []krb.KeytabEntry) (*Keytab, error) {
	set, err := newKeySet(entries)
	if err != nil {
		return nil, err
	}
	k := new(Keytab)
	k.keys.Store(set)
	return k, nil
}

func newKeySet(entries []krb.KeytabEntry) (*keySet, error) {
	if len(entries) == 0 {
		return nil, errors.New("the keytab has no keys")
	}
	set := &keySet{keys: make(map[string][]serviceKey)}
	for _, e := range entries {
		ticket, err := e.Key.At(usageTicket)
		if err != nil {
			return nil, fmt.Errorf("key %d of %s: %w", e.KVNO, e.Principal, err)
		}
		name := e.Principal.String()
		if set.keys[name] == nil {
			set.names = append(set.names, e.Principal)
		}
		set.keys[name] = append(set.keys[name], serviceKey{e.Key, e.KVNO, ticket})
	}
	for _, list := range set.keys {
		slices.SortStableFunc(list, func(a, b serviceKey) int { return b.kvno - a.kvno })
	}
	return set, nil
}

// Err is nil unless the file has changed and the change could not be read.
func (k *Keytab) Err() error {
	if k.path == "" {
		return nil
	}
	k.look()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// Principals are those that have a key.
func (k *Keytab) Principals() []krb.Principal { return slices.Clone(k.current().names) }

// current is the set of keys, at most lookEvery behind the file.
func (k *Keytab) current() *keySet {
	if k.path != "" && k.since()-time.Duration(k.looked.Load()) > lookEvery {
		k.look()
	}
	return k.keys.Load()
}

// find gives the keys that can have sealed a ticket. kvno is -1 if it names none.
func (k *Keytab) find(p krb.Principal, kvno int64, etype int32) ([]serviceKey, *Error) {
	keys, refused := k.current().find(p, kvno, etype)
	if refused != nil && k.path != "" {
		k.look()
		keys, refused = k.keys.Load().find(p, kvno, etype)
	}
	return keys, refused
}

func (s *keySet) find(p krb.Principal, kvno int64, etype int32) (out []serviceKey, refused *Error) {
	list := s.keys[p.String()]
	if len(list) == 0 {
		return nil, refuse(WrongService, codeNotUs, "the ticket is for %s, which has no key in the keytab", p)
	}
	version := false
	for _, key := range list {
		if kvno != -1 && int64(key.kvno) != kvno {
			continue
		}
		version = true
		if key.EType == etype && len(out) < maxTries {
			out = append(out, key)
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case !version:
		return nil, refuse(NoKey, codeBadKeyVersion, "the ticket for %s is sealed with version %d of its key; the keytab has %d at most", p, kvno, list[0].kvno)
	}
	return nil, refuse(NoKey, codeETypeNoSupp, "the ticket for %s is sealed with encryption type %d, for which there is no key", p, etype)
}

// look reads the file if it has changed.
func (k *Keytab) look() {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.since()
	k.looked.Store(int64(now))
	id, recent, err := identify(k.path)
	if err == nil && id == k.seen && (!k.again || now-k.read < lookEvery) {
		return
	}
	k.seen, k.read = id, now
	var entries []krb.KeytabEntry
	if err == nil {
		entries, err = krb.ReadKeytab(k.path)
	}
	var set *keySet
	if err == nil {
		if set, err = newKeySet(entries); err != nil {
			err = fmt.Errorf("%s: %w", k.path, err)
		}
	}
	k.again = recent || err != nil
	if k.err = err; err != nil {
		k.err = fmt.Errorf("reading the keytab: %w", err)
		return
	}
	k.keys.Store(set)
}

// identify also says whether the file was changed a moment ago.
func identify(path string) (id fileID, recent bool, err error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return fileID{}, false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	changed := time.Unix(st.Ctim.Unix())
	since := time.Since(changed)
	return fileID{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}, since < settled && since > -settled, nil
}
