package accept

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb"
)

// fromKDC is an acceptor with the KDC's keytab and a replay cache in a file.
func (k *kdc) acceptor(change func(*Config)) *Acceptor {
	k.t.Helper()
	kt, err := OpenKeytab(k.keytab())
	if err != nil {
		k.t.Fatal(err)
	}
	r, err := OpenReplay(ReplayConfig{Path: filepath.Join(k.t.TempDir(), "replay")})
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { r.Close() })
	c := Config{Keytab: kt, Replay: r}
	if change != nil {
		change(&c)
	}
	a, err := New(c)
	if err != nil {
		k.t.Fatal(err)
	}
	return a
}

// ask makes an AP-REQ with MIT's library and says what else it printed.
func (k *kdc) ask(args ...string) (msg []byte, session, subkey, seq string, d *dialogue) {
	k.t.Helper()
	d = talk(k.t, k.command(mit(k.t), append([]string{"req"}, args...)...))
	msg, err := hex.DecodeString(d.hear())
	if err != nil {
		k.t.Fatal(err)
	}
	f := strings.Fields(d.hear())
	return msg, f[0], f[1], f[2], d
}

func (k *kdc) request(args ...string) []byte {
	k.t.Helper()
	msg, _, _, _, _ := k.ask(args...)
	return msg
}

// TestMIT: AP-REQs of MIT's library for tickets of a real KDC, in all forms, and
// our AP-REPs read by krb5_rd_rep.
func TestMIT(t *testing.T) {
	k := startKDC(t)
	servers := map[string]int32{}
	for name, etype := range map[string]int32{"aes128-cts": 17, "aes256-cts": 18, "aes128-sha2": 19, "aes256-sha2": 20} {
		server := fmt.Sprintf("host/%s.sekisho.internal@%s", name, testRealm)
		k.addService(server, "-e", name+":normal")
		k.admin("setstr", server, "session_enctypes", name)
		servers[server] = etype
	}
	k.kinit("-f", "alice")
	a := k.acceptor(nil)
	for server, etype := range servers {
		for _, opts := range []string{"", "seq", "sum", "subkey", "mutual", "mutual seq subkey", "mutual seq subkey sum", "mutual etypes seq"} {
			what := server + " " + opts
			msg, session, subkey, seq, d := k.ask(append([]string{server}, strings.Fields(opts)...)...)
			got, err := a.Accept(t.Context(), msg, Options{WantPAC: true, From: netip.MustParseAddr("203.0.113.7")})
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			if got.Client.String() != "alice@"+testRealm || got.Server.String() != server || got.EType != etype || got.SessionKey.EType != etype ||
				got.KVNO != 1 || hex.EncodeToString(got.SessionKey.Value) != session || got.Mutual != strings.Contains(opts, "mutual") ||
				got.Flags&(krb.FlagForwardable|krb.FlagInitial) != krb.FlagForwardable {
				t.Errorf("%s: %+v", what, got)
			}
			checkPAC(t, what, a, got)
			has := "none"
			if got.Subkey != nil {
				has = hex.EncodeToString(got.Subkey.Value)
			}
			if has != subkey || strings.Contains(opts, "seq") && fmt.Sprint(got.Seq) != seq {
				t.Errorf("%s: another subkey or sequence number", what)
			}
			if strings.Contains(opts, "sum") {
				key := got.SessionKey
				if got.Checksum.Type != key.ChecksumType() || !key.VerifyChecksum(10, []byte("data to be sum"), got.Checksum.Value) {
					t.Errorf("%s: checksum of type %d", what, got.Checksum.Type)
				}
			}
			// It offers what it likes better than the session key's type.
			if offered := strings.Contains(opts, "etypes") && etype != krb.AES256SHA1; offered != (len(got.ETypes) > 0) || offered && !slices.Contains(got.ETypes, krb.AES256SHA1) {
				t.Errorf("%s: offered %v", what, got.ETypes)
			}
			if got.Mutual {
				checkMITReply(t, what, got, d, strings.Contains(opts, "subkey"))
			}
			checkRefused(t, a, msg, Options{}, Replayed, 34)
		}
	}
}

// checkPAC changes each byte of a PAC that was believed. Only the KDC's signature
// for itself may change, for which we have no key.
func checkPAC(t *testing.T, what string, a *Acceptor, got *Accepted) {
	t.Helper()
	keys, refused := a.c.Keytab.find(got.Server, int64(got.KVNO), got.EType)
	if refused != nil || !signedPAC(got.PAC, keys[0].Key) {
		t.Fatalf("%s: a PAC of %d bytes, %v", what, len(got.PAC), refused)
	}
	changed := 0
	for i := range got.PAC {
		bad := bytes.Clone(got.PAC)
		bad[i] ^= 0x40
		if signedPAC(bad, keys[0].Key) {
			changed++
		}
		if signedPAC(got.PAC[:i], keys[0].Key) {
			t.Errorf("%s: a PAC cut at %d was believed", what, i)
		}
	}
	if changed < 12 || changed > 24 {
		t.Errorf("%s: %d bytes can be changed", what, changed)
	}
	if signedPAC(got.PAC, randomKey(t, got.EType)) {
		t.Errorf("%s: signed with any key", what)
	}
}

func checkMITReply(t *testing.T, what string, got *Accepted, d *dialogue, own bool) {
	t.Helper()
	var sub *krb.Key
	wanted := "4000000000 none"
	if own {
		k := randomKey(t, krb.AES128SHA2)
		sub, wanted = &k, fmt.Sprintf("4000000000 19 %x", k.Value)
	}
	rep, err := got.Reply(sub, 4000000000)
	if err != nil {
		t.Fatal(err)
	}
	d.say(hex.EncodeToString(rep))
	if heard := d.hear(); heard != wanted {
		t.Errorf("%s: krb5_rd_rep has %q, not %q", what, heard, wanted)
	}
}

// TestMITRefused: real tickets that are not good enough.
func TestMITRefused(t *testing.T) {
	k := startKDC(t)
	host := "host/web1.sekisho.internal@" + testRealm
	k.addService(host)
	k.addService("kadmin/changepw2")
	k.admin("addprinc", "-randkey", "http/elsewhere")
	k.admin("addprinc", "-randkey", "-e", "arcfour-hmac:normal", "http/rc4")
	k.addService("http/weak")
	k.admin("setstr", "http/weak", "session_enctypes", "arcfour-hmac")
	k.kinit("alice")
	a := k.acceptor(nil)
	if _, err := a.Accept(t.Context(), k.request(host), Options{}); err != nil {
		t.Fatal(err)
	}
	checkRefused(t, a, k.request("http/elsewhere"), Options{}, WrongService, 35)
	checkRefused(t, a, k.request("http/rc4"), Options{}, WrongService, 35)
	checkRefused(t, a, k.request("http/weak"), Options{}, NoKey, 14)
	checkRefused(t, a, k.request(host), Options{RequireInitial: true}, NotAllowed, 12)
	only := k.acceptor(func(c *Config) { c.Service = func(p krb.Principal) bool { return p.Components[0] == "http" } })
	checkRefused(t, only, k.request(host), Options{}, WrongService, 35)

	// An RC4 ticket for a service of which we have AES keys: its key was changed.
	entries, err := krb.ReadKeytab(k.keytab())
	if err != nil {
		t.Fatal(err)
	}
	both := entries[0]
	both.Principal = principal("http/rc4@" + testRealm)
	static, err := StaticKeytab([]krb.KeytabEntry{both})
	if err != nil {
		t.Fatal(err)
	}
	rc4 := k.acceptor(func(c *Config) { c.Keytab = static })
	checkRefused(t, rc4, k.request("http/rc4"), Options{}, NoKey, 14)

	// By the clock: ours is moved.
	for ahead, kind := range map[time.Duration]Kind{6 * time.Minute: Clock, -6 * time.Minute: Clock, 48 * time.Hour: Clock} {
		late := k.acceptor(func(c *Config) { c.Now = func() time.Time { return time.Now().Add(ahead) } })
		e := checkRefused(t, late, k.request(host), Options{}, kind, 37)
		if off := e.ClientAhead + ahead; off.Abs() > time.Minute {
			t.Errorf("our clock is %s ahead, the client's %s", ahead, e.ClientAhead)
		}
	}

	// Addresses: a ticket with some is good from there only.
	k.kinit("-a", "alice")
	msg := k.request(host)
	if got, err := a.Accept(t.Context(), msg, Options{From: netip.MustParseAddr("203.0.113.77")}); err == nil {
		t.Errorf("from elsewhere: %+v", got)
	} else {
		checkRefused(t, a, msg, Options{From: netip.MustParseAddr("203.0.113.77")}, Address, 38)
	}
	if _, err := a.Accept(t.Context(), msg, Options{From: netip.MustParseAddr("203.0.113.1")}); err != nil {
		t.Errorf("from the address in the ticket: %v", err)
	}

	// With the password itself, as kpasswd wants it.
	k.kinit("-S", "kadmin/changepw2", "alice")
	if _, err := a.Accept(t.Context(), k.request("kadmin/changepw2"), Options{RequireInitial: true}); err != nil {
		t.Errorf("initial: %v", err)
	}
	// Post-dated, and not validated: the KDC gives it at once.
	k.kinit("-S", host, "-s", "2m", "alice")
	checkRefused(t, a, k.request(host), Options{}, NotYet, 33)

	// Cross-realm.
	k.kinit("alice@" + otherRealm)
	checkRefused(t, a, k.request(host), Options{}, ForeignRealm, 12)
	trusting := k.acceptor(func(c *Config) { c.Realms = []string{otherRealm} })
	if got, err := trusting.Accept(t.Context(), k.request(host), Options{}); err != nil || got.Client.String() != "alice@"+otherRealm {
		t.Errorf("trusted realm: %+v, %v", got, err)
	}
}

// TestMITRollOver: kadmin changes the key and adds it to the keytab, as an
// administrator does, while the acceptor lives.
func TestMITRollOver(t *testing.T) {
	k := startKDC(t)
	host := "host/web1.sekisho.internal@" + testRealm
	k.addService(host)
	k.kinit("alice")
	a := k.acceptor(nil)
	first := k.request(host)
	for kvno := 2; kvno < 6; kvno++ {
		k.admin("cpw", "-randkey", "-keepold", host)
		k.kinit("alice") // a cache without the old ticket
		msg := k.request(host)
		checkRefused(t, a, msg, Options{}, NoKey, 44)
		k.admin("ktadd", "-norandkey", "-k", k.keytab(), host)
		got, err := a.Accept(t.Context(), msg, Options{})
		if err != nil || got.KVNO != kvno {
			t.Errorf("version %d: %v", kvno, err)
		}
	}
	if got, err := a.Accept(t.Context(), first, Options{}); err != nil || got.KVNO != 1 {
		t.Errorf("the first version: %v", err)
	}
}

// verifier is MIT's krb5_rd_req with a keytab.
func verifier(t testing.TB, keytab string) *dialogue {
	cmd := command(t, mit(t), "verify")
	cmd.Env = []string{"KRB5_CONFIG=/dev/null", "KRB5_KTNAME=FILE:" + keytab, "KRB5RCACHENAME=none:", "LC_ALL=C"}
	return talk(t, cmd)
}

// TestOnlyWhatMITAccepts: whatever becomes of a good request, outside its seals
// and inside them, we say yes only if krb5_rd_req does, and to the same client.
func TestOnlyWhatMITAccepts(t *testing.T) {
	key := randomKey(t, krb.AES256SHA1)
	path := writeKeytab(t, krb.KeytabEntry{Principal: host, KVNO: 3, Time: time.Now(), Key: key})
	v := verifier(t, path)
	kt, err := OpenKeytab(path)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Config{Keytab: kt, Replay: new(mapReplay)})
	if err != nil {
		t.Fatal(err)
	}
	m := newMutator(t)
	var ours, theirs int
	const rounds = 12000
	for n := range rounds {
		r := newRequest(t, alice, host, key, 3, time.Now())
		if n%3 == 0 {
			r.auth.Cksum.CksumType, r.auth.Cksum.Checksum = 0x8003, make([]byte, 24)
			r.auth.SubKey.KeyType, r.auth.SubKey.KeyValue = 18, make([]byte, 32)
		}
		msg := m.request(t, r, n)
		got, err := a.Accept(t.Context(), msg, Options{})
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Kind == Unknown) {
			t.Fatalf("%v", err)
		}
		v.say(hex.EncodeToString(msg))
		verdict := v.hear()
		if strings.HasPrefix(verdict, "yes ") {
			theirs++
		}
		if err != nil {
			continue
		}
		ours++
		if verdict != fmt.Sprintf("yes %s %s", got.Client, got.Server) {
			part, _ := key.Decrypt(usageTicket, r.req.Ticket.EncPart.Cipher)
			auth, _ := r.session.Decrypt(usageAuthenticator, r.req.EncryptedAuthenticator.Cipher)
			t.Errorf("round %d: we accept %s for %s, MIT says %q\nmessage %x\nticket %x\nauthenticator %x", n, got.Client, got.Server, verdict, msg, part, auth)
		}
	}
	t.Logf("of %d requests we accepted %d, MIT %d", rounds, ours, theirs)
	if ours < rounds/100 || ours > rounds*9/10 {
		t.Errorf("we accepted %d of %d: the changes are too rough or too fine", ours, rounds)
	}
}

// TestKilled: a process is killed again and again; never does another say yes to
// what it said yes to.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	key := randomKey(t, krb.AES256SHA1)
	if err := krb.WriteKeytab(filepath.Join(dir, "keytab"), []krb.KeytabEntry{{Principal: host, KVNO: 3, Key: key}}); err != nil {
		t.Fatal(err)
	}
	start := func() *dialogue {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := command(t, exe)
		cmd.Env = []string{"SEKISHO_TEST_ACCEPT=" + dir}
		d := talk(t, cmd)
		if line := d.hear(); line != "ready" {
			t.Fatal(line)
		}
		return d
	}
	var used []string
	for round := range 8 {
		d := start()
		if round == 0 {
			second := command(t, d.cmd.Path)
			second.Env = d.cmd.Env
			if line := talk(t, second).hear(); !strings.HasPrefix(line, "error") || !strings.Contains(line, "another process") {
				t.Errorf("a second process: %q", line)
			}
		}
		for _, msg := range used {
			d.say(msg)
			if line := d.hear(); !strings.HasPrefix(line, "no ") || !strings.Contains(line, "used before") {
				t.Fatalf("round %d: %q", round, line)
			}
		}
		var asked []string
		for range 40 {
			msg := hex.EncodeToString(newRequest(t, alice, host, key, 3, time.Now()).make(t))
			asked = append(asked, msg)
		}
		// All are asked at once, and it is killed in the middle of the answers.
		go d.in.Write(bytes.Join([][]byte{[]byte(strings.Join(asked, "\n")), nil}, []byte("\n")))
		for n := range 3 + 4*round {
			if line := d.hear(); line != "yes "+alice.String() {
				t.Fatalf("round %d: %q", round, line)
			}
			used = append(used, asked[n])
		}
		if err := d.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		d.cmd.Wait()
	}
}
