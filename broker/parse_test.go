package broker

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// fullRule has a value in every attribute.
func fullRule() RuleAttributes {
	return RuleAttributes{
		Name: "web-staff", Description: "who runs the web", Subject: []string{"user:alice", "group:staff", "*"}, Door: []string{"keys", "open*"},
		Target: []string{"host:WEB*.example.test", "hostgroup:web", "net:203.0.113.0/24", "net:2001:db8::1", "*"}, Login: []string{"self", "deploy"},
		From: []string{"198.51.100.0/24", "::ffff:198.51.100.7"}, Time: []string{"Mon-Fri  08:00-18:00   UTC"}, Proof: []string{"key|ticket", "otp"},
		Permit: []string{"pty"}, NotBefore: "20260101000000Z", Expires: "20270101000000Z", MaxAge: "12h", Enabled: "FALSE",
	}
}

func TestParseRule(t *testing.T) {
	r, err := ParseRule(fullRule())
	if err != nil {
		t.Fatal(err)
	}
	if r.Name != "web-staff" || r.Description != "who runs the web" || !r.Disabled || r.MaxAge != 12*time.Hour ||
		!r.NotBefore.Equal(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) || !r.Expires.Equal(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)) ||
		!reflect.DeepEqual(r.Subjects, []Subject{{User: "alice"}, {Group: "staff"}, {Anyone: true}}) || !slices.Equal(r.Logins, []string{"self", "deploy"}) ||
		r.Targets[0].Host != "web*.example.test" || r.Targets[3].Net.String() != "2001:db8::1/128" || r.From[1].String() != "198.51.100.7/32" ||
		r.Times[0].String() != "Mon-Fri 08:00-18:00 UTC" || join(r.Proofs, " ") != "key|ticket otp" || !reflect.DeepEqual(r.Permit, Permissions{PTY: true}) {
		t.Errorf("%+v", r)
	}
	r, err = ParseRule(RuleAttributes{Name: "r", Subject: []string{"*"}, Door: []string{"*"}, Target: []string{"*"}})
	if err != nil || !slices.Equal(r.Logins, []string{"self"}) || !reflect.DeepEqual(r.Permit, Permissions{PTY: true, UserRC: true}) {
		t.Errorf("the defaults: %+v, %v", r, err)
	}
}

// TestParseRuleErrors: each text names the attribute, the value and the mend.
// What the transcripts show is not repeated here.
func TestParseRuleErrors(t *testing.T) {
	long := strings.Repeat("x", maxValue+1)
	for _, c := range []struct {
		change func(*RuleAttributes)
		want   string
	}{
		{func(a *RuleAttributes) { a.Name = "" }, "a rule needs a cn"},
		{func(a *RuleAttributes) { a.Name = "a\nb" }, `cn "a\nb": holds a control character`},
		{func(a *RuleAttributes) { a.Subject = []string{"alice"} }, `sekishoSubject "alice": want user:NAME, group:NAME or *`},
		{func(a *RuleAttributes) { a.Subject = []string{"user:"} }, `sekishoSubject "user:": want user:NAME, group:NAME or *`},
		{func(a *RuleAttributes) { a.Subject = []string{"user:a\x00b"} }, `sekishoSubject "user:a\x00b": holds a control character`},
		{func(a *RuleAttributes) { a.Subject = []string{"user:\xff"} }, `sekishoSubject "user:\xff": not UTF-8`},
		{func(a *RuleAttributes) { a.Subject = []string{"user:" + long} }, `sekishoSubject "user:` + long[:35] + `…": longer than 1024 bytes`},
		{func(a *RuleAttributes) { a.Subject = make([]string, maxValues+1) }, "sekishoSubject has 1001 values; at most 1000 are read"},
		{func(a *RuleAttributes) { a.Door = []string{"["} }, `sekishoDoor "[": want a name or a glob of *, ? and [a-z]`},
		{func(a *RuleAttributes) { a.Door = []string{"a/b"} }, `sekishoDoor "a/b": want a name or a glob of *, ? and [a-z]`},
		{func(a *RuleAttributes) { a.Target = []string{"web1"} }, `sekishoTarget "web1": want host:GLOB, hostgroup:NAME, net:CIDR or *`},
		{func(a *RuleAttributes) { a.Target = []string{"host:"} }, `sekishoTarget "host:": want host:GLOB, hostgroup:NAME, net:CIDR or *`},
		{func(a *RuleAttributes) { a.Target = []string{"net:203.0.113.1/24"} }, `sekishoTarget "net:203.0.113.1/24": has bits behind its prefix; did you mean 203.0.113.0/24?`},
		{func(a *RuleAttributes) { a.Login = []string{""} }, `sekishoLogin "": want a name or a glob of *, ? and [a-z]`},
		{func(a *RuleAttributes) { a.Time = []string{"Mon 08:00-25:00 UTC"} }, `sekishoTime "Mon 08:00-25:00 UTC": want hours like 08:00-18:00, the start before 24:00 and not the end`},
		{func(a *RuleAttributes) { a.Permit = []string{"tunnel:1", "tunnel:2"} }, `sekishoPermit: "tunnel:2": a rule can name one tunnel device only`},
		{func(a *RuleAttributes) { a.Permit = []string{"permitopen:[db1]:5"} }, `sekishoPermit: "permitopen:[db1]:5": want permitopen:HOST:PORT`},
		{func(a *RuleAttributes) { a.Permit = []string{"permitopen:db,x:5"} }, `sekishoPermit: "permitopen:db,x:5": want permitopen:HOST:PORT`},
		{func(a *RuleAttributes) { a.Permit = []string{"permitlisten:70000"} }, `sekishoPermit: "permitlisten:70000": want permitlisten:PORT or permitlisten:HOST:PORT`},
		{func(a *RuleAttributes) { a.Enabled = "no" }, `sekishoEnabled "no": want TRUE or FALSE`},
	} {
		a := fullRule()
		c.change(&a)
		r, err := ParseRule(a)
		if err == nil || err.Error() != c.want {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
		if !reflect.DeepEqual(r, Rule{}) {
			t.Errorf("%s: a rule beside the error: %+v", c.want, r)
		}
	}
}

// FuzzParseRule: one value in every attribute; whatever is taken can be judged
// and explained, and opens nothing at the root login by a glob.
func FuzzParseRule(f *testing.F) {
	full := fullRule()
	for _, vs := range [][]string{full.Subject, full.Door, full.Target, full.Login, full.From, full.Time, full.Proof, full.Permit} {
		for _, v := range vs {
			f.Add(v, v, v, v, v, v, v, v, "20260101000000Z", "12h")
		}
	}
	f.Add("*", "*", "*", "ro[a-z]t", "::/0", "00:00-24:00 UTC", "otp", "none", "", "")
	f.Fuzz(func(t *testing.T, subject, door, target, login, from, window, proof, permit, stamp, age string) {
		full := RuleAttributes{Name: "r", Subject: []string{subject}, Door: []string{door}, Target: []string{target}, Login: []string{login},
			From: []string{from}, Time: []string{window}, Proof: []string{proof}, Permit: []string{permit}, NotBefore: stamp, Expires: stamp, MaxAge: age}
		// Each attribute by itself in a rule that is good otherwise, and all at once.
		good := RuleAttributes{Name: "r", Subject: []string{"*"}, Door: []string{"*"}, Target: []string{"*"}}
		tries := []RuleAttributes{full}
		for i := range 10 {
			a := good
			dst, src := reflect.ValueOf(&a).Elem(), reflect.ValueOf(full)
			name := []string{"Subject", "Door", "Target", "Login", "From", "Time", "Proof", "Permit", "Expires", "MaxAge"}[i]
			dst.FieldByName(name).Set(src.FieldByName(name))
			tries = append(tries, a)
		}
		for _, a := range tries {
			r, err := ParseRule(a)
			if err != nil {
				if !reflect.DeepEqual(r, Rule{}) || strings.ContainsAny(err.Error(), "\n\x00") {
					t.Fatalf("%+v, %q", r, err)
				}
				continue
			}
			e := (*Snapshot)(nil).Edit()
			e.PutUser(User{ID: EntryID{1}, DN: "u", Name: "alice", UID: 2000})
			e.PutRule(r)
			v := View{e.Commit(), testNow, time.Hour}
			for _, l := range []Login{"", "root"} {
				q := Request{User: "alice", Door: "keys", Login: l, SourceDeferred: true}
				x := Explain(v, q, nil, testNow)
				if l == "root" && x.Decision.Outcome == Allow && !slices.Contains(a.Login, "root") {
					t.Fatalf("root by %q", a.Login)
				}
			}
		}
	})
}

func FuzzParseWindow(f *testing.F) {
	for _, s := range []string{"Mon-Fri 08:00-18:00 Europe/Berlin", "22:00-06:00 UTC", "Sat,Sun,Wed-Thu 00:00-24:00 Pacific/Auckland", "Sun 02:00-03:00 Europe/Berlin", "Sun 02:30-03:00 Europe/Berlin", "Mon 08:00-18:00 ../../etc/passwd"} {
		f.Add(s, int64(1774749600))
	}
	f.Fuzz(func(t *testing.T, s string, at int64) {
		w, err := ParseWindow(s)
		if err != nil {
			if !reflect.DeepEqual(w, Window{}) {
				t.Fatalf("a window beside the error %v", err)
			}
			return
		}
		again, err := ParseWindow(w.String())
		if err != nil || again.String() != w.String() || again.days != w.days || again.start != w.start || again.end != w.end {
			t.Fatalf("%q prints %q, which reads as %+v, %v", s, w, again, err)
		}
		now := time.Unix(at%(1<<40), 0)
		open, change := w.open(now)
		if !change.After(now) {
			t.Fatalf("%q at %s: open %v, changes at %s", s, now, open, change)
		}
		if is, _ := w.open(change.Add(-1)); is != open {
			t.Fatalf("%q at %s: open %v until %s, but not just before", s, now, open, change)
		}
		// Open again at once where one day's window meets the next one's.
		if is, later := w.open(change); !open && !is || is && !later.After(change) {
			t.Fatalf("%q: open %v at %s, %v at %s until %s", s, open, now, is, change, later)
		}
	})
}

func FuzzParsePermissions(f *testing.F) {
	for _, s := range []string{"pty", "none", "pty\npermitopen:db:5432\npermitlisten:8080", "environment:A=\"x\"\nenvironment:B=", "command:/bin/a b", "tunnel:any", "tunnel:007", "sessions:3\npty", "permitopen:[2001:db8::1]:*", "port-forwarding\npermitopen:db:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePermissions(strings.Split(s, "\n"))
		if err != nil {
			if !reflect.DeepEqual(p, Permissions{}) {
				t.Fatalf("permissions beside the error %v", err)
			}
			return
		}
		vs := p.Values()
		again, err := ParsePermissions(vs)
		if err != nil || !slices.Equal(again.Values(), vs) {
			t.Fatalf("%q prints %q, which reads as %q, %v", s, vs, again.Values(), err)
		}
		both := p.union(again)
		if !slices.Equal(both.Values(), vs) {
			t.Fatalf("%q with itself is %q", vs, both.Values())
		}
	})
}
