package accept

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// mitProgram is testdata/mit.c, compiled once.
var mitProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "mit")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "mit")
	out, err := exec.Command("gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", path, "testdata/mit.c", "-lgssapi_krb5", "-lkrb5", "-lcom_err").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("compiling testdata/mit.c: %w\n%s", err, out)
	}
	return path, nil
})

func mit(t testing.TB) string {
	t.Helper()
	path, err := mitProgram()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// kdc is a real krb5kdc with two realms that trust each other.
type kdc struct {
	t   testing.TB
	dir string
	env []string
}

const otherRealm = "OTHER.EXAMPLE"

// kdcs is how many were started.
var kdcs atomic.Int32

func startKDC(t testing.TB) *kdc {
	t.Helper()
	// Below the ports that the kernel gives out by itself: it stays free.
	addr := fmt.Sprintf("127.0.0.1:%d", 20000+kdcs.Add(1))
	dir := t.TempDir()
	k := &kdc{t, dir, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C",
		"KRB5_CONFIG=" + filepath.Join(dir, "krb5.conf"), "KRB5_KDC_PROFILE=" + filepath.Join(dir, "kdc.conf"),
		"KRB5CCNAME=FILE:" + filepath.Join(dir, "cc"), "KRB5_KTNAME=FILE:" + filepath.Join(dir, "keytab"), "TMPDIR=" + dir}}
	conf := "[libdefaults]\n default_realm = " + testRealm + "\n dns_lookup_kdc = false\n dns_lookup_realm = false\n rdns = false\n" +
		" dns_canonicalize_hostname = false\n allow_weak_crypto = true\n allow_rc4 = true\n extra_addresses = 127.0.0.1\n" +
		" permitted_enctypes = aes256-cts aes128-cts aes256-sha2 aes128-sha2 arcfour-hmac\n[realms]\n"
	kdcConf := "[logging]\n kdc = STDERR\n[kdcdefaults]\n kdc_listen = " + addr + "\n kdc_tcp_listen = " + addr + "\n[realms]\n"
	for _, realm := range []string{testRealm, otherRealm} {
		conf += " " + realm + " = {\n  kdc = " + addr + "\n }\n"
		kdcConf += " " + realm + " = {\n  database_name = " + filepath.Join(dir, realm) + "\n  key_stash_file = " + filepath.Join(dir, realm+".stash") +
			"\n  acl_file = /dev/null\n  supported_enctypes = aes256-sha2:normal aes256-cts:normal aes128-sha2:normal aes128-cts:normal\n }\n"
	}
	for name, text := range map[string]string{"krb5.conf": conf, "kdc.conf": kdcConf} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, realm := range []string{testRealm, otherRealm} {
		k.run("", "kdb5_util", "create", "-s", "-r", realm, "-P", "master")
		k.run("", "kadmin.local", "-r", realm, "addprinc", "-pw", "trust", "krbtgt/"+testRealm+"@"+otherRealm)
		k.run("", "kadmin.local", "-r", realm, "addprinc", "-pw", "correct horse", "alice@"+realm)
	}
	cmd := exec.Command("krb5kdc", "-n", "-r", testRealm, "-r", otherRealm)
	var log bytes.Buffer
	cmd.Env, cmd.Stderr, cmd.Stdout = k.env, &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("krb5kdc: %s", log.String())
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return k
		}
		if time.Now().After(end) {
			t.Fatal("krb5kdc does not listen")
		}
	}
}

func (k *kdc) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	k.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = k.env
	return cmd
}

func (k *kdc) run(stdin, name string, args ...string) string {
	k.t.Helper()
	cmd := k.command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "rror while") {
		k.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// admin runs kadmin.local for our realm.
func (k *kdc) admin(args ...string) { k.t.Helper(); k.run("", "kadmin.local", args...) }

// addService makes a service and writes its keys to the keytab.
func (k *kdc) addService(name string, args ...string) {
	k.t.Helper()
	k.admin(append(append([]string{"addprinc", "-randkey"}, args...), name)...)
	k.admin("ktadd", "-norandkey", "-k", k.keytab(), name)
}

func (k *kdc) keytab() string { return filepath.Join(k.dir, "keytab") }

func (k *kdc) kinit(args ...string) {
	k.t.Helper()
	k.run("correct horse\n", "kinit", args...)
}

// dialogue is a program that is written and read line by line.
type dialogue struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err bytes.Buffer
}

func talk(t testing.TB, cmd *exec.Cmd) *dialogue {
	t.Helper()
	d := &dialogue{t: t, cmd: cmd}
	var err error
	if d.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.out = bufio.NewReader(out)
	cmd.Stderr = &d.err
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return d
}

func (d *dialogue) say(line string) {
	d.t.Helper()
	if _, err := io.WriteString(d.in, line+"\n"); err != nil {
		d.t.Fatal(err)
	}
}

func (d *dialogue) hear() string {
	d.t.Helper()
	line, err := d.out.ReadString('\n')
	if err != nil {
		d.cmd.Wait()
		d.t.Fatalf("%s: %v %s", d.cmd, err, d.err.String())
	}
	return strings.TrimSuffix(line, "\n")
}
