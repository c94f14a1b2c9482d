package ldapsync

import (
	"testing"
	"time"
)

func benchNow() time.Time { return time.Unix(1_800_000_000, 0) }

func TestNormalizeDN(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "",
		"dc=example,dc=org":                 "dc=example,dc=org",
		"UID=Alice,OU=People,DC=Example":    "uid=alice,ou=people,dc=example",
		" uid = alice , ou=people ":         "uid=alice,ou=people",
		"uid=alice;ou=people":               "uid=alice,ou=people",
		"cn=Jane   Q  Doe,o=x":              "cn=jane q doe,o=x",
		"cn=Jane Doe,o=x":                   "cn=jane doe,o=x",
		`cn=\20 lead and trail \20,o=x`:     "cn=lead and trail,o=x",
		`cn=Doe\, Jane,o=x`:                 `cn=doe\, jane,o=x`,
		`cn=Doe\2c Jane,o=x`:                `cn=doe\, jane,o=x`,
		`cn="Doe, Jane",o=x`:                `cn=doe\, jane,o=x`,
		`cn=\c3\9cber,o=x`:                  "cn=über,o=x",
		"cn=ÜBER,o=x":                       "cn=über,o=x",
		`cn=\#1,o=x`:                        `cn=\#1,o=x`,
		"cn=#04024869,o=x":                  "cn=hi,o=x",
		"sn=Doe+uid=JD,o=x":                 "sn=doe+uid=jd,o=x",
		"uid=JD + sn=Doe,o=x":               "sn=doe+uid=jd,o=x",
		"2.5.4.3=Foo,userid=Bar":            "cn=foo,uid=bar",
		"OID.2.5.4.3=Foo":                   "cn=foo",
		"krbPrincipalName=Alice@X.ORG,cn=x": "krbprincipalname=Alice@X.ORG,cn=x", // caseExactMatch
		`cn=a\00b`:                          `cn=a\00b`,
		`cn=\ff\fe`:                         `cn=\ff\fe`,
		`cn=a=b`:                            `cn=a\=b`,
		"cn=,o=x":                           "cn=,o=x",
	} {
		if got, err := NormalizeDN(in); err != nil || string(got) != want {
			t.Errorf("%q: %q, want %q; %v", in, got, want, err)
		}
	}
	for _, in := range []string{"x", "=x", "cn=a,", "cn=a,,o=x", `cn=a\`, `cn=a\x`, `cn="a`, `cn="a"b`, "cn=<a>", "cn=#zz", "cn=#30800000", "c n=x", "cn=a+",
		"cn=\x00"} {
		if got, err := NormalizeDN(in); err == nil {
			t.Errorf("%q is taken as %q", in, got)
		}
	}
}

func TestPosition(t *testing.T) {
	var p position
	const a1, a2, b1 = "20260101000001.000000Z#000000#001#000000", "20260101000002.000000Z#000000#001#000000", "20260101000001.500000Z#000000#002#000000"
	if !p.empty() || p.covers([]string{a1}) || p.ahead(nil) {
		t.Error("an empty position")
	}
	p.merge([]byte("rid=000,sid=001,csn=" + a1 + ";" + b1))
	if got := p.cookie(); got != "rid=000,csn="+a1+";"+b1 {
		t.Errorf("cookie %s", got)
	}
	// A message brings only the CSN that moved, and never takes one back.
	if !p.merge([]byte("rid=000,csn="+a2)) || p.merge([]byte("rid=000,csn="+a1)) {
		t.Error("merging moves wrongly")
	}
	if got := p.cookie(); got != "rid=000,csn="+a2+";"+b1 {
		t.Errorf("cookie %s", got)
	}
	if !p.covers([]string{a2, b1}) || !p.covers([]string{a1}) || p.covers(nil) || p.covers([]string{"junk"}) ||
		p.covers([]string{"20260101000003.000000Z#000000#003#000000"}) {
		t.Error("covers is wrong")
	}
	if p.ahead([]string{a2, b1}) || !p.ahead([]string{a1, b1}) || !p.ahead([]string{a2}) {
		t.Error("ahead is wrong")
	}
	p.merge([]byte("opaque#17"))
	if p.cookie() != "opaque#17" || p.covers([]string{a1}) || p.ahead([]string{a1}) {
		t.Error("an opaque cookie")
	}
}
