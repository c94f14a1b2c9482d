package realm_test

import (
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sekisho/sekisho/realm"
	"golang.org/x/sys/unix"
)

// TestTLS: ldaps and StartTLS verify with the realm's CA, and with no other.
func TestTLS(t *testing.T) {
	r := start(t, testConfig(t))
	addUser(t, r, "alice", "correct horse", 20001)
	for _, url := range []string{r.Info().LDAPS[0], r.Info().LDAP[0]} {
		if err := dial(t, r, url).Bind(r.Info().Layout.UserDN("alice"), "correct horse"); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		// go-ldap keeps only the text of StartTLS errors.
		if _, err := tryDial(url, x509.NewCertPool()); err == nil || !strings.Contains(err.Error(), "signed by unknown authority") {
			t.Errorf("%s with no CA: %v", url, err)
		}
		// OpenLDAP's own client, by address and by name.
		for _, addr := range []string{url, strings.Replace(url, "127.0.0.1", "localhost", 1)} {
			args := []string{"-x", "-H", addr, "-D", r.Info().Layout.UserDN("alice"), "-w", "correct horse"}
			if strings.HasPrefix(url, "ldap:") {
				args = append(args, "-ZZ")
			}
			if out, err := tool(t, r, "", "ldapwhoami", args...); err != nil {
				t.Errorf("%s: %v\n%s", addr, err, out)
			}
			refused := exec.Command("ldapwhoami", args...)
			refused.Env = []string{"PATH=/usr/bin:/bin", "LDAPTLS_CACERT=/etc/ssl/certs/ca-certificates.crt"}
			if out, err := refused.CombinedOutput(); err == nil {
				t.Errorf("%s without the CA: %s", addr, out)
			}
		}
	}
	st, err := os.Stat(filepath.Join(filepath.Dir(r.Info().Stash), "tls/ca.key"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("ca.key: %v, %v", st.Mode(), err)
	}
}

// TestNotRoot: somebody runs a realm as himself, and administers it.
func TestNotRoot(t *testing.T) {
	c := testConfig(t)
	c.AdminUIDs = []int{c.UID}
	dir := filepath.Dir(c.Dir)
	if err := os.Chown(dir, c.UID, c.GID); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "sekishod")
	b, err := os.ReadFile(self(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, b, 0o755); err != nil {
		t.Fatal(err)
	}
	as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(c.UID), Gid: uint32(c.GID)}}
	low := c
	low.LDAP = []string{"127.0.0.1:389"}
	low.UID, low.GID = 0, 0
	out, err := sekishod(t, low, as, program).Output()
	if err == nil || !strings.Contains(string(out), "CAP_NET_BIND_SERVICE") {
		t.Errorf("port 389: %s", out)
	}
	other := c
	other.UID++
	out, err = sekishod(t, other, as, program).Output()
	if err == nil || !strings.Contains(string(out), "start as root or as that user") {
		t.Errorf("another user: %s", out)
	}
	c.UID, c.GID = 0, 0 // as this process
	pids := untilReady(t, c, sekishod(t, c, as, program))
	for _, pid := range pids {
		var st syscall.Stat_t
		if err := syscall.Stat(fmt.Sprintf("/proc/%d", pid), &st); err != nil || int(st.Uid) != int(as.Credential.Uid) {
			t.Errorf("process %d is of uid %d, %v", pid, st.Uid, err)
		}
	}
	// A service that dropped its rights but for the ports.
	able := *as
	able.AmbientCaps = []uintptr{unix.CAP_NET_BIND_SERVICE}
	ports := testConfig(t)
	ports.LDAP, ports.LDAPS, ports.KDC, ports.Kpasswd, ports.UID, ports.GID = nil, nil, nil, nil, 0, 0
	if err := os.Chown(filepath.Dir(ports.Dir), int(able.Credential.Uid), int(able.Credential.Gid)); err != nil {
		t.Fatal(err)
	}
	untilReady(t, ports, sekishod(t, ports, &able, program))

	who := exec.Command("ldapwhoami", "-Q", "-Y", "EXTERNAL", "-H", "ldapi://"+strings.ReplaceAll(filepath.Join(c.RunDir, "ldapi"), "/", "%2F"))
	who.SysProcAttr = as
	if out, err := who.CombinedOutput(); err != nil || string(out) != "dn:cn=admin,dc=sekisho,dc=internal\n" {
		t.Errorf("whoami: %s, %v", out, err)
	}
}

// TestLowPorts: started by root, the servers listen below 1024 and are not root.
func TestLowPorts(t *testing.T) {
	c := testConfig(t)
	c.LDAP, c.LDAPS, c.KDC, c.Kpasswd = nil, nil, nil, nil // the defaults
	run(t, c, func(r *realm.Realm) {
		addUser(t, r, "alice", "correct horse", 20001)
		if !kinit(t, r, "alice", "correct horse") || !ldapBind(t, r, "alice", "correct horse") {
			t.Error("no sign-in")
		}
		if !slices.Contains(r.Info().LDAPS, "ldaps://127.0.0.1:636") || !slices.Contains(r.Info().KDC, "127.0.0.1:88") ||
			!slices.Contains(r.Info().Kpasswd, "127.0.0.1:464") {
			t.Errorf("%+v", r.Info())
		}
		for _, s := range r.Status() {
			var st syscall.Stat_t
			if err := syscall.Stat(fmt.Sprintf("/proc/%d", s.PID), &st); err != nil || int(st.Uid) != c.UID {
				t.Errorf("%s is of uid %d, %v", s.Name, st.Uid, err)
			}
		}
	})
	c.UID, c.GID = 0, 0
	if _, err := realm.Open(within(t, time.Minute), c); err == nil || !strings.Contains(err.Error(), "useradd") {
		t.Errorf("as root: %v", err)
	}
}

// TestRenewal: a certificate that comes due while the realm runs is renewed, and
// slapd serves the new one, with no failure counted.
func TestRenewal(t *testing.T) {
	c := testConfig(t)
	var earlier atomic.Int64
	earlier.Store(int64(370 * 24 * time.Hour)) // of the certificate's 397 days
	c.Now = func() time.Time { return time.Now().Add(-time.Duration(earlier.Load())) }
	r := start(t, c)
	serial := func() string {
		t.Helper()
		l := dial(t, r, r.Info().LDAPS[0])
		state, ok := l.TLSConnectionState()
		if !ok {
			t.Fatal("no TLS")
		}
		return state.PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	r.CheckCert()
	if serial() != first {
		t.Error("renewed before its time")
	}
	pid := r.Status()[0].PID
	earlier.Store(0)
	r.CheckCert()
	s := waitReady(t, r, 0, pid)
	if serial() == first {
		t.Error("not renewed")
	}
	if s.LastError != "" {
		t.Errorf("a planned restart counts as a failure: %s", s.LastError)
	}
}

// TestServiceReadsAll: the size limit for people does not hold for service accounts,
// which sync the whole tree.
func TestServiceReadsAll(t *testing.T) {
	r, conns := accessWorld(t)
	const n = 600
	for i := range n {
		req := ldap.NewAddRequest(r.Info().Layout.GroupDN(fmt.Sprint("g", i)), nil)
		req.Attribute("objectClass", []string{"groupOfNames"})
		req.Attribute("cn", []string{fmt.Sprint("g", i)})
		req.Attribute("member", []string{r.Info().Layout.GroupDN(fmt.Sprint("g", i))})
		if err := conns["root"].Add(req); err != nil {
			t.Fatal(err)
		}
	}
	search := func(who string) (int, error) {
		res, err := conns[who].Search(ldap.NewSearchRequest(r.Info().Layout.Groups(), ldap.ScopeWholeSubtree, 0, 0, 0, false, "(cn=g*)", []string{"1.1"}, nil))
		return len(res.Entries), err
	}
	if got, err := search("service"); err != nil || got != n {
		t.Errorf("service: %d entries, %v", got, err)
	}
	if got, err := search("alice"); !ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) {
		t.Errorf("alice: %d entries, %v", got, err)
	}
}
