package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// made is a closed folder with several files.
func made(t testing.TB) (dir string, names []string) {
	t.Helper()
	dir = folder(t)
	l := open(t, dir, func(c *Config) { c.FileSize = 2000 })
	for range 5 {
		write(t, l, 4, 2)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	all, err := files(dir)
	if err != nil || len(all) < 4 {
		t.Fatal(all, err)
	}
	for _, f := range all {
		names = append(names, f.name)
	}
	good(t, dir)
	return dir, names
}

// copied is a copy of a folder to change.
func copied(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func edit(t testing.TB, path string, f func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, f(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestChangedByte: whichever byte of a closed record is changed, it is found, and
// in the right place.
func TestChangedByte(t *testing.T) {
	dir := folder(t)
	l := open(t, dir, func(c *Config) { c.FileSize = 1000 })
	write(t, l, 4, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	all, err := files(dir)
	if err != nil || len(all) < 2 {
		t.Fatal(all, err)
	}
	var names []string
	for _, f := range all {
		names = append(names, f.name)
	}
	for n, name := range names {
		path := filepath.Join(dir, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range whole {
			b := bytes.Clone(whole)
			b[i] ^= 1 << (i % 8)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			v := verify(t, VerifyConfig{Dir: dir})
			if v.Good() {
				t.Fatalf("%s: byte %d (%q) changed to %q, and nothing is found", name, i, whole[i], b[i])
			}
			line := 1 + bytes.Count(whole[:i], []byte("\n"))
			if !slices.ContainsFunc(v.Problems, func(p Problem) bool {
				return p.File == name && (p.Line == line || p.Line == line+1 || p.Line == 0) || n+1 < len(names) && p.File == names[n+1] && p.Line == 1
			}) {
				t.Fatalf("%s:%d: byte %d (%q) changed to %q, and what is found is %v", name, line, i, whole[i], b[i], v.Problems)
			}
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good(t, dir)
}

func TestTampering(t *testing.T) {
	whole, names := made(t)
	lines := func(f func([][]byte) [][]byte) func([]byte) []byte {
		return func(b []byte) []byte {
			l := bytes.SplitAfter(b, []byte("\n"))
			return bytes.Join(f(l[:len(l)-1]), nil)
		}
	}
	mid, last := names[1], names[len(names)-1]
	for _, c := range []struct {
		name string
		do   func(dir string)
		want string
	}{
		{"the user of a grant", func(dir string) {
			edit(t, dir+"/"+mid, func(b []byte) []byte { return bytes.Replace(b, []byte("user1"), []byte("user9"), 1) })
		}, mid + ":"},
		{"a line removed", func(dir string) {
			edit(t, dir+"/"+mid, lines(func(l [][]byte) [][]byte { return slices.Delete(l, 2, 3) }))
		}, mid + ":3: records "},
		{"the first line removed", func(dir string) {
			edit(t, dir+"/"+names[0], lines(func(l [][]byte) [][]byte { return l[1:] }))
		}, names[0] + ": the record begins with 2"},
		{"two lines swapped", func(dir string) {
			edit(t, dir+"/"+mid, lines(func(l [][]byte) [][]byte { l[1], l[2] = l[2], l[1]; return l }))
		}, mid + ":2: "},
		{"a line twice", func(dir string) {
			edit(t, dir+"/"+mid, lines(func(l [][]byte) [][]byte { return slices.Insert(l, 2, l[1]) }))
		}, mid + ":3: record "},
		{"a file removed", func(dir string) { os.Remove(dir + "/" + mid) }, "are missing before it"},
		{"the first file removed", func(dir string) { os.Remove(dir + "/" + names[0]) }, "does not say that the files before it were deleted"},
		{"the last file removed", func(dir string) { os.Remove(dir + "/" + last) }, "what followed was cut off"},
		{"a file emptied", func(dir string) { os.Truncate(dir+"/"+mid, 0) }, "are missing before it"},
		{"the tail cut after a seal", func(dir string) {
			edit(t, dir+"/"+last, lines(func(l [][]byte) [][]byte { return l[:len(l)-1] }))
		}, "what followed was cut off"},
		{"the tail cut within a line", func(dir string) {
			edit(t, dir+"/"+last, func(b []byte) []byte { return b[:len(b)-30] })
		}, "it is cut off after"},
		{"zeros at the end", func(dir string) {
			edit(t, dir+"/"+last, func(b []byte) []byte { return append(b, make([]byte, 4096)...) })
		}, last + ":"},
		{"a line made up at the end", func(dir string) {
			edit(t, dir+"/"+last, lines(func(l [][]byte) [][]byte { return append(l, bytes.Replace(l[0], []byte("user"), []byte("eve"), 1)) }))
		}, last + ":"},
		{"two files' names swapped", func(dir string) {
			os.Rename(dir+"/"+mid, dir+"/x")
			os.Rename(dir+"/"+names[2], dir+"/"+mid)
			os.Rename(dir+"/x", dir+"/"+names[2])
		}, "its name says that it begins with record"},
		{"a file with the name of an older one", func(dir string) {
			os.Rename(dir+"/"+mid, dir+"/"+mid[:strings.LastIndexByte(mid, '-')]+"-20010101T000000.000000000Z.jsonl")
		}, "its name is older than records before it"},
		{"an empty file between", func(dir string) {
			os.WriteFile(dir+"/"+mid[:strings.LastIndexByte(mid, '-')]+"-20010101T000000.000000000Z.jsonl", nil, 0o600)
		}, "it is empty"},
		{"a seal of another key", func(dir string) {
			other, _ := made(t)
			edit(t, dir+"/"+keyName+".pub", func([]byte) []byte { b, _ := os.ReadFile(other + "/key.pub"); return b })
		}, "or made with another key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copied(t, whole)
			c.do(dir)
			v := verify(t, VerifyConfig{Dir: dir})
			if v.Good() || !strings.Contains(fmt.Sprint(v.Problems), c.want) {
				t.Errorf("got %v, want %q", v.Problems, c.want)
			}
		})
	}
}

// TestKeys: by a key and by seals from elsewhere a record that was made anew is
// told from the one that was.
func TestKeys(t *testing.T) {
	dir, _ := made(t)
	v := good(t, dir)
	forged, _ := made(t)
	os.WriteFile(forged+"/key", nil, 0o600) // what he used is gone
	if v := verify(t, VerifyConfig{Dir: forged}); !v.Good() || v.Trusted {
		t.Errorf("a record is not bad for itself: %v", v.Problems)
	}
	if v := verify(t, VerifyConfig{Dir: forged, Keys: []string{v.Key}}); v.Good() || !v.Trusted {
		t.Error("another key is taken")
	}
	if v := verify(t, VerifyConfig{Dir: dir, Keys: []string{strings.Repeat("A", hashLen), v.Key}}); !v.Good() || !v.Trusted {
		t.Errorf("the right key among others: %v", v.Problems)
	}
	if _, err := ParseKey("nonsense"); err == nil {
		t.Error("a key that is none")
	}
	syslog := "Jan  2 03:04:05 web1 sekisho-audit[7]: " + v.LastSealLine
	if v := verify(t, VerifyConfig{Dir: dir, Seals: []string{syslog}}); !v.Good() {
		t.Errorf("its own seal: %v", v.Problems)
	}
	v = verify(t, VerifyConfig{Dir: forged, Seals: []string{syslog}})
	if v.Good() || !strings.Contains(fmt.Sprint(v.Problems), "the record was written anew") {
		t.Errorf("a seal from elsewhere: %v", v.Problems)
	}
	if _, err := Verify(t.Context(), VerifyConfig{Dir: dir, Seals: []string{"x"}}); err == nil {
		t.Error("a seal that is none")
	}
	os.Remove(dir + "/key.pub")
	if v := good(t, dir); v.Trusted || v.Seals == 0 {
		t.Error("without a key")
	}
}

// TestTornAnywhere cuts the record at each byte of its last write, as a crash may:
// the next start mends it, and what was whole stays.
func TestTornAnywhere(t *testing.T) {
	whole := folder(t)
	l := open(t, whole, nil)
	write(t, l, 3, 0)
	all, err := files(whole)
	if err != nil {
		t.Fatal(err)
	}
	name := all[0].name
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(whole, name))
	if err != nil {
		t.Fatal(err)
	}
	ends := []int{0}
	for i, c := range b {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	for cut := 0; cut <= ends[3]; cut++ {
		for _, junk := range []int{0, 700} {
			if junk > 0 && cut%16 > 0 {
				continue
			}
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{keyName, publicName} {
				k, _ := os.ReadFile(filepath.Join(whole, f))
				os.WriteFile(filepath.Join(dir, f), k, 0o600)
			}
			torn := append(bytes.Clone(b[:cut]), make([]byte, junk)...)
			if err := os.WriteFile(filepath.Join(dir, name), torn, 0o600); err != nil {
				t.Fatal(err)
			}
			kept := 0
			for kept+1 < len(ends) && ends[kept+1] <= cut {
				kept++
			}
			l := open(t, dir, nil)
			write(t, l, 1, 0)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			v := good(t, dir)
			clean := ends[kept] == cut && junk == 0
			if clean != (len(v.Mended) == 0) {
				t.Fatalf("cut at %d, %d zeros: mended: %v", cut, junk, v.Mended)
			}
			var seqs []uint64
			var last Kind
			others := 0
			for _, r := range read(t, dir, Query{}) {
				seqs = append(seqs, r.Seq)
				if last = r.Kind; len(seqs) > kept && last != KindSeal {
					others++
				}
			}
			// after what was whole the mend, start, the grant, stop, and a seal; on a
			// slow disk there are more seals between them (sealAge)
			want := 3
			if !clean {
				want++
			}
			if others != want || last != KindSeal || seqs[len(seqs)-1] != uint64(len(seqs)) {
				t.Fatalf("cut at %d, %d zeros: %d whole, records %v, %d of them new and no seals", cut, junk, kept, seqs, others)
			}
			if !clean { // and what was put aside is guarded
				edit(t, filepath.Join(dir, name), func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
				if v := verify(t, VerifyConfig{Dir: dir}); v.Good() {
					t.Fatalf("cut at %d: what was put aside is changed, and nothing is found", cut)
				}
			}
		}
	}
}

// TestMendIsNoExcuse: sealed records that are changed while sekishod is down are
// not a crash's doing, though the next start goes on without them.
func TestMendIsNoExcuse(t *testing.T) {
	dir := folder(t)
	l := open(t, dir, nil)
	write(t, l, 5, 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	all, _ := files(dir)
	path := filepath.Join(dir, all[0].name)
	edit(t, path, func(b []byte) []byte { return bytes.Replace(b, []byte("user1"), []byte("user9"), 1) })
	l = open(t, dir, nil)
	write(t, l, 1, 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	v := verify(t, VerifyConfig{Dir: dir})
	if got := fmt.Sprint(v.Problems); v.Good() || !strings.Contains(got, "sealed records were changed or cut") || !strings.Contains(got, "were gone") {
		t.Errorf("%v", v.Problems)
	}

	// The whole tail cut off and gone on with: the copy of the last seal tells.
	dir = folder(t)
	l = open(t, dir, nil)
	write(t, l, 5, 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	seal := fmt.Sprintf("when sekishod started, the seal of record %d", l.Status().Sealed) // 8, or more on a slow disk
	all, _ = files(dir)
	edit(t, filepath.Join(dir, all[0].name), func(b []byte) []byte { return b[:bytes.IndexByte(b, '\n')+1] })
	l = open(t, dir, nil)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, VerifyConfig{Dir: dir}); v.Good() || !strings.Contains(fmt.Sprint(v.Problems), seal) {
		t.Errorf("%v", v.Problems)
	}
}

// lastLine is the last line of a file.
func lastLine(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l := bytes.SplitAfter(b, []byte("\n"))
	return l[len(l)-2]
}

// forge appends a line that fits the chain to a file.
func forge(t testing.TB, path string, kind Kind, fields string) {
	t.Helper()
	last := lastLine(t, path)
	h, err := parse(last)
	if err != nil {
		t.Fatal(err)
	}
	edit(t, path, func(b []byte) []byte {
		return fmt.Appendf(b, `{"seq":%d,"time":"%s","kind":"%s","host":"h"%s,"prev":"%s"}`+"\n", h.seq+1, h.time, kind, fields, hashOf(last))
	})
}

// TestForgedDelete: without the key nobody can say that files were deleted for
// their age, not even when sekishod starts on it and seals it.
func TestForgedDelete(t *testing.T) {
	dir, names := made(t)
	seq, prev, err := firstOf(dir, names[2])
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, names[0]))
	os.Remove(filepath.Join(dir, names[1]))
	last := filepath.Join(dir, names[len(names)-1])
	forge(t, last, KindDelete, fmt.Sprintf(`,"file":"x","sum":"%s","of":%d`, prev, seq-1))
	h, err := parse(lastLine(t, last))
	if err != nil {
		t.Fatal(err)
	}
	// And a file of his own after it.
	note := fmt.Sprintf(`{"seq":%d,"time":"%s","kind":"note","host":"h","event":"x","prev":"%s"}`+"\n", h.seq+1, h.time, hashOf(lastLine(t, last)))
	if err := os.WriteFile(filepath.Join(dir, nameOf(h.seq+1, time.Now())), []byte(note), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"before", "after"} {
		v := verify(t, VerifyConfig{Dir: dir})
		if v.Good() || v.Deleted != 0 || !strings.Contains(fmt.Sprint(v.Problems), "does not say that the files before it were deleted") {
			t.Errorf("%s a start: %v, deleted %d", when, v.Problems, v.Deleted)
		}
		l := open(t, dir, nil)
		write(t, l, 3, 0)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRewrittenUnsealed: a record that was cut back and gone on with, without the
// key, is found by the copy of the last seal, though it has grown as long again.
func TestRewrittenUnsealed(t *testing.T) {
	dir, names := made(t)
	_, head, err := readHead(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names[2:] {
		os.Remove(filepath.Join(dir, name))
	}
	last := filepath.Join(dir, names[1])
	for {
		forge(t, last, KindNote, `,"event":"x"`)
		if h, err := parse(lastLine(t, last)); err != nil {
			t.Fatal(err)
		} else if h.seq > head.seq+3 {
			break
		}
	}
	l := open(t, dir, nil)
	write(t, l, 3, 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	v := verify(t, VerifyConfig{Dir: dir})
	if want := fmt.Sprintf("when sekishod started, the seal of record %d", head.seq); v.Good() || !strings.Contains(fmt.Sprint(v.Problems), want) {
		t.Errorf("%v", v.Problems)
	}
}

// TestNoSeal: by a key that was given a record without a seal is not good.
func TestNoSeal(t *testing.T) {
	dir, names := made(t)
	key := good(t, dir).Key
	for _, name := range names[1:] {
		os.Remove(filepath.Join(dir, name))
	}
	os.Remove(filepath.Join(dir, headName))
	edit(t, filepath.Join(dir, names[0]), func(b []byte) []byte { return b[:bytes.IndexByte(b, '\n')+1] })
	if v := verify(t, VerifyConfig{Dir: dir}); !v.Good() || v.Seals != 0 {
		t.Errorf("a record that is younger than its first seal: %v", v.Problems)
	}
	if v := verify(t, VerifyConfig{Dir: dir, Keys: []string{key}}); v.Good() {
		t.Error("no seal is taken for a good one")
	}
}

// TestJunkSeals: what somebody else has put among the lines of a syslog is not
// taken for a seal when the key is known, and never keeps the rest from being
// looked at.
func TestJunkSeals(t *testing.T) {
	dir, names := made(t)
	v := good(t, dir)
	kept := "web1 sekisho-audit: " + v.LastSealLine
	broken := `web1 sshd: Invalid user x,"kind":"seal", from 198.51.100.9`
	forged := strings.Replace(kept, `"time":"2`, `"time":"1`, 1)
	if v := verify(t, VerifyConfig{Dir: dir, Seals: []string{broken, kept}}); !v.Good() || !strings.Contains(fmt.Sprint(v.Notes), "1 of the lines") {
		t.Errorf("a line that is no seal: %v, %v", v.Problems, v.Notes)
	}
	if v := verify(t, VerifyConfig{Dir: dir, Seals: []string{forged, kept}}); v.Good() || !strings.Contains(fmt.Sprint(v.Problems), "give the key") {
		t.Errorf("without a key all seals count: %v", v.Problems)
	}
	key := []string{v.Key}
	if v := verify(t, VerifyConfig{Dir: dir, Keys: key, Seals: []string{broken, forged, kept}}); !v.Good() || !strings.Contains(fmt.Sprint(v.Notes), "2 of the lines") {
		t.Errorf("with the key: %v, %v", v.Problems, v.Notes)
	}
	for _, seals := range [][]string{{broken}, {broken, forged}} {
		if _, err := Verify(t.Context(), VerifyConfig{Dir: dir, Keys: key, Seals: seals}); err == nil {
			t.Errorf("%d lines, none of them a seal: no error", len(seals))
		}
	}
	// Seals of what was deleted alone prove nothing of what is here.
	first := string(lastLine(t, filepath.Join(dir, names[0])))
	l := open(t, dir, func(c *Config) { c.Keep, c.Now = time.Hour, func() time.Time { return time.Now().Add(48 * time.Hour) } })
	for range 20 {
		if write(t, l, 1, 0); len(mustFiles(t, dir)) < len(names) {
			break
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if v := good(t, dir); v.Deleted == 0 {
		t.Fatal("nothing was deleted")
	}
	if v := verify(t, VerifyConfig{Dir: dir, Seals: []string{first, kept}}); !v.Good() || !strings.Contains(fmt.Sprint(v.Notes), "older than what is here") {
		t.Errorf("an older seal: %v, %v", v.Problems, v.Notes)
	}
	if v := verify(t, VerifyConfig{Dir: dir, Seals: []string{first}}); v.Good() {
		t.Errorf("only an older seal: %v", v.Notes)
	}
}

func mustFiles(t testing.TB, dir string) []file {
	t.Helper()
	all, err := files(dir)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
