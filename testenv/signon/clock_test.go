package signon

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

const away = 10 * time.Minute

// The client's clock is wrong: kinit and ssh under faketime, while the realm and
// the host are right.
func TestClientClock(t *testing.T) {
	t.Parallel()
	p := calm.someone(t, "early", calm.web)
	faked := func(stdin string, args ...string) (string, error) {
		return p.onClient(t.Context(), stdin, "faketime", append([]string{"-f", "+10m"}, args...)...)
	}
	// A ticket got by the right clock, an authenticator by the wrong one: sshd does
	// not believe it.
	if out, err := p.kinit(t.Context(), p.password); err != nil {
		t.Fatalf("kinit: %v: %s", err, out)
	}
	c := byTicket.on(calm.web).with(p)
	p.in(t, c)
	wrong := c
	wrong.faketime = "+10m"
	p.out(t, wrong)
	p.in(t, c)
	// MIT's kinit takes over the KDC's clock, unless it is told not to; then it names
	// the clock and no password.
	need(t, calm.client.WriteFile("/etc/krb5-nosync.conf", []byte(strings.Replace(string(calm.krb5), "[libdefaults]\n", "[libdefaults]\n kdc_timesync = 0\n", 1)), 0o644))
	out, err := faked(p.password+"\n", "env", "KRB5_CONFIG=/etc/krb5-nosync.conf", "kinit", p.name)
	if err == nil || !strings.Contains(out, "Clock skew too great") {
		t.Errorf("kinit by a wrong clock: %v: %s", err, out)
	}
	if out, err := faked(p.password+"\n", "kinit", p.name); err != nil {
		t.Errorf("kinit with the KDC's clock: %v: %s", err, out)
	}
	p.in(t, wrong) // the cache knows by how much
}

// The clocks of the KDC, the directory and the time server move: to the hosts it
// is their own that is wrong, and that is what everybody is told.
func TestRealmClocks(t *testing.T) {
	t.Parallel()
	r, err := newRealm(t.Context())
	need(t, err)
	web, err := r.join(t.Context(), joining{name: "web1", prover: "kdc"})
	need(t, err)
	p := r.someone(t, "timely", web)
	p.in(t, byPassword.on(web).with(p))
	// How many seconds, depends on how long the answers take.
	seconds := regexp.MustCompile(`10 min \d+ s`)
	about := func(text string) string { return seconds.ReplaceAllString(text, "10 min N s") }
	for _, c := range []struct {
		move time.Duration
		says string
	}{{away + 30*time.Second, "this host's clock is 10 min N s behind"}, {-away - 30*time.Second, "this host's clock is 10 min N s ahead"}} {
		mark := len(web.daemon.Log())
		need(t, r.broker.MoveClock(c.move))
		soon(t, func() error {
			out, err := p.ssh(t.Context(), byPassword.on(web).with(p))
			if err == nil || !strings.Contains(about(out), c.says) {
				return errorOf(out, err)
			}
			return nil
		})
		out, err := web.pamtester(t.Context(), p.password+"\n", "alone", p.name, "authenticate")
		if err == nil {
			t.Errorf("let in by a wrong clock: %s", out)
		}
		says(t, about(out), c.says, saysUnavail)
		out, err = web.pamtester(t.Context(), p.password+"x\n", "alone", p.name, "authenticate")
		if err == nil {
			t.Errorf("let in by a wrong clock and password: %s", out)
		}
		says(t, about(out), c.says, saysUnavail) // nobody knows that it is wrong
		b, _ := web.Command(t.Context(), "/usr/local/bin/sekisho", "why", p.name, "pam", "web1").CombinedOutput()
		says(t, about(string(b)), c.says)
		b, err = web.Command(t.Context(), "/usr/local/bin/sekisho", "doctor").CombinedOutput()
		if exitCode(err) != 1 {
			t.Errorf("doctor ends with %v", err)
		}
		says(t, string(b), "10 min")
		log := func() string { return about(web.daemon.Log()[mark:]) }
		logged(t, log, `"reason":"clock"`, c.says)
		for _, w := range []string{`"reason":"wrong-password"`, `"reason":"unreachable"`} {
			if strings.Contains(log(), w) {
				t.Errorf("the log has %s", w)
			}
		}
		p.in(t, byKey.on(web).with(p))
		// Mended, with nothing restarted.
		need(t, r.broker.MoveClock(0))
		soon(t, func() error { return errorOf(p.ssh(t.Context(), byPassword.on(web).with(p))) })
		if out, err := p.kinit(t.Context(), p.password); err != nil {
			t.Errorf("kinit after the mend: %v: %s", err, out)
		}
		p.in(t, byTicket.on(web).with(p))
	}
}
