package main

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/testenv"
)

// measureSignin counts password sign-ins a second through the PAM socket: by KDC
// beside libkrb5 doing the same exchanges, and by bind beside binds without us. All
// that asks shares the cores with all that answers.
func measureSignin(ctx context.Context, b *bench) error {
	if _, err := compile(ctx, "/usr/local/bin", "signin", "-lkrb5", "-lldap", "-llber"); err != nil {
		return err
	}
	r, err := b.theRealm(ctx)
	if err != nil {
		return err
	}
	byKDC := func(args ...string) rater {
		return askers{on: r.web, password: realmPassword, args: append(args, peopleOfRealm()...)}.rate
	}
	own := "sekisho/" + r.web.FQDN + "@" + realmName
	if err := b.signIns(ctx, "sign-ins by KDC", []rated{
		{rate: byKDC("pam", pamSocket)},
		{rate: byKDC("krb5", own, "/etc/sekisho/krb5.keytab"), name: "libkrb5, the same exchanges", bound: bound{"ratio", ">=", 0.9}},
	}); err != nil {
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
	byBind := func(users []string, args ...string) rater {
		return askers{on: w.web, password: worldPassword, args: append(args, users...)}.rate
	}
	if err := b.signIns(ctx, "sign-ins by bind, {SSHA}", []rated{
		{rate: byBind(names, "pam", pamSocket)},
		{rate: binders{url: w.slapd.TLSURL, ca: w.ca, dns: dns}.rate, name: "bare binds by go-ldap, kept connections", bound: bound{"ratio", ">=", 0.8}},
		{rate: byBind(dns, "ldap", w.slapd.TLSURL, "/etc/sekisho/ca.pem"), name: "bare binds by libldap, kept connections"},
	}); err != nil {
		return fmt.Errorf("by bind: %w", err)
	}
	return nil
}

// rater signs in as fast as it can, so many at once, and returns how many did a
// second.
type rater func(ctx context.Context, atOnce int) (float64, error)

type rated struct {
	rate  rater
	name  string // of a peer
	bound bound
}

// signIns measures the first beside the others at 1, 8 and 32 at once.
func (b *bench) signIns(ctx context.Context, name string, all []rated) error {
	for _, atOnce := range []int{1, 8, 32} {
		rates := make([][]float64, len(all))
		for round := range pick(7, 1) {
			for i := range all {
				i = (round + i) % len(all)
				rate, err := all[i].rate(ctx, atOnce)
				if err != nil {
					return fmt.Errorf("%d at once: %w", atOnce, err)
				}
				rates[i] = append(rates[i], rate)
			}
		}
		for i, peer := range all[1:] {
			b.table.add(row{name: fmt.Sprintf("%s, %d at once", name, atOnce), ours: median(rates[0]), peer: median(rates[i+1]),
				peerName: peer.name, unit: "1/s", bound: peer.bound})
		}
	}
	return nil
}

// askers are runs of signin.c; args are its arguments but the number of processes
// and the time.
type askers struct {
	on       *testenv.Host
	password string
	args     []string
}

func (a askers) rate(ctx context.Context, atOnce int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	args := append([]string{a.args[0], fmt.Sprint(atOnce), fmt.Sprint(signinTime().Milliseconds())}, a.args[1:]...)
	c := a.on.Command(ctx, "/usr/local/bin/signin", args...)
	c.Stdin = strings.NewReader(a.password + "\n")
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
		return 0, fmt.Errorf("signin %s: %w: %s", a.args[0], err, out)
	}
	return float64(n) / took * 1e9, nil
}

func signinTime() time.Duration { return time.Duration(pick(2000, 200)) * time.Millisecond }

// binders bind in this process, each on a connection of its own.
type binders struct {
	url string
	ca  []byte
	dns []string
}

func (p binders) rate(ctx context.Context, atOnce int) (float64, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.ca)
	var conns []*ldap.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	bind := func(i int) error { return conns[i].Bind(p.dns[i%len(p.dns)], worldPassword) }
	for i := range atOnce {
		c, err := ldap.DialURL(p.url, ldap.DialWithTLSConfig(&tls.Config{RootCAs: roots}))
		if err != nil {
			return 0, err
		}
		c.SetTimeout(2 * time.Minute)
		conns = append(conns, c)
		if err := bind(i); err != nil { // nobody's first one counts
			return 0, err
		}
	}
	counts, errs := make([]int, atOnce), make([]error, atOnce)
	start := time.Now()
	end := start.Add(signinTime())
	var all sync.WaitGroup
	for i := range conns {
		all.Go(func() {
			for n := 0; time.Now().Before(end) && errs[i] == nil && ctx.Err() == nil; n++ {
				errs[i] = bind(i)
				counts[i] = n + 1
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return 0, fmt.Errorf("binding: %w", err)
	}
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return float64(sum) / took.Seconds(), nil
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
