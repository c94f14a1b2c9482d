package ldapsync

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/testenv"
)

// TestRandomChanges makes random changes to a real slapd, with restarts and
// kills of both sides, with and without a sessionlog, and compares the
// snapshot with what ldapsearch shows, each time that all is quiet.
func TestRandomChanges(t *testing.T) {
	for name, log := range map[string]int{"sessionlog": 1000, "shortlog": 5, "nolog": -1} {
		t.Run(name, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 1))
			d := startDirectory(t, testenv.SlapdConfig{SessionLog: log, NoSync: true, Debug: "0"})
			c := d.config(t)
			c.HoldShare = 1
			r := startSync(t, c)
			g := &gambler{d: d, rnd: rnd}
			for round := range 12 {
				for range 40 {
					g.change()
				}
				switch rnd.IntN(5) {
				case 0:
					if err := d.Restart(t.Context()); err != nil {
						t.Fatal(err)
					}
					d.connect()
				case 1:
					r.stop()
					for range 20 {
						g.change()
					}
					r = startSync(t, c)
				case 2:
					r.stop()
					for range 5 {
						g.change()
					}
					if err := d.Restart(t.Context()); err != nil {
						t.Fatal(err)
					}
					d.connect()
					r = startSync(t, c)
				}
				for range 10 {
					g.change()
				}
				want := d.snapshot()
				got := ""
				for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
					if v := r.View(); v.Snapshot != nil {
						got = describe(v.Snapshot)
					}
					if got == want {
						break
					}
					if time.Now().After(end) {
						t.Fatalf("round %d: the snapshot is not the directory:\n%s\nldapsearch:\n%s", round, got, want)
					}
				}
			}
			r.live()
			r.stop()
			s, _ := readStore(t, c.StateDir)
			s.s.stop()
			if got, want := describe(s.m.cur), d.snapshot(); got != want {
				t.Errorf("what is on disk is not the directory:\n%s\nldapsearch:\n%s", got, want)
			}
		})
	}
}

// gambler makes random changes.
type gambler struct {
	d   *directory
	rnd *rand.Rand
	n   int
}

func (g *gambler) change() {
	d, name := g.d, fmt.Sprintf("u%d", g.rnd.IntN(30))
	group := groupDN(fmt.Sprintf("g%d", g.rnd.IntN(8)))
	member := userDN(name)
	if g.rnd.IntN(3) == 0 {
		member = groupDN(fmt.Sprintf("g%d", g.rnd.IntN(8)))
	}
	g.n++
	var err error
	switch g.rnd.IntN(11) {
	case 0, 1, 2:
		err = d.tryAdd(userDN(name), "objectClass", "inetOrgPerson", "objectClass", "posixAccount", "objectClass", "ldapPublicKey", "uid", name,
			"cn", name, "sn", name, "uidNumber", fmt.Sprint(2000+g.rnd.IntN(40)), "gidNumber", "5000", "homeDirectory", "/home/"+name)
	case 3:
		err = d.admin.Delete(context.Background(), userDN(name))
	case 4:
		err = d.tryModify(userDN(name), "replace", "gecos", fmt.Sprint("change ", g.n))
	case 5:
		err = d.tryModify(userDN(name), "add", "sshPublicKey", testKey(g.n, "k"))
	case 6:
		err = d.tryModify(userDN(name), "replace", "uidNumber", fmt.Sprint(990+g.rnd.IntN(40))) // some are below the floor
	case 7:
		err = d.tryAdd(group, "objectClass", "groupOfNames", "cn", group[3:5], "member", member)
	case 8:
		err = d.tryModify(group, []string{"add", "delete"}[g.rnd.IntN(2)], "member", member)
	case 9:
		err = d.admin.Delete(context.Background(), group)
	case 10: // a rename, or a move out of what is looked at and back
		m := ldap.NewModifyDNRequest(userDN(name), fmt.Sprintf("uid=u%d", g.rnd.IntN(30)), true, "")
		err = d.admin.ModifyDN(context.Background(), m)
	}
	if err != nil && !IsCode(err, ldap.LDAPResultNoSuchObject, ldap.LDAPResultEntryAlreadyExists, ldap.LDAPResultNoSuchAttribute,
		ldap.LDAPResultAttributeOrValueExists, ldap.LDAPResultObjectClassViolation) {
		d.t.Fatal(err)
	}
}

// snapshot is describe of what ldapsearch shows: written on its own, without
// the code under test, but for the judgement of what a user is.
func (d *directory) snapshot() string {
	es, err := d.admin.Search(context.Background(), ldap.NewSearchRequest(testBase, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false,
		"(|(objectClass=posixAccount)(objectClass=groupOfNames))", []string{"*", "entryUUID"}, nil))
	if err != nil {
		d.t.Fatal(err)
	}
	var out []string
	for _, e := range es {
		if slices.Contains(e.GetAttributeValues("objectClass"), "groupOfNames") {
			ms := e.GetAttributeValues("member")
			ms = slices.DeleteFunc(ms, func(m string) bool { return strings.EqualFold(m, e.DN) })
			sort.Strings(ms)
			out = append(out, fmt.Sprintf("group %s %s %v", strings.ToLower(e.DN), e.GetAttributeValue("cn"), ms))
			continue
		}
		uid := e.GetAttributeValue("uidNumber")
		if len(uid) < 4 {
			continue
		}
		var ks []string
		for _, k := range e.GetAttributeValues("sshPublicKey") {
			ks = append(ks, strings.Fields(k)[1])
		}
		sort.Strings(ks)
		gecos := e.GetAttributeValue("gecos")
		if gecos == "" {
			gecos = e.GetAttributeValue("cn")
		}
		out = append(out, fmt.Sprintf("user %s %s %s %s %v", strings.ToLower(e.DN), e.GetAttributeValue("uid"), uid, gecos, ks))
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

func describe(s *broker.Snapshot) string {
	var out []string
	s.Users(func(u *broker.User) bool {
		var ks []string
		for _, k := range u.Keys {
			ks = append(ks, k.Key.Base64())
		}
		sort.Strings(ks)
		out = append(out, fmt.Sprintf("user %s %s %d %s %v", u.DN, u.Name, u.UID, u.Gecos, ks))
		return true
	})
	s.Groups(func(g *broker.Group) bool {
		out = append(out, fmt.Sprintf("group %s %s %v", g.DN, g.Name, g.Members))
		return true
	})
	sort.Strings(out)
	return strings.Join(out, "\n")
}
