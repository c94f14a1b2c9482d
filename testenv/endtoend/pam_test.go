package endtoend

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// stack is a PAM stack of Sekisho alone, for pamtester.
const stack = `auth     required /usr/local/lib/sekisho/pam_sekisho.so
account  required /usr/local/lib/sekisho/pam_sekisho.so
password required /usr/local/lib/sekisho/pam_sekisho.so
session  required /usr/local/lib/sekisho/pam_sekisho.so
`

// pamtester runs operations on the host broker and returns what it said.
func pamtester(t *testing.T, stdin, user string, ops ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := world.broker.Command(ctx, "pamtester", append([]string{"-v", "sekisho-test", user}, ops...)...)
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	return string(out), err
}

func TestPAMOnTheRealmsMachine(t *testing.T) {
	if err := world.broker.WriteFile("/etc/pam.d/sekisho-test", []byte(stack), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := world.newPerson("pamela")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		world.realm.sekisho("", "host", "add", world.broker.FQDN, "--addr", world.broker.Addr.String()),
		world.realm.sekisho("", "rule", "add", "pamela", "--subject", "user:pamela", "--door", "pam", "--target", "host:"+world.broker.FQDN),
	); err != nil {
		t.Fatal(err)
	}
	out, err := pamtester(t, p.password+"\n", "pamela", "authenticate", "acct_mgmt", "open_session", "close_session")
	t.Log(out)
	if err != nil {
		t.Fatalf("the right password: %v: %s", err, out)
	}
	if out, err := pamtester(t, "wrong\n", "pamela", "authenticate"); err == nil || !strings.Contains(out, "Authentication failure") {
		t.Errorf("a wrong password: %v: %s", err, out)
	}
}
