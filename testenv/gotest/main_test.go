package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const pkg = `"Package":"github.com/sekisho/sekisho/a"`

func TestReport(t *testing.T) {
	pass := `{"Action":"pass",` + pkg + `,"Elapsed":1}`
	skip := `{"Action":"output",` + pkg + `,"Test":"TestX","Output":"no such kernel\n"}{"Action":"skip",` + pkg + `,"Test":"TestX"}`
	for _, tc := range []struct {
		name, in string
		allowed  bool
		ci       bool
		ok       bool
		want     string
	}{
		{name: "pass", in: pass, ci: true, ok: true, want: "ok    a"},
		{name: "nothing", in: "", want: "no package"},
		{name: "no test files", in: `{"Action":"skip",` + pkg + `}` + pass, ci: true, ok: true, want: "1 packages passed"},
		{name: "skip at home", in: skip + pass, ok: true, want: "not in the list"},
		{name: "skip in CI", in: skip + pass, ci: true, want: "FAIL  a TestX"},
		{name: "skip with leave", in: skip + pass, ci: true, allowed: true, ok: true, want: "skip  a TestX: why"},
		{name: "fail", in: `{"Action":"output",` + pkg + `,"Test":"TestX","Output":"the reason\n"}{"Action":"fail",` + pkg + `,"Test":"TestX"}{"Action":"fail",` + pkg + `}`, want: "the reason"},
		{name: "panic", in: `{"Action":"output",` + pkg + `,"Test":"TestX","Output":"panic: oh\n"}{"Action":"fail",` + pkg + `}`, want: "panic: oh"},
		{name: "build", in: `{"ImportPath":"x","Action":"build-output","Output":"undefined: y\n"}{"ImportPath":"x","Action":"build-fail"}{"Action":"fail",` + pkg + `,"FailedBuild":"x"}`, want: "undefined: y"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			allowed := map[test]string{}
			if tc.allowed {
				allowed[test{"a", "TestX"}] = "why"
			}
			var out strings.Builder
			r := newReport(&out, allowed)
			if err := r.read(strings.NewReader(tc.in)); err != nil {
				t.Fatal(err)
			}
			if ok := r.summary(tc.ci); ok != tc.ok {
				t.Errorf("got %v, want %v", ok, tc.ok)
			}
			if !strings.Contains(out.String(), tc.want) {
				t.Errorf("no %q in\n%s", tc.want, out.String())
			}
		})
	}
	if err := newReport(&strings.Builder{}, nil).read(strings.NewReader("not json")); err == nil {
		t.Error("garbage was read")
	}
}

func TestReadSkips(t *testing.T) {
	file := filepath.Join(t.TempDir(), "skips")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("# comment\n\na/b TestX/y  the kernel has no foo\n")
	got, err := readSkips(file)
	if err != nil || len(got) != 1 || got[test{"a/b", "TestX/y"}] != "the kernel has no foo" {
		t.Errorf("got %v %v", got, err)
	}
	write("a TestX\n")
	if _, err := readSkips(file); err == nil || !strings.Contains(err.Error(), ":1:") {
		t.Errorf("a skip without a reason: %v", err)
	}
	if _, err := readSkips(file + "-none"); err == nil {
		t.Error("no error without a list")
	}
}
