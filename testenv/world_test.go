package testenv

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestTwoHosts(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	w := ForTest(t)
	start := time.Now()
	web := w.Need(t, "web1")
	t.Logf("first host up in %v", time.Since(start))
	start = time.Now()
	client := w.Need(t, "client")
	t.Logf("second host up in %v", time.Since(start))

	for _, addr := range []string{"web1.example.org", web.Addr.String(), web.Addr6.String()} {
		if out, err := client.Command(ctx, "ping", "-c1", "-W30", addr).CombinedOutput(); err != nil {
			t.Errorf("pinging %s: %v\n%s", addr, err, out)
		}
	}

	alice, bob := needKey(t, "alice@client"), needKey(t, "bob@client")
	if err := web.AddUser(LocalUser{Name: "alice", UID: 2001}); err != nil {
		t.Fatal(err)
	}
	if err := web.WriteFile("/home/alice/.ssh/authorized_keys", alice.Public, 0o644); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	sshd, err := web.StartSSHD(ctx, SSHDConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("sshd up in %v", time.Since(start))
	start = time.Now()
	out, err := client.SSH(ctx, SSHCall{To: web, User: "alice", Key: alice, Command: "id -un; hostname; echo $SSH_CONNECTION"}).Output()
	if err != nil {
		t.Fatalf("logging in: %v\n%s", err, stderr(err))
	}
	t.Logf("login in %v", time.Since(start))
	want := "alice\nweb1.example.org\n" + client.Addr.String() + " "
	if !strings.HasPrefix(string(out), want) {
		t.Errorf("got %q, want it to begin with %q", out, want)
	}
	_, err = client.SSH(ctx, SSHCall{To: web, User: "alice", Key: bob, Command: "true"}).Output()
	if code, _ := exitCode(err); code != 255 {
		t.Errorf("bob's key: got %v, want exit 255", err)
	}
	if !strings.Contains(sshd.Log(), "Accepted publickey for alice") {
		t.Errorf("sshd's log has no login:\n%s", sshd.Log())
	}
	if err := sshd.Stop(); err != nil {
		t.Error(err)
	}
}
