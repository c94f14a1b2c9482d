package krb5conf

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// Limits of a file. MIT reads lines into 2048 bytes and takes the rest of a longer
// one for the next line.
const (
	maxLine  = 2046
	maxDepth = 16
	maxNodes = 1 << 16 // tags and sections in all
)

// parser reads one file; each file begins anew, with no section, on the tree of
// all that are included together.
type parser struct {
	name  string
	root  *section
	load  *loader
	line  int
	stack []open // from the section inwards
	// discard: how deep the stack was when a section began that an earlier final
	// one of the same name hides; 0 is not at all.
	discard int
	// brace: a subsection was named, and its brace must come.
	brace bool
}

// open is a section that is not closed yet.
type open struct {
	s    *section
	line int
}

func (p *parser) errorf(format string, a ...any) error {
	return fmt.Errorf("%s:%d: %w", p.name, p.line, fmt.Errorf(format, a...))
}

// isSpace is C's isspace in the C locale.
func isSpace(b byte) bool { return b == ' ' || b >= '\t' && b <= '\r' }

const spaces = " \t\n\v\f\r"

func (p *parser) parse(text []byte) error {
	for len(text) > 0 {
		var raw []byte
		p.line++
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			raw, text = text[:i], text[i+1:]
		} else {
			raw, text = text, nil
		}
		switch {
		case len(raw) > maxLine:
			return p.errorf("the line has more than %d bytes", maxLine)
		case bytes.IndexByte(raw, 0) >= 0:
			return p.errorf("there is a NUL character")
		}
		if err := p.one(string(raw)); err != nil {
			return err
		}
	}
	if p.brace {
		return p.errorf("a value or a { must come")
	}
	if n := len(p.stack); n > 1 {
		p.line = p.stack[n-1].line
		return p.errorf("the brace that is opened here is never closed")
	}
	return nil
}

// one reads a line.
func (p *parser) one(line string) error {
	if word, rest, ok := directive(line); ok {
		if word == "module" {
			return p.errorf("loadable modules are not supported: name the configuration file itself by KRB5_CONFIG")
		}
		if err := p.load.include(p.root, word == "includedir", rest); err != nil {
			return p.errorf("%s: %w", word, err)
		}
		return nil
	}
	text := strings.TrimLeft(line, spaces)
	if p.brace {
		if !strings.HasPrefix(text, "{") {
			return p.errorf("a value or a { must come")
		}
		if text = strings.TrimLeft(text[1:], spaces); text != "" && !comment(text) {
			return p.errorf("behind the { a new line must begin")
		}
		p.brace = false
		return nil
	}
	switch {
	case text == "" || comment(text):
		return nil
	case len(p.stack) == 0 && line[0] != '[':
		return p.errorf("before this line there must be a section: [name] at the beginning of a line")
	case text[0] == '[':
		return p.section(text)
	case text[0] == '}':
		return p.close(text)
	}
	return p.relation(text)
}

// directive finds include, includedir and module, which count at the beginning of
// any line; module is one only before the first section in MIT's reader, but is
// no relation elsewhere either.
func directive(line string) (word, rest string, ok bool) {
	for _, w := range []string{"include", "includedir", "module"} {
		if rest, ok := strings.CutPrefix(line, w); ok && rest != "" && isSpace(rest[0]) {
			if w == "module" && strings.Contains(rest, "=") {
				return "", "", false
			}
			return w, strings.TrimRight(strings.TrimLeft(rest, spaces), "\r"), true
		}
	}
	return "", "", false
}

func comment(text string) bool { return text[0] == ';' || text[0] == '#' }

// section reads [name] and [name]*.
func (p *parser) section(text string) error {
	if n := len(p.stack); n > 1 {
		return p.errorf("a section begins, but the brace of line %d is not closed", p.stack[n-1].line)
	}
	name, rest, ok := strings.Cut(text[1:], "]")
	if !ok {
		return p.errorf("the section's name has no ]")
	}
	s, err := p.enter(p.root, name)
	if err != nil {
		return err
	}
	p.stack, p.discard = []open{{s, p.line}}, 0
	if s.final {
		p.discard = 1
	}
	if r, ok := strings.CutPrefix(rest, "*"); ok {
		s.final = true
		rest = r
	}
	if strings.TrimLeft(rest, spaces) != "" {
		return p.errorf("behind the section's name a new line must begin")
	}
	return nil
}

// enter is the subsection of a name, counted.
func (p *parser) enter(s *section, name string) (*section, error) {
	if err := p.load.count(); err != nil {
		return nil, p.errorf("%w", err)
	}
	return s.sub(name), nil
}

// close reads } and }*.
func (p *parser) close(text string) error {
	if len(p.stack) < 2 {
		return p.errorf("there is a } too many")
	}
	rest := text[1:]
	if r, ok := strings.CutPrefix(rest, "*"); ok {
		p.stack[len(p.stack)-1].s.final = true
		rest = r
	}
	if rest = strings.TrimLeft(rest, spaces); rest != "" && !comment(rest) {
		return p.errorf("behind the } a new line must begin")
	}
	p.stack = p.stack[:len(p.stack)-1]
	if len(p.stack) < p.discard {
		p.discard = 0
	}
	return nil
}

// relation reads tag = value and tag = {.
func (p *parser) relation(text string) error {
	tag, v, ok := strings.Cut(text, "=")
	if !ok {
		return p.errorf("neither a section, nor tag = value, nor a comment")
	}
	tag = strings.TrimRight(tag, spaces)
	switch {
	case tag == "":
		return p.errorf("before the = there must be a name")
	case strings.ContainsAny(tag, spaces):
		return p.errorf("the name %.80q has a space in it", tag)
	}
	tag, _, final := strings.Cut(tag, "*")
	v = strings.TrimLeft(v, spaces)
	switch {
	case v == "", v[0] == '{' && strings.Trim(v[1:], spaces) == "":
		p.brace = v == ""
		return p.subsection(tag, final)
	case v[0] == '"':
		v, ok = unquote(v[1:])
		if !ok {
			return p.errorf("the value has no closing quote")
		}
	default:
		v = strings.TrimRight(v, spaces)
	}
	if p.discard > 0 {
		return nil
	}
	if err := p.load.count(); err != nil {
		return p.errorf("%w", err)
	}
	p.stack[len(p.stack)-1].s.add(tag, value{v, place{p.name, p.line}, final})
	return nil
}

func (p *parser) subsection(name string, final bool) error {
	if len(p.stack) == maxDepth {
		return p.errorf("subsections are nested deeper than %d", maxDepth)
	}
	if p.discard > 0 {
		// Nobody will see it; its braces must still fit.
		p.stack = append(p.stack, open{newSection(), p.line})
		return nil
	}
	s, err := p.enter(p.stack[len(p.stack)-1].s, name)
	if err != nil {
		return err
	}
	p.stack = append(p.stack, open{s, p.line})
	if s.final {
		p.discard = len(p.stack)
	}
	s.final = s.final || final
	return nil
}

// unquote reads up to the closing quote; what stands behind it does not count.
func unquote(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), true
		case c == '\\' && i+1 < len(s):
			i++
			switch s[i] {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case 'b':
				b.WriteByte('\b')
			default:
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

var errTooMuch = errors.New("the configuration has more than 65536 tags and sections")
