package state

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// cluster is three nats-servers, each a process of its own, with the configuration
// of docs/state.md.
type cluster struct {
	t     testing.TB
	dir   string
	ca    *authority
	urls  []string
	confs []string

	mu    sync.Mutex
	procs []*proc // nil: killed
}

type proc struct {
	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{}
}

func newCluster(t testing.TB) *cluster {
	c := &cluster{t: t, dir: t.TempDir(), procs: make([]*proc, 3)}
	c.ca = newAuthority(t, filepath.Join(c.dir, "ca.crt"))
	c.ca.issue(t, filepath.Join(c.dir, "server"), "127.0.0.1")
	c.ca.issue(t, filepath.Join(c.dir, "broker"), "")
	ports := freePorts(t, 6)
	var routes []string
	for i := range 3 {
		c.urls = append(c.urls, fmt.Sprintf("tls://127.0.0.1:%d", ports[i]))
		routes = append(routes, fmt.Sprintf("tls://127.0.0.1:%d", ports[3+i]))
	}
	text := docsConf(t)
	for i := range 3 {
		conf := edit(t, text,
			"server_name: nats1 ", fmt.Sprintf("server_name: nats%d ", i+1),
			"listen: 0.0.0.0:4222", "listen: 127.0.0.1:"+strings.Split(c.urls[i], ":")[2],
			"listen: 0.0.0.0:6222", "listen: 127.0.0.1:"+strings.Split(routes[i], ":")[2],
			"/etc/nats/ca.crt", filepath.Join(c.dir, "ca.crt"),
			"/etc/nats/server", filepath.Join(c.dir, "server"),
			"/var/lib/nats", filepath.Join(c.dir, fmt.Sprint("store", i)),
			"routes: [tls://nats1.example.org:6222, tls://nats2.example.org:6222, tls://nats3.example.org:6222]",
			"routes: ["+strings.Join(routes, ", ")+"]")
		path := filepath.Join(c.dir, fmt.Sprintf("nats%d.conf", i+1))
		conf += fmt.Sprintf("\nlog_file: %q\n", path+".log")
		if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		c.confs = append(c.confs, path)
	}
	t.Cleanup(func() {
		for i := range 3 {
			c.kill(i)
		}
		if t.Failed() {
			for _, p := range c.confs {
				b, _ := os.ReadFile(p + ".log")
				t.Logf("%s:\n%s", filepath.Base(p), b[max(0, len(b)-4000):])
			}
		}
	})
	for i := range 3 {
		c.start(i)
	}
	return c
}

// docsConf is the example in docs/state.md.
func docsConf(t testing.TB) string {
	b, err := os.ReadFile("../docs/state.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(b), "```nats\n")
	conf, _, ok2 := strings.Cut(after, "```")
	if !ok || !ok2 {
		t.Fatal("docs/state.md has no example of a server's configuration")
	}
	return conf
}

func edit(t testing.TB, text string, pairs ...string) string {
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("docs/state.md has no %q in its example", pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

func (c *cluster) start(i int) {
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serverEnv+"="+c.confs[i])
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	p := &proc{cmd: cmd, stdin: stdin, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		cmd.Wait()
		if out.Len() > 0 {
			c.t.Logf("nats%d: %s", i+1, out.String())
		}
	}()
	c.mu.Lock()
	c.procs[i] = p
	c.mu.Unlock()
}

// kill is kill -9.
func (c *cluster) kill(i int) {
	c.mu.Lock()
	p := c.procs[i]
	c.procs[i] = nil
	c.mu.Unlock()
	if p != nil {
		p.cmd.Process.Kill()
		<-p.done
		p.stdin.Close()
	}
}

func (c *cluster) signal(i int, sig syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.procs[i].cmd.Process.Signal(sig); err != nil {
		c.t.Fatal(err)
	}
}

// config is a broker's that knows the servers in this order.
func (c *cluster) config(order ...int) Config {
	conf := Config{Replicas: 3, CAFile: filepath.Join(c.dir, "ca.crt"),
		CertFile: filepath.Join(c.dir, "broker.crt"), KeyFile: filepath.Join(c.dir, "broker.key"), Log: quiet()}
	for _, i := range order {
		conf.Servers = append(conf.Servers, c.urls[i])
	}
	return conf
}

// leader is the server that leads a bucket.
func (c *cluster) leader(t testing.TB, st Store, name string) int {
	b, _ := bucketNamed(name)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		e, err := st.(*store).engine()
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		js, err := e.js.Stream(ctx, b.stream())
		cancel()
		if err != nil || js.CachedInfo().Cluster == nil {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(js.CachedInfo().Cluster.Leader, "nats%d", &n); err == nil {
			return n - 1
		}
	}
	t.Fatal("nobody leads " + name)
	return 0
}

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

// freePorts are some that nobody has, below those which the kernel gives to others
// (ip_local_port_range) before a server takes them.
func freePorts(t testing.TB, n int) []int {
	var out []int
	for try := 0; len(out) < n; try++ {
		port := 12000 + mathrand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			defer l.Close()
			out = append(out, port)
		} else if try > 100*n {
			t.Fatal(err)
		}
	}
	return out
}

// authority issues certificates for the tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t testing.TB, path string) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, next: 2}
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nats authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, path, "CERTIFICATE", der)
	return a
}

// issue writes path.crt and path.key; an empty address is for a client.
func (a *authority) issue(t testing.TB, path, ip string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.next++
	cert := &x509.Certificate{SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: filepath.Base(path)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if ip != "" {
		cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		cert.IPAddresses = []net.IP{net.ParseIP(ip)}
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, path+".crt", "CERTIFICATE", der)
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, path+".key", "PRIVATE KEY", k)
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
