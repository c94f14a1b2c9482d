package prove_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/otp"
	"github.com/sekisho/sekisho/otp/prove"
)

var allow = broker.Proven{Outcome: broker.Allow}

func denied(r broker.Reason) broker.Proven { return broker.Proven{Reason: r} }

func unknown(r broker.Reason) broker.Proven {
	return broker.Proven{Outcome: broker.Unknown, Reason: r}
}

func want(t *testing.T, what string, got, want broker.Proven) {
	t.Helper()
	if got.Outcome != want.Outcome || got.Reason != want.Reason || got.Text != "" {
		t.Errorf("%s: %s %s %q, want %s %s", what, got.Outcome, got.Reason, got.Text, want.Outcome, want.Reason)
	}
}

// TestWithSlapo: Sekisho and slapo-otp take the same codes, and what one has taken
// the other refuses.
func TestWithSlapo(t *testing.T) {
	s := newSite(t)
	k := s.broker(nil)
	ctx := t.Context()
	for i, p := range []otp.Params{otp.Default(), {Algorithm: otp.SHA256, Digits: 8, Period: 30 * time.Second}, {Algorithm: otp.SHA512, Digits: 7, Period: 60 * time.Second}} {
		name := fmt.Sprintf("user%d", i)
		secret, _ := s.enrolled(name, p)
		early(p)
		now := time.Now()
		before, this, next := oathtool(t, secret, p, now.Add(-p.Period)), oathtool(t, secret, p, now), oathtool(t, secret, p, now.Add(p.Period))
		want(t, name+" a step ago", k.Check(ctx, claimOf(name), before), allow)
		want(t, name+" again", k.Check(ctx, claimOf(name), before), denied(broker.ReasonUsedCode))
		if s.binds(name, before) {
			t.Errorf("%s: slapo-otp takes a code that Sekisho has taken", name)
		}
		if s.binds(name, "") {
			t.Errorf("%s: slapo-otp takes no code", name)
		}
		if !s.binds(name, this) {
			t.Fatalf("%s: slapo-otp does not take %s of %+v", name, this, p)
		}
		want(t, name+" what slapo-otp has taken", k.Check(ctx, claimOf(name), this), denied(broker.ReasonUsedCode))
		want(t, name+" what is before that", k.Check(ctx, claimOf(name), before), denied(broker.ReasonUsedCode))
		want(t, name+" a step ahead", k.Check(ctx, claimOf(name), next), allow)
		if s.binds(name, next) || s.binds(name, this) {
			t.Errorf("%s: slapo-otp takes a code that Sekisho has taken", name)
		}
		step, _ := p.Step(now)
		if got := s.get(tokenDN(name), "oathTOTPLastTimeStep"); got != strconv.FormatUint(step+1, 10) {
			t.Errorf("%s: the last step is %s, not %d", name, got, step+1)
		}
	}
}

// TestDrift: a code is good from Drift steps before to Drift steps after, by the
// broker's clock; and around where slapo-otp has seen the device's clock.
func TestDrift(t *testing.T) {
	s := newSite(t)
	p := otp.Default()
	secret, _ := s.enrolled("alice", p)
	now := time.Unix(time.Now().Unix()/30*30, 0)
	var clock time.Time
	k := s.broker(func(c *prove.Config) { c.Now = func() time.Time { return clock } })
	for i, c := range []struct {
		ahead time.Duration // the clock against the beginning of the code's step
		shift int
		good  bool
	}{
		{-30 * time.Second, 0, true}, {-31 * time.Second, 0, false}, {59 * time.Second, 0, true}, {60 * time.Second, 0, false},
		{0, 0, true}, {90 * time.Second, -3, true}, {29 * time.Second, -3, false}, {-60 * time.Second, 2, true}, {0, 2, false},
	} {
		at := now.Add(time.Duration(i) * time.Hour)
		clock = at.Add(c.ahead)
		if c.shift != 0 {
			s.set(tokenDN("alice"), "oathTOTPTimeStepDrift", strconv.Itoa(c.shift))
		} else {
			s.set(tokenDN("alice"), "oathTOTPTimeStepDrift")
		}
		out := denied(broker.ReasonWrongPassword)
		if c.good {
			out = allow
		}
		want(t, fmt.Sprintf("%+v", c), k.Check(t.Context(), claimOf("alice"), oathtool(t, secret, p, at)), out)
	}
}

// TestCrowd: of 200 with one code at two brokers at once, one gets in; and of 200
// with one recovery code.
func TestCrowd(t *testing.T) {
	s := newSite(t)
	p := otp.Default()
	secret, recovery := s.enrolled("alice", p)
	brokers := []*prove.Checker{s.broker(nil), s.broker(nil)}
	early(p)
	for what, code := range map[string]string{"a code": oathtool(t, secret, p, time.Now()), "a recovery code": recovery[1]} {
		var in, used int
		var mu sync.Mutex
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() {
				out := brokers[i%2].Check(t.Context(), claimOf("alice"), code)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case out.Outcome == broker.Allow:
					in++
				case out.Reason == broker.ReasonUsedCode, out.Reason == broker.ReasonWrongPassword && what == "a recovery code": // it is gone
					used++
				default:
					t.Errorf("%s: %s %s", what, out.Outcome, out.Reason)
				}
			})
		}
		all.Wait()
		if in != 1 || used != 199 {
			t.Errorf("%s let %d in and refused %d", what, in, used)
		}
	}
	// The other recovery codes are there, and each works once at either broker.
	for i, c := range []string{recovery[0], recovery[2]} {
		want(t, "another recovery code", brokers[i].Check(t.Context(), claimOf("alice"), " "+c+" "), allow)
		want(t, "and again", brokers[1-i].Check(t.Context(), claimOf("alice"), c), denied(broker.ReasonWrongPassword))
	}
	if left := s.get(tokenDN("alice"), "sekishoRecoveryCode"); left != "" {
		t.Errorf("there is still %s", left)
	}
}

// TestReplicaThatLags: what one broker's directory has not heard of yet, the mark in
// the state refuses.
func TestReplicaThatLags(t *testing.T) {
	s := newSite(t)
	p := otp.Default()
	secret, recovery := s.enrolled("alice", p)
	one, two := s.broker(nil), s.broker(nil)
	early(p)
	code := oathtool(t, secret, p, time.Now())
	values := s.values(tokenDN("alice"), "sekishoRecoveryCode")
	want(t, "the code", one.Check(t.Context(), claimOf("alice"), code), allow)
	want(t, "the recovery code", one.Check(t.Context(), claimOf("alice"), recovery[0]), allow)
	s.set(tokenDN("alice"), "oathTOTPLastTimeStep") // as it was
	s.set(tokenDN("alice"), "sekishoRecoveryCode", values...)
	want(t, "the code at a replica", two.Check(t.Context(), claimOf("alice"), code), denied(broker.ReasonUsedCode))
	want(t, "the recovery code at a replica", two.Check(t.Context(), claimOf("alice"), recovery[0]), denied(broker.ReasonUsedCode))
}

// TestNoCertainAnswer: what cannot be found out is never a no, and never a yes.
func TestNoCertainAnswer(t *testing.T) {
	s := newSite(t)
	p := otp.Default()
	secret, _ := s.enrolled("alice", p)
	s.user("bob")
	k := s.broker(nil)
	code := func() string { return oathtool(t, secret, p, time.Now()) }
	ctx := t.Context()

	broken := s.broker(func(c *prove.Config) {
		c.Spend = func(context.Context, string, time.Duration) (bool, error) { return true, errors.New("no quorum") }
	})
	want(t, "the state cannot be reached", broken.Check(ctx, claimOf("alice"), code()), unknown(broker.ReasonState))
	want(t, "and the code is wrong", broken.Check(ctx, claimOf("alice"), "00000"), denied(broker.ReasonWrongPassword))
	if got := s.get(tokenDN("alice"), "oathTOTPLastTimeStep"); got != "" {
		t.Errorf("a code that let nobody in is spent in the directory: %s", got)
	}
	for _, c := range []struct{ what, attr, value string }{
		{"a hash that nobody knows", "oathHMACAlgorithm", "1.2.3"}, {"no digits", "oathOTPLength", "0"}, {"a day's period", "oathTOTPTimeStepPeriod", "86400"},
	} {
		old := s.get("cn=params-alice,ou=otp,"+base, c.attr)
		s.set("cn=params-alice,ou=otp,"+base, c.attr, c.value)
		want(t, c.what, k.Check(ctx, claimOf("alice"), code()), unknown(broker.ReasonUnreachable))
		s.set("cn=params-alice,ou=otp,"+base, c.attr, old)
	}
	for _, c := range []struct{ what, dn, attr, value string }{
		{"a token that is not there", userDN("alice"), "oathTOTPToken", tokenDN("nobody")},
		{"parameters that are not there", tokenDN("alice"), "oathTOTPParams", tokenDN("nobody")},
		{"a secret of four bytes", tokenDN("alice"), "oathSecret", "abcd"},
	} {
		old := s.get(c.dn, c.attr)
		s.set(c.dn, c.attr, c.value)
		want(t, c.what, k.Check(ctx, claimOf("alice"), code()), unknown(broker.ReasonUnreachable))
		s.set(c.dn, c.attr, old)
	}
	want(t, "not enrolled", k.Check(ctx, claimOf("bob"), code()), denied(broker.ReasonNotEnrolled))
	want(t, "nobody", k.Check(ctx, broker.Claim{User: "nobody", Door: "pam"}, code()), denied(broker.ReasonNotEnrolled))
	want(t, "somebody who has gone", k.Check(ctx, claimOf("carol"), code()), denied(broker.ReasonNotEnrolled))
	for _, wrong := range []string{"", "x", "１２３４５６", string(make([]byte, 6)), string(make([]byte, 1<<20))} {
		want(t, fmt.Sprintf("%.9q", wrong), k.Check(ctx, claimOf("alice"), wrong), denied(broker.ReasonWrongPassword))
	}
	if err := s.slapd.Hang(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	hasty := s.broker(func(c *prove.Config) { c.Total = 2 * time.Second })
	want(t, "a directory that hangs", hasty.Check(ctx, claimOf("alice"), code()), unknown(broker.ReasonUnreachable))
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s", took)
	}
	if err := s.slapd.Resume(); err != nil {
		t.Fatal(err)
	}
	want(t, "it is back", k.Check(ctx, claimOf("alice"), code()), allow)
	if err := s.slapd.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	want(t, "it was started anew", k.Check(ctx, claimOf("bob"), code()), denied(broker.ReasonNotEnrolled))
	if err := s.slapd.Stop(); err != nil {
		t.Fatal(err)
	}
	want(t, "no directory", k.Check(ctx, claimOf("bob"), code()), unknown(broker.ReasonUnreachable))
}

// TestSameTime: how long a refusal takes tells nothing: not whether there is such a
// user, nor whether he is enrolled, nor whether the code was one. No refusal is given
// before the floor; TestFloor shows that none is given after it.
func TestSameTime(t *testing.T) {
	s := newSite(t)
	p := otp.Default()
	secret, _ := s.enrolled("alice", p)
	s.user("bob")
	k := s.broker(func(c *prove.Config) { c.Floor = 30 * time.Millisecond })
	early(p)
	used := oathtool(t, secret, p, time.Now())
	want(t, "the code", k.Check(t.Context(), claimOf("alice"), used), allow)
	cases := []struct {
		what  string
		claim broker.Claim
		code  string
		took  []time.Duration
	}{
		{what: "wrong", claim: claimOf("alice"), code: "000000"},
		{what: "used", claim: claimOf("alice"), code: used},
		{what: "wrong recovery", claim: claimOf("alice"), code: "0000-0000-0000-0000"},
		{what: "not enrolled", claim: claimOf("bob"), code: "000000"},
		{what: "nobody", claim: broker.Claim{User: "nobody"}, code: "000000"},
	}
	for range 40 {
		for i := range cases {
			began := time.Now()
			out := k.Check(t.Context(), cases[i].claim, cases[i].code)
			cases[i].took = append(cases[i].took, time.Since(began))
			if out.Outcome != broker.Deny {
				t.Fatalf("%s: %s", cases[i].what, out.Outcome)
			}
		}
	}
	for _, c := range cases {
		if least := slices.Min(c.took); least < 30*time.Millisecond {
			t.Errorf("%s: %s at least", c.what, least)
		}
	}
}

// slowToken is a directory that takes its time.
type slowToken struct {
	oneToken
	work time.Duration
}

func (s *slowToken) Read(ctx context.Context, user broker.DN) (otp.Enrolment, error) {
	time.Sleep(s.work)
	return s.oneToken.Read(ctx, user)
}

// TestFloor: each refusal comes at the floor exactly, however long the work before it
// took, by a clock that no other program moves.
func TestFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, secret := otp.Default(), []byte("12345678901234567890")
		tokens := &slowToken{oneToken: oneToken{e: otp.Enrolment{User: "uid=alice", Token: "cn=token", Secret: secret, Params: p, Last: -1}}}
		log := logrus.New()
		log.SetOutput(io.Discard)
		const floor = 30 * time.Millisecond
		now := time.Now()
		k, err := prove.New(prove.Config{Tokens: tokens, Drift: 1, Floor: floor, Now: func() time.Time { return now }, Log: logrus.NewEntry(log),
			Spend: func(context.Context, string, time.Duration) (bool, error) { return true, nil }})
		if err != nil {
			t.Fatal(err)
		}
		step, _ := p.Step(now)
		used, err := p.Code(secret, step)
		if err != nil {
			t.Fatal(err)
		}
		alice := broker.Claim{User: "alice", DN: "uid=alice"}
		want(t, "the code", k.Check(t.Context(), alice, used), allow)
		for _, work := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond, 29 * time.Millisecond} {
			tokens.work = work
			for what, c := range map[string]struct {
				claim broker.Claim
				code  string
			}{
				"wrong":          {alice, "000000"},
				"used":           {alice, used},
				"wrong recovery": {alice, "0000-0000-0000-0000"},
				"not enrolled":   {broker.Claim{User: "bob", DN: "uid=bob"}, "000000"},
				"nobody":         {broker.Claim{User: "nobody"}, "000000"},
			} {
				began := time.Now()
				out := k.Check(t.Context(), c.claim, c.code)
				if took := time.Since(began); out.Outcome != broker.Deny || took != floor {
					t.Errorf("%s, after work of %s: %s, after %s", what, work, out.Outcome, took)
				}
			}
		}
	})
}

// TestProve: the code is asked for as a secret; and who leaves has proved nothing.
func TestProve(t *testing.T) {
	s := newSite(t)
	p := otp.Default()
	secret, _ := s.enrolled("alice", p)
	k := s.broker(nil)
	var seen broker.Prompt
	early(p)
	out := k.Prove(t.Context(), claimOf("alice"), func(_ context.Context, ps ...broker.Prompt) ([]string, error) {
		seen = ps[0]
		return []string{oathtool(t, secret, p, time.Now())}, nil
	})
	want(t, "the code", out, allow)
	if seen != (broker.Prompt{Kind: broker.PromptSecret, Text: "One-time code: "}) {
		t.Errorf("asked: %+v", seen)
	}
	out = k.Prove(t.Context(), claimOf("alice"), func(context.Context, ...broker.Prompt) ([]string, error) { return nil, broker.ErrConversation })
	want(t, "he has left", out, unknown(broker.ReasonConversation))
}
