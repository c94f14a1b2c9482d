package leave

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/site"
)

// TestCutOff comes first, and alone: it takes the broker away from all.
func TestCutOff(t *testing.T) {
	// On a slow machine the rule may be over before two have come in by it: then a
	// longer one, for somebody else.
	lasts := 15 * time.Second
	for !cutOff(t, fmt.Sprintf("cutoff%d", lasts/time.Second), lasts) {
		if lasts *= 2; lasts > 2*time.Minute {
			t.Fatal("this machine is too slow")
		}
	}
}

// cutOff tells whether the rule lasted long enough for the test.
func cutOff(t *testing.T, name string, lasts time.Duration) bool {
	p := someone(t, name)
	end := time.Now().Add(lasts).Truncate(time.Second)
	p.rule(t, "--door", "keys", "--target", "host:db1", "--expires", end.UTC().Format(time.RFC3339))
	var a *site.Live
	err := world.Soon(time.Until(end), func() (err error) {
		a, err = world.Stay(p.name, p.key, world.db)
		return err
	})
	if time.Now().After(end) {
		return false
	}
	need(t, err)
	defer a.Leave()
	need(t, world.Broker.Partition())
	healed := false
	defer func() {
		if !healed {
			world.Broker.Heal()
		}
	}()
	b, err := world.Stay(p.name, p.key, world.db)
	early := !a.Ended().IsZero()
	if time.Now().After(end) {
		if err == nil {
			b.Leave()
		}
		return false
	}
	if err != nil {
		t.Fatalf("a host that is cut off goes on by its snapshot, and %v", err)
	}
	defer b.Leave()
	if early {
		t.Fatalf("a session is over before the rule is: %q", a.Text())
	}
	time.Sleep(time.Until(end))
	took, err := world.Out(end, a, b)
	need(t, err)
	t.Logf("without the broker, the last process ended %v after the rule", took)
	for _, l := range []*site.Live{a, b} {
		if l.Ended().Before(end) {
			t.Errorf("ended %v before the rule: %q", end.Sub(l.Ended()), l.Text())
		}
	}
	need(t, world.Refused(p.name, p.key, world.db))
	need(t, world.Broker.Heal())
	healed = true
	need(t, world.Soon(patience, func() error {
		for _, h := range world.Hosts {
			if st, err := world.Status(h); err != nil || st.Sync.State != "live" {
				return fmt.Errorf("%s: %s, %w", h.Name, st.Sync.State, err)
			}
		}
		return nil
	}))
	return true
}

func TestOutOfNestedGroup(t *testing.T) {
	t.Parallel()
	gone, stays := someone(t, "goner"), someone(t, "stayer")
	need(t, world.Run("", "group", "add", "inner", "--add", gone.name))
	need(t, world.Run("", "group", "add", "middle", "--add-group", "inner"))
	need(t, world.Run("", "group", "add", "outer", "--add-group", "middle", "--add", stays.name))
	need(t, world.Run("", "rule", "add", "nested", "--subject", "group:outer", "--door", "keys", "--target", "host:*"))
	var lives, others []*site.Live
	for _, h := range []*testenv.Host{world.web, world.db, world.web, world.db} {
		lives = append(lives, gone.stay(t, h))
	}
	for _, h := range world.Hosts {
		others = append(others, stays.stay(t, h))
	}
	need(t, world.Known(world.Broker, gone.name, len(lives)))
	need(t, world.Run("", "group", "set", "inner", "--remove", gone.name))
	took, err := world.Out(time.Now(), lives...)
	need(t, err)
	t.Logf("the last process ended %v after the directory's answer", took)
	need(t, world.Known(world.Broker, gone.name, 0))
	need(t, world.Known(world.Broker, stays.name, len(others)))
	for _, l := range others {
		if !l.Ended().IsZero() {
			t.Errorf("the session of somebody else has ended too: %q", l.Text())
		}
	}
	need(t, world.Refused(gone.name, gone.key, world.web))
}

// TestKeyTakenAway: a key that is lost lets nobody stay, on any host, and the
// owner's sessions by another key go on.
func TestKeyTakenAway(t *testing.T) {
	t.Parallel()
	p := someone(t, "keyring")
	p.rule(t, "--door", "keys", "--target", "host:*")
	second, err := testenv.NewKey("second@client")
	need(t, err)
	need(t, world.Broker.WriteFile("/root/second.pub", second.Public, 0o600))
	need(t, world.Run("", "key", "add", p.name, "/root/second.pub"))
	lost := []*site.Live{p.stay(t, world.web), p.stay(t, world.db)}
	q := *p
	q.key = second
	kept := []*site.Live{q.stay(t, world.web), q.stay(t, world.db)}
	need(t, world.Known(world.Broker, p.name, 4))
	need(t, world.Run("", "key", "rm", p.name, p.name+"@client"))
	for _, l := range lost {
		select {
		case <-l.Done:
		case <-time.After(patience):
			t.Errorf("a session by the key goes on: %q", l.Text())
		}
	}
	for _, at := range []*testenv.Host{world.Broker, world.web, world.db} { // closed: the last process has gone
		n := 1
		if at == world.Broker {
			n = len(kept)
		}
		need(t, world.Known(at, p.name, n))
	}
	need(t, world.Refused(p.name, p.key, world.web))
	for _, l := range kept {
		if !l.Ended().IsZero() {
			t.Errorf("a session by the other key has ended too: %q", l.Text())
		}
	}
}

const tooMany = "as many sessions open as you may"

func TestSessionsOfARule(t *testing.T) {
	t.Parallel()
	p := someone(t, "limited")
	p.rule(t, "--door", "keys", "--target", "host:web1", "--permit", "pty", "--permit", "sessions:2")
	a := p.stay(t, world.web)
	b, err := world.StayWith(site.Plain, p.name, p.key, world.web)
	need(t, err)
	t.Cleanup(b.Leave)
	c, err := world.Stay(p.name, p.key, world.web)
	if err == nil {
		c.Leave()
		t.Fatal("a third session is open, and two may be")
	}
	if !strings.Contains(err.Error(), tooMany) {
		t.Errorf("the third hears: %v", err)
	}
	if !a.Ended().IsZero() || !b.Ended().IsZero() {
		t.Error("one of the two that may be has ended")
	}
	b.Leave()
	p.stay(t, world.web) // one has gone, one may come
}

func TestSessionsOfAUser(t *testing.T) {
	t.Parallel()
	p := someone(t, "sociable")
	p.rule(t, "--door", "keys", "--target", "host:web1")
	lives := []*site.Live{}
	for range atOnce {
		lives = append(lives, p.stay(t, world.web))
	}
	c, err := world.Stay(p.name, p.key, world.web)
	if err == nil {
		c.Leave()
		t.Fatalf("there are %d sessions open of one user, and %d may be", atOnce+1, atOnce)
	}
	if !strings.Contains(err.Error(), tooMany) {
		t.Errorf("one too many hears: %v", err)
	}
	for _, l := range lives {
		if !l.Ended().IsZero() {
			t.Errorf("a session that may be has ended: %q", l.Text())
		}
	}
	need(t, world.Known(world.Broker, p.name, atOnce))
}

// TestSu: a session by su within one by ssh ends alone, or with it.
func TestSu(t *testing.T) {
	t.Parallel()
	outer, inner := someone(t, "suer"), someone(t, "sued")
	outer.rule(t, "--door", "keys", "--target", "host:web1")
	may := []string{"--door", "pam", "--target", "host:web1"}
	inner.rule(t, may...)
	soon(t, func() error { return world.Login(outer.name, outer.key, world.web) })
	within := func() *terminal {
		d := outer.open(t, world.web, "su "+inner.name+" -c 'echo now-in''side; trap \"\" HUP TERM; sleep 600'; echo is-o''ver; trap '' HUP; sleep 600")
		d.sees(t, "Password:")
		d.types(t, inner.password)
		d.sees(t, "now-inside")
		need(t, world.Known(world.web, inner.name, 1))
		return d
	}

	d := within()
	need(t, world.Run("", "rule", "rm", inner.name))
	soon(t, func() error { return inner.noProcess(world.web) })
	d.sees(t, "is-over")
	// Over ssh alone a busy machine's sshd may not send it on before it ends too.
	d.sees(t, "sekisho: your access to web1.example.org has ended")
	need(t, world.Known(world.web, inner.name, 0))
	need(t, world.Known(world.web, outer.name, 1))
	if outer.noProcess(world.web) == nil {
		t.Errorf("the session around it has ended too: %q", d.text())
	}
	need(t, world.Run("", "kill", outer.name))
	need(t, world.Known(world.web, outer.name, 0))

	inner.rule(t, may...)
	soon(t, func() error {
		a, err := inner.try(inner.password, world.web, "")
		if err == nil && a.Outcome.String() != "yes" {
			err = fmt.Errorf("su would hear %s %s", a.Outcome, a.Reason)
		}
		return err
	})
	d = within()
	need(t, world.Run("", "rule", "rm", outer.name))
	soon(t, func() error {
		return errors.Join(inner.noProcess(world.web), outer.noProcess(world.web))
	})
	need(t, world.Known(world.web, inner.name, 0))
	need(t, world.Known(world.web, outer.name, 0))
	if strings.Contains(d.text(), "is-over") {
		t.Errorf("su ended before the session around it: %q", d.text())
	}
}
