package reaper

import (
	"context"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/wire"
)

func TestAbsent(t *testing.T) {
	c, err := Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	hold, give, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	defer give.Close()
	_, err1 := c.Adopt(t.Context(), Opening{ID: "x", PID: 2, Conn: hold})
	_, err2 := c.End(t.Context(), Order{ID: "x"})
	_, err3 := c.Recover(t.Context())
	_, err4 := c.Alive(t.Context(), nil)
	for _, err := range []error{err1, err2, err3, err4, c.Forget(t.Context(), "x"), c.Events(t.Context(), nil)} {
		if !errors.Is(err, ErrAbsent) {
			t.Error(err)
		}
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestLying: a sekisho-reaper that says what it never says, says late or says
// nothing is found out, and hangs nobody.
func TestLying(t *testing.T) {
	for name, answer := range map[string]string{
		"no number":           "1 yes 0\n",
		"another number":      "7 1 yes 1\nended cgroup 0 1 true\n",
		"no answer":           "1 2 yes 0\n",
		"an empty body":       "1 1 yes 0\n",
		"another body":        "1 1 yes 1\nended nohow 0 1 true\n",
		"terminals":           "1 1 yes 1\nended cgroup 65 1 true\n",
		"too long a time":     "1 1 yes 1\nended cgroup 0 99999999999999 true\n",
		"a process that none": "1 1 yes 2\nended cgroup 0 1 true\nleft 0x5 D x\n",
		"another event":       "0 1 yes 1\nended x\n",
		"two":                 "1 1 yes 1\nended cgroup 0 1 true\n1 yes 0\n",
		"it could not":        "1 1 unknown 0 text=why\n",
		"another reason":      "1 1 no 0 reason=other text=why\n",
		"nothing":             "",
	} {
		t.Run(name, func(t *testing.T) {
			hold, give, err := Pair()
			if err != nil {
				t.Fatal(err)
			}
			c, err := Dial(hold)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				give.Read(make([]byte, maxPacket))
				if answer != "" {
					give.Write([]byte(answer))
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if e, err := c.End(ctx, Order{ID: "x"}); err == nil || errors.Is(err, ErrUnknown) || !reflect.DeepEqual(e, Ended{}) {
				t.Errorf("%+v, %v", e, err)
			}
			<-done
			give.Close()
			if _, err := c.End(t.Context(), Order{ID: "x"}); err == nil {
				t.Error("it goes on")
			}
		})
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"a b":                           "a b",
		" \ta\r\n b\x00\x1b[31m":        "a b[31m",
		"\u202eevil\u2066\u200b\ufeff ": "evil",
		"é日本\xff\u0085x":                "é日本 x",
		strings.Repeat("é", 400):        strings.Repeat("é", MaxText/2),
		"":                              "",
	} {
		if got := printable(in, MaxText); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestParseStat(t *testing.T) {
	const rest = " 1 2 3 34820 5 4194560 1 2 3 4 5 6 7 8 20 0 1 0 5000 1 2 3"
	p, err := parseStat([]byte("42 (a) S (b\n c) R" + rest))
	want := process{pid: 42, name: "a) S (b c", state: 'R', parent: 1, sid: 3, tty: unix.Mkdev(136, 4), started: 5000}
	if err != nil || p != want {
		t.Errorf("%+v, %v; want %+v", p, err, want)
	}
	for _, bad := range []string{"", "42", "42 (a", "42 (a)", "42 (a) R 1 2", "x (a) R" + rest, "42 a) R" + rest, "42 (a) RR" + rest} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if p, err := parseStat([]byte("42 (a) R" + strings.Replace(rest, "34820", "1083148", 1))); err != nil || p.tty != unix.Mkdev(135, 268) {
		t.Errorf("%v, %v: device %d:%d", p, err, unix.Major(p.tty), unix.Minor(p.tty))
	}
	self, err := readProcess(int32(os.Getpid()))
	if err != nil || self.parent != int32(os.Getppid()) || self.readUIDs() != nil || self.uids != [3]uint32{} {
		t.Errorf("%+v, %v", self, err)
	}
}

func TestMounts(t *testing.T) {
	got := cgroup2Mounts([]byte(`25 30 0:23 / /sys rw - sysfs sysfs rw
31 25 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
38 31 0:38 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
39 31 0:39 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
40 30 0:38 /a/b /mnt/with\040blank rw - cgroup2 none rw
short
`))
	want := []hierarchy{{"/mnt/with blank", "/a/b", "/mnt/with blank/sekisho"}, {"/sys/fs/cgroup/unified", "/", "/sys/fs/cgroup/unified/sekisho"}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte("1 1 adopt session=x pid=5 started=7 fresh=yes\n"))
	f.Add([]byte("2 1 end session=x grace=200 text=%C3%A9\n"))
	f.Add([]byte("3 1 forget session=x\n"))
	f.Add([]byte("4 1 list\n"))
	f.Add([]byte("5 1 list after=x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, message, err := cutNumber(b)
		if err != nil {
			return
		}
		q, err := readRequest(message)
		if err != nil {
			if q != (request{}) {
				t.Errorf("%+v beside %v", q, err)
			}
			return
		}
		again, err := wire.AppendRequest(appendNumber(nil, n), q.message())
		if err != nil {
			t.Fatal(err)
		}
		n2, message, err := cutNumber(again)
		back, err2 := readRequest(message)
		if err != nil || err2 != nil || n2 != n || back != q {
			t.Errorf("%+v became %+v, %v, %v", q, back, err, err2)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add("ended cgroup 1 5000 true\nleft 5 D a b")
	f.Add("x 5 7 tree alive")
	f.Fuzz(func(t *testing.T, text string) {
		body := strings.Split(text, "\n")
		if e, err := readEnded(body); err == nil {
			if got := e.body(); !slices.Equal(got, body) {
				t.Errorf("%q became %q", body, got)
			}
		} else if !reflect.DeepEqual(e, Ended{}) {
			t.Errorf("%+v beside %v", e, err)
		}
		if s, err := readSession(text); err == nil && s.line() != text {
			t.Errorf("%q became %q", text, s.line())
		}
	})
}

func FuzzNames(f *testing.F) {
	f.Add("sekisho-x_-9.5.77")
	f.Add("42 (a b) R 1 2 3 34820 5 0 1 2 3 4 5 6 7 8 20 0 1 0 5000 1")
	f.Add("boot 5 true\n")
	f.Fuzz(func(t *testing.T, text string) {
		if id, pid, started, ok := readFolderName(text); ok && folderName(id, pid, started) != text {
			t.Errorf("%q became %q", text, folderName(id, pid, started))
		}
		parseStat([]byte(text))
		cgroup2Mounts([]byte(text))
		var s session
		s.readEntry([]byte(text), "boot")
		for _, r := range printable(text, MaxText) {
			if !unicode.IsPrint(r) {
				t.Errorf("%q in %q", r, text)
			}
		}
	})
}
