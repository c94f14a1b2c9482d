// Command bench measures Sekisho against the programs that it stands beside:
// sssd, pam_krb5, OpenLDAP's ldapsearch and libldap, MIT's libkrb5 and GSS-API, a
// plain sshd with a key file or a keytab, and a static C program that does the
// least. It prints a table and writes it to bench/results.tsv.
//
//	bench [-quick] [-most N] [PART…]
//
// The parts are akc, ssh, pamtester, gssssh, socket, signin, accept, leave, spray,
// sync and publish; all when none is named. Everything runs in the sandbox of package
// testenv, pairs alternate in one run, and medians are compared. Run it from the
// module's directory as root, or with sudo at hand; `make bench` installs what it
// needs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/sekisho/sekisho/testenv"
)

const (
	resultsFile = "bench/results.tsv" // relative to the module
	workDir     = "build/bench"       // databases that took long to make
)

var (
	quick = flag.Bool("quick", false, "small and short, to see that it works: nothing is judged")
	most  = flag.Int("most", 1_000_000, "leave out directories of more users")
)

// parts in the order in which they run: what is sensitive to a warm machine
// first.
var parts = []struct {
	name string
	run  func(context.Context, *bench) error
}{
	{"akc", measureAKC},
	{"ssh", measureSSH},
	{"socket", measureSocket},
	{"pamtester", measurePamtester},
	{"gssssh", measureGSSSSH},
	{"signin", measureSignin},
	{"accept", measureAccept},
	{"leave", func(ctx context.Context, b *bench) error {
		return errors.Join(measureLeave(ctx, b), measureTracked(ctx, b))
	}},
	{"spray", measureSpray},
	{"publish", measurePublish},
	{"sync", measureSync},
}

func main() {
	flag.Usage = func() {
		var names []string
		for _, p := range parts {
			names = append(names, p.name)
		}
		fmt.Fprintf(flag.CommandLine.Output(), "usage: bench [-quick] [-most N] [PART…]\nparts: %s\n", strings.Join(names, " "))
		flag.PrintDefaults()
	}
	os.Exit(testenv.Sandboxed(program{}).Run())
}

// program is what runs in the sandbox.
type program struct{}

// Run measures and returns the exit code: 0 when everything could be measured,
// bounds that are not met included.
func (program) Run() int {
	if !flag.Parsed() { // in the sandbox nobody has
		flag.Parse()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

// bench is what the parts share.
type bench struct {
	table table
	world *world // made by the first part that needs it
	realm *realm // likewise
}

func run(ctx context.Context, names []string) error {
	if err := check(names); err != nil {
		return err
	}
	b := &bench{table: table{judge: !*quick}}
	defer b.close()
	b.table.remark("load average before: %s", loadAverage())
	if busy() {
		b.table.remark("the machine was busy before: measure again when it is not")
	}
	var errs []error
	for _, p := range parts {
		if len(names) > 0 && !slices.Contains(names, p.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s …\n", p.name)
		if err := p.run(ctx, b); err != nil {
			// The others can still be measured.
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
			if ctx.Err() != nil {
				break
			}
		}
	}
	b.table.remark("load average after: %s", loadAverage())
	b.table.print(os.Stdout)
	return errors.Join(append(errs, b.table.write(resultsFile))...)
}

func check(names []string) error {
	for _, n := range names {
		if !slices.ContainsFunc(parts, func(p struct {
			name string
			run  func(context.Context, *bench) error
		}) bool {
			return p.name == n
		}) {
			return fmt.Errorf("there is no part %q: see bench -help", n)
		}
	}
	if _, err := os.Stat("go.mod"); err != nil {
		return errors.New("run it from the module's directory")
	}
	for _, p := range []string{"sssd", "sss_ssh_authorizedkeys", "ldapsearch", "slapadd", "sshd", "cc", "pamtester", "kinit"} {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%w: say testenv/packages.sh base bench, or make bench", err)
		}
	}
	return nil
}

func (b *bench) close() {
	if b.world != nil {
		if err := b.world.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: ending the world:", err)
		}
	}
	if b.realm != nil {
		if err := b.realm.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: ending the realm:", err)
		}
	}
}

// pick is n, or few in a quick run.
func pick(n, few int) int {
	if *quick {
		return few
	}
	return n
}

// loadAverage is how busy the machine is, by the kernel's count (proc(5)).
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if f := strings.Fields(string(b)); err == nil && len(f) >= 3 {
		return strings.Join(f[:3], " ")
	}
	return "unknown"
}

// busy tells whether others had more than a quarter of the machine in the last
// minute.
func busy() bool {
	var load float64
	_, err := fmt.Sscan(loadAverage(), &load)
	return err == nil && load > float64(runtime.NumCPU())/4
}

// ownerOf gives a file that root wrote to whoever owns the module's directory.
func ownerOf(path string) error {
	var st syscall.Stat_t
	if err := syscall.Stat("go.mod", &st); err != nil {
		return err
	}
	return os.Lchown(path, int(st.Uid), int(st.Gid))
}
