package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/client"
)

// isReply says what a KDC's message is by its tag.
func isReply(b []byte, app byte) bool { return len(b) > 0 && b[0] == 0x60|app }

const (
	asRep  = 11
	tgsRep = 13
	anErr  = 30
)

// everywhere gives each byte of b flipped and each shorter b.
func everywhere(n int, try func(name string, change func([]byte) []byte)) {
	for i := range n {
		for _, mask := range []byte{1, 0x80, 0xff} {
			try(fmt.Sprintf("byte %d ^ %x", i, mask), func(b []byte) []byte {
				b = bytes.Clone(b)
				b[min(i, len(b)-1)] ^= mask
				return b
			})
		}
		try(fmt.Sprintf("cut at %d", i), func(b []byte) []byte { return b[:min(i, len(b))] })
	}
	try("one byte more", func(b []byte) []byte { return append(bytes.Clone(b), 0) })
	try("twice", func(b []byte) []byte { return append(bytes.Clone(b), b...) })
}

// TestTamperedReplies: replies changed at every byte. Either the change is noticed,
// or the ticket is no good where it is shown; and what a KDC that knows the password
// said is never turned into a wrong password.
func TestTamperedReplies(t *testing.T) {
	k := shared(t)
	service := principal(t, "sekisho/web1.example.org")
	var keys, own []krb.Key
	for _, e := range k.keytab(t, "keytab") {
		own = append(own, e.Key)
	}
	for _, e := range k.keytab(t, "host.keytab") {
		keys = append(keys, e.Key)
	}
	for _, tag := range []byte{asRep, tgsRep} {
		var change func([]byte) []byte
		size := 0
		f := relay(t, k.addr, func(req, reply []byte) []byte {
			if !isReply(reply, tag) {
				return reply
			}
			size = len(reply)
			if change != nil {
				reply = change(reply)
			}
			return reply
		})
		c := newClient(t, nil, f.addr)
		signIn := func() error {
			tgt, err := c.LoginKey(within(t, time.Minute), principal(t, "host/web1.example.org"), keys, client.LoginOptions{Life: time.Hour})
			if err != nil {
				return err
			}
			if !tgt.Client.Equal(principal(t, "host/web1.example.org")) || tgt.EndTime.After(time.Now().Add(time.Hour)) || tgt.Flags&krb.FlagInitial == 0 {
				t.Errorf("a ticket with changes: %v", tgt)
			}
			return c.Verify(within(t, time.Minute), tgt, service, own)
		}
		if err := signIn(); err != nil {
			t.Fatal(err)
		}
		yes := 0
		everywhere(size, func(name string, f func([]byte) []byte) {
			change = f
			err := signIn()
			if err == nil {
				yes++ // a key version, a salt that is not used, a name type: nothing that counts
				return
			}
			if kd := kindOf(t, err); kd == client.WrongPassword && tag == tgsRep || kd == client.Unreachable {
				t.Errorf("%d, %s: %v", tag, name, err)
			}
		})
		if yes > size/4 {
			t.Errorf("%d: %d of %d changes went unnoticed", tag, yes, 4*size)
		}
		t.Logf("message %d: %d bytes, %d of %d changes did not matter", tag, size, yes, 4*size+2)
	}
}

// TestTamperedPreauth: the answer that tells how the password becomes a key, changed
// at every byte.
func TestTamperedPreauth(t *testing.T) {
	k := shared(t)
	var change func([]byte) []byte
	size := 0
	f := relay(t, k.addr, func(req, reply []byte) []byte {
		if !isReply(reply, anErr) || change == nil {
			if isReply(reply, anErr) {
				size = len(reply)
			}
			return reply
		}
		return change(reply)
	})
	c := newClient(t, nil, f.addr)
	signIn := func() (krb.Credential, error) {
		return c.Login(within(t, time.Minute), principal(t, "old"), "right", client.LoginOptions{})
	}
	if _, err := signIn(); err != nil {
		t.Fatal(err)
	}
	everywhere(size, func(name string, f func([]byte) []byte) {
		change = f
		if cred, err := signIn(); err != nil {
			kindOf(t, err)
		} else if !cred.Client.Equal(principal(t, "old")) {
			t.Errorf("%s: %v", name, cred)
		}
	})
}

// TestGarbage: servers that answer with what no KDC says. It is never a wrong
// password, and never holds anybody up.
func TestGarbage(t *testing.T) {
	leaks(t)
	k := shared(t)
	earlier := roundTrip(t, k.addr, request(t))
	over := make(chan struct{})
	defer close(over)
	var all sync.WaitGroup // each waits for its time
	for name, x := range map[string]struct {
		answer answerer
		want   client.Kind
	}{
		"empty":           {func(n string, _ []byte, send func([]byte)) { send(framed(n, nil)) }, client.BadReply},
		"text":            {func(n string, _ []byte, send func([]byte)) { send(framed(n, []byte("HTTP/1.1 400\r\n\r\n"))) }, client.BadReply},
		"raw text":        {func(n string, _ []byte, send func([]byte)) { send([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, client.BadReply},
		"the request":     {func(n string, req []byte, send func([]byte)) { send(framed(n, req)) }, client.BadReply},
		"huge":            {func(n string, req []byte, send func([]byte)) { send([]byte{0x7f, 0xff, 0xff, 0xff}) }, client.BadReply},
		"high bit":        {func(n string, req []byte, send func([]byte)) { send([]byte{0xff, 0xff, 0xff, 0xff}) }, client.BadReply},
		"64 KiB and more": {func(n string, req []byte, send func([]byte)) { send(frame(make([]byte, 64<<10+1))) }, client.BadReply},
		"64 KiB of zeros": {func(n string, req []byte, send func([]byte)) { send(frame(make([]byte, 64<<10))) }, client.BadReply},
		"half a reply":    {func(n string, req []byte, send func([]byte)) { b := framed(n, earlier); send(b[:len(b)/2]) }, client.BadReply},
		"another's":       {func(n string, req []byte, send func([]byte)) { send(framed(n, earlier)) }, client.BadReply},
		"silence":         {func(string, []byte, func([]byte)) {}, client.Unreachable},
		"a flood": {func(n string, req []byte, send func([]byte)) {
			for range 1000 {
				send(framed(n, []byte("x")))
			}
		}, client.BadReply},
		"slow drip": {func(n string, req []byte, send func([]byte)) {
			if n == "udp" {
				return
			}
			for _, b := range frame(make([]byte, 100)) {
				send([]byte{b})
				select {
				case <-time.After(100 * time.Millisecond):
				case <-over:
				}
			}
		}, client.Unreachable},
	} {
		f := newFake(t, "both", x.answer)
		all.Go(func() {
			c := newClient(t, func(c *client.Config) { c.Try, c.Total = 6*time.Second, far }, f.addr)
			began := time.Now()
			_, err := c.Login(context.Background(), principal(t, "open"), "right", client.LoginOptions{})
			var e *client.Error
			if took := time.Since(began); !errors.As(err, &e) || e.Kind != x.want || took > far/3 {
				t.Errorf("%s: %v after %s", name, err, took)
			}
			// Another KDC serves all the same.
			c = newClient(t, quick, f.addr, k.addr)
			if _, err := c.Login(context.Background(), principal(t, "open"), "right", client.LoginOptions{}); err != nil {
				t.Errorf("%s, then a good one: %v", name, err)
			}
		})
	}
	all.Wait()
}

func framed(network string, b []byte) []byte {
	if network == "tcp" {
		return frame(b)
	}
	return b
}

// request is an AS-REQ for open, who needs no pre-authentication.
func request(t testing.TB) []byte {
	t.Helper()
	r := messages.ASReq{KDCReqFields: messages.KDCReqFields{PVNO: 5, MsgType: 10, ReqBody: messages.KDCReqBody{
		KDCOptions: types.NewKrbFlags(), Realm: realmName, CName: types.PrincipalName{NameType: 1, NameString: []string{"open"}},
		SName: types.PrincipalName{NameType: 2, NameString: []string{"krbtgt", realmName}}, Till: time.Now().Add(time.Hour).UTC(), Nonce: 7, EType: []int32{20}}}}
	b, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPoisonedUDP: datagrams that somebody else sends before the KDC does.
func TestPoisonedUDP(t *testing.T) {
	leaks(t)
	k := shared(t)
	earlier := roundTrip(t, k.addr, request(t))
	f := newFake(t, "udp", func(_ string, req []byte, send func([]byte)) {
		for _, b := range [][]byte{nil, []byte("poison"), req, earlier, krbError(t, func(e *messages.KRBError) { e.Realm = "ELSEWHERE.ORG" }),
			krbError(t, func(e *messages.KRBError) { e.CRealm, e.CName.NameString = realmName, []string{"bob"} })} {
			send(b)
		}
		send(roundTrip(t, k.addr, req))
	})
	c := newClient(t, nil, f.addr)
	for _, user := range []string{"open", "alice"} {
		if _, err := c.Login(within(t, time.Minute), principal(t, user), "right", client.LoginOptions{}); err != nil {
			t.Errorf("%s: %v", user, err)
		}
	}
	if n := f.count("udp"); n != 3 {
		t.Errorf("%d requests: it did not take the good reply at once", n)
	}
}

// krbError is an error message of our realm, by another's code.
func krbError(t testing.TB, change func(*messages.KRBError)) []byte {
	t.Helper()
	e := messages.NewKRBError(types.PrincipalName{NameType: 2, NameString: []string{"krbtgt", realmName}}, realmName, 24, "NO")
	e.Susec = 1 + e.Susec/2
	if change != nil {
		change(&e)
	}
	b, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// etypeEntry is an entry of ETYPE-INFO2, by another's codec.
type etypeEntry struct {
	EType  int32  `asn1:"explicit,tag:0"`
	Salt   string `asn1:"explicit,optional,generalstring,tag:1"`
	Params []byte `asn1:"explicit,optional,tag:2"`
}

// demand is KDC_ERR_PREAUTH_REQUIRED with these entries.
func demand(t testing.TB, entries ...etypeEntry) []byte {
	t.Helper()
	info, err := asn1.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	data, err := asn1.Marshal([]types.PAData{{PADataType: 2}, {PADataType: 19, PADataValue: info}})
	if err != nil {
		t.Fatal(err)
	}
	return krbError(t, func(e *messages.KRBError) { e.ErrorCode, e.EData = 25, data })
}

// TestAbsurdDemands: what a KDC, or whoever plays it, may not make us do.
func TestAbsurdDemands(t *testing.T) {
	for name, x := range map[string]struct {
		entries []etypeEntry
		want    string
	}{
		"2^32 iterations":     {[]etypeEntry{{20, "s", []byte{0, 0, 0, 0}}}, "iterations"},
		"many iterations":     {[]etypeEntry{{20, "s", []byte{0, 2, 0, 1}}}, "iterations"},
		"one iteration":       {[]etypeEntry{{18, "s", []byte{0, 0, 0, 1}}}, "iterations"},
		"too few for SHA-2":   {[]etypeEntry{{20, "s", []byte{0, 0, 0x7f, 0xff}}}, "iterations"},
		"odd parameters":      {[]etypeEntry{{18, "s", []byte{0, 0x10, 0}}}, "iterations"},
		"long salt":           {[]etypeEntry{{18, strings.Repeat("s", 1025), nil}}, "salt"},
		"RC4 alone":           {[]etypeEntry{{23, "s", nil}}, "encryption types"},
		"DES and RC4":         {[]etypeEntry{{3, "s", nil}, {23, "s", nil}}, "encryption types"},
		"far too many":        {make([]etypeEntry, 17), "ETYPE-INFO2"},
		"absurd beside sound": {[]etypeEntry{{20, "s", nil}, {18, "s", []byte{0, 0, 0, 1}}}, "iterations"},
	} {
		f := newFake(t, "tcp", func(_ string, req []byte, send func([]byte)) { send(frame(demand(t, x.entries...))) })
		began := time.Now()
		_, err := newClient(t, nil, f.addr).Login(context.Background(), principal(t, "alice"), "right", client.LoginOptions{})
		if kindOf(t, err) != client.BadReply || !strings.Contains(err.Error(), x.want) || f.count("tcp") != 1 || time.Since(began) > 30*time.Second {
			t.Errorf("%s: %v, %d requests, %s", name, err, f.count("tcp"), time.Since(began))
		}
	}
	// One that demands again what it was sent.
	f := newFake(t, "tcp", func(_ string, req []byte, send func([]byte)) { send(frame(demand(t, etypeEntry{EType: 17}))) })
	if _, err := newClient(t, nil, f.addr).Login(context.Background(), principal(t, "alice"), "right", client.LoginOptions{}); kindOf(t, err) != client.BadReply || f.count("tcp") != 2 {
		t.Errorf("a demand for ever: %v, %d requests", err, f.count("tcp"))
	}
}

// TestKDCWords: error codes that no KDC here can be made to send.
func TestKDCWords(t *testing.T) {
	for code, want := range map[int32]client.Kind{
		12: client.Refused, 14: client.Refused, 2: client.Refused, 68: client.Refused, 91: client.Refused, 31: client.Refused, 9999: client.Refused, -1: client.Refused,
		29: client.Unavailable, 60: client.Unavailable, 33: client.Skew,
	} {
		text := "no\x1b[2J\n" + strings.Repeat("x", 300)
		f := newFake(t, "tcp", func(_ string, req []byte, send func([]byte)) {
			send(frame(krbError(t, func(e *messages.KRBError) { e.ErrorCode, e.EText = code, text })))
		})
		_, err := newClient(t, nil, f.addr).Login(context.Background(), principal(t, "alice"), "right", client.LoginOptions{})
		var e *client.Error
		if !errors.As(err, &e) || e.Kind != want || e.Code != code || len(e.Text) != 120 || strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("%d: %q; want %v", code, err, want)
		}
	}
	// One that cannot serve is passed over at once.
	f := newFake(t, "both", func(n string, req []byte, send func([]byte)) {
		send(framed(n, krbError(t, func(e *messages.KRBError) { e.ErrorCode = 60 })))
	})
	if took, err := login(t, newClient(t, nil, f.addr, shared(t).addr)); err != nil || took > atOnce {
		t.Errorf("%v after %s", err, took)
	}
}
