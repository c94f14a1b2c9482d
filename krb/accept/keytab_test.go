package accept

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb"
)

// openService is an acceptor with a keytab file.
func openService(t *testing.T, path string) (*Acceptor, *Keytab, *time.Duration) {
	t.Helper()
	kt, err := OpenKeytab(path)
	if err != nil {
		t.Fatal(err)
	}
	clock := new(time.Duration)
	kt.since = func() time.Duration { return *clock }
	kt.read = 0
	kt.looked.Store(0)
	a, err := New(Config{Keytab: kt, Replay: new(mapReplay)})
	if err != nil {
		t.Fatal(err)
	}
	return a, kt, clock
}

func TestRollOver(t *testing.T) {
	old, next, last := randomKey(t, 18), randomKey(t, 18), randomKey(t, 20)
	entry := func(kvno int, k krb.Key) krb.KeytabEntry {
		return krb.KeytabEntry{Principal: host, KVNO: kvno, Time: time.Now(), Key: k}
	}
	path := writeKeytab(t, entry(1, old))
	a, kt, clock := openService(t, path)
	accepts := func(what string, kvno int, k krb.Key, o error) {
		t.Helper()
		_, err := a.Accept(t.Context(), newRequest(t, alice, host, k, kvno, time.Now()).make(t), Options{})
		var e *Error
		if o == nil && err != nil || o != nil && (!errors.As(err, &e) || e.Kind != Kind(o.Error())) {
			t.Errorf("%s: %v", what, err)
		}
	}
	no := func(k Kind) error { return errors.New(string(k)) }
	accepts("the first", 1, old, nil)
	accepts("not there yet", 2, next, no(NoKey))
	// At once, since the KDC may use the new key as soon as it is there.
	if err := krb.WriteKeytab(path, []krb.KeytabEntry{entry(1, old), entry(2, next)}); err != nil {
		t.Fatal(err)
	}
	accepts("the second, at once", 2, next, nil)
	accepts("the first still", 1, old, nil)
	accepts("the first under the second's number", 2, old, no(Forged))
	accepts("any, by trying", 0, old, nil)
	// The old key goes: within a second.
	if err := krb.WriteKeytab(path, []krb.KeytabEntry{entry(2, next), entry(3, last)}); err != nil {
		t.Fatal(err)
	}
	*clock += lookEvery + 1
	accepts("the first, gone", 1, old, no(NoKey))
	accepts("the third, of another type", 3, last, nil)
	accepts("the third, of the wrong type", 3, next, no(NoKey))
	if err := kt.Err(); err != nil {
		t.Error(err)
	}
	// Unreadable: the keys stay.
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string]func() error{
		"cut":      func() error { return os.WriteFile(path, good[:len(good)-1], 0o600) },
		"empty":    func() error { return os.WriteFile(path, nil, 0o600) },
		"no keys":  func() error { return os.WriteFile(path, good[:2], 0o600) },
		"readable": func() error { return os.Chmod(path, 0o644) },
		"missing":  func() error { return os.Remove(path) },
	} {
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		*clock += lookEvery + 1
		if err := kt.Err(); err != nil {
			t.Errorf("before %s: %v", what, err)
		}
		if err := bad(); err != nil {
			t.Fatal(err)
		}
		*clock += lookEvery + 1
		accepts(what+": the second", 2, next, nil)
		accepts(what+": the first", 1, old, no(NoKey))
		err := kt.Err()
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
		}
		if got := kt.Principals(); len(got) != 1 || !got[0].Equal(host) {
			t.Errorf("%s: %v", what, got)
		}
	}
	if _, err := OpenKeytab(path); err == nil {
		t.Error("a missing keytab was opened")
	}
}

// TestRollOverInPlace: kadmin's ktadd appends to the file, and may do so twice
// within one tick of the file's clock.
func TestRollOverInPlace(t *testing.T) {
	one, two := randomKey(t, 18), randomKey(t, 18)
	path := writeKeytab(t, krb.KeytabEntry{Principal: host, KVNO: 1, Key: one})
	other := writeKeytab(t, krb.KeytabEntry{Principal: host, KVNO: 1, Key: two})
	_, kt, clock := openService(t, path)
	b, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil { // same size, same inode
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, st.ModTime()); err != nil {
		t.Fatal(err)
	}
	// As if nothing of stat had changed.
	kt.mu.Lock()
	kt.seen, _, _ = identify(path)
	kt.mu.Unlock()
	*clock += lookEvery + 1
	keys, refused := kt.find(host, 1, 18)
	if refused != nil || len(keys) != 1 || !bytes.Equal(keys[0].Value, two.Value) {
		t.Errorf("the change within a tick was missed: %v", refused)
	}
}

// TestKeytabLoad: tickets that ask for keys we do not have make no work.
func TestKeytabLoad(t *testing.T) {
	path := writeKeytab(t, krb.KeytabEntry{Principal: host, KVNO: 1, Key: randomKey(t, 18)})
	_, kt, clock := openService(t, path)
	*clock += lookEvery
	first := kt.keys.Load()
	for n := range 50 {
		if _, refused := kt.find(host, int64(100+n), 18); refused == nil {
			t.Fatal("found")
		}
	}
	second := kt.keys.Load()
	*clock += lookEvery / 2
	for n := range 50 {
		kt.find(host, int64(100+n), 18)
	}
	if kt.keys.Load() != second {
		t.Error("the file was read more than once a second")
	}
	if first == second {
		t.Error("a file changed a moment ago was not read again")
	}
}

// FuzzKeytab: whatever is in a keytab file, it is refused, or its keys are of the
// accepted types.
func FuzzKeytab(f *testing.F) {
	path := writeKeytab(f, krb.KeytabEntry{Principal: host, KVNO: 300, Time: time.Unix(1e9, 0), Key: krb.Key{EType: 18, Value: make([]byte, 32)}},
		krb.KeytabEntry{Principal: alice, KVNO: 1, Time: time.Unix(1e9, 0), Key: krb.Key{EType: 19, Value: make([]byte, 16)}})
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		path := filepath.Join(t.TempDir(), "keytab")
		if err := os.WriteFile(path, in, 0o600); err != nil {
			t.Fatal(err)
		}
		kt, err := OpenKeytab(path)
		if err != nil {
			return
		}
		for _, p := range kt.Principals() {
			found := 0
			for etype := int32(-1); etype < 30; etype++ {
				keys, refused := kt.find(p, -1, etype)
				if refused == nil && (etype < 17 || etype > 20) {
					t.Errorf("%d keys of type %d", len(keys), etype)
				}
				found += len(keys)
			}
			if found == 0 {
				t.Errorf("%s has no key", p)
			}
		}
	})
}
