package ldif

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	in := "version: 1\n# a comment\n  that goes on\ndn: uid=alice,ou=people,\n dc=example,dc=org\nchangetype: modify\nadd: sshPublicKey\n" +
		"sshPublicKey:: a2V5\nSSHPUBLICKEY: k2\n-\ndelete: gecos\n-\nreplace: cn\ncn: Alice\n\n\r\n" +
		"dn:: dWlkPWLDpA==\r\nchangetype: delete\r\n\r\n" +
		"dn: cn=g\nobjectClass: top\ncn: g\nOBJECTclass: x\ndescription:\n\n" +
		"dn: cn=g\nchangetype: modrdn\nnewrdn: cn=h\ndeleteoldrdn: 1\nnewsuperior: dc=org"
	b := func(vs ...string) (out [][]byte) {
		for _, v := range vs {
			out = append(out, []byte(v))
		}
		return out
	}
	want := []Record{
		{Line: 4, DN: "uid=alice,ou=people,dc=example,dc=org", Kind: Modify, Mods: []Mod{
			{AddValues, Attribute{"sshPublicKey", b("key", "k2")}}, {DeleteValues, Attribute{"gecos", nil}}, {ReplaceValues, Attribute{"cn", b("Alice")}}}},
		{Line: 17, DN: "uid=bä", Kind: Delete},
		{Line: 20, DN: "cn=g", Kind: Add, Attributes: []Attribute{{"objectClass", b("top", "x")}, {"cn", b("g")}, {"description", b("")}}},
		{Line: 26, DN: "cn=g", Kind: Rename, NewRDN: "cn=h", DeleteOldRDN: true, NewSuperior: "dc=org", Moves: true},
	}
	got, err := Parse(strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestStrict(t *testing.T) {
	for in, want := range map[string]string{
		"":                                      "line 1: no record",
		"# only\n":                              "no record",
		"version: 2\ndn: cn=a\na: b\n":          "version: want 1",
		"cn: a\n":                               "line 1: a record begins with dn:",
		"dn: cn=a\n":                            "says nothing",
		"dn:\ncn: a\n":                          "dn: empty",
		" dn: cn=a\n":                           "begins with a space",
		"dn: cn=a\nchangetype: delete\ncn: a\n": "line 3: nothing can follow",
		"dn: cn=a\nchangetype: frob\n":          "changetype: want",
		"dn: cn=a\nchangetype: modify\n":        "needs add:",
		"dn: cn=a\nchangetype: modify\nfrob: cn\n":                   "want add:",
		"dn: cn=a\nchangetype: modify\nincrement: uidNumber\n":       "want add:",
		"dn: cn=a\nchangetype: modify\nadd: cn\n-\n":                 "needs values",
		"dn: cn=a\nchangetype: modify\nadd: cn\nsn: x\n":             "line 4: want another value of cn",
		"dn: cn=a\nchangetype: modify\nadd: c n\ncn: x\n":            "want an attribute's name",
		"dn: cn=a\nchangetype: modify\nadd: cn\ncn: x\n-\n-\n":       "line 6: want add:",
		"dn: cn=a\nadd: cn\ncn: x\n":                                 "write changetype: modify",
		"dn: cn=a\nchangetype: add\n":                                "needs attributes",
		"dn: cn=a\ncn: a\n-\n":                                       "a dash",
		"dn: cn=a\ncn: a\ndn: cn=b\n":                                "a second dn",
		"dn: cn=a\ncn: a\nchangetype: add\n":                         "right after dn:",
		"dn: cn=a\ncontrol: 1.2.3\nchangetype: delete\n":             "controls are not read",
		"dn: cn=a\nchangetype: modrdn\n":                             "needs newrdn:",
		"dn: cn=a\nchangetype: modrdn\nnewrdn: cn=b\n":               "needs newrdn:",
		"dn: cn=a\nchangetype: modrdn\ndeleteoldrdn: 1\n":            "want newrdn:",
		"dn: cn=a\nchangetype: modrdn\nnewrdn: b\ndeleteoldrdn: 2\n": "want newrdn:",
		"dn: cn=a\njpegPhoto:< file:///etc/shadow\n":                 "by URL",
		"dn: cn=a\ncn: < x\n":                                        "must be in base64",
		"dn: cn=a\ncn:: a\n":                                         "wrong base64",
		"dn: cn=a\ncn:: YQ==!\n":                                     "wrong base64",
		"dn: cn=a\ncn: \xff\n":                                       "not UTF-8",
		"dn: cn=a\ncn: a\x00b\n":                                     "a NUL",
		"dn: cn=a\nno colon\n":                                       "want NAME: VALUE",
		"dn: cn=a\nc n: a\n":                                         "no attribute name",
		"dn: cn=a\ncn;: a\n":                                         "no attribute name",
	} {
		got, err := Parse(strings.NewReader(in))
		if err == nil || !strings.Contains(err.Error(), want) || got != nil {
			t.Errorf("%q: %v, %v; want an error with %q", in, got, err, want)
		}
	}
}

func TestBounds(t *testing.T) {
	for what, in := range map[string]string{
		"bytes":   strings.Repeat("# "+strings.Repeat("x", 1<<20)+"\n", 65),
		"records": strings.Repeat("dn: cn=a\nchangetype: delete\n\n", MaxRecords+1),
		"line":    "dn: cn=a\ncn: " + strings.Repeat("x", MaxLine) + "\n",
		"folded":  "dn: cn=a\ncn: x\n" + strings.Repeat(" "+strings.Repeat("y", 1<<20)+"\n", 9),
		"values":  "dn: cn=a\n" + strings.Repeat("cn: x\n", MaxValues),
	} {
		if _, err := Parse(strings.NewReader(in)); err == nil || !strings.Contains(err.Error(), "more than") && !strings.Contains(err.Error(), "longer than") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// printed writes a record so that it is read back the same.
func printed(b *bytes.Buffer, r Record) {
	put := func(name string, v []byte) { fmt.Fprintf(b, "%s:: %s\n", name, base64.StdEncoding.EncodeToString(v)) }
	put("dn", []byte(r.DN))
	switch r.Kind {
	case Add:
		for _, a := range r.Attributes {
			for _, v := range a.Values {
				put(a.Name, v)
			}
		}
	case Delete:
		b.WriteString("changetype: delete\n")
	case Modify:
		b.WriteString("changetype: modify\n")
		for _, m := range r.Mods {
			fmt.Fprintf(b, "%s: %s\n", [...]string{"", "add", "delete", "replace"}[m.Op], m.Name)
			for _, v := range m.Values {
				put(m.Name, v)
			}
			b.WriteString("-\n")
		}
	case Rename:
		b.WriteString("changetype: modrdn\n")
		put("newrdn", []byte(r.NewRDN))
		fmt.Fprintf(b, "deleteoldrdn: %d\n", map[bool]int{true: 1}[r.DeleteOldRDN])
		if r.Moves {
			put("newsuperior", []byte(r.NewSuperior))
		}
	}
	b.WriteByte('\n')
}

// FuzzParse: what is read, printed and read again is the same, and nothing comes
// beside an error.
func FuzzParse(f *testing.F) {
	f.Add([]byte("version: 1\n\ndn: cn=a\nchangetype: modify\nadd: cn\ncn: b\n-\nreplace: sn\n-\n"))
	f.Add([]byte("dn:: Y249YQ==\ncn: a\n # c\n b\nobjectClass: x\n\ndn: cn=a\nchangetype: delete\n"))
	f.Add([]byte("dn: cn=a\r\nchangetype: moddn\r\nnewrdn: cn=b\r\ndeleteoldrdn: 0\r\nnewsuperior: dc=x"))
	f.Add([]byte("dn: cn=a\ncn: a\nCN:: \n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := Parse(bytes.NewReader(in))
		if err != nil {
			if got != nil {
				t.Fatal("records beside an error")
			}
			return
		}
		var b bytes.Buffer
		for _, r := range got {
			printed(&b, r)
		}
		back, err := Parse(&b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range back {
			back[i].Line = got[i].Line
		}
		for i := range got { // base64 of nothing is an empty value, not none
			if fmt.Sprintf("%+v", got[i]) != fmt.Sprintf("%+v", back[i]) {
				t.Fatalf("%+v comes back as %+v", got[i], back[i])
			}
		}
		if len(got) != len(back) {
			t.Fatal("records were lost")
		}
	})
}
