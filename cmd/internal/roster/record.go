package roster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/report"
)

// The bounds of what is read from the store. The texts of a session are cut
// shorter by sekishod when it writes them.
const (
	maxEntry = 32 << 10 // bytes of one session, or order
	maxName  = 253      // of a broker
	maxText  = 1 << 10
	maxList  = 64
)

// beatPrefix marks, in the bucket sessions, that a broker lives. No session's id has
// a slash.
const beatPrefix = "broker/"

var (
	idForm   = regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`)
	nameForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
)

var errForm = errors.New("it is not as brokers write it")

// beat says that a broker lives; it is also how one knows that it has heard all.
type beat struct {
	Broker string `json:"broker"`
	Run    string `json:"run"` // of the process
	N      uint64 `json:"n"`   // grows
}

// order is one to end a session.
type order struct {
	Session string        `json:"session"`
	Host    string        `json:"host"` // on which it runs
	To      string        `json:"to"`   // the broker that has the session
	By      string        `json:"by"`   // who wants it
	Broker  string        `json:"broker"`
	Reason  broker.Reason `json:"reason"`

	given bool // to our own broker; guarded by Roster.mu
}

// reasons are those for which one broker ends another's sessions.
var reasons = []broker.Reason{broker.ReasonKilled, broker.ReasonLocked, broker.ReasonUnknownUser}

// encode is the one form of a document.
func encode(doc any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(doc); err != nil {
		return nil, err
	}
	out := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(out) > maxEntry {
		return nil, fmt.Errorf("it has %d bytes, and %d are allowed", len(out), maxEntry)
	}
	return out, nil
}

// decode reads what encode wrote, and nothing else: no other field, no other order,
// nothing twice.
func decode(b []byte, doc any) error {
	if len(b) > maxEntry {
		return errForm
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(doc); err != nil {
		return errForm
	}
	if again, err := encode(doc); err != nil || !bytes.Equal(again, b) {
		return errForm
	}
	return nil
}

func parseSession(key string, b []byte) (report.Session, error) {
	var s report.Session
	if err := decode(b, &s); err != nil {
		return report.Session{}, err
	}
	if err := checkSession(key, &s); err != nil {
		return report.Session{}, err
	}
	return s, nil
}

// checkSession refuses what no broker would say of a session.
func checkSession(key string, s *report.Session) error {
	ok := s.ID == key && idForm.MatchString(key) && goodName(s.Broker) && s.Confirmed == "" &&
		s.Host != "" && (s.User != "" || s.Login != "") &&
		slices.Contains([]string{"none", "account", "rules"}, s.Basis) && goodTime(s.Since)
	for _, t := range []string{s.Until, s.Ending} {
		ok = ok && (t == "" || goodTime(t))
	}
	for _, a := range []string{s.From, s.Addr} {
		ok = ok && (a == "" || goodAddr(a))
	}
	for _, t := range []string{s.User, s.Login, s.Door, s.Service, s.TTY, s.Host, s.Why, s.Target, s.Key} {
		ok = ok && goodText(t)
	}
	for _, l := range [][]string{s.Rules, s.Proofs, s.Recent, s.Flags} {
		ok = ok && len(l) <= maxList && !slices.ContainsFunc(l, func(t string) bool { return !goodText(t) })
	}
	if !ok {
		return errForm
	}
	return nil
}

func parseOrder(key string, b []byte) (*order, error) {
	var o order
	if err := decode(b, &o); err != nil {
		return nil, err
	}
	if o.Session != key || !idForm.MatchString(key) || !goodName(o.To) || !goodName(o.Broker) || o.Host == "" || !goodText(o.Host) ||
		o.By == "" || len(o.By) > maxName || !goodText(o.By) || !slices.Contains(reasons, o.Reason) {
		return nil, errForm
	}
	return &o, nil
}

func parseBeat(key string, b []byte) (beat, error) {
	var x beat
	if err := decode(b, &x); err != nil {
		return beat{}, err
	}
	if beatPrefix+x.Broker != key || !goodName(x.Broker) || len(x.Run) > maxName || !goodText(x.Run) {
		return beat{}, errForm
	}
	return x, nil
}

func goodName(s string) bool { return len(s) <= maxName && nameForm.MatchString(s) }

func goodTime(s string) bool {
	_, err := time.Parse(time.RFC3339, s)
	return err == nil && len(s) <= len(time.RFC3339Nano)
}

func goodAddr(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil && len(s) <= 128 && goodText(s)
}

func goodText(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return c < 0x20 || c == 0x7f })
}
