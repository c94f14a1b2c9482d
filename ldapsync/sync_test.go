package ldapsync

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/testenv"
)

// TestFollow goes through everything that a directory holds, and through the
// ways in which it changes, with a real slapd.
func TestFollow(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{})
	d.user("alice", 2001, "sshPublicKey", testKey(1, "alice@laptop"), "gecos", "Alice")
	d.group("inner", userDN("alice"))
	d.group("outer", groupDN("inner"))
	d.add("cn=web1.example.org,ou=hosts,"+testBase, "objectClass", "device", "objectClass", "ipHost", "cn", "web1.example.org",
		"cn", "web1", "ipHostNumber", "203.0.113.5", "ipHostNumber", "2001:db8::5")
	d.add("cn=web,ou=access,"+testBase, "objectClass", "sekishoRule", "cn", "web", "sekishoSubject", "group:outer",
		"sekishoDoor", "keys", "sekishoTarget", "host:web*")
	r := startSync(t, d.config(t))
	v := r.until("alice is there", hasUser("alice"))
	u, _ := v.User("alice")
	if u.UID != 2001 || u.GID != 5000 || u.Gecos != "Alice" || u.Home != "/home/alice" || u.Shell != "/bin/bash" ||
		u.DN != "uid=alice,ou=people,dc=example,dc=org" || len(u.Keys) != 1 || u.Keys[0].Comment != "alice@laptop" {
		t.Errorf("alice came as %+v", u)
	}
	if !inGroup(v, "alice", "outer") {
		t.Error("alice is not in outer")
	}
	h := v.Host("WEB1")
	if h == nil || h.Names[0] != "web1.example.org" || v.HostByAddr(netip.MustParseAddr("203.0.113.5")) != h {
		t.Errorf("host came as %+v", h)
	}
	if dec := broker.Decide(v, broker.Request{User: "alice", Door: "keys", Target: broker.Target{Host: "web1"}}, nil, time.Now()); dec.Outcome != broker.Allow {
		t.Errorf("decision: %+v", dec)
	}

	r.live()
	d.user("bob", 2002)
	r.until("bob came", hasUser("bob"))
	d.modify(groupDN("inner"), "add", "member", userDN("bob"))
	r.until("bob is in outer", func(v broker.View) bool { return inGroup(v, "bob", "outer") })
	d.modify(groupDN("inner"), "delete", "member", userDN("alice"))
	r.until("alice left outer", func(v broker.View) bool { return !inGroup(v, "alice", "outer") })
	d.modify(userDN("alice"), "delete", "sshPublicKey")
	r.until("alice lost her key", func(v broker.View) bool { u, _ := v.User("alice"); return len(u.Keys) == 0 })
	d.delete("cn=web,ou=access," + testBase)
	r.until("the rule is gone", func(v broker.View) bool { return len(v.Rules()) == 0 })
	d.delete(userDN("bob"))
	r.until("bob is gone", hasNoUser("bob"))
	d.modify(userDN("alice"), "replace", "loginShell", "/usr/sbin/nologin")
	r.until("alice has no shell", func(v broker.View) bool { u, _ := v.User("alice"); return u.Shell == "/usr/sbin/nologin" })
}
