package realm_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/go-ldap/ldap/v3"
	"github.com/sekisho/sekisho/realm"
)

// TestHiddenChange: slapd had changes when it was killed that its contextCSN has not.
// Who follows from there hears of them all the same.
func TestHiddenChange(t *testing.T) {
	c := testConfig(t)
	var lay realm.Layout
	var csn string
	run(t, c, func(r *realm.Realm) {
		lay = r.Info().Layout
		for i, name := range []string{"alice", "bob", "carol"} {
			addUser(t, r, name, "correct horse", 20001+i)
		}
		csn = contextCSN(t, r)
		l := admin(t, r)
		m := ldap.NewModifyRequest(lay.UserDN("alice"), nil)
		m.Replace("description", []string{"changed"})
		if err := l.Modify(m); err != nil {
			t.Fatal(err)
		}
		if err := l.Del(ldap.NewDelRequest(lay.UserDN("bob"), nil)); err != nil {
			t.Fatal(err)
		}
		if contextCSN(t, r) == csn {
			t.Fatal("nothing has changed")
		}
	})
	// What a kill between the change and the note of its number leaves behind.
	mod := exec.Command("slapmodify", "-F", filepath.Join(c.Dir, "realm/slapd.d"), "-b", lay.Base)
	mod.Path = "/usr/sbin/slapmodify"
	mod.Stdin = strings.NewReader(fmt.Sprintf("dn: %s\nchangetype: modify\nreplace: contextCSN\ncontextCSN: %s\n", lay.Base, csn))
	mod.SysProcAttr = &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		mod.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.UID), Gid: uint32(c.GID)}
	}
	if out, err := mod.CombinedOutput(); err != nil {
		t.Fatalf("slapmodify: %v: %s", err, out)
	}
	mark := filepath.Join(c.Dir, "realm/slapd.unclean")
	if _, err := os.Stat(mark); err == nil {
		t.Error("it has closed its database, and is said not to have")
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(mark, c.UID, c.GID); err != nil {
		t.Fatal(err)
	}
	run(t, c, func(r *realm.Realm) {
		if _, err := os.Stat(mark); err != nil {
			t.Errorf("while slapd runs: %v", err)
		}
		out, err := exec.Command("ldapsearch", "-Q", "-Y", "EXTERNAL", "-H", r.Info().LDAPI, "-b", lay.Base, "-o", "ldif-wrap=no",
			"-E", "!sync=ro/rid=000,csn="+csn, "(objectClass=posixAccount)", "description").CombinedOutput()
		if err != nil {
			t.Fatalf("ldapsearch: %v: %s", err, out)
		}
		var told []string
		for _, m := range regexp.MustCompile(`(?m)^dn: (uid=[a-z]+),`).FindAllStringSubmatch(string(out), -1) {
			told = append(told, m[1])
		}
		if !slices.Contains(told, "uid=alice") || !strings.Contains(string(out), "description: changed") {
			t.Errorf("alice's change is not told: %s", out)
		}
		// Who is there is told, so that who is not is gone.
		if !strings.Contains(string(out), "refreshDeletes=0") || slices.Contains(told, "uid=bob") {
			t.Errorf("bob is not gone: %s", out)
		}
	})
	if _, err := os.Stat(mark); err == nil {
		t.Error("it has closed its database, and is said not to have")
	}
}
