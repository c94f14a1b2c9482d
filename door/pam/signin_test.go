package pam

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/keys"
	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

const cannotTell = "it could not be found out whether you may enter: try again later"

func TestAuth(t *testing.T) {
	w := newWorld(t, nil)
	for _, c := range []struct{ name, begin, reply, want string }{
		{"wrong", "auth user=alice service=sshd", "answer a1=wrong", "no wrong-password"},
		{"empty", "auth user=alice service=sshd", "answer a1=", "no wrong-password"},
		{"unknown user", "auth user=mallory service=sshd", "answer a1=right", "no unknown-user"},
		{"no rule", "auth user=bob service=sshd", "answer a1=right", "no no-rule"},
		{"a clock is wrong", "auth user=alice service=sshd", "answer a1=clock", "unknown clock this host's clock?is 7 min behind"},
		{"something else than an answer", "auth user=alice service=sshd", "auth user=alice service=sshd", "unknown conversation " + cannotTell},
		{"too many replies", "auth user=alice service=sshd", "answer a1=right a2=right", "unknown conversation " + cannotTell},
		{"no reply", "auth user=alice service=sshd", "answer", "unknown conversation " + cannotTell},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := w.dial()
			if a := w.on(conn, c.begin); show(a) != "no prompt [password Password: ]" {
				t.Fatalf("it asks %s", show(a))
			}
			if got := show(w.on(conn, c.reply)); got != c.want {
				t.Errorf("it says %q, not %q", got, c.want)
			}
		})
	}
	t.Run("a conversation without end", func(t *testing.T) {
		conn := w.dial()
		a := w.on(conn, "auth user=alice service=sshd")
		rounds := 0
		for ; a.Reason == reasonPrompt; rounds++ {
			a = w.on(conn, "answer a1=many")
		}
		if rounds != maxRounds || a.Outcome != wire.Unknown {
			t.Errorf("after %d rounds it says %s", rounds, show(a))
		}
	})
	t.Run("a peer who leaves", func(t *testing.T) {
		conn := w.dial()
		w.on(conn, "auth user=alice service=sshd")
		conn.Close()
		w.signIn() // and the door goes on
	})
}

// The broker may work for Config.Step and no longer; the prompt comes within that.
func TestTheProverHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Step = 5 * time.Second })
	conn := w.dial()
	if a := w.on(conn, "auth user=alice service=sshd"); show(a) != "no prompt [password Password: ]" {
		t.Fatalf("it asks %s", show(a))
	}
	if got, want := show(w.on(conn, "answer a1=hang")), "unknown unreachable "+cannotTell; got != want {
		t.Errorf("it says %q, not %q", got, want)
	}
}

func TestMalformed(t *testing.T) {
	w := newWorld(t, nil)
	long := strings.Repeat("x", maxValue+1)
	for _, c := range []struct{ ask, reason string }{
		{"keys user=alice", wire.ReasonVerb},
		{"answer a1=x", wire.ReasonVerb},
		{"auth user=alice", wire.ReasonMalformed},
		{"auth user= service=sshd", wire.ReasonMalformed},
		{"auth user=alice service=sshd colour=red", wire.ReasonMalformed},
		{"auth user=alice service=sshd rhost=" + long, wire.ReasonMalformed},
		{"auth user=%FF service=sshd", wire.ReasonMalformed},
		{"auth user=alice service=sshd authinfo=publickey%20rubbish", wire.ReasonMalformed},
		{"session user=alice service=sshd op=begin", wire.ReasonMalformed},
		{"credentials user=alice op=give", wire.ReasonMalformed},
		{"passwd user=alice service=passwd phase=now", wire.ReasonMalformed},
	} {
		if a := w.say(c.ask); a.Outcome != wire.Unknown || a.Reason != c.reason {
			t.Errorf("%.60s: %s", c.ask, show(a))
		}
	}
}

func TestEntering(t *testing.T) {
	w := newWorld(t, nil)
	login := " login=" + w.signIn()
	esc := func(s string) string {
		return " authinfo=" + strings.ReplaceAll(strings.ReplaceAll(s, " ", "%20"), "\n", "%0A")
	}
	key, other := esc("publickey "+aliceKey+"\n"), esc("publickey "+otherKey)
	ticket := esc("gssapi-with-mic alice@EXAMPLE.ORG")
	near, far := " rhost=198.51.100.7", " rhost=203.0.113.7"
	for _, c := range []struct{ name, who, how, want string }{
		{"signed in", "alice", login + esc("keyboard-interactive/pam"), "yes"},
		{"with the token of another", "bob", login + esc("keyboard-interactive/pam"), "no no-rule"},
		{"by key", "alice", key, "yes"},
		{"by key and password", "alice", login + esc("publickey "+aliceKey+"\nkeyboard-interactive/pam"), "yes"},
		{"by a key that is not hers", "alice", other, "no no-key"},
		{"by two, of which one is", "alice", esc("publickey " + aliceKey + "\npublickey " + otherKey), "yes"},
		{"by her key as another", "bob", key, "no no-rule"},
		{"by her key as a shared account, from where she may", "deploy", near + key, "yes"},
		{"from elsewhere", "deploy", far + key, "no source"},
		{"from who knows where", "deploy", " rhost=laptop.example.org" + key, "no source"},
		{"root by a key of his own", "root", other, "no unknown-user"},
		{"by ticket", "alice", ticket, "yes"},
		{"by ticket as a shared account", "deploy", near + ticket, "yes"},
		{"by a ticket of bob's as alice, whom the rules judge as bob", "alice", esc("gssapi-with-mic bob@EXAMPLE.ORG"), "no no-rule"},
		{"by a ticket of another realm, which is nothing", "bob", esc("gssapi-with-mic alice@EVIL.EXAMPLE"), "no no-rule"},
		{"by a ticket of bob/admin, who is not bob", "alice", esc("gssapi-with-mic alice/admin@EXAMPLE.ORG"), "no unknown-user"},
		{"by a method that proves nothing", "bob", esc("hostbased bob"), "no no-rule"},
		{"nobody", "mallory", key, "no unknown-user"},
	} {
		if got := w.enter(c.who, c.how); got != c.want {
			t.Errorf("%s: %q, not %q", c.name, got, c.want)
		}
	}
	line, err := keys.ParseLine(aliceKey)
	if err != nil {
		t.Fatal(err)
	}
	for how, want := range map[string]string{key: line.Key.Fingerprint(), login + esc("publickey "+aliceKey+"\nkeyboard-interactive/pam"): line.Key.Fingerprint(), ticket: ""} {
		a := w.say("session op=open user=alice service=sshd" + how)
		if a.Outcome != wire.Yes || len(a.Body) == 0 {
			t.Fatalf("a session:%.40s: %s", how, show(a))
		}
		id, _ := strings.CutPrefix(a.Body[0], "session ")
		if e := w.s.sessions.get(broker.SessionID(id)); e == nil || e.Request.Key != want {
			t.Errorf("a session:%.40s rests on %+v, not on the key %q", how, e, want)
		}
	}
	w.locked.Store(true)
	for _, how := range []string{login + esc("password"), key, ticket} {
		if got := show(w.say("account user=alice service=sshd" + how)); got != "no locked" {
			t.Errorf("a locked account:%.40s: %q", how, got)
		}
		if got := show(w.say("session op=open user=alice service=sshd" + how)); got != "no locked" {
			t.Errorf("a session of a locked account:%.40s: %q", how, got)
		}
	}
}

// Programs that are not sshd have their users prove themselves to us or to a
// module of their own, and ask for the account then.
func TestAccountOfOtherPrograms(t *testing.T) {
	w := newWorld(t, nil)
	login := " login=" + w.signIn()
	for ask, want := range map[string]string{
		"account user=alice service=login tty=tty1" + login: "yes",
		"account user=bob service=login tty=tty1" + login:   "no no-rule",
		"account user=bob service=cron":                     "no no-rule",
		"account user=root service=login":                   "no unknown-user",
	} {
		if got := show(w.say(ask)); got != want {
			t.Errorf("%.60s: %q, not %q", ask, got, want)
		}
	}
}

func TestTokensEnd(t *testing.T) {
	w := newWorld(t, nil)
	token := w.signIn()
	if _, ok := w.s.logins.get(token, 0, "alice"); !ok {
		t.Fatal("a fresh token is not known")
	}
	if _, ok := w.s.logins.get(token, 4242, "alice"); ok {
		t.Error("another caller may use it")
	}
	later := w.now.Load().Add(loginTTL)
	w.now.Store(&later)
	if _, ok := w.s.logins.get(token, 0, "alice"); ok {
		t.Error("it has no end")
	}
	w.signIn()
	if n := len(w.s.logins.all); n != 1 {
		t.Errorf("%d sign-ins are remembered", n)
	}
}

func TestOthersAskAboutThemselves(t *testing.T) {
	w := newWorld(t, nil)
	for d := filepath.Dir(w.path); d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(uid int, text string) string {
		c, err := testenv.DialAs(w.path, uid, uid, uid)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return show(w.on(c, text))
	}
	if got := ask(aliceUID, "auth user=alice service=screen"); got != "no prompt [password Password: ]" {
		t.Errorf("alice about herself: %q", got)
	}
	for _, text := range []string{"auth user=bob service=x", "account user=bob service=x", "passwd user=bob service=x phase=change",
		"credentials user=bob op=delete session=x", "session user=bob service=x op=close session=x"} {
		if got := ask(aliceUID, text); !strings.HasPrefix(got, "unknown caller") {
			t.Errorf("alice: %s: %q", text, got)
		}
		if got := ask(4000, text); !strings.HasPrefix(got, "unknown caller") {
			t.Errorf("one whom the directory does not know: %s: %q", text, got)
		}
	}
	// Nor says alice what sshd has verified: for herself, or, by a shared account's
	// process, for whoever may enter that.
	for _, info := range []string{"publickey%20" + strings.ReplaceAll(aliceKey, " ", "%20"), "gssapi-with-mic%20alice@EXAMPLE.ORG", ""} {
		for uid, text := range map[int]string{
			aliceUID: "auth user=alice service=x authinfo=", 2003: "account user=deploy service=x rhost=198.51.100.7 authinfo="} {
			if got := ask(uid, text+info); !strings.HasPrefix(got, "unknown caller") {
				t.Errorf("uid %d: %s%s: %q", uid, text, info, got)
			}
		}
	}
}

func TestPasswd(t *testing.T) {
	w := newWorld(t, nil)
	for _, c := range []struct{ replies, want string }{
		{"right new new", "no password-refused Password fails quality checking policy"},
		{"wrong new new", "no wrong-password"},
		{"right new other", "no password-refused the new password was typed in two ways: nothing was changed"},
	} {
		conn := w.dial()
		a := w.on(conn, "passwd user=alice service=passwd phase=change")
		for i, r := range strings.Fields(c.replies) {
			if want := []string{"password Current password: ", "new-password New password: ", "new-password Retype new password: "}[i]; a.Reason != reasonPrompt || a.Body[0] != want {
				t.Fatalf("it asks %s, not %s", show(a), want)
			}
			a = w.on(conn, "answer a1="+r)
		}
		if got := show(a); got != c.want {
			t.Errorf("%s: %q, not %q", c.replies, got, c.want)
		}
	}
	if got := show(w.say("passwd user=alice service=passwd phase=check")); got != "yes" {
		t.Errorf("check: %q", got)
	}
	if got := show(w.say("passwd user=root service=passwd phase=check")); got != "no unknown-user" {
		t.Errorf("check of a local account: %q", got)
	}
	for _, e := range w.log.AllEntries() {
		if s, err := e.String(); err != nil || strings.Contains(s, "right") {
			t.Errorf("a password is in the log: %s", s)
		}
	}
}

func FuzzAuthInfo(f *testing.F) {
	f.Add("publickey " + aliceKey + "\nkeyboard-interactive/pam\n")
	f.Add("gssapi-with-mic alice@EXAMPLE.ORG\npassword")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := readAuthInfo(text)
		if err != nil && (a.keys != nil || a.principal != "") {
			t.Error("something stands beside an error")
		}
		if a.principal != "" && !strings.Contains(text, " "+a.principal+"@"+a.realm) {
			t.Errorf("%q@%q was read out of %q", a.principal, a.realm, text)
		}
	})
}
