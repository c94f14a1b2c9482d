// Package krb5conf reads krb5.conf(5) as MIT's library does: sections, nested
// subsections, final marks, quoted values, include and includedir, and several
// files one behind another.
//
// Where MIT reads a file, this package reads the same values or refuses the file
// with the line. It refuses what MIT's reader silently skips or cuts: text before
// the first section, lines that are too long for it, a brace that is never closed.
// Loadable modules are not supported.
//
// The files are the administrator's and are believed, but not trusted to be
// sound: depth, number and size of what they include are bounded, loops are found.
package krb5conf

import "slices"

// Config is what a set of files says. The zero value says nothing. It does not
// change once it is read.
type Config struct {
	// files are the trees of the files, in the order of KRB5_CONFIG.
	files []*section
}

// section is a section or a subsection.
type section struct {
	subs  map[string]*section
	tags  map[string][]value
	final bool
	// names are the keys of subs and tags in the order in which they came.
	names []string
}

// value is what stands behind a tag.
type value struct {
	text  string
	at    place
	final bool
}

// place is a line of a file.
type place struct {
	file string
	line int
}

func newSection() *section {
	return &section{subs: map[string]*section{}, tags: map[string][]value{}}
}

func (s *section) note(name string) {
	if s.subs[name] == nil && s.tags[name] == nil {
		s.names = append(s.names, name)
	}
}

// sub is the subsection of a name, made where there is none.
func (s *section) sub(name string) *section {
	if s.subs[name] == nil {
		s.note(name)
		s.subs[name] = newSection()
	}
	return s.subs[name]
}

// add appends a value, unless one before it is final.
func (s *section) add(name string, v value) {
	if sub := s.subs[name]; sub != nil && sub.final {
		return
	}
	if slices.ContainsFunc(s.tags[name], func(v value) bool { return v.final }) {
		return
	}
	s.note(name)
	s.tags[name] = append(s.tags[name], v)
}

// values are those of a tag in all files: path are the section, the subsections
// and the tag. A final section or value hides the files behind it.
func (c *Config) values(path ...string) []value {
	var out []value
	for _, root := range c.files {
		s, final := root, false
		for _, name := range path[:len(path)-1] {
			if s = s.subs[name]; s == nil {
				break
			}
			final = final || s.final
		}
		if s == nil {
			continue
		}
		for _, v := range s.tags[path[len(path)-1]] {
			out = append(out, v)
			final = final || v.final
		}
		if final {
			break
		}
	}
	return out
}

// Values are the values of a tag in all files, in order; path is the section, the
// subsections, the tag: Values("realms", "EXAMPLE.ORG", "kdc").
func (c *Config) Values(path ...string) []string {
	if len(path) < 2 {
		return nil
	}
	var out []string
	for _, v := range c.values(path...) {
		out = append(out, v.text)
	}
	return out
}

// Value is the first of Values, empty when there is none.
func (c *Config) Value(path ...string) string {
	if v := c.Values(path...); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Names are the tags and the subsections of a section, each once.
func (c *Config) Names(path ...string) []string {
	var out []string
	for _, root := range c.files {
		s, final := root, false
		for _, name := range path {
			if s = s.subs[name]; s == nil {
				break
			}
			final = final || s.final
		}
		if s == nil {
			continue
		}
		for _, n := range s.names {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
		if final {
			break
		}
	}
	return out
}
