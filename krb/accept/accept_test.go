package accept

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

func TestAccept(t *testing.T) {
	for _, etype := range []int32{17, 18, 19, 20} {
		for _, session := range []int32{17, 18, 19, 20} {
			s := newService(t, etype, nil)
			r := s.request(t)
			r.session = randomKey(t, session)
			r.part.Key = types.EncryptionKey{KeyType: session, KeyValue: r.session.Value}
			r.req.EncryptedAuthenticator.EType = session
			sub := randomKey(t, krb.AES128SHA2)
			r.auth.SubKey = types.EncryptionKey{KeyType: sub.EType, KeyValue: sub.Value}
			r.auth.Cksum = types.Checksum{CksumType: 0x8003, Checksum: []byte("what GSS puts here")}
			r.auth.SeqNumber = 1<<32 - 2
			r.part.RenewTill = r.part.EndTime.Add(time.Hour)
			r.setFlag(krb.FlagForwardable | krb.FlagInitial | krb.FlagPreAuthent)
			types.SetFlag(&r.req.APOptions, 2)
			got, err := s.Accept(t.Context(), r.make(t), Options{RequireInitial: true})
			if err != nil {
				t.Fatalf("%d/%d: %v", etype, session, err)
			}
			if !got.Client.Equal(alice) || !got.Server.Equal(host) || got.KVNO != 3 || got.EType != etype || !got.Mutual ||
				got.Flags != krb.FlagForwardable|krb.FlagInitial|krb.FlagPreAuthent ||
				!bytes.Equal(got.SessionKey.Value, r.session.Value) || got.SessionKey.EType != session ||
				got.Subkey == nil || !bytes.Equal(got.Subkey.Value, sub.Value) || got.Subkey.EType != sub.EType ||
				got.Seq != 1<<32-2 || got.Checksum.Type != 0x8003 || string(got.Checksum.Value) != "what GSS puts here" ||
				!got.CTime.Equal(s.now) || !got.AuthTime.Equal(r.part.AuthTime) || !got.StartTime.Equal(r.part.StartTime) ||
				!got.EndTime.Equal(r.part.EndTime) || !got.RenewTill.Equal(r.part.RenewTill) {
				t.Errorf("%d/%d: %+v", etype, session, got)
			}
			checkReply(t, got, &sub)
			checkReply(t, got, nil)
			if text := fmt.Sprintf("%v %+v %#v", got, *got, got.SessionKey); strings.Contains(text, fmt.Sprint(r.session.Value)) {
				t.Error("printing an Accepted shows keys")
			}
		}
	}
}

// checkReply reads an AP-REP with gokrb5's codec.
func checkReply(t *testing.T, got *Accepted, sub *krb.Key) {
	t.Helper()
	b, err := got.Reply(sub, 1<<32-1)
	if err != nil {
		t.Fatal(err)
	}
	var rep messages.APRep
	if err := rep.Unmarshal(b); err != nil {
		t.Fatal(err)
	}
	plain, err := got.SessionKey.Decrypt(usageAPRep, rep.EncPart.Cipher)
	if err != nil || rep.EncPart.EType != got.SessionKey.EType {
		t.Fatalf("type %d: %v", rep.EncPart.EType, err)
	}
	var part messages.EncAPRepPart
	if err := part.Unmarshal(plain); err != nil {
		t.Fatal(err)
	}
	if !part.CTime.Add(time.Duration(part.Cusec)*time.Microsecond).Equal(got.CTime) || part.SequenceNumber != 1<<32-1 {
		t.Errorf("%+v", part)
	}
	if sub == nil && len(part.Subkey.KeyValue) != 0 || sub != nil && !bytes.Equal(part.Subkey.KeyValue, sub.Value) {
		t.Error("not the subkey")
	}
}

func TestMinimal(t *testing.T) {
	s := newService(t, krb.AES256SHA2, nil)
	r := s.request(t)
	r.part.StartTime = time.Time{}
	r.auth.SeqNumber = 0
	r.req.Ticket.EncPart.KVNO = 0
	got, err := s.Accept(t.Context(), r.make(t), Options{WantPAC: true})
	if err != nil {
		t.Fatal(err)
	}
	if got.Subkey != nil || got.Checksum.Type != 0 || got.Seq != 0 || got.Mutual || got.PAC != nil || !got.StartTime.Equal(r.part.AuthTime) || !got.RenewTill.IsZero() {
		t.Errorf("%+v", got)
	}
}

// refusals are all the ways that a request can be wrong while its seals are right.
var refusals = []struct {
	name   string
	change func(t *testing.T, s *service, r *request)
	kind   Kind
	code   int32
}{
	{"authenticator of another realm", func(t *testing.T, s *service, r *request) { r.auth.CRealm = "OTHER.EXAMPLE" }, Forged, 36},
	{"authenticator of another client", func(t *testing.T, s *service, r *request) { r.auth.CName = principal("root@" + testRealm).Name() }, Forged, 36},
	{"authenticator of a longer name", func(t *testing.T, s *service, r *request) {
		r.auth.CName = principal("alice/admin@" + testRealm).Name()
	}, Forged, 36},
	{"ticket of another realm, authenticator of ours", func(t *testing.T, s *service, r *request) { r.part.CRealm = "OTHER.EXAMPLE" }, Forged, 36},
	{"client of another realm", func(t *testing.T, s *service, r *request) {
		r.part.CRealm, r.auth.CRealm = "OTHER.EXAMPLE", "OTHER.EXAMPLE"
	}, ForeignRealm, 12},
	{"client of our realm in small letters", func(t *testing.T, s *service, r *request) {
		r.part.CRealm, r.auth.CRealm = "sekisho.internal", "sekisho.internal"
	}, ForeignRealm, 12},
	{"transited, unchecked", func(t *testing.T, s *service, r *request) { r.part.Transited.Contents = []byte("OTHER.EXAMPLE") }, ForeignRealm, 28},
	{"server of another name", func(t *testing.T, s *service, r *request) {
		r.req.Ticket.SName = principal("http/web1.sekisho.internal@" + testRealm).Name()
	}, WrongService, 35},
	{"server of another realm", func(t *testing.T, s *service, r *request) { r.req.Ticket.Realm = "OTHER.EXAMPLE" }, WrongService, 35},
	{"server in capitals", func(t *testing.T, s *service, r *request) { r.req.Ticket.SName.NameString[1] = "WEB1.sekisho.internal" }, WrongService, 35},
	{"server without a name", func(t *testing.T, s *service, r *request) { r.req.Ticket.SName.NameString = nil }, WrongService, 35},
	{"server with a NUL", func(t *testing.T, s *service, r *request) { r.req.Ticket.SName.NameString[1] += "\x00" }, WrongService, 35},
	{"another version of the key", func(t *testing.T, s *service, r *request) { r.req.Ticket.EncPart.KVNO = 4 }, NoKey, 44},
	{"a version that is ours modulo 256", func(t *testing.T, s *service, r *request) { r.req.Ticket.EncPart.KVNO = 259 }, NoKey, 44},
	{"another type outside", func(t *testing.T, s *service, r *request) { r.req.Ticket.EncPart.EType = 17 }, NoKey, 14},
	{"RC4 outside", func(t *testing.T, s *service, r *request) { r.req.Ticket.EncPart.EType = 23 }, NoKey, 14},
	{"not our key", func(t *testing.T, s *service, r *request) { r.key = randomKey(t, r.key.EType) }, Forged, 31},
	{"not the session key", func(t *testing.T, s *service, r *request) { r.session = randomKey(t, r.session.EType) }, Forged, 31},
	{"authenticator of another type", func(t *testing.T, s *service, r *request) { r.req.EncryptedAuthenticator.EType = 17 }, Forged, 31},
	{"RC4 session key", func(t *testing.T, s *service, r *request) {
		r.part.Key = types.EncryptionKey{KeyType: 23, KeyValue: make([]byte, 16)}
		r.req.EncryptedAuthenticator.EType = 23
	}, NoKey, 14},
	{"DES session key", func(t *testing.T, s *service, r *request) {
		r.part.Key = types.EncryptionKey{KeyType: 3, KeyValue: make([]byte, 8)}
	}, NoKey, 14},
	{"short session key", func(t *testing.T, s *service, r *request) { r.part.Key.KeyValue = r.part.Key.KeyValue[1:] }, NoKey, 14},
	{"RC4 subkey", func(t *testing.T, s *service, r *request) {
		r.auth.SubKey = types.EncryptionKey{KeyType: 23, KeyValue: make([]byte, 16)}
	}, NoKey, 14},
	{"empty subkey", func(t *testing.T, s *service, r *request) {
		r.auth.SubKey = types.EncryptionKey{KeyType: 18, KeyValue: []byte{}}
	}, NoKey, 14},
	{"long subkey", func(t *testing.T, s *service, r *request) {
		r.auth.SubKey = types.EncryptionKey{KeyType: 18, KeyValue: make([]byte, 33)}
	}, NoKey, 14},
	{"client behind", func(t *testing.T, s *service, r *request) { r.at(s.now.Add(-DefaultSkew - time.Microsecond)) }, Clock, 37},
	{"client ahead", func(t *testing.T, s *service, r *request) { r.at(s.now.Add(DefaultSkew + time.Microsecond)) }, Clock, 37},
	{"client decades ahead", func(t *testing.T, s *service, r *request) { r.at(s.now.AddDate(79, 0, 0)) }, Clock, 37},
	{"client centuries ahead", func(t *testing.T, s *service, r *request) { r.at(s.now.AddDate(3000, 0, 0)) }, Malformed, 60},
	{"ends in a time that wraps", func(t *testing.T, s *service, r *request) {
		r.part.EndTime = s.now.AddDate(100, 0, 0).Truncate(time.Second)
	}, Malformed, 60},
	{"transited in another encoding", func(t *testing.T, s *service, r *request) { r.part.Transited.TRType = 2 }, Malformed, 60},
	{"microseconds of a second and more", func(t *testing.T, s *service, r *request) { r.auth.Cusec = 1000000 }, Malformed, 60},
	{"expired", func(t *testing.T, s *service, r *request) {
		r.part.EndTime = s.now.Add(-DefaultSkew - time.Second).Truncate(time.Second)
	}, Expired, 32},
	{"future", func(t *testing.T, s *service, r *request) {
		r.part.StartTime = s.now.Add(DefaultSkew + time.Second).Truncate(time.Second)
	}, NotYet, 33},
	{"future by its only time", func(t *testing.T, s *service, r *request) {
		r.part.StartTime, r.part.AuthTime = time.Time{}, s.now.Add(DefaultSkew+time.Second).Truncate(time.Second)
	}, NotYet, 33},
	{"post-dated, not validated", func(t *testing.T, s *service, r *request) { r.setFlag(krb.FlagPostdated | krb.FlagInvalid) }, NotYet, 33},
	{"anonymous", func(t *testing.T, s *service, r *request) { r.setFlag(krb.FlagAnonymous) }, NotAllowed, 12},
	{"anonymous by name", func(t *testing.T, s *service, r *request) {
		r.part.CName = principal("WELLKNOWN/ANONYMOUS@" + testRealm).Name()
		r.auth.CName = r.part.CName
	}, NotAllowed, 12},
	{"client with an odd name", func(t *testing.T, s *service, r *request) {
		r.part.CName.NameString = []string{"alice bob"}
		r.auth.CName = r.part.CName
	}, NotAllowed, 12},
	{"client without a name", func(t *testing.T, s *service, r *request) {
		r.part.CName.NameString, r.auth.CName.NameString = nil, nil
	}, NotAllowed, 12},
	{"user-to-user", func(t *testing.T, s *service, r *request) { types.SetFlag(&r.req.APOptions, 1) }, NotAllowed, 45},
	{"other addresses", func(t *testing.T, s *service, r *request) {
		r.part.CAddr = types.HostAddresses{{AddrType: 2, Address: []byte{203, 0, 113, 9}}}
	}, Address, 38},
	{"addresses of no IP", func(t *testing.T, s *service, r *request) {
		r.part.CAddr = types.HostAddresses{{AddrType: 20, Address: []byte("WEB1            ")}}
	}, Address, 38},
	{"address of the wrong type", func(t *testing.T, s *service, r *request) {
		r.part.CAddr = types.HostAddresses{{AddrType: 24, Address: []byte{203, 0, 113, 7}}}
	}, Address, 38},
	{"critical data in the ticket", func(t *testing.T, s *service, r *request) {
		r.part.AuthorizationData = types.AuthorizationData{{ADType: 500, ADData: []byte("x")}}
	}, NotAllowed, 12},
	{"critical data in the authenticator", func(t *testing.T, s *service, r *request) {
		r.auth.AuthorizationData = types.AuthorizationData{ifRelevant(t, 129, nil), {ADType: 5, ADData: []byte("x")}}
	}, NotAllowed, 12},
	{"a PAC that is not in AD-IF-RELEVANT", func(t *testing.T, s *service, r *request) {
		r.part.AuthorizationData = types.AuthorizationData{{ADType: 128, ADData: []byte("x")}}
	}, NotAllowed, 12},
	{"FAST armour", func(t *testing.T, s *service, r *request) {
		r.auth.AuthorizationData = types.AuthorizationData{ifRelevant(t, 71, nil)}
	}, NotAllowed, 12},
	{"AD-IF-RELEVANT of no data", func(t *testing.T, s *service, r *request) {
		r.part.AuthorizationData = types.AuthorizationData{{ADType: 1, ADData: []byte("x")}}
	}, Malformed, 60},
	{"much data", func(t *testing.T, s *service, r *request) {
		r.part.AuthorizationData = slices.Repeat(types.AuthorizationData{ifRelevant(t, 1000, nil)}, der.MaxAuthData+1)
	}, Malformed, 60},
	{"many addresses", func(t *testing.T, s *service, r *request) {
		r.part.CAddr = slices.Repeat(types.HostAddresses{{AddrType: 2, Address: []byte{203, 0, 113, 7}}}, der.MaxAddresses+1)
	}, Malformed, 60},
	{"more than a message may have", func(t *testing.T, s *service, r *request) {
		r.part.AuthorizationData = types.AuthorizationData{ifRelevant(t, 1000, make([]byte, maxMessage))}
	}, Malformed, 60},
	{"a rest in the ticket", func(t *testing.T, s *service, r *request) { r.rawPart = func(b []byte) []byte { return append(b, 0) } }, Malformed, 60},
	{"a rest in the authenticator", func(t *testing.T, s *service, r *request) { r.rawAuth = func(b []byte) []byte { return append(b, 0) } }, Malformed, 60},
	{"empty ticket", func(t *testing.T, s *service, r *request) { r.rawPart = func(b []byte) []byte { return nil } }, Malformed, 60},
	{"empty authenticator", func(t *testing.T, s *service, r *request) { r.rawAuth = func(b []byte) []byte { return nil } }, Malformed, 60},
	{"another version of the protocol", func(t *testing.T, s *service, r *request) { r.req.PVNO = 4 }, Malformed, 60},
	{"another message", func(t *testing.T, s *service, r *request) { r.req.MsgType = 15 }, Malformed, 60},
	{"another version of tickets", func(t *testing.T, s *service, r *request) { r.req.Ticket.TktVNO = 4 }, Malformed, 60},
	{"another version of authenticators", func(t *testing.T, s *service, r *request) { r.auth.AVNO = 4 }, Malformed, 60},
}

func ifRelevant(t *testing.T, kind int32, data []byte) types.AuthorizationDataEntry {
	t.Helper()
	b, err := asn1.Marshal(types.AuthorizationData{{ADType: kind, ADData: data}})
	if err != nil {
		t.Fatal(err)
	}
	return types.AuthorizationDataEntry{ADType: 1, ADData: b}
}

var peer = Options{From: netip.MustParseAddr("203.0.113.7")}

func TestRefuse(t *testing.T) {
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			s := newService(t, krb.AES256SHA1, nil)
			if _, err := s.Accept(t.Context(), s.request(t).make(t), peer); err != nil {
				t.Fatalf("before the change: %v", err)
			}
			r := s.request(t)
			c.change(t, s, r)
			checkRefused(t, s.Acceptor, r.make(t), peer, c.kind, c.code)
			if len(s.replay.marks) != 1 {
				t.Error("a refused request was marked")
			}
		})
	}
}

func checkRefused(t testing.TB, a *Acceptor, msg []byte, o Options, kind Kind, code int32) *Error {
	t.Helper()
	got, err := a.Accept(t.Context(), msg, o)
	var e *Error
	if !errors.As(err, &e) || got != nil {
		t.Fatalf("%v, %v", got, err)
	}
	if e.Kind != kind || e.Code != code || e.Error() == "" {
		t.Errorf("%s (%s, code %d), not %s, %d", e, e.Kind, e.Code, kind, code)
	}
	var m messages.KRBError
	if err := m.Unmarshal(e.KRBError()); err != nil {
		t.Errorf("KRB-ERROR: %v", err)
	} else if m.ErrorCode != code || m.Realm == "" || len(m.SName.NameString) == 0 || m.EText != "" ||
		a.c.Now().Sub(m.STime.Add(time.Duration(m.Susec)*time.Microsecond)) > time.Minute {
		t.Errorf("KRB-ERROR: %+v", m)
	}
	return e
}

// TestEdges are requests that are just good enough.
func TestEdges(t *testing.T) {
	for name, change := range map[string]func(s *service, r *request){
		"behind":    func(s *service, r *request) { r.at(s.now.Add(-DefaultSkew)) },
		"ahead":     func(s *service, r *request) { r.at(s.now.Add(DefaultSkew)) },
		"ended":     func(s *service, r *request) { r.part.EndTime = s.now.Add(-DefaultSkew + time.Second) },
		"begins":    func(s *service, r *request) { r.part.StartTime = s.now.Add(DefaultSkew - time.Second) },
		"validated": func(s *service, r *request) { r.setFlag(krb.FlagPostdated) },
		"address": func(s *service, r *request) {
			r.part.CAddr = types.HostAddresses{{AddrType: 20, Address: []byte("WEB1            ")}, {AddrType: 2, Address: []byte{203, 0, 113, 7}}}
		},
		"relevant": func(s *service, r *request) {
			r.part.AuthorizationData = types.AuthorizationData{ifRelevant(t, 128, []byte("bad PAC"))}
		},
		"name type": func(s *service, r *request) { r.auth.CName.NameType, r.req.Ticket.SName.NameType = 0, 10 },
		"checked":   func(s *service, r *request) { r.part.Transited.Contents = []byte("X"); r.setFlag(flagTransitedChecked) },
	} {
		s := newService(t, krb.AES128SHA1, nil)
		r := s.request(t)
		change(s, r)
		r.part.EndTime, r.part.StartTime = r.part.EndTime.Truncate(time.Second), r.part.StartTime.Truncate(time.Second)
		if _, err := s.Accept(t.Context(), r.make(t), peer); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOptions(t *testing.T) {
	s := newService(t, krb.AES256SHA1, nil)
	checkRefused(t, s.Acceptor, s.request(t).make(t), Options{RequireInitial: true}, NotAllowed, 12)
	r := s.request(t)
	r.part.CAddr = types.HostAddresses{{AddrType: 2, Address: []byte{203, 0, 113, 7}}, {AddrType: 24, Address: netip.MustParseAddr("2001:db8::7").AsSlice()}}
	for from, ok := range map[string]bool{"203.0.113.7": true, "::ffff:203.0.113.7": true, "2001:db8::7": true, "203.0.113.8": false, "": false} {
		addr, _ := netip.ParseAddr(from)
		if _, err := s.Accept(t.Context(), r.make(t), Options{From: addr}); (err == nil) != ok {
			t.Errorf("from %q: %v", from, err)
		}
	}
	s = newService(t, krb.AES256SHA1, func(c *Config) { c.Realms = []string{"OTHER.EXAMPLE"} })
	r = s.request(t)
	r.part.CRealm, r.auth.CRealm = "OTHER.EXAMPLE", "OTHER.EXAMPLE"
	if got, err := s.Accept(t.Context(), r.make(t), Options{}); err != nil || got.Client.String() != "alice@OTHER.EXAMPLE" {
		t.Errorf("listed realm: %v", err)
	}
	r.part.CRealm, r.auth.CRealm = "THIRD.EXAMPLE", "THIRD.EXAMPLE"
	checkRefused(t, s.Acceptor, r.make(t), Options{}, ForeignRealm, 12)
	s = newService(t, krb.AES256SHA1, func(c *Config) { c.Service = func(p krb.Principal) bool { return p.Components[0] == "http" } })
	checkRefused(t, s.Acceptor, s.request(t).make(t), Options{}, WrongService, 35)
}

func TestClockGuard(t *testing.T) {
	var heard []time.Duration
	var answer error
	s := newService(t, krb.AES256SHA1, func(c *Config) {
		c.Clock = func(d time.Duration) error { heard = append(heard, d); return answer }
	})
	for _, d := range []time.Duration{0, -3 * time.Minute, 4 * time.Hour} {
		r := s.request(t)
		r.at(s.now.Add(d))
		_, err := s.Accept(t.Context(), r.make(t), Options{})
		var e *Error
		if ok := d != 4*time.Hour; ok != (err == nil) || !ok && (!errors.As(err, &e) || e.Kind != Clock || e.ClientAhead != d) {
			t.Errorf("%s: %v", d, err)
		}
	}
	r := s.request(t)
	r.session = randomKey(t, 18)
	checkRefused(t, s.Acceptor, r.make(t), Options{}, Forged, 31)
	if !slices.Equal(heard, []time.Duration{0, -3 * time.Minute, 4 * time.Hour}) {
		t.Errorf("heard %v", heard)
	}
	answer = errors.New("this host's clock is 7 min 12 s behind")
	e := checkRefused(t, s.Acceptor, s.request(t).make(t), Options{}, Clock, 37)
	if !errors.Is(e, answer) || e.Error() != answer.Error() {
		t.Errorf("%v", e)
	}
}

// TestWeakTicket has a real RC4 ticket, whose key is in no keytab of ours.
func TestWeakTicket(t *testing.T) {
	s := newService(t, krb.AES256SHA1, nil)
	r := s.request(t)
	r.make(t)
	plain, err := s.key.Decrypt(usageTicket, r.req.Ticket.EncPart.Cipher)
	if err != nil {
		t.Fatal(err)
	}
	rc4 := types.EncryptionKey{KeyType: 23, KeyValue: make([]byte, 16)}
	if r.req.Ticket.EncPart, err = crypto.GetEncryptedData(plain, rc4, usageTicket, 3); err != nil {
		t.Fatal(err)
	}
	checkRefused(t, s.Acceptor, r.marshal(t), Options{}, NoKey, 14)
	if _, err := StaticKeytab([]krb.KeytabEntry{{Principal: host, KVNO: 3, Key: krb.Key{EType: 23, Value: rc4.KeyValue}}}); err == nil {
		t.Error("a keytab with an RC4 key was taken")
	}
}

func TestReplayed(t *testing.T) {
	s := newService(t, krb.AES256SHA1, nil)
	other := principal("http/web1.sekisho.internal@" + testRealm)
	var err error
	// An alias: a second name with the same key.
	if s.c.Keytab, err = StaticKeytab([]krb.KeytabEntry{{Principal: host, KVNO: 3, Key: s.key}, {Principal: other, KVNO: 3, Key: s.key}}); err != nil {
		t.Fatal(err)
	}
	r := s.request(t)
	msg := r.make(t)
	if _, err := s.Accept(t.Context(), msg, Options{}); err != nil {
		t.Fatal(err)
	}
	checkRefused(t, s.Acceptor, msg, Options{}, Replayed, 34)
	// All that is not sealed is rewritten.
	types.SetFlag(&r.req.APOptions, 2)
	r.req.Ticket.SName.NameType = 0
	r.req.Ticket.EncPart.KVNO = 0
	r.req.EncryptedAuthenticator.KVNO = 9
	checkRefused(t, s.Acceptor, r.marshal(t), Options{}, Replayed, 34)
	r.req.Ticket.SName = other.Name()
	checkRefused(t, s.Acceptor, r.marshal(t), Options{}, Replayed, 34)
	// Sealed anew by the client, at the same microsecond: another authenticator.
	if _, err := s.Accept(t.Context(), r.make(t), Options{}); err != nil {
		t.Error(err)
	}
	s.replay.err = errors.New("disk full")
	e := checkRefused(t, s.Acceptor, r.make(t), Options{}, Unknown, 60)
	if !errors.Is(e, s.replay.err) {
		t.Errorf("%v", e)
	}
}

// TestEveryByte cuts and changes a good request at each place. What is accepted
// must be the same sign-in: only what no seal covers may differ.
func TestEveryByte(t *testing.T) {
	for _, etype := range []int32{krb.AES256SHA1, krb.AES256SHA2} {
		s := newService(t, etype, nil)
		r := s.request(t)
		types.SetFlag(&r.req.APOptions, 2)
		msg := r.make(t)
		for i := range msg {
			if got, err := s.Accept(t.Context(), msg[:i], Options{}); err == nil {
				t.Fatalf("cut at %d: %+v", i, got)
			}
		}
		for _, more := range [][]byte{{0}, msg} {
			if _, err := s.Accept(t.Context(), append(bytes.Clone(msg), more...), Options{}); err == nil {
				t.Fatal("accepted with a rest")
			}
		}
		var open []int
		for i := range msg {
			for bit := range 8 {
				bad := bytes.Clone(msg)
				bad[i] ^= 1 << bit
				s.replay.marks = nil
				got, err := s.Accept(t.Context(), bad, Options{})
				if err != nil {
					continue
				}
				open = append(open, i)
				if !got.Client.Equal(alice) || !got.Server.Equal(host) || !bytes.Equal(got.SessionKey.Value, r.session.Value) {
					t.Errorf("byte %d: %+v", i, got)
				}
			}
		}
		// The options but one (31 bits), the type of the server's name (8 bits),
		// and nothing else.
		if want := 31 + 8; len(open) != want {
			t.Errorf("%d changes were accepted, not %d, at %v", len(open), want, open)
		}
	}
}

func TestNew(t *testing.T) {
	kt, err := StaticKeytab([]krb.KeytabEntry{{Principal: host, KVNO: 1, Key: randomKey(t, 18)}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{
		"no keytab": {Replay: new(mapReplay)}, "no replay cache": {Keytab: kt},
		"negative skew": {Keytab: kt, Replay: new(mapReplay), Skew: -1}, "large skew": {Keytab: kt, Replay: new(mapReplay), Skew: 2 * time.Hour},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := StaticKeytab(nil); err == nil {
		t.Error("an empty keytab was taken")
	}
}
