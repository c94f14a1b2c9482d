package gss_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/accept"
	"github.com/sekisho/sekisho/krb/ccache"
	"github.com/sekisho/sekisho/krb/gss"
	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/mit"
)

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// sshServer is an x/crypto/ssh server on a host: alice@REALM may be alice. It tells
// each session what it knows of the client.
type sshServer struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu        sync.Mutex
	contexts  []*gss.Context // of logins
	refusals  []error        // of attempts
	delegated []krb.Credential
}

func startSSHServer(t testing.TB, h *testenv.Host, a *gss.Acceptor) *sshServer {
	t.Helper()
	s := &sshServer{}
	err := h.Inside(func() (err error) {
		s.listener, err = net.Listen("tcp", netip.AddrPortFrom(h.Addr, 22).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	pem, err := h.ReadFile("/etc/ssh/ssh_host_ed25519_key")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	s.wg.Go(func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { s.serve(conn, a, key) })
		}
	})
	t.Cleanup(func() {
		s.listener.Close()
		s.wg.Wait()
	})
	return s
}

func (s *sshServer) serve(conn net.Conn, a *gss.Acceptor, key ssh.Signer) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	from := netip.MustParseAddrPort(conn.RemoteAddr().String()).Addr()
	g := a.SSHServer(ctx, gss.Peer{From: from})
	cfg := &ssh.ServerConfig{
		AuthLogCallback: func(_ ssh.ConnMetadata, method string, err error) {
			if err != nil && method != "none" {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.refusals = append(s.refusals, err)
			}
		},
		GSSAPIWithMICConfig: &ssh.GSSAPIWithMICConfig{Server: g, AllowLogin: func(m ssh.ConnMetadata, srcName string) (*ssh.Permissions, error) {
			c := g.Context()
			if c == nil || c.Client().String() != srcName || srcName != m.User()+"@EXAMPLE.ORG" {
				return nil, fmt.Errorf("%s may not be %s", srcName, m.User())
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.contexts = append(s.contexts, c)
			return &ssh.Permissions{Extensions: map[string]string{"principal": srcName}}, nil
		}},
	}
	cfg.AddHostKey(key)
	sc, chans, reqs, err := ssh.NewServerConn(conn, cfg)
	if err != nil {
		return
	}
	s.wg.Go(func() { ssh.DiscardRequests(reqs) })
	for nc := range chans {
		ch, in, err := nc.Accept()
		if err != nil {
			return
		}
		for r := range in {
			if r.Type != "exec" {
				r.Reply(false, nil)
				continue
			}
			r.Reply(true, nil)
			fmt.Fprintf(ch, "you are %s\n", sc.Permissions.Extensions["principal"])
			ch.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
			ch.Close()
		}
	}
}

// last is the context of the last login.
func (s *sshServer) last(t testing.TB) *gss.Context {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.contexts) == 0 {
		t.Fatal("nobody signed in")
	}
	return s.contexts[len(s.contexts)-1]
}

// sshWorld is a realm and two hosts that know it, alice having signed in on client.
func sshWorld(t *testing.T) (r *mit.Realm, web, cli *testenv.Host) {
	t.Helper()
	w := testenv.ForTest(t)
	web, cli = w.Need(t, "web1"), w.Need(t, "client")
	r = mit.NewRealm(t, "host/"+web.FQDN)
	conf, err := os.ReadFile(r.KRB5Conf)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []*testenv.Host{web, cli} {
		if err := h.WriteFile("/etc/krb5.conf", conf, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kinit := cli.Command(within(t, time.Minute), "kinit", "-f", "alice")
	kinit.Env = append(kinit.Env, "KRB5CCNAME=FILE:/run/cc")
	kinit.Stdin = strings.NewReader(mit.Password + "\n")
	if out, err := kinit.CombinedOutput(); err != nil {
		t.Fatalf("kinit: %v\n%s", err, out)
	}
	return r, web, cli
}

func sshFrom(t testing.TB, cli, to *testenv.Host, user string, options ...string) (string, error) {
	t.Helper()
	cmd := cli.SSH(within(t, time.Minute), testenv.SSHCall{To: to, User: user, Command: "who",
		Options: append(options, "GSSAPIAuthentication=yes", "PreferredAuthentications=gssapi-with-mic")})
	cmd.Env = append(cmd.Env, "KRB5CCNAME=FILE:/run/cc")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestOpenSSHClient: Debian's ssh signs in to an x/crypto/ssh server by ticket.
func TestOpenSSHClient(t *testing.T) {
	r, web, cli := sshWorld(t)
	s := startSSHServer(t, web, r.Acceptor(t, func(c *gss.Config, _ *accept.Config) { c.TakeDelegated = true }))

	if out, err := sshFrom(t, cli, web, "alice"); err != nil || out != "you are alice@EXAMPLE.ORG\n" {
		t.Fatalf("%v\n%s", err, out)
	}
	if c := s.last(t); c.Delegated() != nil || c.Server().String() != "host/web1.example.org@EXAMPLE.ORG" || c.Flags()&gss.Mutual == 0 {
		t.Errorf("%v, %x", c.Delegated(), c.Flags())
	}

	if out, err := sshFrom(t, cli, web, "alice", "GSSAPIDelegateCredentials=yes"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := s.last(t).Delegated()
	if len(got) != 1 || got[0].Flags&krb.FlagForwarded == 0 {
		t.Fatalf("delegated: %v", got)
	}
	r.Ticket(t, got[0], "host/e20.example.org")
	// MIT's tools use it as well.
	b, err := ccache.Format(ccache.New(got[0]))
	if err != nil {
		t.Fatal(err)
	}
	cc := filepath.Join(t.TempDir(), "cc")
	if err := os.WriteFile(cc, b, 0o600); err != nil {
		t.Fatal(err)
	}
	kvno := exec.CommandContext(within(t, time.Minute), "kvno", "host/e19.example.org")
	kvno.Env = r.Env(cc)
	if out, err := kvno.CombinedOutput(); err != nil {
		t.Errorf("kvno: %v\n%s", err, out)
	}

	// A ticket is not another's login.
	if out, err := sshFrom(t, cli, web, "bob"); err == nil {
		t.Errorf("alice is bob:\n%s", out)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.contexts) != 2 || len(s.refusals) == 0 {
		t.Errorf("%d logins, %d refusals", len(s.contexts), len(s.refusals))
	}
}

// TestSSHServerRefuses: without a ticket that fits, and when the clock is wrong.
func TestSSHServerRefuses(t *testing.T) {
	r, web, cli := sshWorld(t)
	s := startSSHServer(t, web, r.Acceptor(t, func(_ *gss.Config, c *accept.Config) {
		c.Now = func() time.Time { return time.Now().Add(-10 * time.Minute) }
	}))
	if out, err := sshFrom(t, cli, web, "alice"); err == nil {
		t.Fatalf("a login with a wrong clock:\n%s", out)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var e *accept.Error
	if len(s.refusals) == 0 || !errors.As(s.refusals[0], &e) || e.Kind != accept.Clock || len(s.contexts) != 0 {
		t.Errorf("%v", s.refusals)
	}
}

// sshDial signs in with SSHClient and runs a command.
func sshDial(t testing.TB, h *testenv.Host, user string, cfg gss.SSHConfig, command string) (string, error) {
	t.Helper()
	line, err := h.ReadFile("/etc/ssh/ssh_host_ed25519_key.pub")
	if err != nil {
		t.Fatal(err)
	}
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		t.Fatal(err)
	}
	g, err := gss.NewSSHClient(within(t, time.Minute), cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ssh.Dial("tcp", netip.AddrPortFrom(h.Addr, 22).String(), &ssh.ClientConfig{User: user, Timeout: time.Minute,
		HostKeyCallback: ssh.FixedHostKey(hostKey), Auth: []ssh.AuthMethod{ssh.GSSAPIWithMICAuthMethod(g, h.FQDN)}})
	if err != nil {
		return "", err
	}
	defer c.Close()
	session, err := c.NewSession()
	if err != nil {
		return "", err
	}
	out, err := session.CombinedOutput(command)
	return string(out), err
}

// TestStockSSHD: an x/crypto/ssh client signs in to Debian's sshd by ticket, and finds
// the delegated one in its session.
func TestStockSSHD(t *testing.T) {
	r, web, _ := sshWorld(t)
	if err := web.AddUser(testenv.LocalUser{Name: "alice", UID: 2001}); err != nil {
		t.Fatal(err)
	}
	if _, err := web.StartSSHD(within(t, time.Minute), testenv.SSHDConfig{
		Lines: []string{"GSSAPIAuthentication yes", "PubkeyAuthentication no"}, Env: []string{"KRB5_KTNAME=FILE:" + r.Keytab}}); err != nil {
		t.Fatal(err)
	}
	tgt := r.TGT(t)
	cfg := gss.SSHConfig{Ticket: func(ctx context.Context, host string) (krb.Credential, error) {
		return r.Client.Service(ctx, tgt, r.Principal(t, "host/"+host))
	}}
	if out, err := sshDial(t, web, "alice", cfg, "id -un; klist 2>&1"); !strings.HasPrefix(out, "alice\n") || strings.Contains(out, "krbtgt") {
		t.Fatalf("%v\n%s", err, out)
	}
	cfg.Delegate = func(ctx context.Context, host string) (krb.Credential, error) { return *r.Forward(t, tgt), nil }
	out, err := sshDial(t, web, "alice", cfg, "klist && kvno host/e20.example.org")
	if err != nil || !strings.Contains(out, "krbtgt/EXAMPLE.ORG@EXAMPLE.ORG") || !strings.Contains(out, "host/e20.example.org@EXAMPLE.ORG: kvno = ") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := sshDial(t, web, "root", cfg, "id"); err == nil {
		t.Errorf("alice is root:\n%s", out)
	}
	failing := errors.New("no ticket today")
	cfg.Ticket = func(context.Context, string) (krb.Credential, error) { return krb.Credential{}, failing }
	if _, err := sshDial(t, web, "alice", cfg, "id"); err == nil {
		t.Error("in without a ticket")
	}
}

// TestSSHBothOurs: both adapters, and what only a hostile server or client does.
func TestSSHBothOurs(t *testing.T) {
	r, web, _ := sshWorld(t)
	s := startSSHServer(t, web, r.Acceptor(t, nil))
	tgt := r.TGT(t)
	ticket := r.Ticket(t, tgt, "host/"+web.FQDN)
	cfg := gss.SSHConfig{
		Ticket:   func(context.Context, string) (krb.Credential, error) { return ticket, nil },
		Delegate: func(context.Context, string) (krb.Credential, error) { return *r.Forward(t, tgt), nil },
	}
	for range 2 { // one ticket, two authenticators
		if out, err := sshDial(t, web, "alice", cfg, "who"); err != nil || out != "you are alice@EXAMPLE.ORG\n" {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if c := s.last(t); c.Delegated() != nil {
		t.Error("a ticket was taken unasked")
	}

	a := r.Acceptor(t, nil)
	ctx := within(t, time.Minute)
	c, err := gss.NewSSHClient(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetMIC(nil); err == nil {
		t.Error("a MIC without a context")
	}
	token, more, err := c.InitSecContext("host@"+web.FQDN, nil, false)
	if err != nil || !more {
		t.Fatal(err)
	}
	g := a.SSHServer(ctx, gss.Peer{})
	if g.VerifyMIC(nil, nil) == nil {
		t.Error("a MIC was verified without a context")
	}
	reply, name, more, err := g.AcceptSecContext(token)
	if err != nil || more || name != "alice@EXAMPLE.ORG" || g.Context() != nil {
		t.Fatalf("%q, %v", name, err)
	}
	if _, _, _, err := g.AcceptSecContext(token); err == nil {
		t.Error("a second token")
	}
	if _, _, err := c.InitSecContext("host@"+web.FQDN, reply, false); err != nil {
		t.Fatal(err)
	}
	mic, err := c.GetMIC([]byte("this session"))
	if err != nil {
		t.Fatal(err)
	}
	if g.VerifyMIC([]byte("another session"), mic) == nil || g.Context() != nil {
		t.Error("the MIC of another session")
	}
	if err := g.VerifyMIC([]byte("this session"), mic); err != nil || g.Context() == nil {
		t.Error(err)
	}
	g.DeleteSecContext()
	if g.Context() != nil || g.VerifyMIC([]byte("this session"), mic) == nil {
		t.Error("the context outlives DeleteSecContext")
	}
	// A server that cannot prove itself gets no MIC.
	for _, answer := range [][]byte{nil, token, bytes.Repeat([]byte{0}, 100)} {
		c, _ := gss.NewSSHClient(ctx, cfg)
		if _, _, err := c.InitSecContext("host@"+web.FQDN, nil, false); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.InitSecContext("host@"+web.FQDN, answer, false); err == nil {
			t.Error("a server without proof")
		}
		if _, err := c.GetMIC(nil); err == nil {
			t.Error("a MIC for a server without proof")
		}
	}
	for _, target := range []string{"", "host@", "web1.example.org", "HTTP@web1.example.org"} {
		c, _ := gss.NewSSHClient(ctx, cfg)
		if _, _, err := c.InitSecContext(target, nil, false); err == nil {
			t.Errorf("target %q", target)
		}
	}
}
