package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/sekisho/sekisho/otp"
	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

// Steps of ten seconds, so that a round has several codes; eight digits, so that
// two steps hardly share one.
var params = otp.Params{Algorithm: otp.SHA1, Digits: 8, Period: 10 * time.Second}

// unlimited are budgets that do not get in the way of the codes' loop, whose
// wrong answers are all its own.
const unlimited = "\n[guessing]\nper_user = 100000\nper_source = 100000\nlongest_wait = \"1s\"\n"

// token is a user with a password and a token.
type token struct {
	name, password string
	secret         []byte

	mu    sync.Mutex
	taken map[uint64]int // guarded by mu; how often each step's code was taken
}

// addTokens makes two of them, and the rule that asks for both proofs.
func (s *storm) addTokens() error {
	for _, name := range []string{"coder1", "coder2"} {
		t := &token{name: name, password: "stormy " + name + " weather", taken: map[uint64]int{}}
		// Of the seed, so that a run can be repeated.
		for range 20 {
			t.secret = append(t.secret, byte(s.pick(256)))
		}
		file := "/root/" + name + ".token"
		if err := errors.Join(
			s.Run(t.password+"\n", "user", "add", name, "--name", name, "--password-stdin"),
			s.Broker.WriteFile(file, []byte(otp.Text(t.secret)+"\n"), 0o600),
			s.Run("", "otp", "enrol", name, "--yes", "--secret-file", file, "--digits", fmt.Sprint(params.Digits), "--period", fmt.Sprint(int(params.Period.Seconds()))),
		); err != nil {
			return err
		}
		s.tokens = append(s.tokens, t)
	}
	return s.Run("", "rule", "add", "codes", "--subject", "user:coder1", "--subject", "user:coder2", "--door", "pam", "--target", "host:*",
		"--proof", "password", "--proof", "otp")
}

// unlimit takes a host's own budgets away, from the next start of its sekishod.
func (s *storm) unlimit(h *testenv.Host) error {
	conf, err := h.ReadFile("/etc/sekisho/sekishod.toml")
	if err != nil {
		return err
	}
	return h.WriteFile("/etc/sekisho/sekishod.toml", append(conf, unlimited...), 0o644)
}

// spend tries the code of now at all hosts at the same instant, whether it was
// taken before or not.
func (s *storm) spend(t *token) error {
	step, ok := params.Step(time.Now())
	if !ok {
		return errors.New("there is no code now")
	}
	code, err := params.Code(t.secret, step)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	start := make(chan struct{})
	errs := make([]error, len(s.Hosts))
	for i, h := range s.Hosts {
		all.Go(func() {
			conn, err := net.Dial("unix", h.Path("/run/sekisho/pam.sock"))
			if err != nil {
				errs[i] = err
				return
			}
			defer conn.Close()
			<-start
			a, err := answer(conn, t, code)
			switch {
			case err != nil:
				errs[i] = err
			case a.Outcome == wire.Yes:
				t.mu.Lock()
				t.taken[step]++
				t.mu.Unlock()
				s.count("codes taken")
			default:
				s.count("codes refused")
				errs[i] = fmt.Errorf("%s: %s %s", h.Name, a.Outcome, a.Reason)
			}
		})
	}
	close(start)
	all.Wait()
	return errors.Join(errs...)
}

// answer signs in at a PAM door, as sshd would, and is its last word.
func answer(conn net.Conn, t *token, code string) (wire.Answer, error) {
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return wire.Answer{}, err
	}
	r := wire.Request{Verb: "auth", Fields: []wire.Field{{Name: "user", Value: t.name}, {Name: "service", Value: "sshd"}, {Name: "rhost", Value: "198.51.100.7"}}}
	for {
		a, err := wire.Ask(conn, r)
		if err != nil || a.Reason != "prompt" {
			return a, err
		}
		r = wire.Request{Verb: "answer"}
		for _, line := range a.Body {
			reply := ""
			switch kind, _, _ := strings.Cut(line, " "); kind {
			case "password":
				reply = t.password
			case "secret":
				reply = code
			default:
				continue // nothing is asked
			}
			r.Fields = append(r.Fields, wire.Field{Name: fmt.Sprintf("a%d", len(r.Fields)+1), Value: reply})
		}
	}
}

// codesAreSpentOnce: in all that was tried so far; and a new code is taken, now
// that all is calm.
func (s *storm) codesAreSpentOnce() error {
	for _, t := range s.tokens {
		before := t.sum()
		if err := s.Soon(3*time.Minute, func() error {
			if err := s.spend(t); t.sum() == before {
				return fmt.Errorf("no code of %s is taken: %w", t.name, err)
			}
			return nil
		}); err != nil {
			return err
		}
		for range 3 { // and never again
			_ = s.spend(t) // what it says is counted
		}
		t.mu.Lock()
		taken := maps.Clone(t.taken)
		t.mu.Unlock()
		for step, n := range taken {
			if n > 1 {
				return fmt.Errorf("%s's code of step %d was taken %d times", t.name, step, n)
			}
		}
	}
	return nil
}

func (t *token) sum() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.taken {
		n += k
	}
	return n
}
