package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// maxFile is the longest file that is read, in bytes.
const maxFile = 1 << 20

// Load reads and validates the file at path. Only at DefaultPath may there be
// none: a path that somebody typed and that is not there is an error, since
// the defaults start a new realm.
func Load(path string) (Config, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && path == DefaultPath {
		return parse(nil, path)
	}
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	if st.Mode().IsRegular() && st.Mode().Perm()&0o002 != 0 {
		return Config{}, fmt.Errorf("%s can be written by everybody (mode %04o): chmod o-w %s", path, st.Mode().Perm(), path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	if len(b) > maxFile {
		return Config{}, fmt.Errorf("%s has more than %d bytes: it is no configuration", path, maxFile)
	}
	return parse(b, path)
}

// parse reads a whole file. The errors begin with name and, where there is
// one, the line.
func parse(b []byte, name string) (Config, error) {
	c := Default()
	dec := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return Config{}, explain(err, name)
	}
	if c.Host == "" {
		h, err := os.Hostname()
		if err != nil {
			return Config{}, fmt.Errorf("%s: host is not set and the kernel does not tell: %w", name, err)
		}
		c.Host = h
	}
	c.Host = strings.ToLower(strings.TrimSuffix(c.Host, "."))
	if err := c.validate(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// explain turns the TOML reader's error into one line with the place and, for
// an unknown key, the key that was probably meant.
func explain(err error, name string) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		e := strict.Errors[0]
		line, _ := e.Position()
		key := strings.Join(e.Key(), ".")
		msg := fmt.Sprintf("%s:%d: unknown key %s", name, line, key)
		if near := nearest(key); near != "" {
			msg += "; did you mean " + near + "?"
		}
		return errors.New(msg)
	}
	var at *toml.DecodeError
	if errors.As(err, &at) {
		line, _ := at.Position()
		key := strings.Join(at.Key(), ".")
		if key != "" {
			key += ": "
		}
		return fmt.Errorf("%s:%d: %s%s", name, line, key, strings.TrimPrefix(at.Error(), "toml: "))
	}
	return fmt.Errorf("%s: %w", name, err)
}

// nearest is the known key that differs least from the one given, or empty
// when none is near.
func nearest(key string) string {
	best, least := "", len(key)/3+2
	last := key[strings.LastIndexByte(key, '.')+1:]
	for _, k := range known(reflect.TypeFor[Config](), "") {
		d := distance(key, k)
		if k[strings.LastIndexByte(k, '.')+1:] == last {
			d = min(d, 1) // the right word in the wrong section
		}
		if d < least {
			best, least = k, d
		}
	}
	return best
}

// known lists all keys with their sections.
func known(t reflect.Type, prefix string) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		k := prefix + f.Tag.Get("toml")
		out = append(out, k)
		if f.Type.Kind() == reflect.Struct {
			out = append(out, known(f.Type, k+".")...)
		}
	}
	return out
}

// distance is how many letters must be put in, taken out or changed to make b
// of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
