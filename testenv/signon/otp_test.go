package signon

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/otp"
)

// withCodes makes a host that checks one-time codes itself, as the identity that may.
func withCodes(t *testing.T, name string) *site {
	t.Helper()
	codes, err := calm.broker.ReadFile("/var/lib/sekisho/realm/codes.secret")
	need(t, err)
	secret(string(codes))
	v, err := calm.join(t.Context(), joining{name: name, prover: "kdc", otp: "totp",
		conf:  "[otp]\nbind_dn = \"cn=codes,ou=services," + baseDN + "\"\npassword_file = \"/etc/sekisho/codes\"\n",
		files: []hostFile{{"/etc/sekisho/codes", append(codes, '\n'), 0o600}}})
	need(t, err)
	return v
}

// device is somebody's authenticator app.
type device struct {
	secret   []byte
	params   otp.Params
	recovery []string
}

// enrol gives a person a token of eight digits.
func (p *person) enrol(t *testing.T) device {
	t.Helper()
	// A step lasts for as long as the slowest machine needs for some sign-ins.
	d := device{otp.NewSecret(otp.SHA1), otp.Params{Algorithm: otp.SHA1, Digits: 8, Period: otp.MaxPeriod}, nil}
	file := "/root/" + p.name + ".token"
	need(t, p.r.broker.WriteFile(file, []byte(secret(otp.Text(d.secret))+"\n"), 0o600))
	out, err := p.r.broker.Command(t.Context(), "/usr/local/bin/sekisho", "otp", "enrol", p.name, "--digits", "8", "--period", fmt.Sprint(otp.MaxPeriod.Seconds()), "--yes", "--json", "--secret-file", file).Output()
	need(t, err)
	var said struct {
		Recovery []string `json:"recovery_codes"`
	}
	need(t, json.Unmarshal(out, &said))
	if d.recovery = said.Recovery; len(d.recovery) != otp.RecoveryCodes {
		t.Fatalf("%d recovery codes", len(d.recovery))
	}
	for _, c := range d.recovery {
		secret(c)
	}
	return d
}

// code is that of some steps ahead; one step is long enough for a sign-in now.
func (d device) code(t *testing.T, ahead int) string {
	t.Helper()
	step, _ := d.params.Step(time.Now())
	code, err := d.params.Code(d.secret, step+uint64(ahead))
	need(t, err)
	return code
}

// early waits for the next step if this one is almost over.
func early(d device) {
	period := int64(d.params.Period / time.Second)
	if left := period - time.Now().Unix()%period; left < 60 {
		time.Sleep(time.Duration(left) * time.Second)
	}
}

// One-time codes through sshd and PAM, on two hosts that share nothing but the
// directory.
func TestOneTimeCodes(t *testing.T) {
	t.Parallel()
	var one, two *site
	var all sync.WaitGroup
	all.Go(func() { one = withCodes(t, "otp1") })
	all.Go(func() { two = withCodes(t, "otp2") })
	all.Wait()
	both := []string{"--proof", "password", "--proof", "otp"}
	p, q, none := calm.someone(t, "code-p", one, both...), calm.someone(t, "code-q", two, both...), calm.someone(t, "code-none", two, both...)
	aged := calm.someone(t, "code-aged", one, "--proof", "password|key", "--proof", "otp<12h")
	pd, qd, ad := p.enrol(t), q.enrol(t), aged.enrol(t)
	need(t, calm.caughtUp(one, two))
	logs := func() string { return one.daemon.Log() + two.daemon.Log() }

	// Password and code, in a prompt of its own; each code once, on whichever host.
	early(pd)
	before, now := pd.code(t, -1), pd.code(t, 0)
	asked := p.in(t, byPassword.on(one).saying(p.password, before))
	says(t, asked, "Password: ", "One-time code: ")
	p.out(t, byPassword.on(one).saying(p.password, before))
	logged(t, logs, `"user":"code-p","target":"otp1","from":"`+calm.client.Addr.String()+`","outcome":"deny","reason":"used-code"`)
	p.out(t, byPassword.on(two).saying(p.password, before))
	p.in(t, byPassword.on(two).saying(p.password, now))
	p.out(t, byPassword.on(one).saying(p.password, now))
	p.out(t, byPassword.on(one).saying(p.password, before))

	// Whoever is not enrolled hears what whoever mistypes hears.
	wrong := q.out(t, byPassword.on(two).saying(q.password, "00000000"))
	unknown := none.out(t, byPassword.on(two).saying(none.password, "00000000"))
	if strings.ReplaceAll(wrong, q.name, "X") != strings.ReplaceAll(unknown, none.name, "X") {
		t.Errorf("they hear\n%s\nand\n%s", wrong, unknown)
	}
	logged(t, logs, `"reason":"not-enrolled"`)
	// A code is no password: the password alone, or a code for it, opens nothing.
	q.out(t, byPassword.on(two).saying(qd.code(t, 0), qd.code(t, 0)))
	// Nor does a key, where the rule wants a password and a code.
	q.out(t, byKey.on(two).with(q))

	// Recovery codes, once each.
	for i, c := range qd.recovery[:2] {
		q.in(t, byPassword.on([]*site{one, two}[i]).saying(q.password, strings.ToUpper(c)))
		q.out(t, byPassword.on([]*site{two, one}[i]).saying(q.password, c))
	}
	logged(t, logs, "a recovery code was used")

	// A rule that takes an older code asks for one the first time, on this host.
	early(ad)
	code := ad.code(t, 0)
	says(t, aged.in(t, byPassword.on(one).saying(aged.password, code)), "One-time code: ")
	if asked := aged.in(t, byPassword.on(one).saying(aged.password)); strings.Contains(asked, "One-time") {
		t.Errorf("it asks again: %s", asked)
	}
	aged.in(t, byKey.on(one).with(aged))
	aged.out(t, byKey.on(two).with(aged))

	for _, c := range append([]string{before, now, code}, qd.recovery[:2]...) {
		if strings.Contains(logs(), c) {
			t.Errorf("the code %s is in a log", c)
		}
	}

	// A token that was taken away opens nothing, and the old one is none any more
	// when another takes its place.
	need(t, calm.sekisho("", "otp", "rm", p.name, "--yes"))
	p.out(t, byPassword.on(one).saying(p.password, pd.code(t, 1)))
	old := qd.code(t, 1)
	qd = q.enrol(t)
	q.out(t, byPassword.on(one).saying(q.password, old))
	q.in(t, byPassword.on(one).saying(q.password, qd.code(t, 1)))
}

// Of 40 sign-ins at once with one code, one gets in.
func TestCodeRace(t *testing.T) {
	t.Parallel()
	v := withCodes(t, "otp3")
	p := calm.someone(t, "code-race", v, "--proof", "password", "--proof", "otp")
	d := p.enrol(t)
	need(t, calm.caughtUp(v))
	early(d)
	code := d.code(t, 0)
	var in, used int
	var mu sync.Mutex
	var all sync.WaitGroup
	var faults []string
	for range 40 {
		all.Go(func() {
			a, err := v.signIn(p.name, p.password, code)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				faults = append(faults, err.Error())
			case a.Outcome.String() == "yes":
				in++
			case a.Reason == "used-code", a.Reason == "throttled":
				used++
			default:
				faults = append(faults, fmt.Sprintf("%s %s", a.Outcome, a.Reason))
			}
		})
	}
	all.Wait()
	if in != 1 || in+used+len(faults) != 40 {
		t.Errorf("%d got in, %d were refused, faults: %q", in, used, faults)
	}
}
