package realm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestApparmorHint(t *testing.T) {
	hint := func(files map[string]string) string {
		t.Helper()
		root := t.TempDir()
		for name, text := range files {
			path := filepath.Join(root, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		return apparmorHint(root, "/usr/sbin/slapd", "/var/lib/sekisho", "/run/sekisho")
	}
	const on, loaded, profile = "sys/module/apparmor/parameters/enabled", "sys/kernel/security/apparmor/profiles", "etc/apparmor.d/usr.sbin.slapd"
	for name, files := range map[string]map[string]string{
		"no apparmor":     {},
		"switched off":    {on: "N\n", profile: ""},
		"no profile":      {on: "Y\n", loaded: "/usr/sbin/cupsd (enforce)\n"},
		"only complains":  {on: "Y\n", loaded: "/usr/sbin/slapd (complain)\n"},
		"profile is idle": {on: "Y\n", profile: "", "etc/apparmor.d/disable/usr.sbin.slapd": ""},
	} {
		if got := hint(files); got != "" {
			t.Errorf("%s: %s", name, got)
		}
	}
	for name, files := range map[string]map[string]string{
		"loaded":       {on: "Y\n", loaded: "x (enforce)\n/usr/sbin/slapd (enforce)\n"},
		"kernel mute":  {on: "Y\n", profile: ""},
		"both present": {on: "Y\n", loaded: "/usr/sbin/slapd (enforce)\n", profile: ""},
	} {
		got := hint(files)
		for _, want := range []string{"/var/lib/sekisho/** rwk,", "/run/sekisho/ r,", "/etc/apparmor.d/local/usr.sbin.slapd", "apparmor_parser -r"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in %q", name, want, got)
			}
		}
	}
}

func TestTail(t *testing.T) {
	var out tail
	for i := range 30 {
		fmt.Fprintf(&out, "line %d\n\n  \n", i)
	}
	fmt.Fprint(&out, "half")
	got := out.lines()
	if len(got) != keptLines+1 || got[0] != "line 18" || got[keptLines] != "half" {
		t.Errorf("%q", got)
	}
	fmt.Fprint(&out, " a line\n", strings.Repeat("x", 5000), "\xff\n")
	got = out.lines()
	if got[keptLines-2] != "half a line" || len(got[keptLines-1]) != maxLine {
		t.Errorf("%q", got)
	}
	out.reset()
	if len(out.lines()) != 0 {
		t.Error("kept after reset")
	}
}

// TestWriteFile: a write that fails leaves the old file, and nothing beside it.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, mode := range []os.FileMode{0o600, 0o644} {
		if err := writeFile(path, []byte("one"), mode); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode() != mode {
			t.Errorf("%v, %v", st.Mode(), err)
		}
	}
	for content, want := range map[string]bool{"one": false, "two": true} {
		if wrote, err := keepFile(path, []byte(content), 0o644); err != nil || wrote != want {
			t.Errorf("%s: %v, %v", content, wrote, err)
		}
		if err := writeFile(path, []byte("one"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if wrote, err := keepFile(path, []byte("one"), 0o600); err != nil || !wrote {
		t.Errorf("another mode: %v, %v", wrote, err)
	}
	if err := writeFile(filepath.Join(dir, "none", "f"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(filepath.Join(dir, "d"), nil, 0o600); err == nil {
		t.Error("a directory was written over")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("%d files, %v", len(left), err)
	}
}

// TestSchemas: each of our files stands alone, in the form ldapadd takes.
func TestSchemas(t *testing.T) {
	for _, s := range ownSchemas {
		b, err := Schemas.ReadFile("schema/" + s + ".ldif")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(b), "#") || strings.Count(string(b), "\ndn: ") != 1 ||
			!strings.Contains(string(b), "\ndn: cn="+s+",cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: "+s+"\n") {
			t.Errorf("%s.ldif: not one schema entry under its name", s)
		}
	}
	files, err := fs.Glob(Schemas, "schema/*")
	if err != nil || len(files) != len(ownSchemas) {
		t.Errorf("%v, %v", files, err)
	}
}

func FuzzJudgeProbe(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x7e\x81\x80"))
	f.Fuzz(func(t *testing.T, b []byte) {
		judgeProbe(b) // must not panic
	})
}
