package main

import (
	"fmt"
	"os"
	"os/exec"

	"github.com/sekisho/sekisho/reaper"
)

// startReaper starts sekisho-reaper, while this process is root, and returns
// what to hand on as fdReaper. It ends when the last copy of that is closed:
// with sekishod. socket is where the PAM door will listen.
func startReaper(socket string) (*os.File, error) {
	path, err := helperProgram("sekisho-reaper")
	if err != nil {
		return nil, fmt.Errorf("finding sekisho-reaper: %w", err)
	}
	return startReaperAt(path, socket)
}

func startReaperAt(path, socket string) (*os.File, error) {
	hold, give, err := reaper.Pair()
	if err != nil {
		return nil, err
	}
	defer give.Close()
	cmd := exec.Command(path, "--fd", "3", "--socket", socket)
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.Stderr = os.Stderr // its log; it goes into the background with it
	cmd.ExtraFiles = []*os.File{give}
	if err := cmd.Run(); err != nil {
		hold.Close()
		return nil, fmt.Errorf("starting sekisho-reaper, which has said why: %w", err)
	}
	return hold, nil
}
