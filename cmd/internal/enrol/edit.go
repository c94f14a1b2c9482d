package enrol

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The marks around what is ours in a file that is not.
const (
	markBegin = "# sekisho: begin (sekisho host enrol made this; --undo takes it out)"
	markEnd   = "# sekisho: end"
)

func marked(lines ...string) []string {
	return append(append([]string{markBegin}, lines...), markEnd)
}

// withoutMarked takes our lines out.
func withoutMarked(lines []string) ([]string, error) {
	begin := slices.Index(lines, markBegin)
	if begin < 0 {
		return slices.Clone(lines), nil
	}
	end := slices.Index(lines[begin:], markEnd)
	if end < 0 {
		return nil, errors.New("a mark of ours has no end: take the lines from \"" + markBegin + "\" on out by hand")
	}
	return slices.Concat(lines[:begin], lines[begin+end+1:]), nil
}

// editLines has f change a text's lines; our own marked ones are taken out
// before. An empty text is no lines.
func editLines(text string, f func([]string) ([]string, error)) (string, error) {
	end := ""
	if strings.HasSuffix(text, "\n") || text == "" {
		end = "\n"
	}
	var lines []string
	if body := strings.TrimSuffix(text, "\n"); text != "" {
		lines = strings.Split(body, "\n")
	}
	lines, err := withoutMarked(lines)
	if err != nil {
		return "", err
	}
	if lines, err = f(lines); err != nil {
		return "", err
	}
	return strings.Join(lines, "\n") + end, nil
}

// nssSystemd adds the source systemd, behind files, to the databases that
// libnss-systemd serves.
func nssSystemd(text string) (string, error) {
	return editLines(text, func(lines []string) ([]string, error) {
		for _, db := range []string{"passwd", "group", "shadow"} {
			at := slices.IndexFunc(lines, func(l string) bool {
				name, _, ok := strings.Cut(uncomment(l), ":")
				return ok && strings.TrimSpace(name) == db
			})
			if at < 0 {
				lines = append(lines, db+":\tfiles systemd")
				continue
			}
			code := uncomment(lines[at])
			words := strings.FieldsFunc(code[strings.Index(code, ":")+1:], isBlank)
			if slices.Contains(words, "systemd") {
				continue
			}
			i := slices.IndexFunc(words, func(w string) bool { return w == "files" || w == "compat" })
			if i < 0 || i+1 < len(words) && strings.HasPrefix(words[i+1], "[") {
				return nil, fmt.Errorf("line %d, %q, is not of the usual kind: add systemd to it by hand, behind files", at+1, lines[at])
			}
			lines[at] = insertWord(lines[at], words[i], "systemd")
		}
		return lines, nil
	})
}

// uncomment is a line without its comment.
func uncomment(l string) string {
	code, _, _ := strings.Cut(l, "#")
	return code
}

// isBlank is what parts words in nsswitch.conf: C's isspace, and no other.
func isBlank(r rune) bool { return strings.ContainsRune(" \t\v\f\r", r) }

// insertWord puts word behind the first whole word after, which is there, in a
// database's line.
func insertWord(line, after, word string) string {
	value := strings.Index(line, ":") + 1
	for from := value; ; {
		start := from + strings.Index(line[from:], after)
		end := start + len(after)
		if (start == value || isBlank(rune(line[start-1]))) && (end == len(line) || line[end] == '#' || isBlank(rune(line[end]))) {
			return line[:end] + " " + word + line[end:]
		}
		from = end
	}
}

// sshdInclude makes sure that sshd reads our file: where no line includes it, one
// is put at the top. sshd takes the first value that it finds.
func sshdInclude(text, file string) (string, error) {
	return editLines(text, func(lines []string) ([]string, error) {
		for _, l := range lines {
			words := strings.Fields(uncomment(l))
			if len(words) == 0 {
				continue
			}
			switch strings.ToLower(words[0]) {
			case "match":
				return append(marked("Include "+file), lines...), nil
			case "include":
				for _, w := range words[1:] {
					if !filepath.IsAbs(w) {
						w = "/etc/ssh/" + w
					}
					if ok, err := filepath.Match(w, file); err == nil && ok {
						return lines, nil
					}
				}
			}
		}
		return append(marked("Include "+file), lines...), nil
	})
}

// pamLine is one module's line.
type pamLine struct {
	at      int // of lines
	control string
	module  string
}

// pamLines are the lines of one kind (auth, account …). A line that goes on in
// the next one, or includes another file, is not understood.
func pamLines(lines []string, kind string) ([]pamLine, error) {
	var out []pamLine
	for i, l := range lines {
		code := strings.TrimSpace(uncomment(l))
		switch {
		case code == "":
			continue
		case strings.HasSuffix(code, `\`), strings.HasPrefix(code, "@include"):
			return nil, fmt.Errorf("line %d includes another file or goes on in the next line", i+1)
		}
		word, rest, _ := strings.Cut(strings.ReplaceAll(code, "\t", " "), " ")
		if strings.TrimPrefix(strings.ToLower(word), "-") != kind {
			continue
		}
		rest = strings.TrimSpace(rest)
		control, module, ok := strings.Cut(rest, " ")
		if strings.HasPrefix(rest, "[") {
			control, module, ok = strings.Cut(rest, "]")
			control += "]"
		}
		words := strings.Fields(module)
		if !ok || len(words) == 0 || control == "include" || control == "substack" {
			return nil, fmt.Errorf("line %d is not of the usual kind", i+1)
		}
		out = append(out, pamLine{i, control, filepath.Base(words[0])})
	}
	if len(out) == 0 {
		return nil, errors.New("it has no line of the kind " + kind)
	}
	return out, nil
}

// landing is where pam_unix.so jumps to when it says yes, as a place in ls: the
// line behind the one that refuses everybody else.
func landing(ls []pamLine) (int, error) {
	for i, l := range ls {
		if l.module != "pam_unix.so" {
			continue
		}
		for _, word := range strings.Fields(strings.Trim(l.control, "[]")) {
			n, err := strconv.Atoi(strings.TrimPrefix(word, "success="))
			if to := i + 1 + n; strings.HasPrefix(word, "success=") && err == nil && n > 0 && to < len(ls) && ls[to-1].module == "pam_deny.so" {
				return to, nil
			}
		}
	}
	return 0, errors.New("there is no pam_unix.so that jumps over pam_deny.so, as pam-auth-update writes it")
}

// pamGuard has this machine's own users, those of /etc/passwd, pass by the n
// lines that follow.
func pamGuard(kind string, n int) string {
	return fmt.Sprintf("%s\t[success=%d default=ignore]\tpam_localuser.so", kind, n)
}

// pamAuth puts the broker before the machine's own stack, for users that are
// not the machine's own. Who is refused, or could not be asked after, goes no
// further; somebody whom the directory does not know may be another source's.
// Who is let in goes on where pam_unix.so's users do.
func pamAuth(kind, text, module string) (string, error) {
	return editLines(text, func(lines []string) ([]string, error) {
		ls, err := pamLines(lines, kind)
		if err != nil {
			return nil, err
		}
		to, err := landing(ls)
		if err != nil {
			return nil, err
		}
		ours := marked(pamGuard(kind, 1), fmt.Sprintf("%s\t[success=%d user_unknown=ignore default=die]\t%s", kind, to, module))
		return slices.Insert(lines, ls[0].at, ours...), nil
	})
}

// pamAccount has the broker judge every login of a user who is not the
// machine's own, however he proved himself, before all others: nothing above
// it can end the stack. "Could not find out" refuses.
func pamAccount(text, module string) (string, error) {
	return editLines(text, func(lines []string) ([]string, error) {
		ls, err := pamLines(lines, "account")
		if err != nil {
			return nil, err
		}
		ours := marked(pamGuard("account", 1), "account\t[success=ok new_authtok_reqd=ok user_unknown=ignore default=die]\t"+module)
		return slices.Insert(lines, ls[0].at, ours...), nil
	})
}

// pamSession has the broker judge a session, with all that sshd has verified by
// then, and makes a home at the first.
func pamSession(text, module string) (string, error) {
	return editLines(text, func(lines []string) ([]string, error) {
		if _, err := pamLines(lines, "session"); err != nil {
			return nil, err
		}
		ours := []string{"session\t[success=ok user_unknown=ignore default=bad]\t" + module}
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(uncomment(l), "mkhomedir") }) {
			ours = slices.Insert(ours, 0, "session\toptional\tpam_mkhomedir.so umask=0077")
		}
		return append(lines, marked(slices.Insert(ours, 0, pamGuard("session", len(ours)))...)...), nil
	})
}
