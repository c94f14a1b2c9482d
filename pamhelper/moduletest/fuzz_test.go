package moduletest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sekisho/sekisho/wire"
)

// fuzzer is testdata/fuzz.c, running.
type fuzzer struct {
	in   io.WriteCloser
	out  *bufio.Reader
	cmd  *exec.Cmd
	errs bytes.Buffer
}

func startFuzzer(t testing.TB) *fuzzer {
	t.Helper()
	path := filepath.Join(built, "fuzz")
	var objects []string
	for _, f := range []string{"pam_sekisho", "talk", "cache", "options", "state", "wire"} {
		o := filepath.Join(built, "fuzz-"+f+".o")
		once(t, o, "gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
			"-fno-sanitize-recover=all", "-fsanitize-coverage=trace-pc", "-c", "-o", o, "../module/"+f+".c")
		objects = append(objects, o)
	}
	args := append([]string{"gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined",
		"-fno-sanitize-recover=all", "-I../module", "-o", path, "testdata/fuzz.c"}, objects...)
	once(t, path, args...)
	dir, err := os.MkdirTemp("", "fuzz")
	if err != nil {
		t.Fatal(err)
	}
	tickets := filepath.Join(dir, "tickets")
	if err := os.Mkdir(tickets, 0o711); err != nil {
		t.Fatal(err)
	}
	f := &fuzzer{cmd: exec.Command(path, tickets)}
	f.cmd.Stderr = &f.errs
	f.cmd.Env = append(os.Environ(), "ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=1:quarantine_size_mb=16")
	out, err := f.cmd.StdoutPipe()
	if err == nil {
		f.in, err = f.cmd.StdinPipe()
	}
	if err == nil {
		err = f.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	f.out = bufio.NewReader(out)
	return f
}

// run runs a case and returns the codes of its calls.
func (f *fuzzer) run(data []byte) ([]byte, error) {
	frame := append(binary.LittleEndian.AppendUint32(nil, uint32(len(data))), data...)
	_, err := f.in.Write(frame)
	var codes, passed []byte
	if err == nil {
		codes, err = f.read(1, 1)
	}
	if err == nil {
		passed, err = f.read(2, 3)
	}
	if err != nil {
		f.in.Close()
		return nil, fmt.Errorf("the module broke: %w, %w\n%s", err, f.cmd.Wait(), f.errs.Bytes())
	}
	for ; len(passed) > 0; passed = passed[3:] {
		// The engine tells powers of two apart.
		for range 1 << (bits(passed[2]) - 1) {
			edges[binary.LittleEndian.Uint16(passed)]()
		}
	}
	return codes, nil
}

func bits(b byte) (n int) {
	for ; b > 0; b >>= 1 {
		n++
	}
	return n
}

// read reads a count of so many bytes, and that many items.
func (f *fuzzer) read(count, item int) ([]byte, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(f.out, head[:count]); err != nil {
		return nil, err
	}
	b := make([]byte, item*int(binary.LittleEndian.Uint16(head)))
	_, err := io.ReadFull(f.out, b)
	return b, err
}

// pieces is the server's side of a case, as a connection gives it.
type pieces struct {
	rest   []byte
	midway bool
}

func (p *pieces) open() {
	if !p.midway {
		return
	}
	_, p.rest, _ = bytes.Cut(p.rest, []byte{0})
	p.midway = false
}

func (p *pieces) Read(b []byte) (int, error) {
	p.midway = true
	n := bytes.IndexByte(p.rest, 0)
	if n < 0 {
		n = len(p.rest)
	}
	if n = copy(b, p.rest[:n]); n == 0 {
		return 0, io.EOF
	}
	if p.rest = p.rest[n:]; len(p.rest) > 0 && p.rest[0] == 0 {
		p.rest, p.midway = p.rest[1:], false
	}
	return n, nil
}

// ask is what package wire reads where the module reads an answer.
func (p *pieces) ask() wire.Answer {
	a, err := wire.ReadAnswer(p)
	if err != nil {
		return wire.Answer{}
	}
	return a
}

// accountCode and authCode are the protocol once more, in Go.
func accountCode(p *pieces) byte {
	p.open()
	a := p.ask()
	if a.Outcome == wire.Yes && slices.ContainsFunc(a.Body, func(l string) bool { return !strings.HasPrefix(l, "info ") }) {
		return unavail
	}
	return codeOf(a, map[string]byte{"password-expired": newAuthtok, "kerberos-expired": acctExpired, "shadow-expired": acctExpired,
		"unknown-user": userUnknown}, permDenied)
}

func codeOf(a wire.Answer, codes map[string]byte, rest byte) byte {
	switch a.Outcome {
	case wire.Yes:
		return success
	case wire.No:
		if c, ok := codes[a.Reason]; ok {
			return c
		}
		return rest
	}
	return unavail
}

func authCode(p *pieces, mode, step byte) byte {
	p.open()
	used := false
	a := p.ask()
	for round := 0; a.Outcome == wire.No && a.Reason == "prompt"; round++ {
		if round == 16 || len(a.Body) > 32 {
			return unavail
		}
		replies, size := 0, len("1 answer\n")
		var noPassword, refused bool
		for _, l := range a.Body {
			kind, text, ok := strings.Cut(l, " ")
			if !ok || len(text) > longestPrompt {
				return unavail
			}
			typed := true
			switch kind {
			case "info", "error":
				continue
			case "password":
				if mode&(4|8) != 0 && !used && mode&128 != 0 {
					typed = false
				} else if mode&4 != 0 {
					noPassword = true
				}
				used = true
			case "new-password", "secret", "visible":
			default:
				return unavail
			}
			replies++
			if typed {
				n := 20 * int(step)
				refused = refused || n > longestReply || n == 0 && kind == "password" && mode&64 != 0
				size += len(" a1=") + 3*n
			} else {
				size += len(" a1=first")
			}
		}
		switch {
		case replies > 8:
			return unavail
		case noPassword, refused:
			return authErr
		case size > wire.MaxLine:
			return unavail
		}
		a = p.ask()
	}
	if a.Outcome == wire.Yes {
		logins := 0
		for _, l := range a.Body {
			token, ok := strings.CutPrefix(l, "login ")
			switch {
			case ok && len(token) == 43 && strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == "":
				logins++
			case !strings.HasPrefix(l, "info "):
				return unavail
			}
		}
		if logins > 1 {
			return unavail
		}
	}
	return codeOf(a, map[string]byte{"unknown-user": userUnknown, "max-tries": maxTries}, authErr)
}

var shared = sync.OnceValue(func() *struct {
	sync.Mutex
	f *fuzzer
} {
	return new(struct {
		sync.Mutex
		f *fuzzer
	})
})

// FuzzAnswers runs the module on what a server might say. It must not crash, leak
// or leave anything behind, and the codes must be those of the protocol, worked out
// once more with package wire.
func FuzzAnswers(f *testing.F) {
	nul := "\x00"
	ask := "1 no 2 reason=prompt\npassword P: \ninfo Hello.\n"
	login := "1 yes 2 text=Bye%20now.\nlogin " + token + "\ninfo Welcome.\n"
	tickets := "1 yes 4\nsession " + sessionID + "\ndir " + folder + "\ncache BQQAAQ==\ninfo x\n"
	for _, s := range []string{
		"1 yes 0\n", "1 no 0 reason=password-expired text=change%20it\n", "1 unknown 0 reason=busy\n", "2 yes 0\n", "1 ye" + nul + "s 0\n",
		ask + nul + login, ask + nul + "1 no 1 reason=prompt\nsecret Code: \n" + nul + login,
		"1 no 3 reason=prompt\nnew-password N: \nnew-password A: \nerror no\n" + nul + "1 no 0 reason=password-refused\n",
		ask + nul + login + nul + tickets + nul + "1 yes 1\nsession x\n" + nul + "1 yes 0\n" + nul + "1 yes 0\n",
		login + nul + "1 yes 0\n" + nul + "1 yes 0\n" + nul + tickets + nul + "1 yes 0\n" + nul + "1 yes 0\n",
		strings.Repeat("1 no 1 reason=prompt\ninfo x\n"+nul, 17) + login,
		"1 yes 1\ninfo " + strings.Repeat("x", 5000) + "\n",
	} {
		for mode := range 4 {
			f.Add(append([]byte{byte(mode), 1}, s...))
			f.Add(append([]byte{byte(mode) | 0xf4, 255}, s...))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 2 || len(data) > 3<<20 {
			return
		}
		s := shared()
		s.Lock()
		defer s.Unlock()
		if s.f == nil {
			s.f = startFuzzer(t)
		}
		codes, err := s.f.run(data)
		if err != nil {
			s.f = nil
			t.Fatal(err)
		}
		p := &pieces{rest: data[2:]}
		switch data[0] & 3 {
		case 0:
			if want := accountCode(p); len(codes) != 1 || codes[0] != want {
				t.Errorf("the codes are %d, want %d", codes, want)
			}
		case 1:
			if want := authCode(p, data[0], data[1]); len(codes) != 1 || codes[0] != want {
				t.Errorf("the codes are %d, want %d", codes, want)
			}
		case 3:
			if want := authCode(p, data[0], data[1]); len(codes) != 6 || codes[0] != want {
				t.Errorf("the codes are %d, want %d first", codes, want)
			}
		}
	})
}

// The harness reports what it should.
func TestFuzzerSees(t *testing.T) {
	f := startFuzzer(t)
	defer func() {
		f.in.Close()
		if err := f.cmd.Wait(); err != nil {
			t.Error(err, f.errs.String())
		}
	}()
	before := n
	codes, err := f.run([]byte("\x00\x011 yes 0\n"))
	if err != nil || !bytes.Equal(codes, []byte{success}) {
		t.Errorf("%v, %v", codes, err)
	}
	few := n - before
	codes, err = f.run([]byte("\x01\x011 no 1 reason=prompt\nsecret s\n\x001 yes 0\n"))
	if err != nil || !bytes.Equal(codes, []byte{success}) {
		t.Errorf("%v, %v", codes, err)
	}
	if few < 20 || n-before-few <= few {
		t.Errorf("it passed %d edges, and then %d", few, n-before-few)
	}
}
