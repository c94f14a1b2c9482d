package feed

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// append writes records and puts them on disk.
func (s *store) append(data []byte) {
	if s.broken {
		return
	}
	_, err := s.file.Write(data)
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		s.fail(fmt.Errorf("writing %s: %w", logName, err))
		return
	}
	s.size += int64(len(data))
	s.setBytes()
}

// fail gives the file up: what is in it holds, and what comes is not added.
func (s *store) fail(err error) {
	s.broken, s.retryAt = true, time.Now().Add(retryTime)
	s.setFault(err)
}

// doReserve is reserve, for the writer.
func (s *store) doReserve(least uint64) uint64 {
	from := max(s.top, least)
	s.top = from + generations
	if !s.broken {
		s.append(appendRecord(nil, recordReserved, binary.BigEndian.AppendUint64(nil, s.top)))
		if !s.broken {
			return from
		}
	}
	if s.file == nil && s.fresh() {
		return from
	}
	// It could not be put down: go by the clock, which has gone on since any number
	// was given.
	from = max(from, uint64(time.Now().UnixMicro()))
	s.top = from + generations
	return from
}

// fresh begins an empty log, so that reserved numbers are kept before there is
// anything else.
func (s *store) fresh() bool {
	s.rewrite(job{})
	return !s.broken
}

// rewrite writes a new log beside the old one and puts it into its place.
func (s *store) rewrite(j job) {
	path := filepath.Join(s.dir, logName)
	data := appendRecord(nil, recordHost, encodeEntry(header{storeVersion, s.host}))
	data = appendRecord(data, recordReserved, binary.BigEndian.AppendUint64(nil, s.top))
	data = append(data, j.data...)
	f, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		if _, err = f.Write(data); err == nil {
			err = f.Sync()
		}
		if err == nil {
			err = os.Rename(path+".new", path)
		}
		if err == nil {
			err = syncDir(s.dir)
		}
		if err != nil {
			f.Close()
			os.Remove(path + ".new")
		}
	}
	if err != nil {
		s.fail(fmt.Errorf("writing %s anew: %w", logName, err))
		return
	}
	if s.file != nil {
		s.file.Close()
	}
	s.file, s.size, s.base, s.broken = f, int64(len(data)), int64(len(data)), false
	s.setBytes()
	s.setFault(nil)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// close ends the writer, after what it has, and lets go of the folder.
func (s *store) close() error {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return nil
	}
	s.ended = true
	s.mu.Unlock()
	if s.done != nil {
		close(s.jobs)
		<-s.done
	}
	if s.file != nil {
		s.file.Close()
	}
	return s.lock.Close()
}
