package main

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/testenv"
)

// signIns compares two ways to sign in, each as the arguments of signin.c but the
// number of processes and the time.
type signIns struct {
	on         *testenv.Host
	name       string
	password   string
	ours, peer []string
	peerName   string
	least      float64 // of ours to the peer's rate
}

// measureSignin counts password sign-ins a second through the PAM socket: by KDC
// beside libkrb5, and by bind beside binds without us. What asks is the same
// program each time, and shares the cores with all that answers.
func measureSignin(ctx context.Context, b *bench) error {
	if _, err := compile(ctx, "/usr/local/bin", "signin", "-lkrb5", "-lldap", "-llber"); err != nil {
		return err
	}
	r, err := b.theRealm(ctx)
	if err != nil {
		return err
	}
	own := "sekisho/" + r.web.FQDN + "@" + realmName
	err = b.signIns(ctx, signIns{on: r.web, name: "sign-ins by KDC", password: realmPassword, least: 0.9,
		ours:     append([]string{"pam", pamSocket}, peopleOfRealm()...),
		peer:     append([]string{"krb5", own, "/etc/sekisho/krb5.keytab"}, peopleOfRealm()...),
		peerName: "libkrb5, the same exchanges"})
	if err != nil {
		return fmt.Errorf("by KDC: %w", err)
	}
	w, err := b.theWorld(ctx)
	if err != nil {
		return err
	}
	names, dns, err := w.setPasswords()
	if err != nil {
		return err
	}
	err = b.signIns(ctx, signIns{on: w.web, name: "sign-ins by bind, {SSHA}", password: worldPassword, least: 0.8,
		ours:     append([]string{"pam", pamSocket}, names...),
		peer:     append([]string{"ldap", w.slapd.TLSURL, "/etc/sekisho/ca.pem"}, dns...),
		peerName: "libldap, kept connections"})
	if err != nil {
		return fmt.Errorf("by bind: %w", err)
	}
	return nil
}

// signIns measures at 1, 8 and 32 at once.
func (b *bench) signIns(ctx context.Context, s signIns) error {
	for _, atOnce := range []int{1, 8, 32} {
		var rates [2][]float64
		for round := range pick(7, 1) {
			for i := range rates {
				i = (round + i) % 2
				args := s.ours
				if i == 1 {
					args = s.peer
				}
				rate, err := s.rate(ctx, args, atOnce)
				if err != nil {
					return err
				}
				rates[i] = append(rates[i], rate)
			}
		}
		b.table.add(row{name: fmt.Sprintf("%s, %d at once", s.name, atOnce), ours: median(rates[0]), peer: median(rates[1]),
			peerName: s.peerName, unit: "1/s", bound: bound{"ratio", ">=", s.least}})
	}
	return nil
}

func (s signIns) rate(ctx context.Context, args []string, atOnce int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	args = append([]string{args[0], fmt.Sprint(atOnce), fmt.Sprint(pick(2000, 200))}, args[1:]...)
	c := s.on.Command(ctx, "/usr/local/bin/signin", args...)
	c.Stdin = strings.NewReader(s.password + "\n")
	out, err := c.CombinedOutput()
	var n int
	var took float64
	if err == nil {
		_, err = fmt.Sscan(string(out), &n, &took)
	}
	if err == nil && n == 0 {
		err = errors.New("nobody signed in")
	}
	if err != nil {
		return 0, fmt.Errorf("%s, %d at once: %w: %s", args[0], atOnce, err, out)
	}
	return float64(n) / took * 1e9, nil
}

const worldPassword = "correct-horse-battery"

// setPasswords gives some users of the directory a password, hashed as {SSHA}.
func (w *world) setPasswords() (names, dns []string, err error) {
	c, err := writer(w.slapd)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	for n := range realmPeople {
		p := personOf(n)
		salt := make([]byte, 8)
		rand.Read(salt)
		sum := sha1.Sum(append([]byte(worldPassword), salt...))
		r := ldap.NewModifyRequest(p.dn(), nil)
		r.Replace("userPassword", []string{"{SSHA}" + base64.StdEncoding.EncodeToString(append(sum[:], salt...))})
		if err := c.Modify(r); err != nil {
			return nil, nil, fmt.Errorf("setting the password of %s: %w", p.name, err)
		}
		names, dns = append(names, p.name), append(dns, p.dn())
	}
	return names, dns, nil
}
