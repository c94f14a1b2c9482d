package broker

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// args are a command's words and its key=value pairs; a value that does not
// parse, or a key that nobody asked for, is an error of check.
type args struct {
	words  []string
	values map[string][]string
	asked  map[string]bool
	err    error
}

func parseCommand(line string) (verb string, a *args, err error) {
	a = &args{values: map[string][]string{}, asked: map[string]bool{}}
	verb, rest, _ := strings.Cut(line, " ")
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
		var key, val string
		end := strings.IndexAny(rest, "= ")
		if end < 0 || rest[end] == ' ' { // a plain word
			key, rest, _ = strings.Cut(rest, " ")
			a.words = append(a.words, key)
			a.values[key] = append(a.values[key], "yes")
			continue
		}
		key, rest = rest[:end], rest[end+1:]
		if strings.HasPrefix(rest, `"`) {
			q, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return "", nil, fmt.Errorf("%s=: %w", key, err)
			}
			val, _ = strconv.Unquote(q)
			rest = rest[len(q):]
		} else {
			val, rest, _ = strings.Cut(rest, " ")
		}
		a.values[key] = append(a.values[key], val)
	}
	return verb, a, nil
}

func (a *args) word(i int) string {
	if i >= len(a.words) {
		return ""
	}
	a.asked[a.words[i]] = true
	return a.words[i]
}

func (a *args) all(key string) []string { a.asked[key] = true; return a.values[key] }

func (a *args) one(key string) string {
	vs := a.all(key)
	if len(vs) > 1 {
		a.err = fmt.Errorf("%s= stands more than once", key)
	}
	if len(vs) == 0 {
		return ""
	}
	return vs[0]
}

func (a *args) number(key string) uint32 {
	v := a.one(key)
	if v == "" {
		return 0
	}
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil {
		a.err = err
	}
	return uint32(n)
}

func (a *args) time(key string) time.Time {
	t, err := time.Parse(time.RFC3339, a.one(key))
	if err != nil {
		a.err = err
	}
	return t
}

func (a *args) unix(key string) int64 {
	if a.one(key) == "" {
		return 0
	}
	return a.time(key).Unix()
}

func (a *args) id(kind string) EntryID {
	if tag := a.one("id"); tag != "" {
		return entryID(kind, tag)
	}
	return entryID(kind, a.word(0))
}

func (a *args) check() error {
	for k := range a.values {
		if !a.asked[k] {
			return fmt.Errorf("%s means nothing here", k)
		}
	}
	return a.err
}

// entryID makes an entryUUID out of a name.
func entryID(kind, tag string) (id EntryID) {
	sum := sha256.Sum256([]byte(kind + ":" + tag))
	copy(id[:], sum[:])
	return id
}

// dnOf makes the DN of kind:NAME.
func dnOf(s string) DN {
	kind, name, _ := strings.Cut(s, ":")
	switch kind {
	case "user":
		return DN("uid=" + name + ",ou=people,dc=example,dc=test")
	case "group":
		return DN("cn=" + name + ",ou=groups,dc=example,dc=test")
	}
	return DN("cn=" + name + ",ou=" + kind + "s,dc=example,dc=test")
}

func named[T ~string](from []string) []T {
	to := make([]T, len(from))
	for i, s := range from {
		to[i] = T(s)
	}
	return to
}
