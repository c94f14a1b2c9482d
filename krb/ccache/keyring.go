package ccache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MIT's layout (krb5.conf(5) and ccache_def: KEYRING). A collection is a keyring
// _krb_NAME below the anchor (below the persistent keyring just _krb) that holds
// one keyring a cache, and a key that says which is the primary one. A cache
// holds the principal and one key a credential, in the file's format.
const (
	collectionPrefix = "_krb_"
	persistentName   = "_krb"
	primaryKey       = "krb_ccache:primary"
	principalKey     = "__krb5_princ__"
	offsetKey        = "__krb5_time_offsets__"
	maxKeyName       = 4095 // of the kernel
	maxPayload       = 1<<20 - 1
)

// keyring is one cache of type KEYRING.
type keyring struct {
	anchor, collection string
	// cache is the name of the one cache.
	cache string
	// single: the name named the cache, not the collection.
	single bool
}

func openKeyring(rest string) (*Store, error) {
	k, err := parseKeyring(rest)
	if err != nil {
		return nil, err
	}
	if !k.single {
		err := withKeys(func() error {
			ring, err := k.ring(false)
			if err == nil {
				k.cache, err = k.primary(ring)
			}
			return err
		})
		if errors.Is(err, ErrNone) {
			k.cache, err = k.firstName(), nil
		}
		if err != nil {
			return nil, err
		}
	}
	return k.store(), nil
}

func parseKeyring(rest string) (*keyring, error) {
	parts := strings.SplitN(rest, ":", 3)
	k := &keyring{anchor: "legacy", collection: parts[0]}
	if len(parts) > 1 {
		k.anchor, k.collection = parts[0], parts[1]
	}
	if len(parts) > 2 {
		k.cache, k.single = parts[2], true
	}
	switch k.anchor {
	case "session", "user", "legacy":
	case "persistent":
		if k.collection != "" {
			if _, err := strconv.ParseUint(k.collection, 10, 31); err != nil {
				return nil, fmt.Errorf("%.40q is no user id", k.collection)
			}
		}
	case "process", "thread":
		return nil, fmt.Errorf("a keyring of type %s would be gone when the program ends: use session, user or persistent", k.anchor)
	default:
		return nil, fmt.Errorf("there is no keyring %.40q: there are session, user and persistent", k.anchor)
	}
	if k.single && (k.cache == "" || strings.HasPrefix(k.cache, ".")) ||
		len(k.collection) > maxKeyName-len(collectionPrefix) || len(k.cache) > maxKeyName || strings.ContainsRune(rest, 0) {
		return nil, errors.New("this cannot be the name of a keyring")
	}
	return k, nil
}

// firstName is the cache that MIT makes first in a collection.
func (k *keyring) firstName() string {
	if k.collection == "" {
		return "tkt"
	}
	return k.collection
}

func (k *keyring) store() *Store {
	return &Store{"KEYRING:" + k.anchor + ":" + k.collection + ":" + k.cache, k}
}

func (k *keyring) named(cache string) *keyring {
	return &keyring{anchor: k.anchor, collection: k.collection, cache: cache, single: true}
}

// anchorRing is the keyring that the collection hangs on, and the one by which we
// possess it: 0 when the anchor gives that itself.
func (k *keyring) anchorRing() (ring, possess int, err error) {
	switch k.anchor {
	case "user":
		return unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_PROCESS_KEYRING, nil
	case "persistent":
		uid := os.Geteuid()
		if k.collection != "" {
			uid, _ = strconv.Atoi(k.collection)
		}
		ring, err := unix.KeyctlInt(unix.KEYCTL_GET_PERSISTENT, uid, unix.KEY_SPEC_PROCESS_KEYRING, 0, 0)
		switch {
		case errors.Is(err, unix.EOPNOTSUPP) && uid == os.Geteuid():
			ring = unix.KEY_SPEC_USER_KEYRING // as MIT does
		case errors.Is(err, unix.EOPNOTSUPP):
			return 0, 0, errors.New("this kernel has no persistent keyrings: use KEYRING:user:NAME")
		case errors.Is(err, unix.EPERM):
			return 0, 0, fmt.Errorf("only root uses the persistent keyring of another user (uid %d)", uid)
		case err != nil:
			return 0, 0, err
		}
		return ring, unix.KEY_SPEC_PROCESS_KEYRING, nil
	}
	// A process without a session keyring of its own sees the user's, but what it
	// wrote to "the session keyring" would go to a new one that nobody else sees.
	s, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	if err != nil {
		return 0, 0, err
	}
	u, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_SESSION_KEYRING, false)
	if err == nil && s == u {
		return unix.KEY_SPEC_USER_SESSION_KEYRING, 0, nil
	}
	return unix.KEY_SPEC_SESSION_KEYRING, 0, nil
}

// ring is the collection's keyring; without create ErrNone when there is none.
func (k *keyring) ring(create bool) (int, error) {
	parent, possess, err := k.anchorRing()
	if err != nil {
		return 0, err
	}
	name := collectionPrefix + k.collection
	if k.anchor == "persistent" {
		name = persistentName
	}
	id, err := unix.KeyctlSearch(parent, "keyring", name, possess)
	switch {
	case err == nil:
		return id, nil
	case !missing(err):
		return 0, err
	case !create:
		return 0, ErrNone
	case possess == 0:
		return unix.AddKey("keyring", name, nil, parent)
	}
	if id, err = unix.AddKey("keyring", name, nil, possess); err != nil {
		return 0, err
	}
	_, err = unix.KeyctlInt(unix.KEYCTL_LINK, id, parent, 0, 0)
	return id, err
}

// primary is the name of the cache that the collection stands for.
func (k *keyring) primary(ring int) (string, error) {
	id, err := search(ring, "user", primaryKey)
	if err != nil {
		return "", err
	}
	b, err := payload(id)
	if err != nil {
		return "", err
	}
	if len(b) < 8 || be32(b) != 1 || int64(be32(b[4:])) != int64(len(b)-8) {
		return "", fmt.Errorf("the key %s is not of MIT's version 1", primaryKey)
	}
	name := string(b[8:])
	if name == "" || len(name) > maxKeyName || strings.HasPrefix(name, ".") || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("the key %s holds no name", primaryKey)
	}
	return name, nil
}

func (k *keyring) choose() error {
	return withKeys(func() error {
		ring, err := k.ring(true)
		if err != nil {
			return err
		}
		return k.setPrimary(ring)
	})
}

func (k *keyring) setPrimary(ring int) error {
	b := put32(nil, 1)
	b = putData(b, k.cache)
	_, err := unix.AddKey("user", primaryKey, b, ring)
	return err
}

func (k *keyring) read(context.Context) (c Cache, err error) {
	err = withKeys(func() error {
		ring, err := k.ring(false)
		if err != nil {
			return err
		}
		id, err := search(ring, "keyring", k.cache)
		if err != nil {
			return err
		}
		c, err = readRing(id)
		return err
	})
	if err != nil {
		return Cache{}, err
	}
	return c, nil
}

// readRing puts the keys of a cache together in the file's format, so that they
// are read as strictly.
func readRing(id int) (Cache, error) {
	pid, err := search(id, "user", principalKey)
	if err != nil {
		return Cache{}, err
	}
	name, err := payload(pid)
	if err != nil {
		return Cache{}, err
	}
	file := []byte{5, 4}
	oid, err := search(id, "user", offsetKey)
	switch {
	case errors.Is(err, ErrNone):
		oid = 0
		file = append(file, 0, 0)
	case err != nil:
		return Cache{}, err
	default:
		b, err := payload(oid)
		if err != nil {
			return Cache{}, err
		}
		if len(b) != 8 {
			return Cache{}, fmt.Errorf("the key %s has not 8 bytes", offsetKey)
		}
		file = append(file, 0, 12, 0, tagOffset, 0, 8)
		file = append(file, b...)
	}
	file = append(file, name...)
	if c, err := Parse(file); err != nil {
		return Cache{}, err
	} else if len(c.Entries) > 0 {
		return Cache{}, fmt.Errorf("the key %s holds more than a principal", principalKey)
	}
	keys, err := members(id)
	if err != nil {
		return Cache{}, err
	}
	for _, key := range keys {
		if key == pid || key == oid {
			continue
		}
		b, err := payload(key)
		if errors.Is(err, ErrNone) || errors.Is(err, unix.EACCES) {
			continue // it has expired meanwhile, or was taken out
		}
		if err != nil {
			return Cache{}, err
		}
		if len(file)+len(b) > maxCache {
			return Cache{}, fmt.Errorf("it holds more than %d MiB", maxCache>>20)
		}
		// Each key must be one credential by itself.
		r := reader{s: b}
		if r.entry(); r.err == nil && !r.s.Empty() {
			r.fail("a key holds more than one credential")
		}
		if r.err != nil {
			return Cache{}, r.err
		}
		file = append(file, b...)
	}
	return Parse(file)
}

func (k *keyring) warnings() []string { return nil }

// all are the caches of the collection, the primary one first.
func (k *keyring) all() ([]*Store, error) {
	var out []*Store
	err := withKeys(func() error {
		ring, err := k.ring(false)
		if err != nil {
			return err
		}
		first, err := k.primary(ring)
		if err != nil && !errors.Is(err, ErrNone) {
			return err
		}
		keys, err := members(ring)
		if err != nil {
			return err
		}
		for _, key := range keys {
			// kind;uid;gid;permissions;name
			d, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, key)
			if missing(err) {
				continue
			}
			if err != nil {
				return err
			}
			parts := strings.SplitN(d, ";", 5)
			if len(parts) != 5 || parts[0] != "keyring" || parts[4] == "" {
				continue
			}
			if len(out) == maxCaches {
				return fmt.Errorf("it holds more than %d caches", maxCaches)
			}
			s := k.named(parts[4]).store()
			if parts[4] == first {
				out = append([]*Store{s}, out...)
			} else {
				out = append(out, s)
			}
		}
		return nil
	})
	if errors.Is(err, ErrNone) {
		return nil, nil
	}
	return out, err
}

// fresh is a cache of a new name, which is not made yet.
func (k *keyring) fresh() (*Store, error) {
	return k.named("krb_ccache_" + rand.Text()[:10]).store(), nil
}
