package ccache

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"testing"
)

func TestOpen(t *testing.T) {
	for name, want := range map[string]string{
		"/tmp/x":                    "FILE:/tmp/x",
		"x":                         "FILE:x",
		"FILE:x:y":                  "FILE:x:y",
		"/tmp/a:b":                  "FILE:/tmp/a:b",
		"DIR:/none":                 "DIR::/none/tkt",
		"DIR:/none/":                "DIR::/none/tkt",
		"DIR::/a/tktB":              "DIR::/a/tktB",
		"KEYRING:a:b":               "there is no keyring \"a\"",
		"KEYRING:user:x:":           "cannot be the name",
		"KEYRING:user:x:.y":         "cannot be the name",
		"KEYRING:user:x:y":          "KEYRING:user:x:y",
		"KEYRING:persistent:x":      "is no user id",
		"KEYRING:persistent:-1":     "is no user id",
		"KEYRING:persistent:99:tkt": "KEYRING:persistent:99:tkt",
		"KEYRING:process:x":         "gone when the program ends",
		"KEYRING:thread:x":          "gone when the program ends",
		"KCM:":                      "a daemon that Sekisho does not speak to",
		"KCM:0":                     "a daemon that Sekisho does not speak to",
		"API:x":                     "on other systems only",
		"MEMORY:x":                  "gone when the program ends",
		"foo:x":                     "there is no cache type \"foo\": there are FILE, DIR and KEYRING",
		"FILE:":                     "the name has no path",
		"":                          "the name has no path",
		"FILE:a\x00b":               "a NUL character",
		"DIR:":                      "the name has no directory",
		"DIR::/a/b":                 "those begin with tkt",
		"DIR::":                     "those begin with tkt",
		"KEYRING:user:x:a\x00":      "cannot be the name",
	} {
		s, err := Open(name)
		switch {
		case err != nil && strings.Contains(err.Error(), want):
		case err == nil && s.Name() == want:
		default:
			t.Errorf("%q: %v, %v; want %s", name, s, err, want)
		}
	}
}

// TestDefaultName expands as MIT does.
func TestDefaultName(t *testing.T) {
	m := startMIT(t)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	name := func(configured string, env map[string]string) (string, error) {
		return DefaultName(Config{Getenv: func(k string) string { return env[k] }, Configured: configured, UserName: func() (string, error) { return me.Username, nil }})
	}
	for _, configured := range []string{"", "FILE:/x/%{uid}/%{euid}-%{USERID}%{null}_%{username}", "FILE:%{TEMP}/cc", "DIR:/nowhere/%{null}x", "FILE:/x/100%"} {
		text := "[libdefaults]\n"
		if configured != "" {
			text += "default_ccache_name = " + configured + "\n"
		}
		conf := write(t, m.dir+"/name.conf", []byte(text))
		for _, env := range []map[string]string{{"TMPDIR": "/var/tmp"}, {"KRB5CCNAME": "FILE:/y/%{uid}"}, {}} {
			args := []string{"env", "-u", "KRB5CCNAME", "-u", "TMPDIR", "KRB5_CONFIG=" + conf}
			for k, v := range env {
				args = append(args, k+"="+v)
			}
			out, err := m.try(append(args, "klist")...)
			if err == nil {
				t.Fatalf("there is a cache: %s", out)
			}
			got, err := name(configured, env)
			_, path, _ := strings.Cut(got, ":")
			if err != nil || !strings.Contains(out, path) {
				t.Errorf("%q, %v: %s, %v; MIT: %s", configured, env, got, err, out)
			}
		}
	}
	for configured, want := range map[string]string{"FILE:%{uid": "a %{ has no }", "FILE:%{LIBDIR}": "%{LIBDIR} is not known", "FILE:%{}": "is not known"} {
		if got, err := name(configured, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s, %v", configured, got, err)
		}
	}
	for who, err := range map[string]error{"": nil, "a/b": nil, "..": nil, "x": errors.New("not found")} {
		if got, err := DefaultName(Config{Getenv: func(string) string { return "" }, Configured: "FILE:/%{username}", UserName: func() (string, error) { return who, err }}); err == nil {
			t.Errorf("%q: %s", who, got)
		}
	}
	if got, err := DefaultName(Config{Getenv: func(string) string { return "" }, Configured: "%{username}"}); err == nil {
		t.Errorf("without a name: %s", got)
	}
	t.Setenv("KRB5CCNAME", "")
	if got, err := DefaultName(Config{}); err != nil || got != fmt.Sprintf("FILE:/tmp/krb5cc_%d", os.Getuid()) {
		t.Errorf("%s, %v", got, err)
	}
}
