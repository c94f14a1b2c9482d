package ccache

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keyrings runs a script where the user has keyrings of his own: those of a user
// namespace, and of a new session, are gone with it.
func (m *mit) keyrings(script string) string {
	m.t.Helper()
	return m.sh("unshare -U -r $ME session sh -euc '" + script + "'")
}

// TestKeyrings: MIT's programs and ours use the same caches in the kernel.
func TestKeyrings(t *testing.T) {
	m := startMIT(t)
	for _, name := range []string{"KEYRING:session:work", "KEYRING:user:work", "KEYRING:persistent:", "KEYRING:persistent:0", "KEYRING:work"} {
		out := m.keyrings(strings.ReplaceAll(`
			export KRB5CCNAME=@CACHE@
			kinit -r 2d alice >/dev/null
			kvno -q host/web1.example.org
			$ME read @CACHE@
			# A copy of ours is what MIT works with, and renews.
			$ME copy @CACHE@ FILE:$DIR/copy
			kdestroy -q
			if klist -s; then echo still there; exit 1; fi
			rc=0; $ME read @CACHE@ 2>$DIR/err || rc=$?
			[ $rc = 4 ] || { echo "read of none: $rc"; exit 1; }
			$ME copy FILE:$DIR/copy @CACHE@
			klist -s
			kvno host/web1.example.org host/web2.example.org
			kinit -R
			$ME tickets @CACHE@ | grep -c krbtgt
			$ME destroy @CACHE@
			if klist -s; then echo still there; exit 1; fi
			rc=0; $ME destroy @CACHE@ 2>$DIR/err || rc=$?
			[ $rc = 4 ] || { echo "destroy of none: $rc"; exit 1; }
			echo done
		`, "@CACHE@", name))
		kept := "true" // the offset of the clocks, and whether the cache knows it
		if name == "KEYRING:work" {
			kept = "false" // no offset in a cache that programs from before collections may see
		}
		// kinit counts in whole seconds, and some may pass before it has its answer.
		out = regexp.MustCompile(`( alice@EXAMPLE\.ORG 2 1) -?[0-9]s true`).ReplaceAllString(out, "$1 0s true")
		for _, want := range []string{" alice@EXAMPLE.ORG 2 1 0s " + kept + "\n", "host/web2.example.org@EXAMPLE.ORG: kvno = 1\n", "\n1\n", "done\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", name, want, out)
			}
		}
	}
}

// TestKeyringCollection: several principals in one collection, made by both sides.
func TestKeyringCollection(t *testing.T) {
	m := startMIT(t)
	m.run("kinit", "-c", m.dir+"/bob", "bob")
	m.run("kinit", "-c", m.dir+"/alice", "alice")
	for _, name := range []string{"KEYRING:session:team", "KEYRING:user:team", "KEYRING:persistent:"} {
		out := m.keyrings(strings.ReplaceAll(`
			export KRB5CCNAME=@CACHE@
			$ME list @CACHE@
			$ME join FILE:$DIR/alice @CACHE@
			kinit bob >/dev/null
			echo mark1
			$ME list @CACHE@
			echo mark2
			klist -l
			echo mark3
			$ME join FILE:$DIR/alice @CACHE@
			klist | grep "Default principal"
			kswitch -p bob
			$ME read @CACHE@
			$ME list @CACHE@ | wc -l
			kdestroy -A
			$ME list @CACHE@ | wc -l
		`, "@CACHE@", name))
		ours, rest, _ := strings.Cut(out, "mark1\n")
		listed, rest, _ := strings.Cut(rest, "mark2\n")
		theirs, rest, _ := strings.Cut(rest, "mark3\n")
		lines := strings.Split(strings.TrimSpace(listed), "\n")
		if len(lines) != 2 || !strings.HasSuffix(lines[0], " bob@EXAMPLE.ORG") || !strings.HasSuffix(lines[1], " alice@EXAMPLE.ORG") {
			t.Errorf("%s: ours lists\n%s", name, listed)
		}
		for _, l := range lines {
			if cache, _, _ := strings.Cut(l, " "); !strings.Contains(theirs, strings.TrimSpace(cache)) {
				t.Errorf("%s: MIT does not list %s:\n%s", name, cache, theirs)
			}
		}
		if !strings.Contains(ours, strings.TrimSpace(strings.Fields(lines[1])[0])) {
			t.Errorf("%s: we wrote %s, and list %s", name, ours, lines[1])
		}
		for _, want := range []string{"Default principal: alice@EXAMPLE.ORG", "bob@EXAMPLE.ORG 1 ", "\n2\n", "\n0\n"} {
			if !strings.Contains(rest, want) {
				t.Errorf("%s: no %q in\n%s", name, want, rest)
			}
		}
	}
}

// TestKeyringEnds: keys end with their tickets.
func TestKeyringEnds(t *testing.T) {
	m := startMIT(t)
	m.run("kinit", "-l", "20s", "-c", m.dir+"/short", "alice")
	out := m.keyrings(`
		$ME copy FILE:$DIR/short KEYRING:session:short
		$ME read KEYRING:session:short
		rc=0
		for n in $(seq 60); do
			$ME read KEYRING:session:short || { rc=$?; break; }
			sleep 1
		done
		echo ended with $rc
	`)
	if !strings.Contains(out, "alice@EXAMPLE.ORG 1 ") || !strings.Contains(out, "ended with 4") {
		t.Errorf("%s", out)
	}
}

// TestNoSession: a process without a session keyring uses the user's, as MIT does.
func TestNoSession(t *testing.T) {
	m := startMIT(t)
	out := m.sh(`unshare -U -r sh -euc '
		export KRB5CCNAME=KEYRING:session:work
		kinit alice >/dev/null
		$ME read KEYRING:session:work
		$ME copy KEYRING:session:work FILE:$DIR/copy
		kdestroy -q
		$ME copy FILE:$DIR/copy KEYRING:session:work
		kvno host/web1.example.org
		$ME destroy KEYRING:session:work
		klist -s || echo gone
	'`)
	for _, want := range []string{"KEYRING:session:work:work alice@EXAMPLE.ORG 1 1 ", "kvno = 1\n", "gone\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// inRing runs f in a session keyring of its own, with what else is in it.
func inRing(t *testing.T, f func()) {
	t.Helper()
	if err := withKeys(func() error {
		_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
		if err == nil {
			f()
		}
		return err
	}); err != nil {
		t.Fatalf("this test needs the kernel's keyrings: %v", err)
	}
}

// TestDamagedKeyring: a cache is read as strictly out of keys.
func TestDamagedKeyring(t *testing.T) {
	good := sampleCache()
	inRing(t, func() {
		k := &keyring{anchor: "session", collection: "x", cache: "x"}
		add := func(kind, name string, b []byte, ring int) int {
			t.Helper()
			id, err := unix.AddKey(kind, name, b, ring)
			if err != nil {
				t.Error(err)
			}
			return id
		}
		for what, put := range map[string]func(ring int){
			"not a sound credential cache": func(r int) { add("user", "a", putEntry(nil, Entry{Client: good.Principal}), r) },
			"ends within":                  func(r int) { b := putEntry(nil, good.Entries[0]); add("user", "a", b[:len(b)-1], r) },
			"a key holds more than one":    func(r int) { add("user", "a", append(putEntry(nil, good.Entries[0]), 0), r) },
			"has not 8 bytes":              func(r int) { add("user", offsetKey, []byte("1234567"), r) },
			"holds more than a principal":  func(r int) { add("user", principalKey, putEntry(putName(nil, good.Principal), good.Entries[0]), r) },
			"ends within the principal":    func(r int) { add("user", principalKey, []byte{0}, r) },
			"there is no credential cache": func(r int) { unix.KeyctlInt(unix.KEYCTL_CLEAR, r, 0, 0, 0) },
			"ends within the client":       func(r int) { add("keyring", "inner", nil, r) }, // a list of keys is no credential
		} {
			ring := add("keyring", "x", nil, unix.KEY_SPEC_SESSION_KEYRING)
			add("user", principalKey, putName(nil, good.Principal), ring)
			add("user", "tgt", putEntry(nil, good.Entries[0]), ring)
			put(ring)
			if c, err := readRing(ring); err == nil || c.Entries != nil || !strings.Contains(err.Error(), what) {
				t.Errorf("%s: %v", what, err)
			}
		}
		for _, b := range [][]byte{nil, {0, 0, 0, 1}, {0, 0, 0, 2, 0, 0, 0, 1, 'a'}, {0, 0, 0, 1, 0, 0, 0, 2, 'a'}, {0, 0, 0, 1, 0, 0, 0, 0}, {0, 0, 0, 1, 0, 0, 0, 1, '.'}} {
			ring := add("keyring", "_krb_x", nil, unix.KEY_SPEC_SESSION_KEYRING)
			if b == nil {
				b = []byte{0}
			}
			add("user", primaryKey, b, ring)
			if name, err := k.primary(ring); err == nil {
				t.Errorf("%x: taken as %q", b, name)
			}
		}
	})
}

// TestLargeKeyring: a key takes at most 32 KiB where there is no big_key, and the
// error says so without leaving half a cache that looks whole.
func TestLargeKeyring(t *testing.T) {
	c := sampleCache()
	c.Entries[0].EndTime = uint32(time.Now().Unix() + 3600)
	c.Entries[0].Ticket = make([]byte, 30000)
	inRing(t, func() {
		k := &keyring{anchor: "session", collection: "x", cache: "x"}
		ring, err := unix.AddKey("keyring", "x", nil, unix.KEY_SPEC_SESSION_KEYRING)
		if err != nil {
			t.Error(err)
			return
		}
		// root's quota is large; a small one says EDQUOT.
		err = k.fill(ring, c)
		if err == nil {
			back, rerr := readRing(ring)
			if rerr != nil || len(back.Entries) != len(c.Entries)-1 { // what was removed stays away
				t.Errorf("%d entries, %v", len(back.Entries), rerr)
			}
		} else if !errors.Is(err, unix.EDQUOT) {
			t.Error(err)
		}
	})
	if err := explain(fmt.Errorf("x: %w", unix.EDQUOT)); !strings.Contains(err.Error(), "/proc/key-users") {
		t.Error(err)
	}
	if err := explain(unix.ENOSYS); !strings.Contains(err.Error(), "FILE or DIR") {
		t.Error(err)
	}
}
