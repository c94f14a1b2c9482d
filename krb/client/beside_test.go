package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/client"
	"github.com/sekisho/sekisho/realm"
)

// TestMoreThanPassword: the realm's KDC wants a code. A login says so, and a prover
// asks the other one, also for a password that has expired.
func TestMoreThanPassword(t *testing.T) {
	w := newWorld(t)
	res, err := w.ldap.Search(ldap.NewSearchRequest(w.Info().Layout.UserDN("alice"), ldap.ScopeBaseObject, 0, 0, 0, false,
		"(objectClass=*)", realm.KeyAttributes, nil))
	if err != nil || len(res.Entries) != 1 {
		t.Fatal(err)
	}
	req, err := w.is.SetCodesAtKDC(res.Entries[0], true)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.ldap.Modify(req); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, nil, w.Info().KDC...)
	_, err = c.Login(within(t, time.Minute), principal(t, "alice"), "first password", client.LoginOptions{})
	var e *client.Error
	if !errors.As(err, &e) || e.Kind != client.MoreThanPassword || strings.Contains(err.Error(), "first") {
		t.Fatalf("a login: %v", err)
	}

	log, text := logged()
	cfg := client.ProverConfig{Client: c, Service: w.keys[0].Principal, Log: log,
		Keys: func() ([]krb.KeytabEntry, error) { return w.keys, nil },
		Pack: func(krb.Credential) ([]byte, error) { t.Error("a ticket"); return nil, nil },
		Change: func(ctx context.Context, claim broker.Claim, old, new string) broker.Proven {
			if err := w.ChangePassword(ctx, string(claim.User), old, new); err != nil {
				t.Error(err)
				return broker.Proven{}
			}
			return broker.Proven{Outcome: broker.Allow}
		}}
	check := func(what string, c *conversation, o broker.Outcome, r broker.Reason, said string) {
		t.Helper()
		p, err := client.NewProver(cfg)
		if err != nil {
			t.Fatal(err)
		}
		got := prove(t, p, "alice", c)
		if got.Outcome != o || got.Reason != r || got.Tickets != nil || !strings.Contains(got.Text+c.told(), said) {
			t.Errorf("%s: %+v, said %q\n%s", what, got, c.told(), text.String())
		}
	}
	check("nobody else to ask", &conversation{password: "first password"}, broker.Unknown, broker.ReasonProver, "one-time code")

	down := false
	cfg.Beside = func(ctx context.Context, claim broker.Claim, ask broker.Asker) broker.Proven {
		typed, err := ask(ctx, broker.Prompt{Kind: broker.PromptPassword, Text: "Password: "})
		if err != nil || len(typed) != 1 || claim.User != "alice" {
			t.Errorf("%v, %v", typed, err)
		}
		if down {
			return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonUnreachable}
		}
		if w.CheckPassword(ctx, string(claim.User), typed[0]) != nil {
			return broker.Proven{Reason: broker.ReasonWrongPassword}
		}
		return broker.Proven{Outcome: broker.Allow}
	}
	check("right", &conversation{password: "first password"}, broker.Allow, "", client.TextNoTicket)
	check("wrong", &conversation{password: "first passwor"}, broker.Deny, broker.ReasonWrongPassword, "")
	down = true
	check("not found out", &conversation{password: "first password"}, broker.Unknown, broker.ReasonUnreachable, "")
	down = false
	w.set(t, "krbPasswordExpiration", "20200101000000Z")
	check("expired and wrong", &conversation{password: "first passwor"}, broker.Deny, broker.ReasonWrongPassword, "")
	check("expired", &conversation{password: "first password", new: [][2]string{{"second password", "second password"}}}, broker.Allow, "", "expired")
	check("the new one", &conversation{password: "second password"}, broker.Allow, "", client.TextNoTicket)
	if strings.Contains(text.String(), "first p") || strings.Contains(text.String(), "second p") {
		t.Error("a password is in the log")
	}
}
