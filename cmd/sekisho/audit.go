package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sekisho/sekisho/audit"
)

func (a *app) auditCommand() *cobra.Command {
	c := noun("audit", "The record of all decisions, sessions and what was done to them")
	c.AddCommand(a.auditVerifyCommand(), a.auditTailCommand(), a.auditGrepCommand(), a.auditReportCommand())
	return c
}

// auditDir is the folder of the record: this machine's, or a copy.
func (a *app) auditDir(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	c, err := a.config()
	if err != nil {
		return "", err
	}
	return filepath.Join(c.StateDir, "audit"), nil
}

// auditError says what to do about an error with the files.
func auditError(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: run it as root", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: name the folder with --dir, or start sekishod once", err)
	}
	return err
}

func (a *app) auditVerifyCommand() *cobra.Command {
	var c audit.VerifyConfig
	var seals string
	cmd := &cobra.Command{
		Use: "verify", Short: "Find out whether the record is whole and unchanged", Args: noArgs,
		Long: `Follow the chain of hashes through all files of the record, and check each seal. It
reads the files alone: sekishod may be running or dead, and a copied folder does as
well (--dir).

Without --key the seals are checked with the public key that lies beside them, which
whoever made the folder could have made too. Write the key that is printed down
elsewhere, and give it with --key. What root on this machine cannot have done is
proved by seals that were kept elsewhere, such as a central syslog: --seals names a
file of lines that hold them, and each must stand in the record. With --key, lines that
somebody else has written to that syslog are left out.

A cut after the last seal that is known elsewhere cannot be seen: see docs/audit.md.

Exit codes: 0 the record is whole; 1 it is not, and where; 3 it could not be read.`,
		Example: "  sekisho audit verify\n  sekisho audit verify --key 4y3rFEkJTHWDLsYlbeG7cMCmNyAwqPkBSHVSqcf3Kho\n" +
			"  sekisho audit verify --dir /backup/web1/audit --key 4y3rFEkJTHWDLsYlbeG7cMCmNyAwqPkBSHVSqcf3Kho --seals /var/log/remote/web1.log --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if c.Dir, err = a.auditDir(c.Dir); err != nil {
				return err
			}
			for _, k := range c.Keys {
				if _, err := audit.ParseKey(k); err != nil {
					return usageError{err}
				}
			}
			if seals != "" {
				if c.Seals, err = readSeals(seals); err != nil {
					return err
				}
			}
			if f, ok := a.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
				c.Progress = func(done, total int64) {
					fmt.Fprintf(a.err, "\r%3d%%\r", done*100/max(total, 1))
				}
			}
			v, err := audit.Verify(cmd.Context(), c)
			if err != nil {
				return auditError(err)
			}
			if a.json {
				err = a.printJSON(struct {
					Good bool `json:"good"`
					*audit.Verdict
				}{v.Good(), v})
			} else {
				err = printVerdict(a.out, v)
			}
			if err == nil && !v.Good() {
				return exit(exitNo)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&c.Keys, "key", nil, "a public key that seals may be made with; again for each")
	f.StringVar(&c.Dir, "dir", "", "the folder (default: that of this machine's sekishod)")
	f.StringVar(&seals, "seals", "", "a file with seals that were kept elsewhere, - for standard input")
	return cmd
}

// readSeals takes the lines that may hold a seal from a file; Verify tells which do.
func readSeals(path string) ([]string, error) {
	in := io.Reader(os.Stdin)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usageError{err}
		}
		defer f.Close()
		in = f
	}
	var out []string
	r := bufio.NewScanner(in)
	r.Buffer(nil, 1<<20)
	for r.Scan() {
		if s := r.Text(); strings.Contains(s, `,"kind":"seal",`) {
			out = append(out, s)
		}
	}
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("reading seals: %w", err)
	}
	if len(out) == 0 {
		return nil, usagef("there is no seal in %s", path)
	}
	return out, nil
}

func printVerdict(out io.Writer, v *audit.Verdict) error {
	var b strings.Builder
	if v.Good() {
		b.WriteString("WHOLE: ")
	} else {
		fmt.Fprintf(&b, "BROKEN in %s: ", placesText(v.Wrong))
	}
	fmt.Fprintf(&b, "%s in %s, %s\n", count(int(v.Records), "record"), count(v.Files, "file"), bytesText(v.Bytes))
	for _, p := range v.Problems {
		fmt.Fprintf(&b, "  %s\n", clean(p.String()))
	}
	if n := v.Wrong - len(v.Problems); n > 0 {
		fmt.Fprintf(&b, "  and %d more\n", n)
	}
	point := func(name string, p audit.Point) {
		if p.Seq > 0 {
			fmt.Fprintf(&b, "  %-6s %d, %s, %s\n", name, p.Seq, p.Time.UTC().Format("2006-01-02 15:04:05 UTC"), clean(p.File))
		}
	}
	point("first", v.First)
	if v.Prev != "" && v.Deleted > 0 {
		fmt.Fprintf(&b, "         those before it were deleted for their age, as record %d says; the last had the hash %s\n", v.Deleted, clean(v.Prev))
	}
	point("last", v.Last)
	point("sealed", v.LastSeal)
	fmt.Fprintf(&b, "         %s; %s after the last\n", count(int(v.Seals), "good seal"), count(int(v.Unsealed), "record"))
	if v.Key != "" {
		trust := "given with --key"
		if !v.Trusted {
			trust = "from the folder itself: keep it elsewhere, and give it with --key"
		}
		fmt.Fprintf(&b, "  key    %s, %s\n", v.Key, trust)
	}
	for _, p := range v.Mended {
		fmt.Fprintf(&b, "  mended %s\n", clean(p.String()))
	}
	for _, p := range v.Gaps {
		fmt.Fprintf(&b, "  gap    %s\n", clean(p.String()))
	}
	for _, n := range v.Notes {
		fmt.Fprintf(&b, "  note   %s\n", clean(n))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func placesText(n int) string { return count(n, "place") }

func bytesText(n int64) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d bytes", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

func (a *app) auditTailCommand() *cobra.Command {
	var dir string
	var n int
	var follow bool
	c := &cobra.Command{
		Use: "tail", Short: "Show the last records", Args: noArgs,
		Long: `Show the last records, and with -f each new one until you press Ctrl-C. With --json
they are the lines as they stand in the files.`,
		Example: "  sekisho audit tail\n  sekisho audit tail -f\n  sekisho audit tail -n 1000 --json",
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := a.auditDir(dir)
			if err != nil {
				return err
			}
			if n < 0 {
				return usagef("-n %d: write how many records to show", n)
			}
			return auditError(a.printRecords(func(f func([]byte, *audit.Record) bool) error {
				return audit.Tail(c.Context(), dir, n, follow, f)
			}, follow))
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "dir", "", "the folder (default: that of this machine's sekishod)")
	f.IntVarP(&n, "lines", "n", 20, "how many")
	f.BoolVarP(&follow, "follow", "f", false, "go on with each record that comes")
	return c
}

// printRecords prints what each gives it, as lines for people or as they are.
func (a *app) printRecords(each func(func([]byte, *audit.Record) bool) error, now bool) error {
	out := bufio.NewWriterSize(a.out, 64<<10)
	var failed error
	err := each(func(line []byte, r *audit.Record) bool {
		if a.json {
			_, failed = fmt.Fprintf(out, "%s\n", line)
		} else {
			_, failed = fmt.Fprintln(out, recordText(r))
		}
		if now && failed == nil {
			failed = out.Flush()
		}
		return failed == nil
	})
	if err == nil {
		err = failed
	}
	if failed == nil { // what was found before an error is shown
		err = cmp.Or(err, out.Flush())
	}
	return err
}

// recordText is a record in one line for people.
func recordText(r *audit.Record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %6d  ", r.Time.UTC().Format("2006-01-02 15:04:05.000"), r.Seq)
	add := func(name, s string) {
		if s != "" {
			b.WriteString("  ")
			if name != "" {
				b.WriteString(name + " ")
			}
			b.WriteString(clean(s))
		}
	}
	who := r.User
	if r.Login != "" {
		who += " as " + r.Login
	}
	switch r.Kind {
	case audit.KindDecision:
		fmt.Fprintf(&b, "%-10s %s", clean(r.Outcome), clean(who))
		add("to", r.Target)
		add("by", r.Door)
		add("from", r.From)
		add("", "("+r.Reason+")")
		add("rules", list(r.Rules))
		add("shown", list(r.Shown))
		for i, n := range r.Need {
			if i == 0 {
				add("needed", strings.Join(n, " and "))
			} else {
				add("or", strings.Join(n, " and "))
			}
		}
	case audit.KindSession:
		fmt.Fprintf(&b, "%-10s %s", clean(r.Event), clean(who))
		place := r.Place
		if place == "" {
			place = r.Target
		}
		add("on", place)
		add("by", r.Door)
		add("from", r.From)
		add("tty", r.TTY)
		if r.Reason != "" {
			add("", "("+r.Reason+")")
		}
		add("by order of", r.By)
		if r.Took > 0 {
			add("took", time.Duration(r.Took*float64(time.Second)).Round(time.Millisecond).String())
		}
		add("session", r.Session)
	case audit.KindNote:
		fmt.Fprintf(&b, "%-10s", clean(r.Event))
		add("", r.Subject)
		add("by", r.Actor)
		add("", r.Text)
	default:
		fmt.Fprintf(&b, "%-10s", clean(string(r.Kind)))
		add("", r.File)
		if r.Of > 0 {
			add("record", fmt.Sprint(r.Of))
		}
		if r.Kind == audit.KindGap {
			add("", fmt.Sprintf("%d grants refused, %d records lost", r.Grants, r.Lost))
		}
		add("", r.Text)
	}
	return strings.TrimRight(b.String(), " ")
}

// period reads --since and --until: a time, or how long ago, such as 24h or 30d.
func period(since, until string, now time.Time) (from, to time.Time, err error) {
	if from, err = when("--since", since, now); err != nil {
		return
	}
	if to, err = when("--until", until, now); err != nil {
		return
	}
	if !to.IsZero() && !from.Before(to) {
		err = usagef("--since %s is not before --until %s", since, until)
	}
	return
}

func when(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n < 1e6 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	text, err := parseAt(s)
	if err != nil {
		return time.Time{}, usagef("%s %q: write a time as 2030-12-24T22:00:00Z, or how long ago: 24h, 30d", flag, s)
	}
	return time.Parse(time.RFC3339, text)
}

// hostMeant tells whether a recorded host is the one that is meant: by its name or
// its first label.
func hostMeant(have, want string) bool {
	first, _, _ := strings.Cut(have, ".")
	return want == "" || have == want || first == want
}

func (a *app) auditGrepCommand() *cobra.Command {
	var dir, user, host, door, outcome, reason, since, until, session string
	var kinds []string
	c := &cobra.Command{
		Use: "grep", Short: "Show the records that fit", Args: noArgs,
		Long: `Show all records that fit each option that is given, oldest first. --user also finds
what was done with the account of that name, and the subject of notes; --host finds a
host by its name or its first label. With --json they are the lines as they stand in
the files.

Exit codes: 0 there are some; 1 there are none; 3 the record could not be read.`,
		Example: "  sekisho audit grep --user alice --since 24h\n  sekisho audit grep --host web1 --outcome deny --reason wrong-password\n" +
			"  sekisho audit grep --kind session --since 2030-12-24 --until 2030-12-25 --json",
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := a.auditDir(dir)
			if err != nil {
				return err
			}
			var q audit.Query
			if q.Since, q.Until, err = period(since, until, time.Now()); err != nil {
				return err
			}
			for _, k := range kinds {
				if !audit.Kind(k).Known() {
					return usagef("--kind %q: write decision, session, note, seal, mend, gap, void, delete or cut", k)
				}
				q.Kinds = append(q.Kinds, audit.Kind(k))
			}
			for _, s := range []string{user, door, outcome, reason, session} {
				if s != "" {
					q.Has = append(q.Has, s)
				}
			}
			host, clipped := strings.ToLower(host), audit.Clip(user)
			is := func(have, want string) bool { return want == "" || have == audit.Clip(want) }
			some := false
			err = a.printRecords(func(f func([]byte, *audit.Record) bool) error {
				return audit.ScanLines(c.Context(), dir, q, func(line []byte, r *audit.Record) bool {
					fits := (user == "" || r.User == clipped || r.Login == clipped || r.Subject == clipped) &&
						(hostMeant(r.Target, host) || r.Place != "" && hostMeant(r.Place, host)) &&
						is(r.Door, door) && is(r.Outcome, outcome) && is(r.Reason, reason) && is(r.Session, session)
					if !fits {
						return true
					}
					some = true
					return f(line, r)
				})
			}, false)
			if err == nil && !some {
				return exit(exitNo)
			}
			return auditError(err)
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "dir", "", "the folder (default: that of this machine's sekishod)")
	f.StringVar(&user, "user", "", "a user, an account, or the subject of a note")
	f.StringVar(&host, "host", "", "the host that somebody wanted to enter or was on")
	f.StringVar(&door, "door", "", "a door: keys, pam, …")
	f.StringVar(&outcome, "outcome", "", "allow, deny, need-proof or unknown")
	f.StringVar(&reason, "reason", "", "a reason, such as wrong-password")
	f.StringVar(&since, "since", "", "from this time on, or this long ago: 24h, 30d")
	f.StringVar(&until, "until", "", "before this time")
	f.StringSliceVar(&kinds, "kind", nil, "decision, session, note, seal, mend, gap, void, delete, cut; by comma")
	f.StringVar(&session, "session", "", "a session's id")
	a.completeFlag(c, "user", "user")
	a.completeFlag(c, "host", "host")
	return c
}

// voided are the grants that were taken back.
func voided(ctx context.Context, dir string, q audit.Query) (map[uint64]bool, error) {
	out := map[uint64]bool{}
	q = audit.Query{Since: q.Since, Kinds: []audit.Kind{audit.KindVoid}} // they come after what they take back
	err := audit.Scan(ctx, dir, q, func(r *audit.Record) bool { out[r.Of] = true; return true })
	return out, err
}
