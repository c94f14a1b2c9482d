package client

import (
	"bytes"
	"context"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/test/testdata"
	"github.com/jcmturner/gokrb5/v8/types"
	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

var (
	testAlice = krb.Principal{Components: []string{"alice"}, Realm: "EXAMPLE.ORG"}
	testTGS   = krb.Principal{Components: []string{"krbtgt", "EXAMPLE.ORG"}, Realm: "EXAMPLE.ORG"}
	testKey   = krb.Key{EType: krb.AES256SHA1, Value: []byte("0123456789abcdef0123456789abcdef")}
	testNow   = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
)

const testNonce = 1234567

func vector(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// plainPart is a sealed part as a KDC would make it for the test's request, by
// another's codec.
func plainPart(t testing.TB, change func(*messages.EncKDCRepPart)) []byte {
	t.Helper()
	p := messages.EncKDCRepPart{
		Key: types.EncryptionKey{KeyType: 18, KeyValue: bytes.Repeat([]byte{7}, 32)}, LastReqs: []messages.LastReq{{LRType: 0, LRValue: testNow}},
		Nonce: testNonce, Flags: types.NewKrbFlags(), AuthTime: testNow, StartTime: testNow, EndTime: testNow.Add(time.Hour),
		SRealm: testTGS.Realm, SName: testTGS.Name(),
	}
	types.SetFlag(&p.Flags, 9)
	if change != nil {
		change(&p)
	}
	b, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wrap makes an AS-REP or TGS-REP around a sealed part.
func wrap(t testing.TB, tgs bool, usage uint32, plain []byte, change func(*messages.KDCRepFields)) []byte {
	t.Helper()
	c, err := testKey.Encrypt(usage, plain)
	if err != nil {
		t.Fatal(err)
	}
	r := messages.KDCRepFields{PVNO: 5, MsgType: 11, CRealm: testAlice.Realm, CName: testAlice.Name(),
		Ticket:  messages.Ticket{TktVNO: 5, Realm: testTGS.Realm, SName: testTGS.Name(), EncPart: types.EncryptedData{EType: 18, KVNO: 2, Cipher: []byte("sealed")}},
		EncPart: types.EncryptedData{EType: 18, KVNO: 3, Cipher: c}}
	if tgs {
		r.MsgType = 13
	}
	if change != nil {
		change(&r)
	}
	as, tg := messages.ASRep{KDCRepFields: r}, messages.TGSRep{KDCRepFields: r}
	b, err := as.Marshal()
	if tgs {
		b, err = tg.Marshal()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testClient(t testing.TB) *Client {
	t.Helper()
	c, err := New(Config{Realm: "EXAMPLE.ORG", KDCs: []string{"kdc"}, Now: func() time.Time { return testNow }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testExchange(t testing.TB, c *Client) *asExchange {
	t.Helper()
	x := &asExchange{ctx: context.Background(), c: c, secret: keyring{testKey}, preauth: true, began: testNow}
	if err := x.prepare(testAlice, LoginOptions{}); err != nil {
		t.Fatal(err)
	}
	x.req.nonce = testNonce
	return x
}

// TestReplyChecks: what of a reply that is sealed as it should be must be as it was
// asked for (RFC 4120 §3.1.5, §3.3.4).
func TestReplyChecks(t *testing.T) {
	c := testClient(t)
	ip := types.HostAddress{AddrType: 2, Address: []byte{203, 0, 113, 5}}
	for name, x := range map[string]struct {
		part   func(*messages.EncKDCRepPart)
		outer  func(*messages.KDCRepFields)
		want   bool
		asOnly bool
	}{
		"as asked for":    {want: true},
		"no start time":   {part: func(p *messages.EncKDCRepPart) { p.StartTime = time.Time{} }, want: true},
		"unasked renewal": {part: func(p *messages.EncKDCRepPart) { p.RenewTill = testNow.Add(time.Hour); types.SetFlag(&p.Flags, 8) }, want: true},
		"nonce":           {part: func(p *messages.EncKDCRepPart) { p.Nonce++ }},
		"negative nonce":  {part: func(p *messages.EncKDCRepPart) { p.Nonce = -p.Nonce }},
		"server":          {part: func(p *messages.EncKDCRepPart) { p.SName.NameString = []string{"krbtgt", "OTHER"} }},
		"server, shorter": {part: func(p *messages.EncKDCRepPart) { p.SName.NameString = []string{"krbtgt"} }},
		"server's realm":  {part: func(p *messages.EncKDCRepPart) { p.SRealm = "OTHER" }},
		"ended": {part: func(p *messages.EncKDCRepPart) {
			p.EndTime = testNow.Add(-6 * time.Minute)
			p.StartTime = p.EndTime.Add(-time.Hour)
		}},
		"ends as begun":   {part: func(p *messages.EncKDCRepPart) { p.EndTime = p.StartTime }},
		"future":          {part: func(p *messages.EncKDCRepPart) { p.StartTime = testNow.Add(6 * time.Minute) }},
		"invalid":         {part: func(p *messages.EncKDCRepPart) { types.SetFlag(&p.Flags, 7) }},
		"bound":           {part: func(p *messages.EncKDCRepPart) { p.CAddr = []types.HostAddress{ip} }, asOnly: true},
		"weak key":        {part: func(p *messages.EncKDCRepPart) { p.Key = types.EncryptionKey{KeyType: 23, KeyValue: make([]byte, 16)} }},
		"short key":       {part: func(p *messages.EncKDCRepPart) { p.Key.KeyValue = p.Key.KeyValue[:31] }},
		"client":          {outer: func(r *messages.KDCRepFields) { r.CName.NameString = []string{"bob"} }},
		"client, longer":  {outer: func(r *messages.KDCRepFields) { r.CName.NameString = []string{"alice", "admin"} }},
		"client's realm":  {outer: func(r *messages.KDCRepFields) { r.CRealm = "OTHER" }},
		"ticket's server": {outer: func(r *messages.KDCRepFields) { r.Ticket.SName.NameString = []string{"krbtgt", "OTHER"} }},
		"ticket's realm":  {outer: func(r *messages.KDCRepFields) { r.Ticket.Realm = "OTHER" }},
		"ticket version":  {outer: func(r *messages.KDCRepFields) { r.Ticket.TktVNO = 4 }},
		"version":         {outer: func(r *messages.KDCRepFields) { r.PVNO = 4 }},
		"message type":    {outer: func(r *messages.KDCRepFields) { r.MsgType = 12 }},
		"weak seal":       {outer: func(r *messages.KDCRepFields) { r.EncPart.EType = 23 }},
		"other seal":      {outer: func(r *messages.KDCRepFields) { r.EncPart.EType = 17 }},
		"altered":         {outer: func(r *messages.KDCRepFields) { r.EncPart.Cipher[3]++ }},
		"no cipher":       {outer: func(r *messages.KDCRepFields) { r.EncPart.Cipher = nil }},
	} {
		plain := plainPart(t, x.part)
		as := testExchange(t, c)
		err := as.judge(wrap(t, false, usageASRep, plain, x.outer), "kdc")
		if (err == nil) != x.want || (as.cred.Key.Value != nil) != x.want || as.failed != nil {
			t.Errorf("AS, %s: %v, %v", name, err, as.failed)
		}
		if err := as.judge(wrap(t, false, usageTGSRep, plain, x.outer), "kdc"); err == nil {
			t.Errorf("AS, %s: another key usage was taken", name)
		}
		if x.asOnly {
			continue
		}
		tgt := krb.Credential{Client: testAlice, Server: testTGS, Key: testKey, AuthTime: testNow, EndTime: testNow.Add(2 * time.Hour)}
		tgs := &tgsAsking{c: c, req: kdcReq{server: testTGS, nonce: testNonce, till: tgt.EndTime}, tgt: tgt, began: testNow}
		err = tgs.judge(wrap(t, true, usageTGSRep, plain, x.outer), "kdc")
		if (err == nil) != x.want || (tgs.cred.Key.Value != nil) != x.want || tgs.failed != nil {
			t.Errorf("TGS, %s: %v, %v", name, err, tgs.failed)
		}
		tgs.cred = krb.Credential{}
		tgs.tgt.AuthTime = testNow.Add(time.Second)
		if err := tgs.judge(wrap(t, true, usageTGSRep, plain, x.outer), "kdc"); err == nil {
			t.Errorf("TGS, %s: another sign-in's was taken", name)
		}
		tgs.tgt.AuthTime, tgs.req.till = testNow, testNow.Add(time.Minute)
		if err := tgs.judge(wrap(t, true, usageTGSRep, plain, x.outer), "kdc"); err == nil {
			t.Errorf("TGS, %s: one that lasts too long was taken", name)
		}
	}
	// A clock that the sealed part shows to be wrong.
	x := testExchange(t, c)
	plain := plainPart(t, func(p *messages.EncKDCRepPart) { p.AuthTime = testNow.Add(10 * time.Minute) })
	if err := x.judge(wrap(t, false, usageASRep, plain, nil), "kdc"); err != nil || x.failed == nil || x.failed.Kind != Skew || x.cred.Key.Value != nil {
		t.Errorf("%v, %v", err, x.failed)
	}
}

// TestVectors: the messages of MIT's own tests (src/tests/asn.1).
func TestVectors(t *testing.T) {
	r, err := parseKDCRep(vector(t, testdata.MarshaledKRB5as_rep), appASRep)
	if err != nil || r.client.Realm != "ATHENA.MIT.EDU" || !slices.Equal(r.client.Components, []string{"hftsai", "extra"}) || len(r.pa) != 2 || r.ticket.Server.Realm != "ATHENA.MIT.EDU" {
		t.Errorf("AS-REP: %+v, %v", r, err)
	}
	r, err = parseKDCRep(vector(t, testdata.MarshaledKRB5tgs_repOptionalsNULL), appTGSRep)
	if err != nil || len(r.pa) != 0 || string(r.part.Cipher) != "krbASN.1 test message" {
		t.Errorf("TGS-REP: %+v, %v", r, err)
	}
	e, err := parseError(vector(t, testdata.MarshaledKRB5error))
	if err != nil || e.Code != 60 || e.Server.Realm != "ATHENA.MIT.EDU" || e.Text != "krb5data" || string(e.Data) != "krb5data" {
		t.Errorf("KRB-ERROR: %+v, %v", e, err)
	}
	if _, err := parseError(vector(t, testdata.MarshaledKRB5errorOptionalsNULL)); err != nil {
		t.Error(err)
	}
	infos, err := parseEtypeInfo2(vector(t, testdata.MarshaledKRB5etype_info2), testAlice)
	if err != nil || len(infos) != 0 { // DES and the like
		t.Errorf("ETYPE-INFO2: %v, %v", infos, err)
	}
	if _, err := parseTicket(vector(t, testdata.MarshaledKRB5ticket)); err != nil {
		t.Error(err)
	}
}

// TestRequests: another's codec reads what we write.
func TestRequests(t *testing.T) {
	c := testClient(t)
	x := &asExchange{ctx: context.Background(), c: c, secret: keyring{testKey}}
	err := x.prepare(testAlice, LoginOptions{Life: time.Hour, Renew: 2 * time.Hour, Forwardable: true, Addresses: addrsOf("203.0.113.5", "2001:db8::5")})
	if err != nil {
		t.Fatal(err)
	}
	x.req.nonce = testNonce
	pa, err := timestamp(testKey, testNow)
	if err != nil {
		t.Fatal(err)
	}
	x.req.pa = []der.Typed{pa}
	msg := x.req.encode(x.req.body())
	var r messages.ASReq
	if err := r.Unmarshal(msg); err != nil {
		t.Fatal(err)
	}
	b := r.ReqBody
	if b.Realm != "EXAMPLE.ORG" || !b.CName.Equal(testAlice.Name()) || !b.SName.Equal(testTGS.Name()) || b.Nonce != testNonce ||
		!b.Till.Equal(testNow.Add(time.Hour)) || !b.RTime.Equal(testNow.Add(2*time.Hour)) || !slices.Equal(b.EType, []int32{18}) ||
		len(b.Addresses) != 2 || b.Addresses[1].AddrType != 24 || !types.IsFlagSet(&b.KDCOptions, 1) || !types.IsFlagSet(&b.KDCOptions, 8) ||
		len(r.PAData) != 1 || r.PAData[0].PADataType != 2 {
		t.Errorf("%+v", r)
	}
	var enc types.EncryptedData
	if err := enc.Unmarshal(r.PAData[0].PADataValue); err != nil {
		t.Fatal(err)
	}
	plain, err := testKey.Decrypt(1, enc.Cipher)
	if err != nil {
		t.Fatal(err)
	}
	var ts types.PAEncTSEnc
	if err := ts.Unmarshal(plain); err != nil || !ts.PATimestamp.Equal(testNow) {
		t.Errorf("%v, %v", ts, err)
	}
}

// FuzzASReply: no reply panics, what is taken another codec reads in the same way,
// and what is sealed under the right key is taken only when it fits the request.
func FuzzASReply(f *testing.F) {
	f.Add(vector(f, testdata.MarshaledKRB5as_rep), plainPart(f, nil))
	f.Add(wrap(f, false, usageASRep, plainPart(f, nil), nil), plainPart(f, func(p *messages.EncKDCRepPart) { p.Nonce++ }))
	f.Add([]byte{}, vector(f, testdata.MarshaledKRB5enc_kdc_rep_part))
	c := testClient(f)
	f.Fuzz(func(t *testing.T, outer, plain []byte) { fuzzReply(t, c, outer, plain, false) })
}

// FuzzTGSReply is FuzzASReply for the other exchange.
func FuzzTGSReply(f *testing.F) {
	f.Add(vector(f, testdata.MarshaledKRB5tgs_rep), plainPart(f, nil))
	f.Add(wrap(f, true, usageTGSRep, plainPart(f, nil), nil), plainPart(f, func(p *messages.EncKDCRepPart) { p.SRealm = "" }))
	c := testClient(f)
	f.Fuzz(func(t *testing.T, outer, plain []byte) { fuzzReply(t, c, outer, plain, true) })
}

func fuzzReply(t *testing.T, c *Client, outer, plain []byte, tgs bool) {
	tag := appASRep
	if tgs {
		tag = appTGSRep
	}
	if r, err := parseKDCRep(outer, tag); err == nil {
		var as messages.ASRep
		var tg messages.TGSRep
		var uerr error
		if tgs {
			uerr = tg.Unmarshal(outer)
			as.KDCRepFields = tg.KDCRepFields
		} else {
			uerr = as.Unmarshal(outer)
		}
		if uerr == nil && (as.CRealm != r.client.Realm || !slices.Equal(as.CName.NameString, r.client.Components) || as.Ticket.Realm != r.ticket.Server.Realm ||
			!slices.Equal(as.Ticket.SName.NameString, r.ticket.Server.Components) || as.EncPart.EType != r.part.EType || !bytes.Equal(as.EncPart.Cipher, r.part.Cipher)) {
			t.Errorf("read otherwise by another codec: %+v, %+v", r, as)
		}
	}
	// Nobody seals what the fuzzer makes up, so that it is judged as if it were sealed:
	// sealing is random, and the fuzzer would follow that.
	req := kdcReq{server: testTGS, nonce: testNonce}
	if tgs {
		x := &tgsAsking{c: c, req: req, tgt: krb.Credential{Client: testAlice, Server: testTGS, Key: testKey, AuthTime: testNow}, began: testNow}
		x.judge(outer, "kdc")
	} else {
		testExchange(t, c).judge(outer, "kdc")
	}
	part, err := parseRepPart(plain)
	if err != nil {
		return
	}
	cred, err := req.accept(kdcRep{client: testAlice}, part, testNow, time.Minute)
	if err != nil {
		if cred.Key.Value != nil {
			t.Error("a credential beside an error")
		}
		return
	}
	var p messages.EncKDCRepPart
	if err := p.Unmarshal(plain); err != nil || p.Nonce != testNonce || p.SRealm != testTGS.Realm || !slices.Equal(p.SName.NameString, testTGS.Components) ||
		!p.EndTime.Equal(cred.EndTime) || !p.EndTime.After(testNow.Add(-time.Minute)) || !bytes.Equal(p.Key.KeyValue, cred.Key.Value) || len(p.CAddr) != 0 {
		t.Errorf("taken: %v of %+v, %v", cred, p, err)
	}
}

func FuzzKRBError(f *testing.F) {
	f.Add(vector(f, testdata.MarshaledKRB5error))
	f.Add(vector(f, testdata.MarshaledKRB5errorOptionalsNULL))
	e := messages.NewKRBError(testTGS.Name(), "EXAMPLE.ORG", 25, "NEEDED_PREAUTH")
	if b, err := e.Marshal(); err == nil {
		f.Add(b)
	}
	c := testClient(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := parseError(b); err == nil {
			var g messages.KRBError
			if g.Unmarshal(b) == nil && (g.ErrorCode != e.Code || g.Realm != e.Server.Realm || !bytes.Equal(g.EData, e.Data) || g.CName.NameString != nil && !slices.Equal(g.CName.NameString, e.Client)) {
				t.Errorf("read otherwise by another codec: %+v, %+v", e, g)
			}
			if bytes.ContainsFunc([]byte(e.Text), func(r rune) bool { return r < ' ' || r > '~' }) || len(e.Text) > 120 {
				t.Errorf("the text %q", e.Text)
			}
		}
		parseMethodData(b)
		x := testExchange(t, c)
		x.preauth = false
		if x.judge(b, "kdc"); x.cred.Key.Value != nil {
			t.Error("an error gave a ticket")
		}
	})
}

func FuzzETypeInfo2(f *testing.F) {
	f.Add(vector(f, testdata.MarshaledKRB5etype_info2))
	b, err := asn1.Marshal(types.ETypeInfo2{{EType: 18, Salt: "s", S2KParams: []byte{0, 0, 0x10, 0}}, {EType: 20}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		infos, err := parseEtypeInfo2(b, testAlice)
		if err != nil && infos != nil {
			t.Error("entries beside an error")
		}
		for _, i := range infos {
			if !slices.Contains(etypes, i.etype) || i.salt == "" || len(i.salt) > maxSalt || i.iterations < usualIterations(i.etype) || i.iterations > maxIterations {
				t.Errorf("%+v", i)
			}
		}
	})
}

func addrsOf(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}
