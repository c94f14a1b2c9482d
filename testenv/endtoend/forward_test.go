package endtoend

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

// reach is what a session may do, each tried with real ssh.
type reach struct {
	pty, agent, x11, rc, open, openOther, listen, listenOther, socks bool
}

const (
	portOpen   = 4001 // on web1, greets
	portOther  = 4002 // too
	portListen = 4101 // to listen on, on web1
)

// What no rule grants, sshd does not give; what one grants, it does.
func TestSessionRights(t *testing.T) {
	t.Parallel()
	greet(t, world.web, portOpen, portOther)
	agent := startAgent(t)
	for i, c := range []struct {
		name   string
		permit []string
		want   reach
	}{
		{"none", []string{"none"}, reach{}},
		{"default", nil, reach{pty: true, rc: true}},
		{"pty", []string{"pty"}, reach{pty: true}},
		{"forward", []string{"port-forwarding"}, reach{open: true, openOther: true, listen: true, listenOther: true, socks: true}},
		{"agent", []string{"agent-forwarding"}, reach{agent: true}},
		{"x11", []string{"x11-forwarding"}, reach{x11: true}},
		{"rc", []string{"user-rc"}, reach{rc: true}},
		{"open", []string{fmt.Sprintf("permitopen:127.0.0.1:%d", portOpen)}, reach{open: true}},
		{"listen", []string{fmt.Sprintf("permitlisten:%d", portListen+7*10)}, reach{listen: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := someone(t, "fwd-"+c.name)
			args := []string{}
			for _, v := range c.permit {
				args = append(args, "--permit", v)
			}
			rule(t, "fwd-"+c.name, "user:"+p.name, args...)
			listen := portListen + 8*10 + i*10
			if c.name == "listen" {
				listen = portListen + 7*10
			}
			caughtUp(t, world.web)
			if got := p.tryAll(t, agent, 5000+10*i, listen); got != c.want {
				t.Errorf("permit %q gives %+v, want %+v", c.permit, got, c.want)
			}
		})
	}
}

// tryAll logs in twice: with nothing but a session, and with all forwardings.
func (p *person) tryAll(t *testing.T, agent string, local, listen int) (r reach) {
	t.Helper()
	// The home is made by the first login.
	p.in(t, call{to: world.web})
	need(t, world.web.WriteFile("/home/"+p.name+"/.ssh/rc", []byte("echo rc-ran >&2\n"), 0o755))
	need(t, world.web.Chown("/home/"+p.name+"/.ssh", p.name))
	out := p.in(t, call{to: world.web, command: `echo agent=$(ssh-add -l 2>&1 | grep -c ED25519) display=$DISPLAY.`,
		options: []string{"ForwardAgent=yes", "IdentityAgent=" + agent, "ForwardX11=yes", "ForwardX11Trusted=yes", "XAuthLocation=/bin/true"}, env: []string{"DISPLAY=:77"}})
	r.agent = strings.Contains(out, "agent=1")
	r.x11 = !strings.Contains(out, "display=.")
	r.rc = strings.Contains(out, "rc-ran")
	if r.agent != !strings.Contains(out, "agent=0") {
		t.Errorf("the agent neither answers nor not: %s", out)
	}
	out, _ = p.ssh(t.Context(), call{to: world.web, command: "tty", options: []string{"RequestTTY=force"}})
	r.pty = strings.Contains(out, "/dev/pts/")

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	cmd := world.client.SSH(ctx, testenv.SSHCall{To: world.web.Host, User: p.name, Key: p.key, Command: "echo ready; exec sleep 60", Options: []string{
		fmt.Sprintf("LocalForward=127.0.0.1:%d 127.0.0.1:%d", local, portOpen),
		fmt.Sprintf("LocalForward=127.0.0.1:%d 127.0.0.1:%d", local+1, portOther),
		fmt.Sprintf("DynamicForward=127.0.0.1:%d", local+2),
	}})
	pipe, err := cmd.StdoutPipe()
	need(t, err)
	need(t, cmd.Start())
	defer cmd.Wait()
	defer stop()
	if line, err := bufio.NewReader(pipe).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the session with forwardings: %q, %v", line, err)
	}
	r.open = greeted(t, local, nil)
	r.openOther = greeted(t, local+1, nil)
	// SOCKS5 (RFC 1928) without a password, connect to 127.0.0.1:portOther.
	r.socks = greeted(t, local+2, func(c net.Conn) error {
		if _, err := c.Write([]byte{5, 1, 0}); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
			return err
		}
		if _, err := c.Write([]byte{5, 1, 0, 1, 127, 0, 0, 1, portOther >> 8, portOther & 0xff}); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 10))
		return err
	})
	r.listen = p.listens(t, listen)
	r.listenOther = p.listens(t, listen+1)
	return r
}

// listens tries ssh -R.
func (p *person) listens(t *testing.T, port int) bool {
	t.Helper()
	out, err := p.ssh(t.Context(), call{to: world.web, command: "true", options: []string{
		fmt.Sprintf("RemoteForward=%d 127.0.0.1:9", port), "ExitOnForwardFailure=yes"}})
	if err != nil && !strings.Contains(out, "remote port forwarding failed") {
		t.Errorf("ssh -R failed otherwise than by refusal: %v: %s", err, out)
	}
	return err == nil
}

// greet serves "hello" on loopback ports of v until the test ends.
func greet(t *testing.T, v *site, ports ...int) {
	t.Helper()
	for _, port := range ports {
		var l net.Listener
		need(t, v.Inside(func() (err error) {
			l, err = net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
			return err
		}))
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.WriteString(c, "hello\n")
				c.Close()
			}
		}()
	}
}

// greeted tells whether the client's local port leads to greet.
func greeted(t *testing.T, port int, first func(net.Conn) error) bool {
	t.Helper()
	var c net.Conn
	need(t, world.client.Inside(func() (err error) {
		c, err = net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		return err
	}))
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if first != nil {
		if err := first(c); err != nil {
			return false
		}
	}
	b, err := io.ReadAll(c)
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		t.Errorf("port %d neither answers nor refuses", port)
	}
	return string(b) == "hello\n"
}

// startAgent starts an ssh-agent with one key on the client.
func startAgent(t *testing.T) string {
	t.Helper()
	const sock = "/run/agent.sock"
	d, err := world.client.Start(t.Context(), testenv.DaemonConfig{Path: "/usr/bin/ssh-agent", Args: []string{"-D", "-a", sock},
		Ready: func(context.Context) error {
			c, err := net.Dial("unix", world.client.Path(sock))
			if err == nil {
				c.Close()
			}
			return err
		}})
	need(t, err)
	t.Cleanup(func() { d.Kill() })
	key := newKey(t, "in-agent")
	add := world.client.Command(t.Context(), "ssh-add", "-q", "-")
	add.Env = append(add.Env, "SSH_AUTH_SOCK="+sock)
	add.Stdin = strings.NewReader(string(key.Private))
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("ssh-add: %v: %s", err, out)
	}
	return sock
}

// A tunnel needs sshd's own PermitTunnel, whatever the rule says: without it
// nobody gets one, and with it sshd gives the device that the rule names.
func TestTunnel(t *testing.T) {
	t.Parallel()
	need(t, world.web.AddUser(testenv.LocalUser{Name: "tun"}))
	granted, plain := someone(t, "tun-a"), someone(t, "tun-b")
	rule(t, "tun-a", "user:tun-a", "--login", "root", "--permit", "tunnel:7")
	rule(t, "tun-b", "user:tun-b", "--login", "root", "--permit", "pty")
	_, err := world.web.StartSSHD(t.Context(), testenv.SSHDConfig{Port: 2202, Lines: []string{
		"AuthorizedKeysFile none", "AuthorizedKeysCommandUser sekisho-keys",
		"AuthorizedKeysCommand /usr/local/lib/sekisho/sekisho-keys %u %f %t %k", "PermitTunnel yes"}})
	need(t, err)
	caughtUp(t, world.web)
	for _, c := range []struct {
		p    *person
		port int
		ask  string // the device of web1 that the client asks for
		want string // that it gets
	}{
		{granted, 2202, "7", "tun7"},
		{granted, 2202, "any", "tun7"},
		{granted, 2202, "8", ""},
		{granted, 0, "7", ""},
		{plain, 0, "9", ""},
		{plain, 2202, "9", ""},
		{plain, 2202, "any", "tun2147483645"}, // which leads nowhere: sshd cannot be told "none"
	} {
		// A tunnel keeps ssh waiting: the session kills the connection it is in.
		// The device of the session before may take a moment to go.
		var got, out string
		for range 5 {
			out, _ = c.p.ssh(t.Context(), call{to: world.web, as: "root", port: c.port, command: "ls /sys/class/net; sleep 0.2; kill $PPID", options: []string{
				"Tunnel=point-to-point", "TunnelDevice=any:" + c.ask, "ExitOnForwardFailure=yes"}})
			if got = regexp.MustCompile(`\btun[0-9]+`).FindString(out); got == c.want {
				break
			}
		}
		if got != c.want {
			t.Errorf("%s, port %d, asks for device %s: got %q, want %q: %s", c.p.name, c.port, c.ask, got, c.want, out)
		}
	}
}
