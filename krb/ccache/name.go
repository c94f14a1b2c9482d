package ccache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Config says how the caller's own cache is found.
type Config struct {
	// Getenv reads the environment; nil is os.Getenv.
	Getenv func(string) string
	// Configured is default_ccache_name of krb5.conf, empty for none.
	Configured string
	// UserName is the name of the effective user, asked for only when Configured
	// holds %{username}; nil refuses that.
	UserName func() (string, error)
}

// DefaultName is the name of the caller's own cache: KRB5CCNAME, else what
// krb5.conf says, else FILE:/tmp/krb5cc_UID.
func DefaultName(c Config) (string, error) {
	if c.Getenv == nil {
		c.Getenv = os.Getenv
	}
	if n := c.Getenv("KRB5CCNAME"); n != "" {
		return n, nil
	}
	if c.Configured == "" {
		return fmt.Sprintf("FILE:/tmp/krb5cc_%d", os.Getuid()), nil
	}
	n, err := c.expand(c.Configured)
	if err != nil {
		return "", fmt.Errorf("default_ccache_name %.200q: %w", c.Configured, err)
	}
	return n, nil
}

// expand replaces the tokens of krb5.conf(5), "Parameter expansion", that have a
// meaning for the name of a cache.
func (c Config) expand(s string) (string, error) {
	var out strings.Builder
	for {
		before, rest, ok := strings.Cut(s, "%{")
		out.WriteString(before)
		if !ok {
			return out.String(), nil
		}
		token, after, ok := strings.Cut(rest, "}")
		if !ok {
			return "", errors.New("a %{ has no }")
		}
		v, err := c.token(token)
		if err != nil {
			return "", err
		}
		out.WriteString(v)
		s = after
	}
}

func (c Config) token(token string) (string, error) {
	switch token {
	case "uid", "USERID":
		return strconv.Itoa(os.Getuid()), nil
	case "euid":
		return strconv.Itoa(os.Geteuid()), nil
	case "null":
		return "", nil
	case "TEMP":
		if d := c.Getenv("TMPDIR"); d != "" {
			return d, nil
		}
		return "/tmp", nil
	case "username":
		if c.UserName == nil {
			return "", errors.New("%{username} is not known here")
		}
		n, err := c.UserName()
		if err != nil {
			return "", fmt.Errorf("%%{username}: %w", err)
		}
		if n == "" || strings.ContainsAny(n, "/\x00") || strings.HasPrefix(n, ".") {
			return "", fmt.Errorf("%%{username}: %.80q cannot be part of a path", n)
		}
		return n, nil
	}
	return "", fmt.Errorf("%%{%.40s} is not known: there are uid, euid, USERID, username, TEMP and null", token)
}

// Collection are all caches that a name stands for, the primary one first: those
// of a DIR:directory or of a KEYRING collection, or the one cache. Caches that do
// not exist are left out.
func Collection(ctx context.Context, name string) ([]*Store, error) {
	s, err := Open(name)
	if err != nil {
		return nil, err
	}
	var all []*Store
	switch b := s.back.(type) {
	case *file:
		if b.dir == nil || strings.HasPrefix(name, "DIR::") {
			break
		}
		if all, err = b.dir.all(); err != nil {
			return nil, fmt.Errorf("credential caches %.200q: %w", name, err)
		}
		return all, nil
	case *keyring:
		if b.single {
			break
		}
		if all, err = b.all(); err != nil {
			return nil, fmt.Errorf("credential caches %.200q: %w", name, err)
		}
		return all, nil
	}
	if _, err := s.Read(ctx); errors.Is(err, ErrNone) {
		return nil, nil
	}
	return []*Store{s}, nil
}

// ForPrincipal is where a new ticket of a principal goes: in a collection the
// cache that is his, else a primary one that does not exist yet, else one of a new
// name; for a single cache that one, whoever's it is. After writing it, Choose
// makes it the primary one, as kinit does.
func ForPrincipal(ctx context.Context, name string, p Name) (*Store, error) {
	s, err := Open(name)
	if err != nil {
		return nil, err
	}
	if f, ok := s.back.(*file); ok && (f.dir == nil || strings.HasPrefix(name, "DIR::")) {
		return s, nil
	}
	if k, ok := s.back.(*keyring); ok && k.single {
		return s, nil
	}
	all, err := Collection(ctx, name)
	if err != nil {
		return nil, err
	}
	primary := false
	for _, m := range all {
		if c, err := m.Read(ctx); err == nil && c.Principal.Equal(p) {
			return m, nil
		}
		primary = primary || m.name == s.name
	}
	if !primary {
		return s, nil
	}
	switch b := s.back.(type) {
	case *file:
		return b.dir.fresh()
	case *keyring:
		return b.fresh()
	}
	return s, nil
}
