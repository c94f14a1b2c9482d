package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/reaper"
	"github.com/sekisho/sekisho/testenv"
)

// TestStartReaper: what the first stage starts answers who holds the pair's end,
// and ends with it.
func TestStartReaper(t *testing.T) {
	exe, err := testenv.Program("sekisho-reaper")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := startReaperAt(exe, "not/absolute"); err == nil || !strings.Contains(err.Error(), "said why") {
		t.Error(err)
	}
	f, err := startReaperAt(exe, "/run/sekisho/pam.sock")
	if err != nil {
		t.Fatal(err)
	}
	c, err := reaper.Dial(f)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := c.Recover(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := c.End(t.Context(), reaper.Order{ID: "x"}); !errors.Is(err, reaper.ErrUnknown) {
		t.Error(err)
	}
}
