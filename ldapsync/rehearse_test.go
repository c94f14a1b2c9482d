package ldapsync

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/ldapsync/ldif"
	"github.com/sekisho/sekisho/testenv"
)

func (d *directory) rehearse(text string) (*Rehearsed, error) {
	recs, err := ldif.Parse(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	return Rehearse(context.Background(), Rehearsal{Client: d.admin, BaseDN: testBase, Changes: recs})
}

// csn is the database's state: each change of anything moves it.
func (d *directory) csn() string {
	d.t.Helper()
	e, err := d.admin.Get(context.Background(), testBase, "contextCSN")
	if err != nil {
		d.t.Fatal(err)
	}
	return e.GetAttributeValue("contextCSN")
}

// really makes the changes, as ldapmodify would.
func (d *directory) really(text string) error {
	recs, err := ldif.Parse(strings.NewReader(text))
	if err != nil {
		return err
	}
	ctx := context.Background()
	for _, r := range recs {
		switch r.Kind {
		case ldif.Add:
			q := ldap.NewAddRequest(r.DN, nil)
			for _, a := range r.Attributes {
				q.Attribute(a.Name, texts(a.Values))
			}
			err = d.admin.Add(ctx, q)
		case ldif.Delete:
			err = d.admin.Delete(ctx, r.DN)
		case ldif.Modify:
			q := ldap.NewModifyRequest(r.DN, nil)
			for _, m := range r.Mods {
				switch m.Op {
				case ldif.AddValues:
					q.Add(m.Name, texts(m.Values))
				case ldif.DeleteValues:
					q.Delete(m.Name, texts(m.Values))
				default:
					q.Replace(m.Name, texts(m.Values))
				}
			}
			err = d.admin.Modify(ctx, q)
		case ldif.Rename:
			err = d.admin.ModifyDN(ctx, ldap.NewModifyDNRequest(r.DN, r.NewRDN, r.DeleteOldRDN, r.NewSuperior))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func texts(vs [][]byte) []string {
	out := make([]string, len(vs))
	for i, v := range vs {
		out[i] = string(v)
	}
	return out
}

// world describes all of a snapshot but entries' IDs.
func world(s *broker.Snapshot) string {
	out := []string{describe(s)}
	s.Users(func(u *broker.User) bool {
		out = append(out, fmt.Sprintf("state %s %+v %d %s %s", u.DN, u.State, u.GID, u.Home, u.Shell))
		return true
	})
	s.Hosts(func(h *broker.Host) bool {
		out = append(out, fmt.Sprintf("host %s %v %v", h.DN, h.Names, h.Addrs))
		return true
	})
	for _, r := range s.Rules() {
		c := *r
		c.ID = broker.EntryID{}
		out = append(out, fmt.Sprintf("rule %+v", c))
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

// answers are the decisions over all pairs.
func answers(s *broker.Snapshot, now time.Time) string {
	v := broker.View{Snapshot: s, AsOf: now, MaxAge: time.Hour}
	var out []string
	for u := range 16 {
		for _, host := range []broker.HostName{"web1", "web2", "nowhere"} {
			for _, login := range []broker.Login{"", "deploy", "root"} {
				d := broker.Decide(v, broker.Request{User: broker.UserName(fmt.Sprintf("u%d", u)), Login: login, Door: "keys",
					Target: broker.Target{Host: host}, From: netip.MustParseAddr("198.51.100.7")}, []broker.Proof{broker.ProofKey}, now)
				out = append(out, fmt.Sprintf("u%d %s %s: %s %s %v", u, host, login, d.Outcome, d.Reason, d.Rules))
			}
		}
	}
	return strings.Join(out, "\n")
}

const refint = `dn: olcOverlay=refint,olcDatabase={1}mdb,cn=config
objectClass: olcOverlayConfig
objectClass: olcRefintConfig
olcOverlay: refint
olcRefintAttribute: member
olcRefintNothing: cn=nobody,` + testBase + "\n"

// TestRehearseRandom makes random changes in rehearsal, then really, to a real
// slapd, and compares what was foretold with what a Sync has got: entries, and the
// decisions over all pairs. A rehearsal that is refused must be refused by slapd.
func TestRehearseRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	d := startDirectory(t, testenv.SlapdConfig{NoSync: true, Debug: "0"})
	d.add("ou=old,"+testBase, "objectClass", "organizationalUnit")
	for _, h := range []string{"web1", "web2"} {
		d.add("cn="+h+",ou=hosts,"+testBase, "objectClass", "device", "objectClass", "ipHost", "cn", h, "ipHostNumber", "203.0.113.7")
	}
	c := d.config(t)
	c.HoldShare = 1
	r := startSync(t, c)
	r.live()
	refused, done := 0, 0
	for round := range 150 {
		var text strings.Builder
		for range 1 + rnd.IntN(3) {
			text.WriteString(randomChange(rnd, round) + "\n")
		}
		before := d.csn()
		got, err := d.rehearse(text.String())
		if after := d.csn(); after != before {
			t.Fatalf("the rehearsal changed the directory: %s, %s", before, after)
		}
		var no *ChangeError
		if err != nil && !errors.As(err, &no) {
			t.Fatalf("%v\n%s", err, &text)
		}
		real := d.really(text.String())
		if err != nil {
			if refused++; real == nil {
				t.Fatalf("refused in rehearsal (%v), but not by slapd:\n%s", err, &text)
			}
			continue
		}
		if real != nil {
			t.Fatalf("slapd refuses (%v) what went well in rehearsal:\n%s", real, &text)
		}
		done++
		want, have := world(got.After), ""
		for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			if v := r.View(); v.Snapshot != nil {
				have = world(v.Snapshot)
			}
			if have == want {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("foretold:\n%s\nit came:\n%s\nafter\n%s", want, have, &text)
			}
		}
		now := time.Now()
		if a, b := answers(got.After, now), answers(r.View().Snapshot, now); a != b {
			t.Fatalf("foretold:\n%s\nit came:\n%s", a, b)
		}
	}
	if refused < 10 || done < 12 {
		t.Errorf("only %d were refused and %d done: the test tests little", refused, done)
	}
}

func randomChange(rnd *rand.Rand, n int) string {
	user := func() string { return fmt.Sprintf("u%d", rnd.IntN(8)) }
	group := func() string { return fmt.Sprintf("g%d", rnd.IntN(4)) }
	place := func() string { return []string{"people", "people", "people", "old"}[rnd.IntN(4)] }
	dn := func() string { return "uid=" + user() + ",ou=" + place() + "," + testBase }
	member := func() string {
		if rnd.IntN(3) == 0 {
			return "CN=" + group() + ", ou=Groups," + testBase
		}
		return dn()
	}
	rule := func() string { return fmt.Sprintf("cn=r%d,ou=access,%s", rnd.IntN(4), testBase) }
	mod := func(dn, how, attr string, vs ...string) string {
		s := "dn: " + dn + "\nchangetype: modify\n" + how + ": " + attr + "\n"
		for _, v := range vs {
			s += attr + ": " + v + "\n"
		}
		return s + "-\n"
	}
	subject := func() string { return []string{"user:" + user(), "group:" + group(), "*"}[rnd.IntN(3)] }
	switch rnd.IntN(17) {
	case 0, 1, 2:
		u := user()
		return fmt.Sprintf("dn: uid=%s,ou=%s,%s\nchangetype: add\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\nobjectClass: shadowAccount\nobjectClass: ldapPublicKey\n"+
			"uid: %s\ncn: %s\nsn: x\nuidNumber: %d\ngidNumber: 5000\nhomeDirectory: /home/%s\n", u, place(), testBase, u, u, 2000+rnd.IntN(10), u)
	case 3:
		return "dn: " + dn() + "\nchangetype: delete\n"
	case 4, 5:
		return fmt.Sprintf("dn: %s\nchangetype: add\nobjectClass: groupOfNames\nmember: %s\n", groupDN(group()), member())
	case 6, 7:
		return mod(groupDN(group()), "add", "member", member())
	case 8:
		return mod(groupDN(group()), "delete", "MEMBER", member())
	case 9:
		return "dn: " + groupDN(group()) + "\nchangetype: delete\n"
	case 10:
		return fmt.Sprintf("dn: %s\nchangetype: modrdn\nnewrdn: uid=%s\ndeleteoldrdn: %d\nnewsuperior: ou=%s,%s\n", dn(), user(), rnd.IntN(2), place(), testBase)
	case 11:
		return mod(dn(), "replace", []string{"shadowExpire", "uidNumber"}[rnd.IntN(2)], fmt.Sprint(rnd.IntN(3)*1000))
	case 12:
		return fmt.Sprintf("dn: %s\nobjectClass: sekishoRule\nsekishoSubject: %s\nsekishoDoor: keys\nsekishoTarget: host:web%d\nsekishoLogin: self\nsekishoLogin: deploy\n", rule(), subject(), 1+rnd.IntN(2))
	case 13:
		return mod(rule(), []string{"add", "delete", "replace"}[rnd.IntN(3)], "sekishoSubject", subject())
	case 14:
		return mod(rule(), "replace", "sekishoFrom", []string{"198.51.100.0/24", "rubbish", "203.0.113.0/24"}[rnd.IntN(3)])
	case 15:
		return mod(dn(), []string{"add", "delete"}[rnd.IntN(2)], "sshPublicKey", testKey(rnd.IntN(3), "k"))
	}
	return "dn: " + rule() + "\nchangetype: delete\n"
}

// TestRehearseFollows: with refint, memberships follow renames and deletions, in
// nested groups and through renamed subtrees too.
func TestRehearseFollows(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{Config: refint})
	d.add("ou=team,ou=people,"+testBase, "objectClass", "organizationalUnit")
	d.user("alice", 2001)
	d.user("bob", 2002)
	d.add("uid=carol,ou=team,ou=people,"+testBase, "objectClass", "inetOrgPerson", "objectClass", "posixAccount", "uid", "carol", "cn", "c", "sn", "c",
		"uidNumber", "2003", "gidNumber", "5000", "homeDirectory", "/home/carol")
	d.group("inner", userDN("alice"), userDN("bob"))
	d.group("outer", groupDN("inner"), "uid=carol,ou=team,ou=people,"+testBase)
	for _, x := range []string{
		"dn: " + userDN("bob") + "\nchangetype: delete\n",
		"dn: " + userDN("alice") + "\nchangetype: modrdn\nnewrdn: uid=alicia\ndeleteoldrdn: 1\n",
		"dn: ou=team,ou=people," + testBase + "\nchangetype: modrdn\nnewrdn: ou=crew\ndeleteoldrdn: 1\n",
		"dn: " + groupDN("inner") + "\nchangetype: delete\n",
	} {
		recs, err := ldif.Parse(strings.NewReader(x))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Rehearse(t.Context(), Rehearsal{Client: d.admin, BaseDN: testBase, Changes: recs, Refint: true, Nobody: "cn=nobody," + testBase})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.really(x); err != nil {
			t.Fatal(err)
		}
		have := ""
		wait(t, "slapd has done what was foretold of\n"+x+"\n"+world(got.After), func() bool { // refint works behind the answer
			now, err := Rehearse(t.Context(), Rehearsal{Client: d.admin, BaseDN: testBase})
			if err != nil {
				t.Fatal(err)
			}
			have = world(now.Before)
			return have == world(got.After)
		})
	}
}

func TestRehearseFaults(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{})
	d.user("alice", 2001)
	d.group("team", userDN("alice"))
	d.add("cn=r,ou=access,"+testBase, "objectClass", "sekishoRule", "cn", "r", "sekishoSubject", "group:team", "sekishoDoor", "keys", "sekishoTarget", "*")
	mod := func(dn, s string) string { return "dn: " + dn + "\nchangetype: modify\n" + s }

	got, err := d.rehearse(mod("cn=r,ou=access,"+testBase, "add: sekishoFrom\nsekishoFrom: rubbish\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Faults) != 1 || !got.Faults[0].Whole || got.Faults[0].Already || !strings.Contains(got.Faults[0].Why, "sekishoFrom") ||
		len(got.After.Rules()) != 0 || len(got.Before.Rules()) != 1 {
		t.Errorf("%+v", got)
	}
	for in, want := range map[string]string{
		"dn: uid=nobody,ou=people," + testBase + "\nchangetype: delete\n":                                                              "no such entry",
		"dn: ou=people," + testBase + "\nchangetype: delete\n":                                                                         "entries are below it",
		"dn: " + groupDN("team") + "\nobjectClass: groupOfNames\nmember: cn=x\n":                                                       "such an entry already",
		"dn: cn=x,ou=nowhere," + testBase + "\nobjectClass: device\n":                                                                  "no entry ou=nowhere",
		"dn: rubbish\nchangetype: delete\n":                                                                                            "not a DN",
		"dn: " + groupDN("x") + "\nmember: cn=x\n":                                                                                     "objectClass",
		mod(userDN("alice"), "add: frobnicate\nfrobnicate: 1\n"):                                                                       "no such attribute",
		mod(userDN("alice"), "add: uidNumber\nuidNumber: 7\n"):                                                                         "one value only",
		mod(userDN("alice"), "add: loginShell\nloginShell: /bin/zsh\n"):                                                                "one value only",
		mod(groupDN("team"), "delete: member\n"):                                                                                       "left without member",
		mod(userDN("alice"), "add: objectClass\nobjectClass: frob\n"):                                                                  "no object class",
		mod(userDN("alice"), "delete: description\n"):                                                                                  "no such attribute",
		mod(userDN("alice"), "delete: uid\nuid: ALICE\n"):                                                                              "entry's name",
		mod(groupDN("team"), "add: member\nmember: UID=Alice, ou=people,dc=example,dc=org\n"):                                          "value 1 of those to be added is there",
		mod(groupDN("team"), "delete: member\nmember: "+userDN("alice")+"\nmember: "+userDN("bob")+"\n"):                               "value 2 of those to be deleted is not there",
		"dn: ou=people," + testBase + "\nchangetype: modrdn\nnewrdn: ou=x\ndeleteoldrdn: 1\nnewsuperior: ou=people," + testBase + "\n": "below itself",
		"dn: " + userDN("alice") + "\nchangetype: modrdn\nnewrdn: uid=x,ou=y\ndeleteoldrdn: 1\n":                                       "no RDN",
	} {
		_, err := d.rehearse(in)
		var no *ChangeError
		if !errors.As(err, &no) || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("%s: %v; want %q", in, err, want)
		}
		if d.really(in) == nil {
			t.Errorf("slapd takes what the rehearsal refuses:\n%s", in)
		}
	}
}

func TestRehearseFilter(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{})
	d.user("alice", 2001, "employeeType", "staff")
	d.user("bob", 2002)
	try := func(filter, text string) (*Rehearsed, error) {
		recs, err := ldif.Parse(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		s := RFC2307bis()
		s.Filter = filter
		return Rehearse(t.Context(), Rehearsal{Client: d.admin, BaseDN: testBase, Schema: s, Changes: recs})
	}
	for filter, want := range map[string]string{
		"(employeeType=staff)":                       "bob",
		"(&(employeeType=STAFF)(uid=*))":             "bob",
		"(|(employeeType=staff)(uid=alice))":         "alice bob",
		"(!(employeeType=staff))":                    "alice",
		"(!(frobnicate=1))":                          "",
		"(&(uidNumber=02002)(!(!(gidNumber=5000))))": "bob",
	} {
		got, err := try(filter, "dn: "+userDN("alice")+"\nchangetype: modify\ndelete: employeeType\n\ndn: "+userDN("bob")+"\nchangetype: modify\nadd: employeeType\nemployeeType: staff\n")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		got.After.Users(func(u *broker.User) bool { names = append(names, string(u.Name)); return true })
		sort.Strings(names)
		if strings.Join(names, " ") != want {
			t.Errorf("%s: %v, want %s", filter, names, want)
		}
	}
	for _, filter := range []string{"(uid=a*)", "(memberOf=cn=x)", "(uidNumber>=1)"} {
		if _, err := try(filter, "dn: "+userDN("alice")+"\nchangetype: modify\nreplace: gecos\ngecos: x\n"); !errors.Is(err, errFilter) {
			t.Errorf("%s: %v", filter, err)
		}
	}
}
