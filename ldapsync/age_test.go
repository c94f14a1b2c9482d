package ldapsync

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/testenv"
)

// ageing tells whether AsOf moves on within some probes.
func (r *running) proves() bool {
	was := r.View().AsOf
	for range 100 {
		time.Sleep(10 * time.Millisecond)
		if r.View().AsOf.After(was) {
			return true
		}
	}
	return false
}

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
	if !r.proves() {
		t.Fatal("AsOf stands still though the provider is idle and well")
	}
	d.modify("ou=people,"+testBase, "replace", "description", "not an entry that is asked for")
	d.modify(userDN("alice"), "replace", "description", "not an attribute that is asked for")
	time.Sleep(200 * time.Millisecond)
	if !r.proves() {
		t.Error("AsOf stands still after a change that is none of ours")
	}
	g := r.View().Generation()

	if err := d.Hang(); err != nil {
		t.Fatal(err)
	}
	defer d.Resume()
	time.Sleep(300 * time.Millisecond)
	if r.proves() {
		t.Error("AsOf moves though slapd hangs")
	}
	began := time.Now()
	for range 1000 {
		if u, _ := r.View().User("alice"); u == nil {
			t.Fatal("alice is gone")
		}
		r.Status()
	}
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("1000 lookups took %s while slapd hangs", took)
	}
	wait(t, "the status tells of the hang", func() bool {
		st := r.Status()
		return st.State != Live && strings.Contains(st.LastError, "does not answer")
	})
	if err := d.Resume(); err != nil {
		t.Fatal(err)
	}
	r.live()
	wait(t, "AsOf moves again", r.proves)
	if n := r.View().Generation(); n != g {
		t.Errorf("generation %d after nothing but reconnecting, was %d", n, g)
	}
	if strings.Contains(r.log.String(), "following anew") {
		t.Error("the stream was taken for lagging")
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
	c := d.config(t)
	c.URLs, c.External, c.Timeout = []string{"ldap://" + p.Addr, d.URL}, false, 400*time.Millisecond
	r := startSync(t, c)
	r.until("alice is there", hasUser("alice"))
	r.live()
	if got := r.Status().Provider; got != c.URLs[0] {
		t.Fatalf("provider %s", got)
	}
	p.Stall(true)
	wait(t, "the second URL is in use", func() bool {
		st := r.Status()
		return st.Provider == d.URL && st.State == Live
	})
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
	c.URLs, c.External, c.Timeout = []string{"ldap://" + p.Addr}, false, 3*time.Second
	r := startSync(t, c)
	r.until("alice is there", hasUser("alice"))
	r.live()
	d.user("bob", 2002)
	r.until("bob comes", hasUser("bob"))
	if age := r.View().Age(time.Now()); age > 3*time.Second {
		t.Errorf("age %s behind a delay of 0.3 s", age)
	}
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
