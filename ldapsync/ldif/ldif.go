// Package ldif reads LDIF (RFC 2849) strictly: change records as ldapmodify takes
// them, and content records as additions.
//
// What would be read from elsewhere (values by URL) and what changes how the
// server works (controls, increment) is refused, not passed by.
package ldif

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Bounds of one input.
const (
	MaxBytes   = 64 << 20
	MaxRecords = 100_000
	MaxValues  = 1_000_000 // values of all records
	MaxLine    = 8 << 20   // bytes of one line after unfolding
)

// Kind is what a record does.
type Kind uint8

// The kinds of records.
const (
	Add Kind = iota + 1
	Delete
	Modify
	Rename // modrdn, moddn
)

// Attribute is an attribute description with values, as written.
type Attribute struct {
	Name   string
	Values [][]byte
}

// Op is one kind of modification (RFC 4511 §4.6).
type Op uint8

// The modifications.
const (
	AddValues Op = iota + 1
	DeleteValues
	ReplaceValues
)

// Mod is one modification of one attribute. DeleteValues without values deletes the
// attribute, ReplaceValues without values too.
type Mod struct {
	Op Op
	Attribute
}

// Record is one record. Which fields are set depends on Kind.
type Record struct {
	Line int // of its dn, from 1
	DN   string
	Kind Kind

	Attributes []Attribute // Add: each name once, at least one value each
	Mods       []Mod       // Modify: at least one

	// Rename:
	NewRDN       string
	DeleteOldRDN bool
	NewSuperior  string
	Moves        bool // NewSuperior was given
}

// Error is a fault with its line.
type Error struct {
	Line int
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// line is an unfolded one: a name and a value, or a dash.
type line struct {
	n     int
	name  string
	value []byte
	dash  bool
}

// Parse reads all records. The error is an *Error for what is no LDIF, and what r
// says else; nothing is returned beside one. No value is in an error.
func Parse(r io.Reader) ([]Record, error) {
	p := parser{in: bufio.NewReaderSize(io.LimitReader(r, MaxBytes+1), 64<<10)}
	var out []Record
	for first := true; ; first = false {
		lines, err := p.paragraph()
		if err != nil {
			return nil, err
		}
		if lines == nil {
			break
		}
		if first && strings.EqualFold(lines[0].name, "version") {
			if string(lines[0].value) != "1" {
				return nil, fail(lines[0], "version: want 1")
			}
			if lines = lines[1:]; len(lines) == 0 {
				continue
			}
		}
		if len(out) == MaxRecords {
			return nil, fail(lines[0], "more than %d records", MaxRecords)
		}
		rec, err := record(lines)
		if err != nil {
			return nil, err
		}
		out = append(out, rec)
	}
	if len(out) == 0 {
		return nil, &Error{max(p.n, 1), errors.New("no record: a record begins with dn:")}
	}
	return out, nil
}

func fail(l line, format string, a ...any) error { return &Error{l.n, fmt.Errorf(format, a...)} }

type parser struct {
	in     *bufio.Reader
	n      int // lines read
	total  int // bytes
	values int
	ahead  []byte // a physical line that was read too far
	end    bool
}

// physical is the next line of the file without its end; nil at the end.
func (p *parser) physical() ([]byte, error) {
	if l := p.ahead; l != nil {
		p.ahead = nil
		return l, nil
	}
	if p.end {
		return nil, nil
	}
	l, err := p.in.ReadBytes('\n')
	if p.total += len(l); p.total > MaxBytes {
		return nil, &Error{p.n + 1, fmt.Errorf("more than %d bytes in all", MaxBytes)}
	}
	if errors.Is(err, io.EOF) {
		if p.end = true; len(l) == 0 {
			return nil, nil
		}
	} else if err != nil {
		return nil, err
	}
	p.n++
	l = bytes.TrimSuffix(bytes.TrimSuffix(l, []byte("\n")), []byte("\r"))
	if l == nil {
		l = []byte{}
	}
	if bytes.IndexByte(l, 0) >= 0 || bytes.IndexByte(l, '\r') >= 0 {
		return nil, &Error{p.n, errors.New("a NUL or a bare carriage return: write such a value in base64, after ::")}
	}
	return l, nil
}

// paragraph is the lines of one record, unfolded and without comments; nil at
// the end.
func (p *parser) paragraph() ([]line, error) {
	var out []line
	for {
		raw, err := p.physical()
		switch {
		case err != nil:
			return nil, err
		case raw == nil:
			return out, nil
		case len(raw) == 0 && out == nil:
			continue
		case len(raw) == 0:
			return out, nil
		}
		n := p.n
		if raw[0] == ' ' {
			return nil, &Error{n, errors.New("begins with a space, but there is no line to go on with")}
		}
		for {
			next, err := p.physical()
			if err != nil {
				return nil, err
			}
			if len(next) == 0 || next[0] != ' ' {
				p.ahead = next
				break
			}
			if raw = append(raw, next[1:]...); len(raw) > MaxLine {
				return nil, &Error{n, fmt.Errorf("longer than %d bytes", MaxLine)}
			}
		}
		if len(raw) > MaxLine {
			return nil, &Error{n, fmt.Errorf("longer than %d bytes", MaxLine)}
		}
		if raw[0] == '#' {
			continue
		}
		l, err := split(raw)
		if err != nil {
			return nil, &Error{n, err}
		}
		if p.values++; p.values > MaxValues {
			return nil, &Error{n, fmt.Errorf("more than %d values", MaxValues)}
		}
		l.n = n
		out = append(out, l)
	}
}

// split reads one unfolded line.
func split(raw []byte) (line, error) {
	if string(raw) == "-" {
		return line{dash: true}, nil
	}
	name, v, ok := bytes.Cut(raw, []byte(":"))
	if !ok {
		return line{}, errors.New("want NAME: VALUE")
	}
	if !isDescription(string(name)) {
		return line{}, errors.New("what stands before the colon is no attribute name")
	}
	l := line{name: string(name)}
	switch {
	case len(v) > 0 && v[0] == '<':
		return line{}, errors.New("a value by URL (:<) is not read: write it here, in base64 after ::")
	case len(v) > 0 && v[0] == ':':
		b, err := base64.StdEncoding.Strict().DecodeString(string(bytes.TrimLeft(v[1:], " ")))
		if err != nil {
			return line{}, errors.New("wrong base64 after ::")
		}
		l.value = b
		return l, nil
	}
	v = bytes.TrimLeft(v, " ")
	if !utf8.Valid(v) {
		return line{}, errors.New("the value is not UTF-8: write it in base64, after ::")
	}
	if len(v) > 0 && (v[0] == ':' || v[0] == '<') {
		return line{}, errors.New("a value that begins with : or < must be in base64, after ::")
	}
	l.value = append([]byte{}, v...)
	return l, nil
}

// isDescription tells whether s is an attribute description (RFC 4512 §2.5).
func isDescription(s string) bool {
	for i, part := range strings.Split(s, ";") {
		if part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") != "" {
			return false
		}
		if c := part[0]; i == 0 && (c == '-' || c == '.') {
			return false
		}
	}
	return len(s) <= 256
}

// record reads a record's lines.
func record(ls []line) (Record, error) {
	r := Record{Line: ls[0].n}
	if ls[0].dash || !strings.EqualFold(ls[0].name, "dn") {
		return Record{}, fail(ls[0], "a record begins with dn:")
	}
	if !utf8.Valid(ls[0].value) || len(ls[0].value) == 0 {
		return Record{}, fail(ls[0], "dn: empty, or not UTF-8")
	}
	r.DN = string(ls[0].value)
	head, ls := ls[0], ls[1:]
	if len(ls) == 0 {
		return Record{}, fail(head, "the record says nothing: write changetype: delete to delete the entry")
	}
	if strings.EqualFold(ls[0].name, "control") {
		return Record{}, fail(ls[0], "controls are not read: they change what the server does with the record")
	}
	if !strings.EqualFold(ls[0].name, "changetype") {
		switch strings.ToLower(ls[0].name) {
		case "add", "delete", "replace", "increment", "newrdn":
			return Record{}, fail(ls[0], "write changetype: modify (or modrdn) before it")
		}
		return r.add(ls)
	}
	kind, ls := ls[0], ls[1:]
	switch strings.ToLower(string(kind.value)) {
	case "add":
		if len(ls) == 0 {
			return Record{}, fail(kind, "an addition needs attributes")
		}
		return r.add(ls)
	case "delete":
		if len(ls) > 0 {
			return Record{}, fail(ls[0], "nothing can follow changetype: delete")
		}
		r.Kind = Delete
		return r, nil
	case "modify":
		if len(ls) == 0 {
			return Record{}, fail(kind, "a modification needs add:, delete: or replace:")
		}
		return r.modify(ls)
	case "modrdn", "moddn":
		return r.rename(kind, ls)
	}
	return Record{}, fail(kind, "changetype: want add, delete, modify, modrdn or moddn")
}

func (r Record) add(ls []line) (Record, error) {
	r.Kind = Add
	at := map[string]int{}
	for _, l := range ls {
		switch name := strings.ToLower(l.name); {
		case l.dash:
			return Record{}, fail(l, "a dash stands in modifications only")
		case name == "dn":
			return Record{}, fail(l, "a second dn: leave a line empty between two records")
		case name == "changetype" || name == "control":
			return Record{}, fail(l, "%s: must stand right after dn:", name)
		default:
			i, ok := at[name]
			if !ok {
				i = len(r.Attributes)
				at[name] = i
				r.Attributes = append(r.Attributes, Attribute{Name: l.name})
			}
			r.Attributes[i].Values = append(r.Attributes[i].Values, l.value)
		}
	}
	return r, nil
}

func (r Record) modify(ls []line) (Record, error) {
	r.Kind = Modify
	for len(ls) > 0 {
		op := ls[0]
		m := Mod{}
		switch strings.ToLower(op.name) {
		case "add":
			m.Op = AddValues
		case "delete":
			m.Op = DeleteValues
		case "replace":
			m.Op = ReplaceValues
		default:
			return Record{}, fail(op, "want add:, delete: or replace: and an attribute's name")
		}
		if m.Name = string(op.value); !isDescription(m.Name) {
			return Record{}, fail(op, "%s: want an attribute's name", strings.ToLower(op.name))
		}
		for ls = ls[1:]; len(ls) > 0 && !ls[0].dash; ls = ls[1:] {
			if !strings.EqualFold(ls[0].name, m.Name) {
				return Record{}, fail(ls[0], "want another value of %s, or a line with a dash alone", m.Name)
			}
			m.Values = append(m.Values, ls[0].value)
		}
		if len(ls) > 0 {
			ls = ls[1:]
		}
		if m.Op == AddValues && len(m.Values) == 0 {
			return Record{}, fail(op, "add: %s needs values", m.Name)
		}
		r.Mods = append(r.Mods, m)
	}
	return r, nil
}

func (r Record) rename(kind line, ls []line) (Record, error) {
	r.Kind = Rename
	for i, l := range ls {
		text := string(l.value)
		switch name := strings.ToLower(l.name); {
		case i == 0 && name == "newrdn" && text != "" && utf8.ValidString(text):
			r.NewRDN = text
		case i == 1 && name == "deleteoldrdn" && (text == "0" || text == "1"):
			r.DeleteOldRDN = text == "1"
		case i == 2 && name == "newsuperior" && text != "" && utf8.ValidString(text):
			r.NewSuperior, r.Moves = text, true
		default:
			return Record{}, fail(l, "want newrdn:, then deleteoldrdn: 0 or 1, then perhaps newsuperior:")
		}
	}
	if len(ls) < 2 {
		return Record{}, fail(kind, "a rename needs newrdn: and deleteoldrdn: 0 or 1")
	}
	return r, nil
}
