package testenv

import (
	"errors"
	"os/exec"
	"testing"
)

func needKey(t *testing.T, comment string) *Key {
	t.Helper()
	k, err := NewKey(comment)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// stderr is the standard error that Output kept.
func stderr(err error) string {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return string(e.Stderr)
	}
	return ""
}
