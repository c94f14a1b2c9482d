// Package sekisho_test holds the checks that are about the whole module.
package sekisho_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sekisho/sekisho/"

// arrows is the import table: which of our own packages a package may import.
// Everything points at broker; broker points at almost nothing. The first row
// whose prefix fits counts.
var arrows = []struct {
	prefix string
	may    []string
	why    string
}{
	{"keys", nil, "it is pure, and the broker and the doors stand on it"},
	{"wire", nil, "it is linked into what runs inside somebody's login"},
	{"broker", []string{"keys"}, "the decision must not know how anybody is asked"},
	{"otp/prove", []string{"broker", "otp"}, "it has codes proved, and knows neither the directory nor a door"},
	{"otp", nil, "it is pure: codes are computed, not kept"},
	{"ldapsync", []string{"broker", "keys", "otp"}, "it turns a directory into a snapshot, and knows no door"},
	{"krb", []string{"broker", "krb"}, "it turns tickets and passwords into proofs, and knows no door"},
	{"realm", []string{"krb"}, "it runs servers, and decides nothing"},
	{"audit", []string{"broker"}, "it records decisions, and makes none"},
	{"state", []string{"broker"}, "it keeps what brokers share"},
	{"feed", []string{"broker", "keys"}, "it hands on a snapshot, and the keys in it"},
	{"reaper", []string{"wire"}, "it is linked into a program of root's: it ends processes, and knows neither users nor rules"},
	{"door/gate", nil, "it says who is calling and bounds connections, and knows no protocol"},
	{"door/", []string{"broker", "keys", "wire", "door/gate"}, "a door turns bytes into a request; removing one changes no decision"},
	{"pamhelper", []string{"wire"}, "it is linked into what runs inside somebody's login"},
	{"cmd/sekisho-keys", []string{"wire"}, "it runs inside somebody's login: neither LDAP nor Kerberos, and nothing slow to start"},
	{"cmd/", []string{"keys", "wire", "broker", "ldapsync", "krb", "realm", "audit", "state", "feed", "reaper", "otp", "door/", "pamhelper", "cmd/"}, "programs wire everything together; the test world is none of their business"},
	{"testenv", []string{""}, "tests and the demo may use all"},
	{"bench", []string{""}, "benchmarks may use all"},
}

// bans hold for everything that a package links, not only what it names.
var bans = []struct {
	pkg, not, why string
}{
	{"broker", "net", "it opens no socket (net/netip is only addresses)"},
	{"broker", "os/exec", "it starts nothing"},
	{"broker", "github.com/sirupsen/logrus", "it logs nothing"},
	{"cmd/sekisho-keys", "net", "it costs each login half a millisecond"},
	{"cmd/sekisho-keys", "fmt", "it is slow to start"},
	{"cmd/sekisho-keys", "encoding/json", "it is slow to start"},
	{"wire", "net", "sekisho-keys links it"},
	{"wire", "fmt", "sekisho-keys links it"},
}

type listed struct {
	ImportPath, Doc string
	Imports, Deps   []string
	GoFiles         []string
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,Deps,GoFiles", "./...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v: %s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var pkgs []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); err == io.EOF {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 {
			pkgs = append(pkgs, p)
		}
	}
}

func fits(pkg, prefix string) bool {
	return prefix == "" || pkg == prefix || strings.HasPrefix(pkg, strings.TrimSuffix(prefix, "/")+"/")
}

func TestArrows(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		row := slices.IndexFunc(arrows, func(a struct {
			prefix string
			may    []string
			why    string
		}) bool {
			return fits(name, a.prefix)
		})
		if row < 0 {
			t.Errorf("%s stands in no row of the import table: add one, with its reason", name)
			continue
		}
		a := arrows[row]
		for _, imp := range p.Imports {
			ours, ok := strings.CutPrefix(imp, module)
			if !ok || fits(ours, name) {
				continue
			}
			if !slices.ContainsFunc(a.may, func(m string) bool { return fits(ours, m) }) {
				t.Errorf("%s imports %s, but %s", name, ours, a.why)
			}
		}
	}
}

func TestBans(t *testing.T) {
	pkgs := list(t)
	for _, b := range bans {
		i := slices.IndexFunc(pkgs, func(p listed) bool { return p.ImportPath == module+b.pkg })
		if i < 0 {
			t.Errorf("no package %s: remove its ban", b.pkg)
			continue
		}
		if slices.Contains(pkgs[i].Deps, b.not) {
			t.Errorf("%s links %s: %s", b.pkg, b.not, b.why)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range list(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
