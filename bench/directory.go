package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/testenv"
)

// startDirectory starts a slapd on the sandbox with n users. Its files are in
// memory; a database that was made before is taken from workDir.
func startDirectory(ctx context.Context, n, port int, debug string) (*testenv.Slapd, error) {
	s, err := testenv.StartSlapd(ctx, testenv.SlapdConfig{Port: port, Suffix: suffix, NoSync: true, Debug: debug})
	if err != nil {
		return nil, err
	}
	if err := s.Stop(); err != nil {
		return nil, err
	}
	if err := fill(ctx, s, n); err != nil {
		return nil, fmt.Errorf("filling a directory of %d users: %w", n, err)
	}
	return s, s.Restart(ctx)
}

// fill puts a database of n users in the place of the stopped slapd's.
func fill(ctx context.Context, s *testenv.Slapd, n int) error {
	socket, err := url.PathUnescape(strings.TrimPrefix(s.LDAPI, "ldapi://"))
	if err != nil {
		return err
	}
	dir := filepath.Dir(socket)
	db := dir + "/db/data.mdb"
	if err := os.RemoveAll(dir + "/db"); err != nil {
		return err
	}
	if err := os.Mkdir(dir+"/db", 0o700); err != nil {
		return err
	}
	kept, err := keptDatabase(n)
	if err != nil {
		return err
	}
	if err = copyFile(kept, db); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fmt.Fprintf(os.Stderr, "bench: making a directory of %d users; it is kept in %s …\n", n, workDir)
	if err := slapadd(ctx, dir+"/slapd.d", n); err != nil {
		return err
	}
	return keep(db, kept, n)
}

// keep stores a database for the next runs, in the place of those of n users
// that another version of this program made.
func keep(db, kept string, n int) error {
	old, err := filepath.Glob(filepath.Join(workDir, fmt.Sprintf("%d-*", n)))
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	if err := copyFile(db, kept); err != nil {
		return err
	}
	return ownerOf(kept)
}

func slapadd(ctx context.Context, config string, n int) error {
	cmd := exec.CommandContext(ctx, "/usr/sbin/slapadd", "-q", "-w", "-n1", "-F", config)
	ldif, in := io.Pipe()
	cmd.Stdin = ldif
	done := make(chan error, 1)
	go func() {
		err := writeLDIF(in, n)
		in.CloseWithError(err)
		done <- err
	}()
	out, err := cmd.CombinedOutput()
	ldif.CloseWithError(errors.New("slapadd has ended"))
	if werr := <-done; werr != nil && err == nil {
		return werr
	}
	if err != nil {
		return fmt.Errorf("slapadd: %w: %s", err, out)
	}
	return nil
}

// keptDatabase is where the database of n users is kept, by all it depends on.
func keptDatabase(n int) (string, error) {
	h := sha256.New()
	schemas, err := testenv.Schemas()
	if err != nil {
		return "", err
	}
	version, err := exec.Command("dpkg-query", "-W", "slapd").Output()
	if err != nil {
		return "", fmt.Errorf("asking for slapd's version: %w", err)
	}
	h.Write(generator)
	h.Write(version)
	for _, f := range schemas {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		h.Write(b)
	}
	fmt.Fprintf(h, "%d", n)
	if err := os.MkdirAll(workDir, 0o755); err != nil {
		return "", err
	}
	return filepath.Join(workDir, fmt.Sprintf("%d-%s.mdb", n, hex.EncodeToString(h.Sum(nil)[:8]))), ownerOf(workDir)
}

// copyFile makes to a copy of from, whole or not at all. What nobody wrote in
// from takes no room in to: slapadd makes files as large as they may ever be.
func copyFile(from, to string) error {
	if _, err := os.Stat(from); err != nil {
		return err
	}
	out, err := exec.Command("cp", "--sparse=always", "--", from, to+".new").CombinedOutput()
	if err != nil {
		return fmt.Errorf("copying %s: %w: %s", from, err, out)
	}
	return os.Rename(to+".new", to)
}

// writer is a connection for changes, as the directory's administrator.
func writer(s *testenv.Slapd) (*ldap.Conn, error) {
	c, err := ldap.DialURL(s.URL)
	if err != nil {
		return nil, err
	}
	c.SetTimeout(patience)
	if err := c.Bind(s.RootDN, s.RootPW); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}
