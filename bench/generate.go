package main

import (
	"bufio"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// The directory that is measured: users as a site has them, teams of a
// thousand, departments of ten teams, and one group of all departments that
// the rule names. Everything follows from the user's number, so that two runs
// have the same entries.
const (
	suffix    = "dc=example,dc=org"
	perTeam   = 1000
	perDept   = 10 // teams
	firstUID  = 100_000
	usersGID  = 5000
	everyKeys = 10 // one user of so many has keys
	keysEach  = 3

	readerDN = "cn=sekishod,ou=services," + suffix // reads no secret
	readerPW = "reads-no-secret"                   // of a directory that lives in the sandbox only
)

// generator is this file: a directory that another version of it made is not
// used again.
//
//go:embed generate.go
var generator []byte

var givenNames = strings.Fields(`Anna Ben Clara David Elif Felix Greta Hannah Ivan Jana Karim Lea Maria
Noah Olga Paul Quentin Rosa Samuel Tara Ulrich Vera Wei Xenia Yusuf Zoe Björn Chloé`)

var surnames = strings.Fields(`Müller Schmidt Yılmaz Novak Rossi Dubois Andersson Kowalski García Silva Jansen
Nielsen Ivanova Smith Taylor Brown Wilson Evans Thomas Roberts Johnson Walker Wright Thompson White Hughes Edwards
Green Hall Wood Harris Lewis Martin Jackson Clarke Clark Turner Hill Cooper Morris`)

// person is one user.
type person struct {
	n          int // from 0
	name       string
	given, sur string
	keys       []string // sshPublicKey values
}

func personOf(n int) person {
	h := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("person"), uint64(n)))
	p := person{n: n, given: givenNames[int(h[0])%len(givenNames)], sur: surnames[int(h[1])%len(surnames)]}
	p.name = fmt.Sprintf("%s%s%d", ascii(p.given)[:1], ascii(p.sur), n)
	if n%everyKeys == 0 {
		for i := range keysEach {
			p.keys = append(p.keys, keyOf(n, i)+" "+p.name+"@"+[]string{"laptop", "desktop", "yubikey"}[i])
		}
	}
	return p
}

// keyOf is an Ed25519 public key that nobody has the other half of.
func keyOf(n, i int) string {
	return "ssh-ed25519 " + base64.StdEncoding.EncodeToString(blobOf(n, i))
}

// blobOf is its wire form (RFC 8709 §4).
func blobOf(n, i int) []byte {
	h := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("key"), uint64(n)<<8|uint64(i)))
	b := binary.BigEndian.AppendUint32(nil, 11)
	b = append(b, "ssh-ed25519"...)
	b = binary.BigEndian.AppendUint32(b, 32)
	return append(b, h[:]...)
}

var plainLetters = strings.NewReplacer("ü", "ue", "ö", "oe", "é", "e", "í", "i", "ı", "i")

func ascii(s string) string { return plainLetters.Replace(strings.ToLower(s)) }

func (p person) dn() string     { return "uid=" + p.name + ",ou=people," + suffix }
func (p person) uid() int       { return firstUID + p.n }
func (p person) home() string   { return "/home/" + p.name }
func (p person) gecos() string  { return ascii(p.given) + " " + ascii(p.sur) }
func (p person) common() string { return p.given + " " + p.sur }

func (p person) shell() string {
	if p.n%7 == 0 {
		return "/bin/zsh"
	}
	return "/bin/bash"
}

// writeLDIF writes a directory of n users.
func writeLDIF(out io.Writer, n int) error {
	w := bufio.NewWriterSize(out, 1<<20)
	fmt.Fprintf(w, "dn: %s\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n", suffix)
	for _, ou := range []string{"people", "groups", "hosts", "access", "services"} {
		fmt.Fprintf(w, "dn: ou=%s,%s\nobjectClass: organizationalUnit\nou: %s\n\n", ou, suffix, ou)
	}
	fmt.Fprintf(w, "dn: %s\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: sekishod\nuserPassword: %s\n\n", readerDN, readerPW)
	for i := range n {
		writePerson(w, personOf(i))
	}
	writeGroups(w, n)
	for i := 1; i <= 20; i++ {
		fmt.Fprintf(w, "dn: cn=db%d,ou=hosts,%s\nobjectClass: device\nobjectClass: ipHost\ncn: db%d\nipHostNumber: 198.51.100.%d\n\n", i, suffix, i, i)
		writeRule(w, fmt.Sprintf("db%d-admins", i), "group:dept-0", fmt.Sprintf("host:db%d", i))
	}
	fmt.Fprintf(w, "dn: cn=web,ou=hosts,%s\nobjectClass: device\nobjectClass: ipHost\ncn: web\nipHostNumber: 198.51.100.200\n\n", suffix)
	writeRule(w, "staff-on-web", "group:staff", "host:web")
	return w.Flush()
}

func writePerson(w *bufio.Writer, p person) {
	fmt.Fprintf(w, "dn: %s\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\nobjectClass: shadowAccount\nobjectClass: ldapPublicKey\n", p.dn())
	fmt.Fprintf(w, "uid: %s\ncn:: %s\nsn:: %s\ngivenName:: %s\nuidNumber: %d\ngidNumber: %d\nhomeDirectory: %s\nloginShell: %s\ngecos: %s\nmail: %s@example.org\n",
		p.name, b64(p.common()), b64(p.sur), b64(p.given), p.uid(), usersGID, p.home(), p.shell(), p.gecos(), p.name)
	fmt.Fprintf(w, "userPassword: {SSHA}%s\n", base64.StdEncoding.EncodeToString(blobOf(p.n, 255)[19:43]))
	for _, k := range p.keys {
		fmt.Fprintf(w, "sshPublicKey: %s\n", k)
	}
	w.WriteByte('\n')
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func writeGroups(w *bufio.Writer, n int) {
	group := func(name string, gid int, members []string) {
		fmt.Fprintf(w, "dn: cn=%s,ou=groups,%s\nobjectClass: groupOfNames\nobjectClass: posixGroup\ncn: %s\ngidNumber: %d\n", name, suffix, name, gid)
		for _, m := range members {
			fmt.Fprintf(w, "member: %s\n", m)
		}
		w.WriteByte('\n')
	}
	group("users", usersGID, []string{"cn=users,ou=groups," + suffix})
	teams := (n + perTeam - 1) / perTeam
	var depts []string
	for d := 0; d*perDept < teams; d++ {
		var names []string
		for t := d * perDept; t < min((d+1)*perDept, teams); t++ {
			var members []string
			for i := t * perTeam; i < min((t+1)*perTeam, n); i++ {
				members = append(members, personOf(i).dn())
			}
			group(fmt.Sprintf("team-%d", t), 20_000+t, members)
			names = append(names, fmt.Sprintf("cn=team-%d,ou=groups,%s", t, suffix))
		}
		group(fmt.Sprintf("dept-%d", d), 10_000+d, names)
		depts = append(depts, fmt.Sprintf("cn=dept-%d,ou=groups,%s", d, suffix))
	}
	group("staff", 9000, depts)
}

func writeRule(w *bufio.Writer, name, subject, target string) {
	fmt.Fprintf(w, "dn: cn=%s,ou=access,%s\nobjectClass: sekishoRule\ncn: %s\nsekishoSubject: %s\nsekishoDoor: *\nsekishoTarget: %s\n\n",
		name, suffix, name, subject, target)
}
