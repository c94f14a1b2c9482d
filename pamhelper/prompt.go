package pamhelper

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sekisho/sekisho/wire"
)

// Kind is what a module's message is: pam_conv(3).
type Kind uint8

const (
	Info    Kind = iota // PAM_TEXT_INFO, no reply
	Error               // PAM_ERROR_MSG, no reply
	Secret              // PAM_PROMPT_ECHO_OFF: a password, a code; PAM does not say which
	Visible             // PAM_PROMPT_ECHO_ON
)

var kindNames = [...]string{Info: "info", Error: "error", Secret: "secret", Visible: "visible"}

// WantsReply reports whether somebody must answer.
func (k Kind) WantsReply() bool { return k == Secret || k == Visible }

// Prompt is one message of a module. Text is one line of valid UTF-8, of at
// most MaxText bytes.
type Prompt struct {
	Kind Kind
	Text string
}

// Line is p as a body line.
func (p Prompt) Line() string { return kindNames[p.Kind] + " " + p.Text }

// Prompts makes a module's message fit to be sent: each line of a message
// without reply becomes one, and what is no text of one line is made one.
func Prompts(k Kind, text string) []Prompt {
	if k.WantsReply() {
		return []Prompt{{k, oneLine(strings.ReplaceAll(text, "\n", " "))}}
	}
	var ps []Prompt
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		ps = append(ps, Prompt{k, oneLine(line)})
		if len(ps) == MaxPrompts {
			break
		}
	}
	return ps
}

func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\r':
			return -1
		case unicode.IsControl(r):
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), 4*MaxText)], "?"))
	for len(s) > MaxText {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

// readPrompts reads an answer with the reason prompt.
func readPrompts(a wire.Answer) ([]Prompt, error) {
	ps, env, err := readBody(a.Body)
	replies := wanted(ps)
	switch {
	case err != nil:
		return nil, err
	case a.Outcome != wire.No || len(env) > 0 || replies == 0 || replies > MaxReplies:
		return nil, errors.New("it asks for nothing, or for too much")
	}
	return ps, nil
}

func wanted(ps []Prompt) (n int) {
	for _, p := range ps {
		if p.Kind.WantsReply() {
			n++
		}
	}
	return n
}

// readBody reads messages and environment.
func readBody(lines []string) (ps []Prompt, env []string, err error) {
	if len(lines) > MaxPrompts+MaxEnvOut {
		return nil, nil, errors.New("it has too many lines")
	}
next:
	for _, line := range lines {
		word, text, ok := strings.Cut(line, " ")
		if word == "env" {
			e, err := readEnv(text)
			if err != nil {
				return nil, nil, err
			}
			env = append(env, e)
			continue
		}
		for k, name := range kindNames {
			if ok && word == name && len(text) <= MaxText && printable(text) {
				ps = append(ps, Prompt{Kind(k), text})
				continue next
			}
		}
		return nil, nil, errors.New("a line of it is neither a message nor a value of the environment")
	}
	if len(ps) > MaxPrompts || len(env) > MaxEnvOut {
		return nil, nil, errors.New("it has too many lines")
	}
	return ps, env, nil
}
