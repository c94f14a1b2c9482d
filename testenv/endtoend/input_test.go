package endtoend

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

// What is bad in a directory shuts out whom it is about, is named by status,
// and harms nobody else.
func TestBadEntries(t *testing.T) {
	t.Parallel()
	var ldif strings.Builder
	people := map[string]*person{}
	add := func(name string) *person {
		people[name] = &person{name: name, key: newKey(t, name)}
		return people[name]
	}
	pub := func(name string) string { return strings.TrimSpace(string(add(name).key.Public)) }
	blob := func(name string) string { return strings.Join(strings.Fields(pub(name))[:2], " ") }

	// Key values: the first key of each user is good.
	values := map[string][]string{
		"huge":    {strings.Repeat("A", 1<<20), "ssh-ed25519 " + strings.Repeat("A", 1<<20), pub("evil-huge") + strings.Repeat(" x", 1<<19)},
		"utf":     {"\xff\xfe\x80", pub("evil-utf") + " \xc3\x28\xff"},
		"nul":     {pub("evil-nul") + "\x00" + pub("evil-nul2"), "\x00"},
		"newline": {"no-pty " + blob("evil-line1") + " x\n" + pub("evil-line2"), "#\n" + pub("evil-line3"), blob("evil-line4") + "\r" + pub("evil-line5")},
		"options": {`command="` + "\n" + `" ` + pub("evil-opt1"), `environment="A=b` + "\n" + `LD_PRELOAD=/x" ` + pub("evil-opt2"),
			`from="*",command="id` + `" ` + "\x01" + pub("evil-opt3"), `restrict,,pty ` + pub("evil-opt4"), `command=id ` + pub("evil-opt5")},
	}
	n := 11000
	for name, bad := range values {
		n++
		ldif.WriteString(userEntry(name, n, append([]string{pub(name)}, bad...)...))
	}
	// A comment is never more than a comment.
	n++
	ldif.WriteString(userEntry("comment", n, blob("comment")+` x" command="touch /tmp/pwned" `+blob("evil-comment")))

	// Names and numbers that two share, and those of the system.
	sub := "ou=sub,ou=people," + outsideBase
	ldif.WriteString(entry(sub, "objectClass", "organizationalUnit", "ou", "sub"))
	ldif.WriteString(userEntry("twin", 12001, pub("twin")))
	ldif.WriteString(userAt("uid=twin,"+sub, "twin", 12002, "/home/twin2", pub("evil-twin")))
	ldif.WriteString(userEntry("same1", 12003, pub("same1")))
	ldif.WriteString(userEntry("same2", 12003, pub("same2")))
	ldif.WriteString(userEntry("zero", 0, pub("zero")))
	ldif.WriteString(userEntry("www", 33, pub("www")))
	ldif.WriteString(userEntry("root", 12004, pub("root")))
	ldif.WriteString(userEntry("big", 65535, pub("big")))
	odd := []string{"a/b", "../x", "sp ace", "100%", "%u", "-dash", "co:lon", "12345", "es,cape", "new\nline", ".."}
	for i, name := range odd {
		ldif.WriteString(userEntry(name, 12010+i, pub(name)))
	}
	// Good ones that look odd, and a loop of groups.
	we := `ou=we\, us\+them,ou=people,` + outsideBase
	ldif.WriteString(entry(we, "objectClass", "organizationalUnit", "ou", "we, us+them"))
	ldif.WriteString(userAt("uid=escaped,"+we, "escaped", 12030, "/home/escaped", pub("escaped")))
	ldif.WriteString(userEntry("looped", 12031, pub("looped")))
	ldif.WriteString(userEntry("outsider", 12032, pub("outsider")))
	for i, g := range [][]string{
		{"loop-a", "cn=loop-b,ou=groups," + outsideBase, "uid=looped,ou=people," + outsideBase},
		{"loop-b", "cn=loop-c,ou=groups," + outsideBase},
		{"loop-c", "cn=loop-a,ou=groups," + outsideBase, "cn=loop-c,ou=groups," + outsideBase, `uid=ESCAPED,ou=We\2c  us\2Bthem,ou=people,` + strings.ToUpper(outsideBase)},
	} {
		pairs := []string{"objectClass", "groupOfNames", "objectClass", "posixGroup", "cn", g[0], "gidNumber", fmt.Sprint(13000 + i)}
		for _, m := range g[1:] {
			pairs = append(pairs, "member", m)
		}
		ldif.WriteString(entry("cn="+g[0]+",ou=groups,"+outsideBase, pairs...))
	}
	// Only the loop may be root, and two rules that cannot be read give nothing.
	ldif.WriteString(entry("cn=loop,ou=access,"+outsideBase, "objectClass", "sekishoRule", "cn", "loop", "sekishoSubject", "group:loop-b",
		"sekishoDoor", "keys", "sekishoTarget", "*", "sekishoLogin", "deploy"))
	ldif.WriteString(entry("cn=bad1,ou=access,"+outsideBase, "objectClass", "sekishoRule", "cn", "bad1", "sekishoSubject", "*",
		"sekishoDoor", "keys", "sekishoTarget", "*", "sekishoLogin", "root", "sekishoTime", "now and then"))
	ldif.WriteString(entry("cn=bad2,ou=access,"+outsideBase, "objectClass", "sekishoRule", "cn", "bad2", "sekishoSubject", "*",
		"sekishoDoor", "keys", "sekishoTarget", "*", "sekishoLogin", "root", "sekishoPermit", "command:id\nroot"))

	v := newOutside(t, "bad", outsideConfig{ldif: ldif.String()})
	need(t, v.AddUser(testenv.LocalUser{Name: "deploy"}))

	world.alice.in(t, call{to: v.site})
	for _, name := range []string{"huge", "utf", "nul", "newline", "options", "comment", "escaped", "looped", "outsider"} {
		people[name].in(t, call{to: v.site})
	}
	t.Run("evil keys", func(t *testing.T) {
		for name, p := range people {
			if user, ok := strings.CutPrefix(name, "evil-"); ok {
				user = map[byte]string{'h': "huge", 'u': "utf", 'n': "nul", 'l': "newline", 'o': "options", 'c': "comment", 't': "twin"}[user[0]]
				p.out(t, call{to: v.site, as: user})
			}
		}
	})
	t.Run("evil users", func(t *testing.T) {
		for _, name := range append([]string{"twin", "same1", "same2", "zero", "www", "root", "big"}, odd...) {
			if strings.Contains(name, "\n") || strings.HasPrefix(name, "-") {
				a, err := v.keyAnswer(name, people[name].key) // ssh itself does not send these
				if need(t, err); a.Outcome == wire.Yes {
					t.Errorf("%q: %+v", name, a)
				}
				continue
			}
			people[name].out(t, call{to: v.site})
		}
		people["www"].out(t, call{to: v.site, as: "www-data"})
		people["zero"].out(t, call{to: v.site, as: "root"})
		people["outsider"].out(t, call{to: v.site, as: "root"}) // by a rule with a bad value
	})
	t.Run("group loop", func(t *testing.T) {
		people["looped"].in(t, call{to: v.site, as: "deploy"})
		people["escaped"].in(t, call{to: v.site, as: "deploy"})
		people["outsider"].out(t, call{to: v.site, as: "deploy"})
		out := people["looped"].in(t, call{to: v.site, command: "id -Gn"})
		if !strings.Contains(out, "loop-a") {
			t.Errorf("id says %q", out)
		}
	})
	t.Run("names", func(t *testing.T) { badNames(t, v.site, odd) })
	t.Run("status", func(t *testing.T) {
		for dn, why := range map[string]string{
			"uid=huge,": "sshPublicKey", "uid=utf,": "sshPublicKey", "uid=nul,": "sshPublicKey", "uid=newline,": "sshPublicKey",
			"uid=options,": "sshPublicKey", "uid=same1,": "shut out", "uid=same2,": "shut out", "uid=twin,": "shut out", "uid=zero,": "floor", "uid=www,": "floor", "uid=big,": "uidNumber",
			"uid=a/b,": "account name", "uid=sp ace,": "account name", "uid=100%,": "account name", "uid=-dash,": "account name",
			"cn=bad1,": "now and then", "cn=bad2,": "command:id",
		} {
			named(t, v.site, dn, why)
		}
		for _, name := range []string{"twin", "same1", "same2"} {
			out, err := v.Command(t.Context(), "/usr/local/bin/sekisho", "why", name, "keys", "bad").CombinedOutput()
			if code(err) != 1 || !strings.Contains(string(out), "ambiguous-user") {
				t.Errorf("why %s: %d %s", name, code(err), out)
			}
		}
	})
	world.alice.in(t, call{to: v.site})
	if out, err := v.Command(t.Context(), "ls", "/tmp/pwned").CombinedOutput(); err == nil {
		t.Errorf("a comment was run: %s", out)
	}
}

// badNames asks NSS for what it must not know from the directory.
func badNames(t *testing.T, v *site, odd []string) {
	passwd, err := v.ReadFile("/etc/passwd")
	need(t, err)
	for _, key := range append([]string{"zero", "www", "twin", "same1", "same2", "12003", "65535"}, odd...) {
		if strings.HasPrefix(key, "-") || key == "12345" {
			continue // an option of getent; a number that is nobody's
		}
		if out, err := v.Command(t.Context(), "getent", "passwd", key).Output(); code(err) != 2 {
			t.Errorf("getent passwd %q: %d %s", key, code(err), out)
		}
	}
	for _, key := range []string{"root", "0", "33", "www-data"} {
		out, err := v.Command(t.Context(), "getent", "passwd", key).Output()
		if err != nil || !strings.Contains(string(passwd), string(out)) {
			t.Errorf("getent passwd %s is not the local answer: %v %s", key, err, out)
		}
	}
	all, err := v.Command(t.Context(), "getent", "passwd").Output()
	need(t, err)
	system := 0
	for line := range strings.SplitSeq(strings.TrimSpace(string(all)), "\n") {
		f := strings.Split(line, ":")
		if len(f) != 7 {
			t.Errorf("getent passwd prints the line %q", line)
			continue
		}
		if len(f[2]) < 4 && !strings.Contains(string(passwd), line+"\n") {
			t.Errorf("the directory made the system account %q", line)
		}
		if len(f[2]) < 4 {
			system++
		}
	}
	if system == 0 {
		t.Error("getent passwd lists no system account: this test sees nothing")
	}
}

// Somebody in 5,000 groups, and a group of 50,000.
func TestLargeGroups(t *testing.T) {
	t.Parallel()
	many, lone := &person{name: "many", key: newKey(t, "many")}, &person{name: "lone", key: newKey(t, "lone")}
	var ldif strings.Builder
	ldif.WriteString(userEntry("many", 20001, string(many.key.Public)))
	ldif.WriteString(userEntry("lone", 20002, string(lone.key.Public)))
	for i := range 5000 {
		name := fmt.Sprintf("g%d", i)
		ldif.WriteString(entry("cn="+name+",ou=groups,"+outsideBase, "objectClass", "groupOfNames", "objectClass", "posixGroup", "cn", name,
			"gidNumber", fmt.Sprint(30000+i), "member", "uid=many,ou=people,"+outsideBase))
	}
	pairs := []string{"objectClass", "groupOfNames", "objectClass", "posixGroup", "cn", "crowd", "gidNumber", "29999",
		"member", "uid=alice,ou=people," + outsideBase, "member", "uid=many,ou=people," + outsideBase}
	for i := range 50000 {
		pairs = append(pairs, "member", fmt.Sprintf("uid=u%d,ou=people,%s", i, outsideBase))
	}
	ldif.WriteString(entry("cn=crowd,ou=groups,"+outsideBase, pairs...))
	ldif.WriteString(entry("cn=crowd,ou=access,"+outsideBase, "objectClass", "sekishoRule", "cn", "crowd", "sekishoSubject", "group:crowd",
		"sekishoDoor", "keys", "sekishoTarget", "*", "sekishoLogin", "deploy"))
	v := newOutside(t, "large", outsideConfig{ldif: ldif.String()})
	need(t, v.AddUser(testenv.LocalUser{Name: "deploy"}))

	for _, p := range []*person{world.alice, many} {
		begin := time.Now()
		p.in(t, call{to: v.site})
		t.Logf("%s's login took %s", p.name, time.Since(begin).Round(time.Millisecond))
		p.in(t, call{to: v.site, as: "deploy"})
	}
	lone.out(t, call{to: v.site, as: "deploy"})
	begin := time.Now()
	out, err := v.Command(t.Context(), "id", "-G", "many").Output()
	if err != nil || len(strings.Fields(string(out))) != 5002 { // with his own, 100
		t.Errorf("id: %v, %d groups", err, len(strings.Fields(string(out))))
	}
	t.Logf("id took %s", time.Since(begin).Round(time.Millisecond))
	if got := many.in(t, call{to: v.site, command: "id -G | wc -w"}); got != "5002" {
		t.Errorf("the session has %s groups", got)
	}
	begin = time.Now()
	out, err = v.Command(t.Context(), "getent", "group", "crowd").Output()
	if err != nil || !strings.HasPrefix(string(out), "crowd:") {
		t.Errorf("getent group crowd: %v %.100s", err, out)
	}
	t.Logf("getent group took %s", time.Since(begin).Round(time.Millisecond))
	// Leaving a crowd counts at once, too.
	begin = time.Now()
	need(t, v.leave("cn=crowd,ou=groups,"+outsideBase, "uid=alice,ou=people,"+outsideBase))
	caughtUp(t, v.site)
	t.Logf("leaving the crowd was known after %s", time.Since(begin).Round(time.Millisecond))
	world.alice.out(t, call{to: v.site, as: "deploy"})
}
