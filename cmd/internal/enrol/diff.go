package enrol

import (
	"fmt"
	"strings"
)

// Diff is what will change, as a unified diff. Secrets are not in it: of a
// keytab it names the keys.
func (p *Plan) Diff() string {
	var t strings.Builder
	for _, name := range p.Accounts {
		fmt.Fprintf(&t, "account %s: useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin %s\n", name, name)
	}
	for _, ch := range p.changes {
		from := ch.path
		if !ch.before.exists {
			from = "/dev/null"
		}
		fmt.Fprintf(&t, "--- %s\n+++ %s\n", from, ch.path)
		if a, b := ch.owner(ch.before), ch.owner(ch.after); a != b {
			fmt.Fprintf(&t, "mode %s -> %s\n", a, b)
		}
		switch {
		case !ch.secret:
			t.WriteString(unified(lines(ch.before.data), lines(ch.after.data)))
		case string(ch.before.data) != string(ch.after.data):
			t.WriteString(unified(describe(ch.before), append(describe(ch.after), "(secret: what is new is not shown)")))
		}
	}
	return t.String()
}

// owner is a state's mode and owners, for people.
func (ch change) owner(s state) string {
	if !s.exists {
		return "none"
	}
	group := fmt.Sprint(s.gid)
	if ch.group != "" && s.gid == ch.after.gid {
		group = ch.group
	}
	return fmt.Sprintf("%04o %d:%s", s.mode, s.uid, group)
}

// describe names the keys of a secret file that is a keytab.
func describe(s state) []string {
	es, err := readKeytab(s.data)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range es {
		out = append(out, fmt.Sprintf("(secret: key of %s, version %d, kind %d)", e.Principal, e.KVNO, e.Key.EType))
	}
	return out
}

func lines(b []byte) []string {
	if len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

const around = 3 // lines that are shown before and after a change

// unified is a diff of lines in the form of diff -u, without its two headings.
func unified(a, b []string) string {
	ops := compare(a, b)
	var t strings.Builder
	for i := 0; i < len(ops); {
		if ops[i].kind == ' ' {
			i++
			continue
		}
		last := i
		for j := i; j < len(ops) && j-last <= 2*around; j++ {
			if ops[j].kind != ' ' {
				last = j
			}
		}
		from, to := max(i-around, 0), min(last+around+1, len(ops))
		atA, atB, nA, nB := 1, 1, 0, 0
		for j, o := range ops[:to] {
			inA, inB := o.kind != '+', o.kind != '-'
			if j < from {
				atA, atB = atA+count(inA), atB+count(inB)
			} else {
				nA, nB = nA+count(inA), nB+count(inB)
			}
		}
		fmt.Fprintf(&t, "@@ -%d,%d +%d,%d @@\n", atA-count(nA == 0), nA, atB-count(nB == 0), nB)
		for _, o := range ops[from:to] {
			t.WriteString(string(o.kind) + printable(o.line) + "\n")
		}
		i = to
	}
	return t.String()
}

// printable keeps what a file holds from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

type op struct {
	kind byte // ' ', '-', '+'
	line string
}

// compare finds what is common to a and b: their same beginnings and ends, and
// between them the longest common subsequence, unless that is too large a job.
func compare(a, b []string) (ops []op) {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		ops = append(ops, op{' ', a[head]})
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	x, y := a[head:len(a)-tail], b[head:len(b)-tail]
	i, j := 0, 0
	if len(x)*len(y) <= 4_000_000 {
		table := make([][]int, len(x)+1)
		for i := range table {
			table[i] = make([]int, len(y)+1)
		}
		for i := len(x) - 1; i >= 0; i-- {
			for j := len(y) - 1; j >= 0; j-- {
				if table[i][j] = max(table[i+1][j], table[i][j+1]); x[i] == y[j] {
					table[i][j] = table[i+1][j+1] + 1
				}
			}
		}
		for i < len(x) && j < len(y) {
			switch {
			case x[i] == y[j]:
				ops = append(ops, op{' ', x[i]})
				i, j = i+1, j+1
			case table[i+1][j] >= table[i][j+1]:
				ops = append(ops, op{'-', x[i]})
				i++
			default:
				ops = append(ops, op{'+', y[j]})
				j++
			}
		}
	}
	for ; i < len(x); i++ {
		ops = append(ops, op{'-', x[i]})
	}
	for ; j < len(y); j++ {
		ops = append(ops, op{'+', y[j]})
	}
	for _, l := range a[len(a)-tail:] {
		ops = append(ops, op{' ', l})
	}
	return ops
}
