package accept

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The file is records of 40 bytes, numbers in little-endian order: two of a
// header, then one a mark.
//
//	0  kind: 'B' the boot, 'F' the floor, 'M' a mark; 3 zeros
//	4  CRC-32C of the rest with the first 4 bytes before it
//	8  a:    B: barrier, ns since boot   F: floor, µs since 1970   M: made, µs since 1970
//	16 b:    B: 1, the file's version    F: 0                      M: until, µs since 1970
//	24 id:   B: the boot's id            F: zeros                  M: half the mark
const recordSize = 40

type record [recordSize]byte

// header is what a file says beside its marks.
type header struct {
	boot shortMark
	// barrier is a time since the boot; authenticators made before it are refused.
	barrier time.Duration
	// floor is the newest time in an authenticator whose mark was forgotten.
	floor int64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func formatRecord(kind byte, a, b int64, id shortMark) (r record) {
	r[0] = kind
	binary.LittleEndian.PutUint64(r[8:], uint64(a))
	binary.LittleEndian.PutUint64(r[16:], uint64(b))
	copy(r[24:], id[:])
	binary.LittleEndian.PutUint32(r[4:], r.sum())
	return r
}

func formatMark(m shortMark, t times) record { return formatRecord('M', t.made, t.until, m) }

func (r *record) sum() uint32 {
	return crc32.Update(crc32.Checksum(r[:4], castagnoli), castagnoli, r[8:])
}

// read is false for what formatRecord did not write.
func (r *record) read() (kind byte, a, b int64, id shortMark, ok bool) {
	if binary.LittleEndian.Uint32(r[4:]) != r.sum() || r[1]|r[2]|r[3] != 0 {
		return 0, 0, 0, id, false
	}
	return r[0], int64(binary.LittleEndian.Uint64(r[8:])), int64(binary.LittleEndian.Uint64(r[16:])), shortMark(r[24:]), true
}

// oldFile is what was read of a file.
type oldFile struct {
	h     header
	marks map[shortMark]times
	// missing: there is no file. headless: its header cannot be read. damaged: it
	// is headless, or a record cannot be read (a last one that is cut short is
	// no damage: nobody was told that it is kept).
	missing, headless, damaged bool
	// longest is for how long a mark was to be kept at most.
	longest time.Duration
}

func readReplayFile(path string) (oldFile, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return oldFile{missing: true, marks: map[shortMark]times{}}, nil
	}
	if err != nil {
		return oldFile{}, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return oldFile{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return oldFile{}, errors.New("it must be a regular file of ours, of mode 0600: remove it, another is made")
	}
	return readRecords(bufio.NewReaderSize(f, 1<<16))
}

func readRecords(in io.Reader) (oldFile, error) {
	old := oldFile{marks: make(map[shortMark]times), longest: DefaultSkew}
	var boot, floor bool
	for i := 0; ; i++ {
		var rec record
		_, err := io.ReadFull(in, rec[:])
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return oldFile{}, err
		}
		kind, a, b, id, ok := rec.read()
		switch {
		case ok && i == 0 && kind == 'B' && b == 1:
			old.h.boot, old.h.barrier, boot = id, time.Duration(a), true
		case ok && i == 1 && kind == 'F':
			old.h.floor, floor = a, true
		case ok && i > 1 && kind == 'M':
			old.marks[id] = times{a, b}
			if d := time.Duration(b-a) * time.Microsecond; d > old.longest && d <= maxSkew {
				old.longest = d
			}
		default:
			old.damaged = true
		}
	}
	old.headless = !boot || !floor
	old.damaged = old.damaged || old.headless
	return old, nil
}

// writeReplayFile puts a file in the place of another, so that path holds at
// every instant one of them whole. The file is open for marks to be added. When
// it is given beside an error, it is in its place, but perhaps not on the disk.
func writeReplayFile(path string, h header, marks map[shortMark]times) (*os.File, error) {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	w := bufio.NewWriterSize(f, 1<<16)
	put := func(r record) { w.Write(r[:]) } // Flush tells the error
	put(formatRecord('B', int64(h.barrier), 1, h.boot))
	put(formatRecord('F', h.floor, 0, shortMark{}))
	for m, t := range marks {
		put(formatMark(m, t))
	}
	err = w.Flush()
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		f.Close()
		os.Remove(path + ".new")
		return nil, err
	}
	return f, syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// bootID is the kernel's name for the time since the machine was started.
func bootID() (id shortMark, err error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id, err
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(b)), "-", ""))
	if err != nil || len(raw) != len(id) {
		return id, errors.New("the kernel's boot_id is no UUID")
	}
	return shortMark(raw), nil
}
