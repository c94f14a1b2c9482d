package reaper

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	maxTerminals = 64
	ptsMajor     = 136 // UNIX98_PTY_SLAVE_MAJOR; all of devpts has it
	// forwardTime is what sshd has to send the last line on before it is told to
	// end.
	forwardTime = 100 * time.Millisecond
)

// printable is s in one line, without what a terminal would obey or not show, at
// most limit bytes of it.
func printable(s string, limit int) string {
	var out strings.Builder
	for _, r := range s {
		switch {
		case r == utf8.RuneError:
			continue
		case unicode.IsSpace(r):
			r = ' '
		case !unicode.IsPrint(r):
			continue
		}
		if out.Len()+utf8.RuneLen(r) > limit {
			break
		}
		out.WriteRune(r)
	}
	return strings.Join(strings.Fields(out.String()), " ")
}

// tell writes a line to the terminals of processes, and says to how many.
func tell(ps []process, text string) int {
	if text = printable(text, MaxText); text == "" {
		return 0
	}
	uids := map[uint64][]uint32{}
	for _, p := range ps {
		if p.tty == 0 || uids[p.tty] == nil && len(uids) == maxTerminals {
			continue
		}
		uids[p.tty] = append(uids[p.tty], p.uids[:]...)
	}
	n := 0
	for dev, owners := range uids {
		if tellOne(dev, owners, "\r\nsekisho: "+text+"\r\n") == nil {
			n++
		}
	}
	return n
}

// tellOne writes to one terminal of our own devpts. A process of a container may
// have one of another devpts, with a number that is somebody else's here: it
// must belong to one of the users who are on it.
func tellOne(dev uint64, owners []uint32, text string) error {
	if unix.Major(dev) != ptsMajor {
		return fmt.Errorf("device %d:%d is no pseudo-terminal", unix.Major(dev), unix.Minor(dev))
	}
	fd, err := unix.Open(fmt.Sprintf("/dev/pts/%d", unix.Minor(dev)),
		unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != dev || !slices.Contains(owners, st.Uid) {
		return fmt.Errorf("/dev/pts/%d is another terminal", unix.Minor(dev))
	}
	_, err = unix.Write(fd, []byte(text))
	return err
}
