package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/cmd/internal/report"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares what print makes of each testdata/PATTERN.json with the .txt
// beside it.
func golden(t *testing.T, pattern string, print func(*testing.T, []byte) string) {
	t.Helper()
	files, err := filepath.Glob("testdata/" + pattern + ".json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got, path := print(t, b), strings.TrimSuffix(f, ".json")+".txt"
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func decode[T any](t *testing.T, b []byte) (v T) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWhyLayout(t *testing.T) {
	golden(t, "why/*", func(t *testing.T, b []byte) string {
		var out bytes.Buffer
		if err := printWhy(&out, decode[report.Why](t, b)); err != nil {
			t.Fatal(err)
		}
		return out.String()
	})
}

func TestStatusLayout(t *testing.T) {
	now := time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)
	golden(t, "status/*", func(t *testing.T, b []byte) string {
		var out bytes.Buffer
		if err := printStatus(&out, decode[report.Status](t, b), now); err != nil {
			t.Fatal(err)
		}
		return out.String()
	})
}

// TestClean: nothing from the directory drives a terminal.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"Alice":                   "Alice",
		"Ångström":                "Ångström",
		"\x1b[31mred":             `\x1b[31mred`,
		"a\nb":                    `a\nb`,
		"\u202eevil":              `\u202eevil`,
		"\u009b31m":               `\u009b31m`,
		"bad\xff":                 `bad\xff`,
		`say "hi"` + "\x07":       `say "hi"\a`,
		"zero\u200bwidth \u00a0x": `zero\u200bwidth \u00a0x`,
	} {
		got := clean(in)
		if got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestAgeText(t *testing.T) {
	for in, want := range map[int64]string{0: "0 s", 119: "119 s", 120: "2 min", 7199: "119 min", 7200: "2 h", 7260: "2 h 1 min",
		86400: "24 h", 172800: "2 d", 180000: "2 d 2 h"} {
		if got := ageText(in); got != want {
			t.Errorf("%d: got %q, want %q", in, got, want)
		}
	}
}

// TestCommandsOnce: no command stands in the tree twice.
func TestCommandsOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range new(app).command().Commands() {
		if seen[c.Name()] {
			t.Errorf("%s is there twice", c.Name())
		}
		seen[c.Name()] = true
	}
}
