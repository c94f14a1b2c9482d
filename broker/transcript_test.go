package broker

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/keys"
)

var update = flag.Bool("update", false, "rewrite the transcripts under testdata; read them before you commit them")

// TestTranscripts runs the specification of Decide. In a transcript a line
// that begins with # is a comment, one that begins with a tab is what the
// command above it printed, and any other is a command; see transcript.run.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	cases := 0
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			tr := newTranscript()
			for n, line := range strings.Split(strings.TrimSuffix(string(want), "\n"), "\n") {
				if strings.HasPrefix(line, "\t") {
					continue
				}
				got.WriteString(line + "\n")
				if line == "" || line[0] == '#' {
					continue
				}
				out, err := tr.run(line)
				if err != nil {
					t.Fatalf("%s:%d: %v", f, n+1, err)
				}
				for _, o := range append(out, tr.endings()...) {
					got.WriteString("\t" + o + "\n")
				}
			}
			cases += tr.cases
			if *update {
				if err := os.WriteFile(f, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if g, w := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n"); got.String() != string(want) {
				for i := range min(len(g), len(w)) {
					if g[i] != w[i] {
						t.Fatalf("%s:%d:\n got %s\nwant %s", f, i+1, g[i], w[i])
					}
				}
				t.Fatalf("%s: %d lines, want %d", f, len(g), len(w))
			}
		})
	}
	if cases < 60 {
		t.Errorf("%d decisions in the transcripts; the specification has at least 60", cases)
	}
}

// transcript is the state between the commands of one file.
type transcript struct {
	snap        *Snapshot
	now         time.Time
	age, maxAge time.Duration
	cases       int
	live        *transcriptSessions // nil until one is opened
}

func newTranscript() *transcript {
	return &transcript{snap: (*Snapshot)(nil).Edit().Commit(), maxAge: 24 * time.Hour}
}

// run does one command:
//
//	user NAME uid=N [gid=N] [shell=PATH] [id=TAG] [locked] [shadow-expires=T] [kerberos-expires=T] [policy-locked-until=T]
//	group NAME [gid=N] [id=TAG] [member=user:NAME|group:NAME|host:NAME …] [memberuser=NAME …] [memberhost=NAME …]
//	host NAME [name=OTHER …] [addr=IP …]
//	rule NAME subject=… door=… target=… …          the attributes of sekishoRule, by their short names
//	remove user|group|host|rule TAG
//	now T | age DURATION | max-age DURATION | no-snapshot
//	decide|why [user=NAME] [door=D] [host=NAME] [addr=IP] [login=NAME] [from=IP] [proofs=P,P] [recent=P:AGE,P:AGE] [at=T] [deferred]
//	session|sessions|max-sessions …                see transcriptSessions
//
// After each command come the sessions that it has ended.
//
// An entry's TAG is what it keeps over a rename: its id=, else its name; the
// DN is made of the name. T is as in RFC 3339. Values with spaces are quoted.
func (tr *transcript) run(line string) ([]string, error) {
	verb, a, err := parseCommand(line)
	if err != nil {
		return nil, err
	}
	name, e := a.word(0), tr.snap.Edit()
	switch verb {
	case "decide", "why":
		return tr.decide(verb, a)
	case "session", "sessions", "max-sessions":
		return tr.session(verb, a)
	case "now":
		tr.now, err = time.Parse(time.RFC3339, name)
		return nil, err
	case "age":
		tr.age, err = time.ParseDuration(name)
		return nil, err
	case "max-age":
		tr.maxAge, err = time.ParseDuration(name)
		return nil, err
	case "no-snapshot":
		tr.snap = nil
		return nil, nil
	case "user":
		u := User{ID: a.id("user"), DN: dnOf("user:" + name), Name: UserName(name), UID: a.number("uid"), GID: a.number("gid"),
			Shell: a.one("shell"), State: AccountState{Locked: a.one("locked") != "", ShadowExpires: a.unix("shadow-expires"),
				KerberosExpires: a.unix("kerberos-expires"), PolicyLockedUntil: a.unix("policy-locked-until")}}
		for _, n := range a.all("key") {
			u.Keys = append(u.Keys, keys.Line{Key: edKey(n[0])})
		}
		for _, n := range a.all("ca-key") {
			u.Keys = append(u.Keys, keys.Line{Key: edKey(n[0]), Options: &keys.Options{CertAuthority: true}})
		}
		e.PutUser(u)
	case "group":
		g := Group{ID: a.id("group"), DN: dnOf("group:" + name), Name: GroupName(name), GID: a.number("gid")}
		for _, m := range a.all("member") {
			g.Members = append(g.Members, dnOf(m))
		}
		g.MemberUsers, g.MemberHosts = named[UserName](a.all("memberuser")), named[HostName](a.all("memberhost"))
		e.PutGroup(g)
	case "host":
		h := Host{ID: a.id("host"), DN: dnOf("host:" + name), Names: named[HostName](append([]string{name}, a.all("name")...))}
		for _, ip := range a.all("addr") {
			h.Addrs = append(h.Addrs, netip.MustParseAddr(ip))
		}
		e.PutHost(h)
	case "rule":
		id := a.id("rule")
		r, err := ParseRule(RuleAttributes{Name: name, Description: a.one("description"), Subject: a.all("subject"), Door: a.all("door"),
			Target: a.all("target"), Login: a.all("login"), From: a.all("from"), Time: a.all("time"), Proof: a.all("proof"),
			Permit: a.all("permit"), NotBefore: a.one("not-before"), Expires: a.one("expires"), MaxAge: a.one("max-age"), Enabled: a.one("enabled")})
		if err != nil { // the directory's entry gives no rule, and takes away the one it replaces
			e.RemoveRule(id)
			tr.snap = e.Commit()
			return []string{"not read: " + err.Error()}, a.check()
		}
		r.ID, r.DN = id, dnOf("rule:"+name)
		e.PutRule(r)
	case "remove":
		kind, id := name, entryID(name, a.word(1))
		there := map[string]func(EntryID) bool{"user": e.RemoveUser, "group": e.RemoveGroup, "host": e.RemoveHost, "rule": e.RemoveRule}[kind](id)
		if !there {
			return nil, fmt.Errorf("no %s %s to remove", kind, a.word(1))
		}
	default:
		return nil, fmt.Errorf("no command %q", verb)
	}
	tr.snap = e.Commit()
	return nil, a.check()
}

func (tr *transcript) decide(verb string, a *args) ([]string, error) {
	tr.cases++
	r, shown, err := a.request()
	if err != nil {
		return nil, err
	}
	now := tr.now
	if at := a.one("at"); at != "" {
		now = a.time("at")
	}
	v := View{Snapshot: tr.snap, AsOf: now.Add(-tr.age), MaxAge: tr.maxAge}
	out := printDecision(Decide(v, r, shown, now))
	if verb == "why" {
		out = printExplanation(Explain(v, r, shown, now))
	}
	return out, a.check()
}

// request reads a request and the proofs shown.
func (a *args) request() (r Request, shown []Proof, err error) {
	r = Request{User: UserName(a.one("user")), Login: Login(a.one("login")), Door: Door(a.one("door")),
		Target: Target{Host: HostName(a.one("host"))}, SourceDeferred: a.one("deferred") != "",
		ProofsDeferred: a.one("proofs-deferred") != "", Unconfined: a.one("unconfined") != ""}
	if n := a.one("key"); n != "" {
		r.Key = edKey(n[0]).Fingerprint()
	}
	if ip := a.one("addr"); ip != "" {
		r.Target.Addr = netip.MustParseAddr(ip)
	}
	if ip := a.one("from"); ip != "" {
		r.From = netip.MustParseAddr(ip)
	}
	if p := a.one("proofs"); p != "" {
		shown = named[Proof](strings.Split(p, ","))
	}
	if p := a.one("recent"); p != "" {
		for one := range strings.SplitSeq(p, ",") {
			kind, age, _ := strings.Cut(one, ":")
			d, err := time.ParseDuration(age)
			if err != nil {
				return r, nil, err
			}
			r.Recent = append(r.Recent, RecentProof{Proof(kind), d})
		}
	}
	return r, shown, nil
}

func printDecision(d Decision) []string {
	head := fmt.Sprintf("%s: %s", d.Outcome, d.Reason)
	if len(d.Rules) > 0 {
		head += " (" + join(d.Rules, ", ") + ")"
	}
	for i, need := range d.Need {
		head += map[bool]string{true: " needs ", false: " or "}[i == 0] + join(need, " and ")
	}
	if d.Age > 0 {
		head += " from a snapshot " + d.Age.String() + " old"
	}
	if !d.Until.IsZero() {
		head += ", until " + stamp(d.Until)
	}
	out := []string{head}
	for _, g := range d.Grants {
		s := "grant " + string(g.User) + " as " + string(g.Login)
		if g.From.IsValid() {
			s += " from " + g.From.String()
		}
		if len(d.Grants) > 1 {
			s += " (" + join(g.Rules, ", ") + ")"
		}
		s += ": " + strings.Join(g.Permit.Values(), " ")
		if !g.Until.Equal(d.Until) {
			s += ", until " + stamp(g.Until)
		}
		out = append(out, s)
	}
	return out
}

func printExplanation(x Explanation) []string {
	out := printDecision(x.Decision)
	for _, f := range x.Rules {
		s := "rule " + string(f.Name) + ": "
		if f.Matched {
			s += "matches"
		} else {
			s += f.Miss
		}
		if f.Via != nil {
			s += "; by way of " + join(f.Via, " > ")
		}
		if f.HostVia != nil {
			s += "; the host by way of " + join(f.HostVia, " > ")
		}
		out = append(out, s)
	}
	for _, c := range x.Change {
		out = append(out, "to change: "+c)
	}
	return out
}
