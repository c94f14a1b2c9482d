package state

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// ready prepares a folder for NATS, which would not outlive some kinds of damage.
//
// It removes the indexes that NATS keeps besides the messages to start faster. It
// believes them without looking at the messages, whose checksums it verifies only
// when it has none; and one wrong bit in a message's number then makes it take all
// memory of the machine.
func ready(dir string) error {
	msgs := filepath.Join(dir, "jetstream", "*", "streams", "*", "msgs")
	for _, name := range []string{"index.db", "thw.db"} {
		paths, err := filepath.Glob(filepath.Join(msgs, name))
		if err != nil {
			return err
		}
		for _, p := range paths {
			if err := os.Remove(p); err != nil {
				return err
			}
		}
	}
	blocks, err := filepath.Glob(filepath.Join(msgs, "*.blk"))
	if err != nil {
		return err
	}
	for _, p := range blocks {
		if err := checkBlock(p); err != nil {
			return err
		}
	}
	return nil
}

// checkBlock looks for the one thing that NATS's checksum of a message leaves out and
// that it panics at: a length of the headers that is beyond the message. A message is
//
//	4 bytes  length of all; the highest bit: it has headers
//	8, 8     number, time
//	2        length of the subject
//	         subject; with headers their length (4 bytes) and they; data
//	8        checksum
//
// all numbers little-endian (nats-server, filestore.go). Where the rest makes no
// sense or the file ends, NATS cuts it off by itself.
func checkBlock(path string) error {
	const head, sum, headers = 22, 8, 1 << 31
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<16)
	for at := int64(0); ; {
		var h [head]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return onlyEnd(err)
		}
		length := binary.LittleEndian.Uint32(h[:])
		size, subject := int64(length&^headers), int64(binary.LittleEndian.Uint16(h[20:]))
		left := size - head - sum - subject
		if left < 0 || size > 1<<25 {
			return nil
		}
		if length&headers != 0 {
			if left -= 4; left < 0 {
				return nil
			}
			if _, err := r.Discard(int(subject)); err != nil {
				return onlyEnd(err)
			}
			var n [4]byte
			if _, err := io.ReadFull(r, n[:]); err != nil {
				return onlyEnd(err)
			}
			subject = 0
			if int64(binary.LittleEndian.Uint32(n[:])) > left {
				return fmt.Errorf("%s is damaged at byte %d", path, at)
			}
		}
		if _, err := r.Discard(int(subject + left + sum)); err != nil {
			return onlyEnd(err)
		}
		at += size
	}
}

// onlyEnd passes over the end of a file.
func onlyEnd(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}
