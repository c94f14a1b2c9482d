package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/site"
)

var errUnrecorded = errors.New("somebody was let in without a record")

// smallDisks puts a small filesystem below what a machine's sekishod must write.
// It must not run meanwhile.
func (s *storm) smallDisks(h *testenv.Host) error {
	for _, dir := range s.disks(h) {
		script := `set -e; mkdir -p "$1"; rm -rf /root/kept; cp -a "$1" /root/kept; mount -t tmpfs -o size="$2" tmpfs "$1"; cp -a /root/kept/. "$1"/`
		if out, err := h.Command(s.Ctx, "sh", "-c", script, "sh", dir, diskSize).CombinedOutput(); err != nil {
			return site.Said(err, string(out))
		}
	}
	return nil
}

// diskSize is one's.
const diskSize = "32m"

// disks are the folders of a machine that can be full. slapd's are not among
// them: what it does then is not ours to say.
func (s *storm) disks(h *testenv.Host) []string {
	if h == s.Broker {
		return []string{site.State + "/audit", site.State + "/state"}
	}
	return []string{site.State + "/audit"}
}

const filler = "/filler"

// full fills a machine's disks for a while. Where people log in, nobody gets in
// then: the record of it cannot be written.
func (s *storm) full(h *testenv.Host) (err error) {
	s.count("full disks of " + h.Name)
	for _, dir := range s.disks(h) {
		if err := h.Inside(func() error { return fill(dir + filler) }); err != nil {
			return err
		}
	}
	defer func() {
		for _, dir := range s.disks(h) {
			err = errors.Join(err, h.Inside(func() error { return os.Remove(dir + filler) }))
		}
	}()
	if h == s.Broker {
		time.Sleep(time.Duration(500+s.pick(3000)) * time.Millisecond)
		return nil
	}
	p := s.mayEnter()
	if p == nil {
		return nil
	}
	defer p.mu.Unlock()
	// What is left of the last page takes some records.
	for tries := 20; ; tries-- {
		if err := s.Login(p.name, p.key, h); err != nil {
			break
		}
		if tries == 0 {
			return s.wrong(fmt.Errorf("%w: %s on %s, with a full disk", errUnrecorded, p.name, h.Name))
		}
	}
	for range 2 {
		if s.Login(p.name, p.key, h) == nil {
			return s.wrong(fmt.Errorf("%w: %s on %s, after a refusal", errUnrecorded, p.name, h.Name))
		}
	}
	if !strings.Contains(s.Sekishod(h).Log(), `"reason":"recorder"`) {
		return s.wrong(fmt.Errorf("%s refuses %s with a full disk, but its log does not say for want of a record", h.Name, p.name))
	}
	s.count("refusals for want of a record")
	return nil
}

// mayEnter is somebody who may log in, whose right nobody changes before his mu is
// unlocked; nil: nobody may.
func (s *storm) mayEnter() *person {
	first := s.pick(len(s.people))
	for i := range s.people {
		p := s.people[(first+i)%len(s.people)]
		p.mu.Lock()
		if p.in && !p.unsure {
			return p
		}
		p.mu.Unlock()
	}
	return nil
}

// fill writes a file until the disk is full.
func fill(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for block := make([]byte, 1<<16); len(block) > 0; {
		if _, err = f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			return err
		}
	}
	return nil
}
