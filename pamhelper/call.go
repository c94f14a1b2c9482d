package pamhelper

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sekisho/sekisho/wire"
)

// The verbs, and a prompt's reason.
const (
	VerbRun      = "run"
	VerbAnswer   = "answer"
	ReasonPrompt = "prompt"
)

// Reasons of sekisho-pam's own, beside PAM's codes and those of package wire.
// All but the last two come with the outcome Unknown.
const (
	ReasonService   = "service"    // not one of the services it was started for, or the host has no such stack
	ReasonHung      = "hung"       // the stack was stopped: it took longer than StackTime
	ReasonCrashed   = "crashed"    // a module ended the process
	ReasonLeft      = "left"       // sekishod broke off the conversation, or nobody replied in time
	ReasonMany      = "many"       // more prompts than MaxRounds, or a conversation longer than its limit
	ReasonReply     = "reply"      // No: a reply that no module can take, such as one with a NUL byte
	ReasonOtherUser = "other-user" // No: the stack has proved somebody else than was asked for
)

// Limits on what one side makes the other take. Sizes are bytes.
const (
	MaxName    = 64   // Call.Service
	MaxUser    = 256  // Call.User
	MaxItem    = 512  // Call.TTY, RHost, RUser
	MaxEnv     = 8    // values of Call.Env
	MaxEnvSize = 8192 // of all of Call.Env together
	MaxText    = 512  // Prompt.Text
	MaxPrompts = 40   // prompts of one answer, replies wanted or not
	MaxReplies = 8    // of them, those that want a reply
	MaxRounds  = 16   // answers with a prompt in one conversation
	MaxReply   = 511  // one reply: PAM_MAX_RESP_SIZE less the NUL
	MaxEnvOut  = 64   // values of Result.Env
	MaxEnvLine = 8192 // one of them
)

// Call is what a stack is asked.
type Call struct {
	Service string // a file of /etc/pam.d: a-z, 0-9, "_" and "-"
	User    string
	// The items of pam_set_item(3); empty ones are not set.
	TTY, RHost, RUser string
	// Env are values "NAME=value" for PAM's environment. Modules hand it on to
	// programs that they run as root, so NAME is one of SSH_AUTH_INFO_0,
	// SSH_CONNECTION and SSH_CLIENT, or begins with SEKISHO_.
	Env []string
}

// ValidService reports whether name may name a stack.
func ValidService(name string) bool {
	return name != "" && len(name) <= MaxName && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

// Validate tells what is wrong in c, and never a value.
func (c Call) Validate() error {
	if !ValidService(c.Service) {
		return errors.New("the service is no name of a file in /etc/pam.d: a-z, 0-9, _ and -")
	}
	if c.User == "" || len(c.User) > MaxUser || !printable(c.User) || c.User[0] == '-' || strings.ContainsAny(c.User, "/:") {
		return errors.New("the user is no name of an account")
	}
	for _, item := range []struct{ name, value string }{{"tty", c.TTY}, {"rhost", c.RHost}, {"ruser", c.RUser}} {
		if len(item.value) > MaxItem || !printable(item.value) {
			return errors.New("the item " + item.name + " is too long or has control characters")
		}
	}
	size := 0
	for _, e := range c.Env {
		name, _, ok := strings.Cut(e, "=")
		if !ok || !allowedEnv(name) || strings.IndexByte(e, 0) >= 0 {
			return errors.New("a value of the environment is none that may be set")
		}
		size += len(e)
	}
	if len(c.Env) > MaxEnv || size > MaxEnvSize {
		return fmt.Errorf("the environment has more than %d values or %d bytes", MaxEnv, MaxEnvSize)
	}
	return nil
}

// allowedEnv reports whether a variable may be set for programs of root's.
func allowedEnv(name string) bool {
	if slices.Contains([]string{"SSH_AUTH_INFO_0", "SSH_CONNECTION", "SSH_CLIENT"}, name) {
		return true
	}
	rest, ok := strings.CutPrefix(name, "SEKISHO_")
	return ok && rest != "" && len(name) <= MaxName && strings.Trim(rest, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
}

// printable tells whether s is UTF-8 text without control characters.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// Request is c as the verb run.
func (c Call) Request() (wire.Request, error) {
	if err := c.Validate(); err != nil {
		return wire.Request{}, err
	}
	r := wire.Request{Verb: VerbRun, Fields: []wire.Field{{Name: "service", Value: c.Service}, {Name: "user", Value: c.User}}}
	for _, f := range []wire.Field{{Name: "tty", Value: c.TTY}, {Name: "rhost", Value: c.RHost}, {Name: "ruser", Value: c.RUser}} {
		if f.Value != "" {
			r.Fields = append(r.Fields, f)
		}
	}
	for i, e := range c.Env {
		r.Fields = append(r.Fields, wire.Field{Name: "env-" + strconv.Itoa(i+1), Value: e})
	}
	return r, nil
}

// ReadCall reads the verb run, strictly. Nothing is returned beside an error.
func ReadCall(r wire.Request) (Call, error) {
	if r.Verb != VerbRun {
		return Call{}, errors.New("a conversation begins with " + VerbRun)
	}
	names := []string{"service", "user", "tty", "rhost", "ruser"}
	c := Call{Service: r.Get("service"), User: r.Get("user"), TTY: r.Get("tty"), RHost: r.Get("rhost"), RUser: r.Get("ruser")}
	for n := 1; n <= MaxEnv; n++ {
		name := "env-" + strconv.Itoa(n)
		if !r.Has(name) {
			break
		}
		names, c.Env = append(names, name), append(c.Env, r.Get(name))
	}
	if err := r.Only(names...); err != nil {
		return Call{}, err
	}
	if err := c.Validate(); err != nil {
		return Call{}, err
	}
	return c, nil
}

// Replies is the verb answer.
func Replies(values []string) wire.Request {
	r := wire.Request{Verb: VerbAnswer}
	for i, v := range values {
		r.Fields = append(r.Fields, wire.Field{Name: "a" + strconv.Itoa(i+1), Value: v})
	}
	return r
}

// ReadReplies reads the verb answer with exactly n replies.
func ReadReplies(r wire.Request, n int) ([]string, error) {
	if r.Verb != VerbAnswer || len(r.Fields) != n {
		return nil, errors.New("what follows a prompt is " + VerbAnswer + " with a reply for each that wants one")
	}
	values := make([]string, n)
	for i := range values {
		name := "a" + strconv.Itoa(i+1)
		if !r.Has(name) {
			return nil, errors.New("the replies are not numbered from a1 on")
		}
		if values[i] = r.Get(name); !fits(values[i]) {
			return nil, errors.New("a reply has a NUL byte or is too long for PAM")
		}
	}
	return values, nil
}

// FormatEnv is a body line with a value "NAME=value" of PAM's environment.
func FormatEnv(e string) (string, error) {
	name, value, ok := strings.Cut(e, "=")
	if !ok || !envName(name) || len(e) > MaxEnvLine {
		return "", errors.New("a value of PAM's environment is too long or has no name")
	}
	return "env " + name + " " + base64.StdEncoding.EncodeToString([]byte(value)), nil
}

func readEnv(text string) (string, error) {
	name, code, ok := strings.Cut(text, " ")
	value, err := base64.StdEncoding.Strict().DecodeString(code)
	if e := name + "=" + string(value); ok && err == nil && envName(name) && len(e) <= MaxEnvLine && strings.IndexByte(e, 0) < 0 {
		return e, nil
	}
	return "", errors.New("a value of PAM's environment cannot be read")
}

func envName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '=' })
}
