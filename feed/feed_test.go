package feed

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// small is a directory of two hosts, three users and two groups: user0 and
// user1 are in ops, which is in staff; ops may enter host0, user2 host1.
func small(t testing.TB) *broker.Snapshot {
	e := (*broker.Snapshot)(nil).Edit()
	for i := range 3 {
		e.PutUser(testUser(i))
	}
	e.PutGroup(testGroup("ops", 0, testUser(0).DN, testUser(1).DN))
	e.PutGroup(testGroup("staff", 1, "cn=ops,ou=groups", testUser(2).DN))
	for i := range 2 {
		e.PutHost(testHost(i))
	}
	e.PutRule(testRule(t, 0, broker.RuleAttributes{Subject: []string{"group:ops"}, Target: []string{"host:host0.example.org", "host:secret.example.org"}, Permit: []string{"pty", "command:/bin/x"}}))
	e.PutRule(testRule(t, 1, broker.RuleAttributes{Subject: []string{"user:user2"}, Target: []string{"host:host1*"}}))
	return e.Commit()
}

func allowed(v broker.View, user string, host string) bool {
	return broker.Decide(v, broker.Request{User: broker.UserName(user), Door: "keys", Target: broker.Target{Host: broker.HostName(host)}}, nil, time.Now()).Outcome == broker.Allow
}

func TestFollow(t *testing.T) {
	x := newSite(t, small(t), nil)
	cert := x.join("host0.example.org")
	h := x.host("host0.example.org", cert, nil)
	x.confirmed(x.src.View().Generation())
	v := h.View()
	if !allowed(v, "user0", "host0") || !allowed(v, "user1", "host0.example.org") || allowed(v, "user2", "host0") {
		t.Fatalf("wrong answers: %+v", h.Status())
	}
	until(t, "a view that is up to date", func() bool { return h.View().Age(time.Now()) <= 5*time.Second })
	users, groups, hosts, rules := v.Size()
	if users != 2 || groups != 2 || hosts != 1 || rules != 1 {
		t.Errorf("%d users, %d groups, %d hosts, %d rules", users, groups, hosts, rules)
	}

	g := x.src.edit(func(e *broker.Edit) { e.PutGroup(testGroup("ops", 0, testUser(1).DN)) })
	x.confirmed(g)
	if v := h.View(); allowed(v, "user0", "host0") || !allowed(v, "user1", "host0") || v.UserByID(testUser(0).ID) != nil {
		t.Error("user0 was taken out of ops, and is still there")
	}
	// A restart, with the broker away: the last good snapshot answers.
	x.stop()
	h.stop()
	before := h.View()
	h.start()
	until(t, "loading", func() bool { return h.View().Snapshot != nil })
	if v := h.View(); !allowed(v, "user1", "host0") || v.Generation() <= before.Generation() {
		t.Errorf("after a restart: generation %d, before %d", v.Generation(), before.Generation())
	} else if v.AsOf.After(before.AsOf) {
		t.Errorf("as of %s, and before %s", v.AsOf, before.AsOf)
	}
	x.start(x.addr)
	x.confirmed(x.src.View().Generation())
}

func TestCalls(t *testing.T) {
	type question struct{ A, B int }
	x := newSite(t, small(t), func(c *ServerConfig) {
		c.Calls = map[string]Handler{
			"add": func(_ context.Context, h broker.HostName, b json.RawMessage) (any, error) {
				var q question
				if err := json.Unmarshal(b, &q); err != nil {
					return nil, err
				}
				if h != "host0.example.org" {
					return nil, errors.New("who is that?")
				}
				return q.A + q.B, nil
			},
			"no": func(context.Context, broker.HostName, json.RawMessage) (any, error) {
				return nil, errors.New("it is not so")
			},
			"slow": func(ctx context.Context, _ broker.HostName, _ json.RawMessage) (any, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			},
		}
	})
	h := x.host("host0.example.org", x.join("host0.example.org"), nil)
	ctx := t.Context()
	x.confirmed(x.src.View().Generation())
	until(t, "followed", func() bool { return h.Status().State == Live })
	var n int
	if err := h.Call(ctx, "add", question{40, 2}, &n); err != nil || n != 42 {
		t.Errorf("%d, %v", n, err)
	}
	var said *CallError
	if err := h.Call(ctx, "no", nil, nil); !errors.As(err, &said) || said.Text != "it is not so" {
		t.Errorf("%v", err)
	}
	if err := h.Call(ctx, "nothing", nil, nil); !errors.As(err, &said) {
		t.Errorf("%v", err)
	}
	brief, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if err := h.Call(brief, "slow", nil, nil); !errors.Is(err, ErrUnavailable) && !errors.As(err, &said) {
		t.Errorf("%v", err)
	}
	x.stop()
	if err := h.Call(ctx, "add", question{1, 2}, &n); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
}
