package leave

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/otp"
	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/site"
	"github.com/sekisho/sekisho/wire"
)

// TestSharedBudget: guesses at web1 from many networks make the user wait at db1,
// but not where he is known.
func TestSharedBudget(t *testing.T) {
	t.Parallel()
	p := someone(t, "guessed")
	p.rule(t, "--door", "pam", "--target", "host:*")
	const home = "198.51.100.7"
	soon(t, func() error {
		a, err := p.try(p.password, world.web, home)
		if err == nil && a.Outcome != wire.Yes {
			err = fmt.Errorf("the right password hears %s %s", a.Outcome, a.Reason)
		}
		return err
	})
	waits := false
	for n := 0; n < 10 && !waits; n++ {
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				if a, err := p.try(fmt.Sprintf("guess %d %d", n, i), world.web, fmt.Sprintf("198.18.%d.%d", 8*n+i, i+1)); err != nil || a.Outcome == wire.Yes {
					t.Errorf("a guess hears %v, %v", a, err)
				}
			})
		}
		all.Wait()
		a, err := p.try(p.password, world.db, fmt.Sprintf("198.18.200.%d", n+1))
		need(t, err)
		waits = a.Outcome == wire.No
	}
	if !waits {
		t.Fatal("after 80 guesses at web1 the right password opens db1 at once, from an unknown network")
	}
	out, err := world.db.Command(world.Ctx, site.Sekisho, "audit", "grep", "--user", p.name, "--reason", "throttled", "--json").Output()
	if err != nil || len(out) == 0 {
		t.Errorf("db1's record does not say that he must wait: %v: %s", err, out)
	}
	for _, h := range world.Hosts {
		if a, err := p.try(p.password, h, home); err != nil || a.Outcome != wire.Yes {
			t.Errorf("from his own network, at %s: %v, %v", h.Name, a, err)
		}
	}
}

// TestOneCodeTwoHosts: two real logins with one code at the same instant.
func TestOneCodeTwoHosts(t *testing.T) {
	t.Parallel()
	p := someone(t, "coder")
	p.rule(t, "--door", "pam", "--target", "host:*")
	hosts := []*testenv.Host{world.web, world.db}
	for _, h := range hosts {
		soon(t, func() error { out, err := p.byReplies("", h); return site.Said(err, out) })
	}
	secret := otp.NewSecret(otp.SHA1)
	watch.Secret(string(secret))
	file := "/root/" + p.name + ".token"
	need(t, world.Broker.WriteFile(file, []byte(watch.Secret(otp.Text(secret))+"\n"), 0o600))
	out, err := world.Broker.Command(world.Ctx, site.Sekisho, "otp", "enrol", p.name, "--yes", "--json", "--secret-file", file).Output()
	need(t, err)
	var said struct {
		Recovery []string `json:"recovery_codes"`
	}
	need(t, json.Unmarshal(out, &said))
	if len(said.Recovery) != otp.RecoveryCodes {
		t.Fatalf("%d recovery codes", len(said.Recovery))
	}
	for _, c := range said.Recovery {
		watch.Secret(c)
	}
	need(t, world.Run("", "rule", "set", p.name, "--proof", "password", "--proof", "otp"))
	for _, h := range hosts { // until it has heard that the password alone does not do
		soon(t, func() error {
			if out, err := p.byReplies("none", h); err == nil {
				return fmt.Errorf("the password alone opens %s: %s", h.Name, out)
			}
			return nil
		})
	}

	// both logs in on both hosts with one code.
	both := func(code string) (in int) {
		var all sync.WaitGroup
		var mu sync.Mutex
		for _, h := range hosts {
			all.Go(func() {
				out, err := p.byReplies(code, h)
				mu.Lock()
				defer mu.Unlock()
				if err == nil && out == p.name+"\n" {
					in++
				}
			})
		}
		all.Wait()
		return in
	}
	params := otp.Default()
	var step uint64
	for n, want := range []int{1, 1, 0} {
		// That of the next step is good too, and then neither is.
		if now, _ := params.Step(time.Now()); n < 2 {
			step = max(now, step+1)
		}
		code, err := params.Code(secret, step)
		need(t, err)
		if in := both(code); in != want {
			t.Errorf("try %d: %d of two were let in with one code, want %d", n+1, in, want)
		}
	}
	for _, h := range world.All() { // so many wrong ones have a price
		if out, err := h.Command(world.Ctx, site.Sekisho, "lockouts", "clear", p.name).CombinedOutput(); site.ExitCode(err) > 1 {
			t.Fatalf("%s: %s", err, out)
		}
	}
	if in := both(said.Recovery[0]); in != 1 {
		t.Errorf("%d of two were let in with one recovery code", in)
	}
}
