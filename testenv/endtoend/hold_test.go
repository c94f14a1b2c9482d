package endtoend

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// Whoever empties the directory, by hand or by a restore that went wrong, does
// not shut everybody out: it waits for a person.
func TestMassDeletion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		empty func(t *testing.T, v *outside)
	}{
		{"ldapdelete", func(t *testing.T, v *outside) {
			out, err := v.ldap.Command(t.Context(), "ldapdelete", "-r", "-Q", "-Y", "EXTERNAL", "-H", v.slapd.LDAPI, "ou=people,"+outsideBase).CombinedOutput()
			if err != nil {
				t.Fatalf("ldapdelete: %v: %s", err, out)
			}
		}},
		{"restore", func(t *testing.T, v *outside) { need(t, v.slapd.Rebuild(t.Context(), []byte(v.bare))) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var ldif strings.Builder
			// Deletions that come one by one are in force until they are too many,
			// so it is somebody from the middle whom the hold saves.
			middle := &person{name: "user15", key: newKey(t, "middle")}
			for i := range 30 {
				ldif.WriteString(userEntry(fmt.Sprintf("user%d", i), 15000+i, map[bool]string{true: string(middle.key.Public)}[i == 15]))
			}
			v := newOutside(t, "mass-"+c.name, outsideConfig{ldif: ldif.String()})
			middle.in(t, call{to: v.site})
			c.empty(t, v)
			var st status
			soon(t, func() error {
				var err error
				st, err = v.status(t.Context())
				if err == nil && st.Sync.Held == nil {
					err = errors.New("nothing is held back")
				}
				if err == nil && st.Sync.Held.Users < 20 {
					err = fmt.Errorf("only %d users are held", st.Sync.Held.Users)
				}
				return err
			})
			t.Logf("%d of %d users are held back: %s", st.Sync.Held.Users, st.Sync.Held.Of, st.Sync.Held.Why)
			middle.in(t, call{to: v.site})
			out, err := v.Command(t.Context(), "/usr/local/bin/sekisho", "status").CombinedOutput()
			if err != nil || !strings.Contains(string(out), "HELD BACK") || !strings.Contains(string(out), "sekisho sync accept") {
				t.Errorf("status: %v %s", err, out)
			}
			// Not for everybody to accept.
			out, err = v.CommandAs(t.Context(), "nobody", "/usr/local/bin/sekisho", "sync", "accept").CombinedOutput()
			if code(err) == 0 {
				t.Errorf("nobody accepted it: %s", out)
			}
			// A restart forgets neither the old nor that it waits.
			v.daemon.Kill()
			need(t, v.start(t.Context()))
			middle.in(t, call{to: v.site})
			soon(t, func() error {
				out, err := v.Command(t.Context(), "/usr/local/bin/sekisho", "sync", "accept").CombinedOutput()
				if err != nil {
					err = fmt.Errorf("sync accept: %w: %s", err, out)
				}
				return err
			})
			soon(t, func() error {
				if yes, err := v.yes(middle); err != nil || yes {
					return fmt.Errorf("he still has a key: %w", err)
				}
				return nil
			})
			middle.out(t, call{to: v.site})
			if st, err := v.status(t.Context()); err != nil || st.Sync.Held != nil || st.Sync.Users != 0 {
				t.Errorf("after accept: %+v, %v", st.Sync, err)
			}
		})
	}
}
