package ldapsync

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/testenv"
)

// TestAge: an idle provider keeps the snapshot young, changes that are none of
// ours too, and a provider that hangs lets it grow old without slowing a
// lookup.
func TestAge(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{})
	d.user("alice", 2001)
	c := d.config(t)
	c.Timeout = 500 * time.Millisecond
	r := startSync(t, c)
	r.until("alice is there", hasUser("alice"))
	r.live()
	c = d.config(t)
	c.Timeout = time.Hour
	patient := startSync(t, c)
	patient.until("alice is there, too", hasUser("alice"))
	patient.live()
	r.younger() // though the provider is idle
	d.modify("ou=people,"+testBase, "replace", "description", "not an entry that is asked for")
	d.modify(userDN("alice"), "replace", "description", "not an attribute that is asked for")
	time.Sleep(200 * time.Millisecond)
	r.younger() // after changes that are none of ours
	g := r.View().Generation()

	if err := d.Hang(); err != nil {
		t.Fatal(err)
	}
	defer d.Resume()
	wait(t, "the log tells of the hang", func() bool { return strings.Contains(r.log.String(), "does not answer") })
	wait(t, "the status tells of it", func() bool { st := r.Status(); return st.State != Live && st.LastError != "" })
	if !r.standsStill() || !patient.standsStill() {
		t.Error("AsOf moves though slapd hangs")
	}
	// Neither the one that looks for a server, nor the one that waits for an answer.
	began := time.Now()
	for range 1000 {
		for _, r := range []*running{r, patient} {
			if u, _ := r.View().User("alice"); u == nil {
				t.Fatal("alice is gone")
			}
			r.Status()
		}
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("2000 lookups took %s while slapd hangs", took)
	}
	if err := d.Resume(); err != nil {
		t.Fatal(err)
	}
	r.live()
	r.younger()
	patient.younger()
	if n := r.View().Generation(); n != g {
		t.Errorf("generation %d after nothing but reconnecting, was %d", n, g)
	}
}

// TestHalfOpen: the connection stands, and nothing comes any more.
func TestHalfOpen(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{})
	d.user("alice", 2001)
	p, err := testenv.NewProxy("127.0.0.1:0", strings.TrimPrefix(d.URL, "ldap://"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p2, err := testenv.NewProxy("127.0.0.1:0", strings.TrimPrefix(d.URL, "ldap://"))
	if err != nil {
		t.Fatal(err)
	}
	defer p2.Close()
	p2.Refuse(true) // not yet: whatever holds up the first is waited for
	c := d.config(t)
	c.URLs, c.External, c.Timeout = []string{"ldap://" + p.Addr, "ldap://" + p2.Addr}, false, time.Second
	r := startSync(t, c)
	r.until("alice is there", hasUser("alice"))
	uses := func(url string) func() bool {
		return func() bool { st := r.Status(); return st.Provider == url && st.State == Live }
	}
	wait(t, "the first URL is in use", uses(c.URLs[0]))
	p2.Refuse(false)
	p.Stall(true)
	wait(t, "the second URL is in use", uses(c.URLs[1]))
	d.user("bob", 2002)
	r.until("bob comes over the second URL", hasUser("bob"))
}

// TestSlow: a slow provider is waited for.
func TestSlow(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{})
	d.user("alice", 2001)
	p, err := testenv.NewProxy("127.0.0.1:0", strings.TrimPrefix(d.URL, "ldap://"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.Delay(300 * time.Millisecond)
	c := d.config(t)
	c.URLs, c.External, c.Timeout = []string{"ldap://" + p.Addr}, false, 20*time.Second
	r := startSync(t, c)
	r.until("alice is there", hasUser("alice"))
	r.live()
	d.user("bob", 2002)
	r.until("bob comes", hasUser("bob"))
	r.younger()
	wait(t, "the age is not much above the delay", func() bool { return r.View().Age(time.Now()) < 3*time.Second })
}

// TestWait: Wait tells of changes, and obeys its context.
func TestWait(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{})
	d.user("alice", 2001)
	r := startSync(t, d.config(t))
	v, err := r.Wait(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	r.live()
	v = r.View()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := r.Wait(ctx, v.Generation()); err == nil {
		t.Error("Wait returned without a change")
	}
	got := make(chan broker.View, 1)
	go func() {
		n, err := r.Wait(t.Context(), v.Generation())
		if err != nil {
			t.Error(err)
		}
		got <- n
	}()
	d.user("bob", 2002)
	if n := <-got; !hasUser("bob")(n) {
		t.Error("Wait returned another change than bob's")
	}
}
