package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// row is one figure. Empty fields are printed as "-".
type row struct {
	name     string
	ours     float64
	peer     float64 // NaN: there is none
	peerName string
	unit     string
	bound    bound
	note     string // printed below the table
}

// bound is what a figure must keep to. The zero value asks for nothing.
type bound struct {
	of    string  // "ratio" or "ours"
	op    string  // "<=" or ">="
	limit float64 //
}

func (b bound) String() string {
	if b.of == "" {
		return ""
	}
	return fmt.Sprintf("%s %s %s", b.of, b.op, number(b.limit))
}

func (r row) ratio() float64 { return r.ours / r.peer }

// verdict is "met" or "not met"; "info" for a figure without a bound.
func (r row) verdict() string {
	v := r.ours
	switch r.bound.of {
	case "":
		return "info"
	case "ratio":
		v = r.ratio()
	}
	ok := false // also where v is no number
	switch r.bound.op {
	case "<=":
		ok = v <= r.bound.limit
	case ">=":
		ok = v >= r.bound.limit
	}
	if ok {
		return "met"
	}
	return "not met"
}

// table is what was measured so far.
type table struct {
	judge   bool // false: a quick run, whose figures say nothing
	rows    []row
	remarks []string
}

func (t *table) add(r row) { t.rows = append(t.rows, r) }

func (t *table) remark(format string, args ...any) {
	t.remarks = append(t.remarks, fmt.Sprintf(format, args...))
}

var columns = []string{"name", "ours", "peer", "peer's name", "unit", "ratio", "bound", "verdict"}

func (t *table) lines() [][]string {
	out := [][]string{columns}
	for _, r := range t.rows {
		verdict := r.verdict()
		if !t.judge && verdict != "info" {
			verdict = "not judged"
		}
		ratio := math.NaN()
		if !math.IsNaN(r.peer) {
			ratio = r.ratio()
		}
		l := []string{r.name, number(r.ours), number(r.peer), r.peerName, r.unit, number(ratio), r.bound.String(), verdict}
		for i := range l {
			if l[i] == "" {
				l[i] = "-"
			}
		}
		out = append(out, l)
	}
	return out
}

// print writes the table for people.
func (t *table) print(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, l := range t.lines() {
		fmt.Fprintln(tw, strings.Join(l, "\t"))
	}
	tw.Flush()
	for _, r := range t.rows {
		if r.note != "" {
			fmt.Fprintf(w, "%s: %s\n", r.name, r.note)
		}
	}
	for _, r := range t.remarks {
		fmt.Fprintln(w, r)
	}
}

// write writes the table for programs.
func (t *table) write(path string) error {
	var b strings.Builder
	for _, l := range t.lines() {
		fmt.Fprintln(&b, strings.Join(l, "\t"))
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("writing the results: %w", err)
	}
	return ownerOf(path)
}

// number prints three or four digits that count; empty for NaN.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return ""
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}

// quantile is the value that a share q of vs lies at or under; vs must not be
// empty.
func quantile(vs []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(vs))
	return s[max(0, int(math.Ceil(q*float64(len(s))))-1)]
}

// median is the middle of vs, or the mean of the two in the middle.
func median(vs []float64) float64 {
	s := slices.Sorted(slices.Values(vs))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// differences are a[i]-b[i]: what rounds that were measured side by side say.
func differences(a, b []float64) []float64 {
	d := make([]float64, len(a))
	for i := range a {
		d[i] = a[i] - b[i]
	}
	return d
}
