package reaper

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sekisho/sekisho/wire"
)

// The verbs.
const (
	verbAdopt  = "adopt"
	verbEnd    = "end"
	verbForget = "forget"
	verbList   = "list"
)

const (
	maxPacket = 64 << 10
	pageSize  = 256 // sessions in one answer to list
)

// reasons are the errors that pass the socket, by the reason that stands for
// each.
var reasons = map[string]error{
	"unknown": ErrUnknown, "exists": ErrExists, "process": ErrProcess, "refused": ErrRefused, "limit": ErrLimit,
}

var idForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// appendNumber begins a packet.
func appendNumber(dst []byte, n uint64) []byte {
	return append(strconv.AppendUint(dst, n, 10), ' ')
}

// cutNumber parts a packet. The number has one spelling.
func cutNumber(b []byte) (n uint64, message []byte, err error) {
	word, message, ok := bytes.Cut(b, []byte{' '})
	if n, err = decimal(string(word)); err != nil || !ok {
		return 0, nil, errors.New("reading a packet: it does not begin with a number")
	}
	return n, message, nil
}

// decimal reads digits without a leading zero.
func decimal(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, errors.New("it is no number")
	}
	return n, nil
}

// request is the verbs' fields, read.
type request struct {
	verb    string
	id      string // of list: the last one that is known
	pid     int32
	started uint64
	fresh   bool
	text    string
	grace   time.Duration
}

// fieldsOf are the fields of each verb, those first that it needs.
var fieldsOf = map[string]struct {
	need  int
	names []string
}{
	verbAdopt:  {3, []string{"session", "pid", "started", "fresh"}},
	verbEnd:    {2, []string{"session", "grace", "text"}},
	verbForget: {1, []string{"session"}},
	verbList:   {0, []string{"after"}},
}

// message is q as it is sent.
func (q request) message() wire.Request {
	r := wire.Request{Verb: q.verb}
	add := func(name, value string) { r.Fields = append(r.Fields, wire.Field{Name: name, Value: value}) }
	if q.verb == verbList {
		if q.id != "" {
			add("after", q.id)
		}
		return r
	}
	add("session", q.id)
	switch q.verb {
	case verbAdopt:
		add("pid", strconv.Itoa(int(q.pid)))
		add("started", strconv.FormatUint(q.started, 10))
		if q.fresh {
			add("fresh", "yes")
		}
	case verbEnd:
		add("grace", strconv.FormatInt(q.grace.Milliseconds(), 10))
		if q.text != "" {
			add("text", q.text)
		}
	}
	return r
}

// readRequest is strict: what it does not know is refused.
func readRequest(b []byte) (request, error) {
	r, err := wire.ParseRequest(b)
	if err != nil {
		return request{}, err
	}
	f, ok := fieldsOf[r.Verb]
	if !ok {
		return request{}, errors.New("there is no such verb")
	}
	if err := r.Only(f.names...); err != nil {
		return request{}, err
	}
	for _, name := range f.names[:f.need] {
		if !r.Has(name) {
			return request{}, fmt.Errorf("%s needs the field %s", r.Verb, name)
		}
	}
	q := request{verb: r.Verb, id: r.Get(f.names[0]), text: r.Get("text")}
	switch {
	case r.Has(f.names[0]) && !idForm.MatchString(q.id):
		return request{}, errors.New("the session's name has another form")
	case r.Has("text") && (q.text == "" || len(q.text) > MaxText):
		return request{}, errors.New("the text is empty or too long")
	case r.Has("fresh") && r.Get("fresh") != "yes":
		return request{}, errors.New("the field fresh is yes, or is not there")
	}
	q.fresh = r.Has("fresh")
	switch r.Verb {
	case verbAdopt:
		pid, err := decimal(r.Get("pid"))
		if err != nil || pid == 0 || pid > 1<<22 { // PID_MAX_LIMIT
			return request{}, errors.New("the pid is no pid")
		}
		q.pid = int32(pid)
		if q.started, err = decimal(r.Get("started")); err != nil {
			return request{}, errors.New("the start time is no number")
		}
	case verbEnd:
		ms, err := decimal(r.Get("grace"))
		if err != nil || time.Duration(ms) > MaxGrace/time.Millisecond {
			return request{}, errors.New("the grace is no number of milliseconds, or too long")
		}
		q.grace = time.Duration(ms) * time.Millisecond
	}
	return q, nil
}

// failure is the answer that stands for an error.
func failure(err error) wire.Answer {
	for reason, e := range reasons {
		if errors.Is(err, e) {
			return wire.Answer{Outcome: wire.No, Reason: reason, Text: clip(err.Error())}
		}
	}
	return wire.Answer{Outcome: wire.Unknown, Text: clip(err.Error())}
}

// clip makes an error's words fit for an answer.
func clip(s string) string {
	return printable(s, MaxText)
}

// readFailure is the error that an answer stands for; nil for yes.
func readFailure(a wire.Answer) error {
	if a.Outcome == wire.Yes {
		return nil
	}
	if e := reasons[a.Reason]; a.Outcome == wire.No && e != nil {
		if a.Text == "" || a.Text == e.Error() {
			return e
		}
		return &said{e, a.Text}
	}
	return fmt.Errorf("sekisho-reaper: %s", a.Text)
}

// said is a known error in the words of the other side.
type said struct {
	err  error
	text string
}

func (s *said) Error() string { return s.text }
func (s *said) Unwrap() error { return s.err }

// line is a session in an answer to list.
func (s Session) line() string {
	state := "empty"
	if s.Alive {
		state = "alive"
	}
	return fmt.Sprintf("%s %d %d %s %s", s.ID, s.PID, s.Started, s.How, state)
}

func readSession(line string) (Session, error) {
	f := strings.Split(line, " ")
	if len(f) != 5 || !idForm.MatchString(f[0]) || !How(f[3]).known() || f[4] != "alive" && f[4] != "empty" {
		return Session{}, errors.New("reading a session: it has another form")
	}
	pid, err := decimal(f[1])
	started, err2 := decimal(f[2])
	if err != nil || err2 != nil || pid > 1<<22 {
		return Session{}, errors.New("reading a session: a number is none")
	}
	return Session{ID: f[0], PID: int32(pid), Started: started, How: How(f[3]), Alive: f[4] == "alive"}, nil
}

func (h How) known() bool { return h == InScope || h == InFolder || h == InTree }

// body is e as lines: how, terminals, microseconds, killed; and a line for each
// process that is left.
func (e Ended) body() []string {
	out := []string{fmt.Sprintf("ended %s %d %d %t", e.How, e.Terminals, e.Took.Microseconds(), e.Killed)}
	for _, p := range e.Left {
		out = append(out, fmt.Sprintf("left %d %c %s", p.PID, p.State, p.Name))
	}
	return out
}

func readEnded(body []string) (Ended, error) {
	bad := errors.New("reading how a session ended: it has another form")
	if len(body) == 0 || len(body) > 1+MaxLeft {
		return Ended{}, bad
	}
	f := strings.Split(body[0], " ")
	if len(f) != 5 || f[0] != "ended" || !How(f[1]).known() || f[4] != "true" && f[4] != "false" {
		return Ended{}, bad
	}
	terminals, err := decimal(f[2])
	took, err2 := decimal(f[3])
	if err != nil || err2 != nil || terminals > maxTerminals || took > uint64(time.Hour/time.Microsecond) {
		return Ended{}, bad
	}
	e := Ended{How: How(f[1]), Terminals: int(terminals), Took: time.Duration(took) * time.Microsecond, Killed: f[4] == "true"}
	for _, line := range body[1:] {
		f := strings.SplitN(line, " ", 4)
		if len(f) != 4 || f[0] != "left" || len(f[2]) != 1 || len(f[3]) > 15 {
			return Ended{}, bad
		}
		pid, err := decimal(f[1])
		if err != nil || pid > 1<<22 {
			return Ended{}, bad
		}
		e.Left = append(e.Left, Process{PID: int32(pid), State: f[2][0], Name: f[3]})
	}
	return e, nil
}
