package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// maxSecret is the longest password that is read, in bytes.
const maxSecret = 4096

// askSecret asks at the terminal, whatever standard input is.
func (a *app) askSecret(prompt string) (string, error) {
	if a.silent {
		return "", usagef("nobody is asked now")
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", usagef("there is no terminal to ask for a password: give it by a file or standard input (see --help)")
	}
	defer tty.Close()
	fmt.Fprint(tty, prompt)
	b, err := readUnseen(tty)
	fmt.Fprintln(tty)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", refusedError{errors.New("interrupted: nothing was done")}
	}
	if err != nil {
		return "", fmt.Errorf("reading a password: %w", err)
	}
	if len(b) > maxSecret {
		return "", usagef("a password has at most %d bytes", maxSecret)
	}
	return string(b), nil
}

// readUnseen reads a line that the terminal does not show. A signal that ends the
// program ends it with os.ErrDeadlineExceeded, and the terminal is as it was:
// term.ReadPassword would go on reading.
func readUnseen(tty *os.File) (line []byte, err error) {
	conn, err := tty.SyscallConn()
	if err != nil {
		return nil, err
	}
	var before *unix.Termios
	set := func(change func(*unix.Termios)) error {
		var cerr error
		err := conn.Control(func(fd uintptr) {
			t := before
			if t == nil {
				if t, cerr = unix.IoctlGetTermios(int(fd), unix.TCGETS); cerr != nil {
					return
				}
				before = t
			}
			now := *t
			change(&now)
			cerr = unix.IoctlSetTermios(int(fd), unix.TCSETS, &now)
		})
		return errors.Join(err, cerr)
	}
	if err := set(func(t *unix.Termios) {
		t.Lflag = t.Lflag&^unix.ECHO | unix.ICANON | unix.ISIG
		t.Iflag |= unix.ICRNL
	}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, set(func(*unix.Termios) {})) }()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	end := context.AfterFunc(ctx, func() { tty.SetReadDeadline(time.Unix(1, 0)) })
	defer end()
	for b := make([]byte, 1); len(line) <= maxSecret; {
		n, err := tty.Read(b)
		switch {
		case n == 1 && b[0] == '\n':
			return line, nil
		case n == 1:
			line = append(line, b[0])
		case errors.Is(err, io.EOF) && len(line) > 0:
			return line, nil
		case err != nil:
			return nil, err
		}
	}
	return line, nil
}

// askNewSecret asks twice.
func (a *app) askNewSecret(who string) (string, error) {
	for range 3 {
		one, err := a.askSecret("New password of " + who + ": ")
		if err != nil {
			return "", err
		}
		two, err := a.askSecret("Once more: ")
		if err != nil {
			return "", err
		}
		if one == two {
			return one, nil
		}
		fmt.Fprintln(a.err, "The two differ.")
	}
	return "", usagef("no password was set")
}

// secretFromStdin reads one line of standard input, and leaves the rest there.
func (a *app) secretFromStdin() (string, error) {
	if a.silent {
		return "", usagef("nobody is asked now")
	}
	var line []byte
	for b := make([]byte, 1); len(line) <= maxSecret; {
		n, err := a.in.Read(b)
		if n == 1 {
			if b[0] == '\n' {
				break
			}
			line = append(line, b[0])
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", fmt.Errorf("reading a password: %w", err)
		}
	}
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 || len(line) > maxSecret {
		return "", usagef("standard input holds no password: its first line must have 1 to %d bytes", maxSecret)
	}
	return string(line), nil
}

// interactive tells whether somebody sits there.
func (a *app) interactive() bool { return term.IsTerminal(int(a.in.Fd())) }

// confirm asks before something is lost; without a terminal --yes must say so.
func (a *app) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !a.interactive() {
		return usagef("nobody is there to ask: say --yes")
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if s := strings.ToLower(strings.TrimSpace(line)); s != "y" && s != "yes" {
		return refusedError{errors.New("nothing was done")}
	}
	return nil
}

// clean makes a text from the directory harmless for a terminal.
func clean(s string) string {
	bad := func(r rune) bool { return !unicode.IsPrint(r) }
	if utf8.ValidString(s) && strings.IndexFunc(s, bad) < 0 {
		return s
	}
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

// say prints one line for people; nothing with --json.
func (a *app) say(format string, args ...any) {
	if !a.json {
		fmt.Fprintln(a.out, clean(fmt.Sprintf(format, args...)))
	}
}

// printJSON prints a document for programs.
func (a *app) printJSON(doc any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(doc)
}

// table prints rows under a heading, aligned.
func (a *app) table(head []string, rows [][]string) error {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		for _, c := range row {
			fmt.Fprintf(w, "%s\t", clean(c))
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(a.out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// card prints the fields of one thing, leaving out what is empty.
func (a *app) card(fields [][2]string) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, f := range fields {
		if f[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", f[0], clean(f[1]))
		}
	}
	return w.Flush()
}

func list(s []string) string { return strings.Join(s, ", ") }

// count is "1 key", "2 keys".
func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
