package main

import (
	"bytes"
	"os"
	"testing"
)

// TestUpToDate fails when config.go was changed without go generate.
func TestUpToDate(t *testing.T) {
	want, err := render("../config.go")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/configuration.md is out of date: go generate ./cmd/internal/config")
	}
}
