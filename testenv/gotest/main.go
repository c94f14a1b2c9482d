// Command gotest runs go test with the arguments given and prints a line for
// each package, the output of what failed, and every test that was skipped.
//
// Where the environment has CI set, a skipped test fails the run unless the
// list says why it may be skipped:
//
//	gotest [-skips FILE] -- ARGUMENTS-OF-GO-TEST
//
// A line of the list is `PACKAGE TEST REASON`, with the package as go test
// names it, below the module; # begins a comment.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sort"
	"strings"
)

const module = "github.com/sekisho/sekisho/"

func main() {
	list := flag.String("skips", ".ci/skips", "tests that may be skipped")
	flag.Parse()
	os.Exit(run(*list, flag.Args()))
}

func run(list string, args []string) int {
	allowed, err := readSkips(list)
	if err != nil {
		fmt.Fprintf(os.Stderr, "gotest: %v\n", err)
		return 2
	}
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		fmt.Fprintf(os.Stderr, "gotest: %v\n", err)
		return 2
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "gotest: starting go test: %v\n", err)
		return 2
	}
	r := newReport(os.Stdout, allowed)
	readErr := r.read(out)
	waitErr := cmd.Wait()
	ok := r.summary(os.Getenv("CI") != "")
	switch {
	case readErr != nil:
		fmt.Printf("FAIL  reading what go test says: %v\n", readErr)
	case waitErr != nil:
		fmt.Printf("FAIL  go test: %v\n", waitErr)
	case ok:
		return 0
	}
	return 1
}

// event is a line of go test -json (go doc test2json), or of a build.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64 // s
}

type test struct{ pkg, name string }

type report struct {
	w       io.Writer
	allowed map[test]string           // why a test may be skipped
	output  map[test]*strings.Builder // of what has not ended yet; name "" is the package's own
	build   map[string]string         // by import path
	skipped []test
	passed  int // packages
	failed  int // packages
}

func newReport(w io.Writer, allowed map[test]string) *report {
	return &report{w: w, allowed: allowed, output: map[test]*strings.Builder{}, build: map[string]string{}}
}

func (r *report) read(in io.Reader) error {
	dec := json.NewDecoder(in)
	for {
		var e event
		err := dec.Decode(&e)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		r.event(e)
	}
}

func (r *report) event(e event) {
	t := test{strings.TrimPrefix(e.Package, module), e.Test}
	switch e.Action {
	case "build-output":
		r.build[e.ImportPath] += e.Output
	case "build-fail":
		fmt.Fprint(r.w, r.build[e.ImportPath])
		delete(r.build, e.ImportPath)
	case "output":
		b := r.output[t]
		if b == nil {
			b = &strings.Builder{}
			r.output[t] = b
		}
		b.WriteString(e.Output)
	case "pass":
		if t.name == "" {
			r.passed++
			fmt.Fprintf(r.w, "ok    %-28s %6.1fs\n", t.pkg, e.Elapsed)
		}
		delete(r.output, t)
	case "skip":
		if t.name != "" {
			r.skipped = append(r.skipped, t)
		}
		delete(r.output, t)
	case "fail":
		if t.name == "" {
			r.failed++
			r.unfinished(t.pkg)
		}
		r.show(t)
		if t.name == "" {
			fmt.Fprintf(r.w, "FAIL  %-28s %6.1fs\n", t.pkg, e.Elapsed)
		}
	}
}

// unfinished shows the tests that a panic or timeout of their package ended.
func (r *report) unfinished(pkg string) {
	var left []test
	for t := range r.output {
		if t.pkg == pkg && t.name != "" {
			left = append(left, t)
		}
	}
	sort.Slice(left, func(i, j int) bool { return left[i].name < left[j].name })
	for _, t := range left {
		r.show(t)
	}
}

func (r *report) show(t test) {
	if b := r.output[t]; b != nil {
		fmt.Fprint(r.w, b.String())
		delete(r.output, t)
	}
}

// summary tells whether the run is good.
func (r *report) summary(ci bool) bool {
	bad := 0
	for _, t := range r.skipped {
		why, ok := r.allowed[t]
		switch {
		case ok:
			fmt.Fprintf(r.w, "skip  %s %s: %s\n", t.pkg, t.name, why)
		case ci:
			bad++
			fmt.Fprintf(r.w, "FAIL  %s %s was skipped, and is not in the list of skips\n", t.pkg, t.name)
		default:
			fmt.Fprintf(r.w, "skip  %s %s: not in the list of skips; this fails in CI\n", t.pkg, t.name)
		}
	}
	if r.passed+r.failed == 0 {
		fmt.Fprintln(r.w, "FAIL  no package was tested")
		return false
	}
	fmt.Fprintf(r.w, "%d packages passed, %d failed; %d tests skipped, %d of them without leave\n", r.passed, r.failed, len(r.skipped), bad)
	return r.failed == 0 && bad == 0
}

func readSkips(file string) (map[test]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading the list of skips: %w", err)
	}
	defer f.Close()
	allowed := map[test]string{}
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		w := strings.SplitN(line, " ", 3)
		if len(w) != 3 || strings.TrimSpace(w[2]) == "" {
			return nil, fmt.Errorf("%s:%d: want PACKAGE TEST REASON", file, n)
		}
		allowed[test{w[0], w[1]}] = strings.TrimSpace(w[2])
	}
	return allowed, sc.Err()
}
