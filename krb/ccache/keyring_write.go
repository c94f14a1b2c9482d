package ccache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

func (k *keyring) write(_ context.Context, c Cache) error {
	if _, err := Format(c); err != nil {
		return err
	}
	return withKeys(func() error {
		ring, err := k.ring(true)
		if err != nil {
			return err
		}
		if _, err = k.primary(ring); errors.Is(err, ErrNone) {
			err = k.setPrimary(ring)
		}
		if err != nil {
			return err
		}
		id, err := search(ring, "keyring", k.cache)
		if errors.Is(err, ErrNone) {
			id, err = unix.AddKey("keyring", k.cache, nil, ring)
		}
		if err != nil {
			return err
		}
		if k.legacy() {
			// Where programs from before collections look.
			if anchor, _, err := k.anchorRing(); err == nil {
				unix.KeyctlInt(unix.KEYCTL_LINK, id, anchor, 0, 0)
			}
		}
		return k.fill(id, c)
	})
}

// legacy reports whether MIT keeps the cache where its first releases looked.
func (k *keyring) legacy() bool { return k.anchor == "legacy" && k.cache == k.collection }

// fill gives a cache's keyring its keys. Each credential ends by itself when its
// ticket does, and the keyring with the last of them.
func (k *keyring) fill(id int, c Cache) error {
	if _, err := unix.KeyctlInt(unix.KEYCTL_CLEAR, id, 0, 0, 0); err != nil {
		return err
	}
	if _, err := unix.AddKey("user", principalKey, putName(nil, c.Principal), id); err != nil {
		return err
	}
	i := slices.IndexFunc(c.Header, func(f Field) bool { return f.Tag == tagOffset })
	if i >= 0 && !k.legacy() {
		if _, err := unix.AddKey("user", offsetKey, c.Header[i].Value, id); err != nil {
			return err
		}
	}
	var last uint32
	now := time.Now().Unix()
	for _, e := range c.Entries {
		if e.Removed() {
			continue
		}
		key, err := k.add(id, e)
		if err != nil {
			return err
		}
		if left := int64(e.EndTime) - now; left > 0 {
			if _, err := unix.KeyctlInt(unix.KEYCTL_SET_TIMEOUT, key, int(left), 0, 0); err != nil {
				return err
			}
		}
		last = max(last, e.EndTime)
	}
	if last == 0 {
		return nil
	}
	// 0 would be "never".
	_, err := unix.KeyctlInt(unix.KEYCTL_SET_TIMEOUT, id, int(max(int64(last)-now, 1)), 0, 0)
	return err
}

// add makes the key of one credential: big_key where the kernel has it, which
// takes tickets of any size, else user.
func (k *keyring) add(id int, e Entry) (int, error) {
	name := e.Server.String()
	if len(name) > maxKeyName {
		return 0, fmt.Errorf("the name of a service has more than %d characters", maxKeyName)
	}
	b := putEntry(nil, e)
	if k.anchor != "legacy" {
		key, err := unix.AddKey("big_key", name, b, id)
		if err == nil || !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
			return key, err
		}
	}
	return unix.AddKey("user", name, b, id)
}

func (k *keyring) destroy(context.Context) error {
	return withKeys(func() error {
		ring, err := k.ring(false)
		if err != nil {
			return err
		}
		id, err := search(ring, "keyring", k.cache)
		if err != nil {
			return err
		}
		if _, err := unix.KeyctlInt(unix.KEYCTL_CLEAR, id, 0, 0, 0); err != nil {
			return err
		}
		if _, err := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, ring, 0, 0); err != nil {
			return err
		}
		if k.legacy() {
			if anchor, _, err := k.anchorRing(); err == nil {
				unix.KeyctlInt(unix.KEYCTL_UNLINK, id, anchor, 0, 0)
			}
		}
		return nil
	})
}
