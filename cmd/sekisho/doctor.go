package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/krb/clock"
)

// doctorTimeout bounds all that doctor asks.
const doctorTimeout = 30 * time.Second

// doctorFlags name what to ask by hand.
type doctorFlags struct {
	ntp, kdcs []string
	realm     string
}

func (a *app) doctorCommand() *cobra.Command {
	var f doctorFlags
	c := &cobra.Command{
		Use: "doctor", Short: "Find out which clock is wrong, and how to mend it", Args: noArgs,
		Long: `Find out which clock is wrong, and how to mend it.

Kerberos tickets are good for nothing when two clocks are more than five minutes
apart. doctor asks time servers, the KDCs and the directory what time it is,
compares them with this machine's clock, says which is wrong, by how much and how
sure, and names the command that mends it. It needs neither sekishod nor a ticket,
changes nothing, and takes up to ten seconds.

Whom it asks stands in sekishod.toml (clock.servers, the directory) and krb5.conf,
or is named here.

Exit codes: 0 tickets work; 1 a clock is so wrong that they fail; 2 wrong usage or
configuration; 3 nobody could be asked who knows.`,
		Example: "  sekisho doctor\n  sekisho doctor --ntp ntp1.example.org --ntp ntp2.example.org --ntp ntp3.example.org\n" +
			"  sekisho doctor --kdc kdc1.example.org --realm EXAMPLE.ORG --json",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), doctorTimeout)
			defer cancel()
			d, err := a.doctor(ctx, f)
			if err != nil {
				return err
			}
			r, err := d.look(ctx)
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(r)
			} else {
				err = printDoctor(a.out, r)
			}
			switch {
			case err != nil:
				return err
			case r.State == clock.Beyond:
				return exit(exitNo)
			case r.State == clock.Unknown:
				return exit(exitUnknown)
			}
			return nil
		},
	}
	c.Flags().StringArrayVar(&f.ntp, "ntp", nil, "ask this time server (HOST or HOST:PORT) instead of those of clock.servers")
	c.Flags().StringArrayVar(&f.kdcs, "kdc", nil, "ask this KDC (HOST or HOST:PORT) instead of those of krb5.conf")
	c.Flags().StringVar(&f.realm, "realm", "", "the KDC's realm (default: that of sekishod.toml or krb5.conf)")
	return c
}

// doctor is what is asked. It knows no configuration.
type doctor struct {
	host      string
	ntp, kdcs []string // kdcs with their ports
	realm     string
	skew      time.Duration
	// directory asks a directory server the time; nil: there is none.
	directory func(context.Context) (name string, offset, bound time.Duration, err error)
	kernel    func() kernelClock
	mends     mends
	notes     []string // what could not be asked, and why
}

// doctorReport is the answer, and the document of --json.
type doctorReport struct {
	Host string `json:"host"`
	clock.Status
	Skew   time.Duration `json:"skew_ns"`
	Kernel kernelClock   `json:"kernel"`
	Mends  []mend        `json:"mends"`
	Notes  []string      `json:"notes"`
}

// look asks everybody once.
func (d doctor) look(ctx context.Context) (doctorReport, error) {
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	g, err := clock.New(clock.Config{Servers: d.ntp, Skew: d.skew, Probe: d.probe, Log: logrus.NewEntry(quiet)})
	if err != nil {
		return doctorReport{}, usageError{err}
	}
	g.Poll(ctx)
	r := doctorReport{Host: d.host, Status: g.Status(), Skew: d.skew, Kernel: d.kernel(), Notes: append([]string{}, d.notes...)}
	if ctx.Err() != nil {
		return r, fmt.Errorf("asking the clocks: %w", context.Cause(ctx))
	}
	r.Sources = append([]clock.Source{}, r.Sources...)
	r.Mends = d.mends.of(r.Status)
	return r, nil
}

// probe asks the KDCs and the directory, all at once.
func (d doctor) probe(ctx context.Context, g *clock.Guard) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, addr := range d.kdcs {
		wg.Go(func() { _ = g.AskKDC(ctx, addr, d.realm) }) // the guard keeps the error
	}
	if d.directory != nil {
		wg.Go(func() {
			name, offset, bound, err := d.directory(ctx)
			if err != nil {
				g.Missed(clock.Directory, name, err)
				return
			}
			g.ObserveDirectory(name, offset, bound)
		})
	}
}

// printDoctor is the answer for people: the verdict, the table, the mend.
func printDoctor(out io.Writer, r doctorReport) error {
	var b strings.Builder
	head := map[clock.State]string{
		clock.Good: "the clocks are good for tickets", clock.Near: "CLOCKS DRIFT APART: tickets still work",
		clock.Beyond: "CLOCKS TOO FAR APART: tickets fail now", clock.Unknown: "NOT KNOWN whether the clocks are right",
	}[r.State]
	fmt.Fprintf(&b, "%s: %s (%s is allowed)\n", clean(r.Host), head, clock.Span(r.Skew))
	fmt.Fprintf(&b, "%s\n\n", clean(r.Text))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(cells ...string) {
		for i, c := range cells {
			cells[i] = clean(c)
		}
		fmt.Fprintln(w, "  "+strings.Join(cells, "\t"))
	}
	row("CLOCK", "SOURCE", "AGAINST THIS HOST", "+/-", "VERDICT")
	row("this host", r.Host, "", boundText(r.Kernel.MaxError), hostVerdict(r))
	for _, s := range r.Sources {
		offset, bound := "", ""
		if s.Verdict != clock.Silent && s.Verdict != clock.Denied {
			offset, bound = aheadText(s.Offset), boundText(s.Bound)
		}
		row(kindText(s.Kind), s.Name, offset, bound, verdictText(s))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, m := range r.Mends {
		fmt.Fprintf(&b, "\nmend %s:\n", clean(m.On))
		for _, c := range m.Commands {
			fmt.Fprintf(&b, "  %s\n", clean(c))
		}
	}
	for i, n := range r.Notes {
		if i == 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "note: %s\n", clean(n))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func kindText(k clock.Kind) string {
	switch k {
	case clock.TimeServer:
		return "time server"
	case clock.KDC:
		return "KDC"
	}
	return string(k)
}

// hostVerdict is what is known of this machine's own clock.
func hostVerdict(r doctorReport) string {
	kept := "kept by no time service"
	if r.Kernel.Synchronised {
		kept = "kept by a time service"
	}
	switch {
	case r.Culprit.Kind == clock.Host:
		return aheadText(r.Offset) + ", " + kept
	case r.Between.Kind != "" || r.State == clock.Unknown:
		return "not known, " + kept
	}
	return "good, " + kept
}

func verdictText(s clock.Source) string {
	switch s.Verdict {
	case clock.Right:
		return "good"
	case clock.Off:
		return "wrong, but tickets still work"
	case clock.Wrong:
		return "WRONG"
	case clock.False:
		return "not believed: " + s.Why
	case clock.Alone:
		if s.Why != "" {
			return "not judged: " + s.Why
		}
		return "nobody to judge it by"
	case clock.Denied:
		return s.Why
	}
	return "no time: " + s.Why
}

func aheadText(d time.Duration) string {
	if d < 0 {
		return clock.Span(d) + " behind"
	}
	return clock.Span(d) + " ahead"
}

func boundText(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return clock.Span(max(d, time.Millisecond))
}

// withPort gives a KDC its port.
func withPort(kdc string) (string, error) {
	host, port, err := net.SplitHostPort(kdc)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(kdc, "["), "]"), "88"
	}
	if _, err := netip.ParseAddr(host); err != nil && (host == "" || strings.ContainsAny(host, ":/@ ")) {
		return "", usagef("--kdc %q: write HOST or HOST:PORT", kdc)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return "", usagef("--kdc %q: %q is no port", kdc, port)
	}
	return net.JoinHostPort(host, port), nil
}

// mend is what to do about one clock.
type mend struct {
	On       string   `json:"on"` // "this host", or whose clock
	Commands []string `json:"commands"`
}

// mends knows how this machine's clock is set.
type mends struct{ has func(program string) bool }

// of names the mend of each wrong clock, the worst first.
func (m mends) of(s clock.Status) []mend {
	out := []mend{}
	const elsewhere = "chronyc makestep    # or: timedatectl set-ntp true && systemctl restart systemd-timesyncd"
	if s.Culprit.Kind == clock.Host {
		out = append(out, mend{"this host", m.here(s.Offset)})
	}
	if s.Between.Kind != "" {
		ask := "sekisho doctor --ntp SERVER    # tells which of the two is wrong"
		out = append(out, mend{"this host or KDC " + s.Between.Name, []string{ask}})
	}
	for _, o := range s.Sources {
		if o.Verdict != clock.Wrong && o.Verdict != clock.Off || len(out) > 0 && loopback(o.Name) {
			continue // it is this host
		}
		out = append(out, mend{"on " + kindText(o.Kind) + " " + o.Name, []string{elsewhere}})
	}
	for _, o := range s.Sources {
		if o.Verdict == clock.False {
			out = append(out, mend{"time server " + o.Name, []string{"mend it, or take it out of clock.servers"}})
		}
	}
	if s.State == clock.Unknown && !slices.ContainsFunc(s.Sources, func(o clock.Source) bool { return o.Kind == clock.TimeServer }) {
		out = append(out, mend{"the question", []string{"sekisho doctor --ntp SERVER    # or name servers in sekishod.toml: [clock] servers = [\"ntp1.example.org\", ...]"}})
	}
	return out
}

// here is the mend of this machine's clock, which is ahead by offset.
func (m mends) here(offset time.Duration) []string {
	switch {
	case m.has("chronyc"):
		return []string{"chronyc makestep"}
	case m.has("systemd-timesyncd"):
		return []string{"timedatectl set-ntp true", "systemctl restart systemd-timesyncd"}
	}
	return []string{
		fmt.Sprintf("date -s '%+d seconds'", -int64(offset.Round(time.Second)/time.Second)),
		"apt-get install chrony    # keeps it right from then on",
	}
}

// installed looks for programs where time services have theirs.
func installed(program string) bool {
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/bin", "/usr/local/bin", "/usr/lib/systemd", "/lib/systemd"} {
		if st, err := os.Stat(dir + "/" + program); err == nil && st.Mode().IsRegular() {
			return true
		}
	}
	return false
}

func loopback(name string) bool {
	host, _, err := net.SplitHostPort(name)
	if err != nil {
		host = name
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

var errNoDirectory = errors.New("no directory is known")
