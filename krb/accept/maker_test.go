package accept

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/sekisho/sekisho/krb"
)

// The tests' KDC and client: they make tickets and AP-REQs with the service's
// key, right or wrong in any way, by gokrb5's codec, which Accept does not use.

const testRealm = "SEKISHO.INTERNAL"

var (
	alice = principal("alice@" + testRealm)
	host  = principal("host/web1.sekisho.internal@" + testRealm)
)

func principal(s string) krb.Principal {
	p, err := krb.ParsePrincipal(s)
	if err != nil {
		panic(err)
	}
	return p
}

func randomKey(t testing.TB, etype int32) krb.Key {
	t.Helper()
	k, err := krb.RandomKey(etype)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// request is what an AP-REQ is made of. The fields may be altered before make.
type request struct {
	now     time.Time
	key     krb.Key // seals the ticket
	session krb.Key // seals the authenticator
	req     messages.APReq
	part    messages.EncTicketPart
	auth    types.Authenticator
	// rawPart and rawAuth, if set, rewrite what is sealed.
	rawPart, rawAuth func([]byte) []byte
}

func newRequest(t testing.TB, client, server krb.Principal, key krb.Key, kvno int, now time.Time) *request {
	now = now.UTC()
	session := randomKey(t, krb.AES256SHA1)
	second := now.Truncate(time.Second)
	return &request{
		now: now, key: key, session: session,
		req: messages.APReq{PVNO: 5, MsgType: 14, APOptions: types.NewKrbFlags(), Ticket: messages.Ticket{
			TktVNO: 5, Realm: server.Realm, SName: server.Name(), EncPart: types.EncryptedData{EType: key.EType, KVNO: kvno}},
			EncryptedAuthenticator: types.EncryptedData{EType: session.EType}},
		part: messages.EncTicketPart{
			Flags: types.NewKrbFlags(), Key: types.EncryptionKey{KeyType: session.EType, KeyValue: session.Value},
			CRealm: client.Realm, CName: client.Name(), Transited: messages.TransitedEncoding{TRType: 1, Contents: []byte{}},
			AuthTime: second.Add(-time.Hour), StartTime: second.Add(-time.Minute), EndTime: second.Add(time.Hour),
		},
		auth: types.Authenticator{
			AVNO: 5, CRealm: client.Realm, CName: client.Name(), CTime: second, Cusec: now.Nanosecond() / 1000, SeqNumber: 77,
		},
	}
}

// at sets the client's clock.
func (r *request) at(t time.Time) {
	r.auth.CTime, r.auth.Cusec = t.UTC().Truncate(time.Second), t.Nanosecond()/1000
}

func (r *request) setFlag(f krb.TicketFlags) {
	for i := range 32 {
		if f&(1<<(31-i)) != 0 {
			types.SetFlag(&r.part.Flags, i)
		}
	}
}

func (r *request) make(t testing.TB) []byte {
	t.Helper()
	b, err := asn1.Marshal(r.part)
	if err != nil {
		t.Fatal(err)
	}
	b = asn1tools.AddASNAppTag(b, 3)
	if r.rawPart != nil {
		b = r.rawPart(b)
	}
	if r.req.Ticket.EncPart.Cipher, err = r.key.Encrypt(usageTicket, b); err != nil {
		t.Fatal(err)
	}
	if b, err = r.auth.Marshal(); err != nil {
		t.Fatal(err)
	}
	if r.rawAuth != nil {
		b = r.rawAuth(b)
	}
	if r.req.EncryptedAuthenticator.Cipher, err = r.session.Encrypt(usageAuthenticator, b); err != nil {
		t.Fatal(err)
	}
	return r.marshal(t)
}

// marshal is for a request that is sealed already.
func (r *request) marshal(t testing.TB) []byte {
	t.Helper()
	b, err := r.req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// mapReplay is a Replay that forgets nothing and can be made to fail.
type mapReplay struct {
	mu    sync.Mutex
	marks map[[32]byte]bool
	err   error
}

func (r *mapReplay) Spend(_ context.Context, mark [32]byte, made, until time.Time) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return false, r.err
	}
	fresh := !r.marks[mark]
	if r.marks == nil {
		r.marks = make(map[[32]byte]bool)
	}
	r.marks[mark] = true
	return fresh, nil
}

// service is an acceptor for host with one key, and its clock.
type service struct {
	*Acceptor
	key    krb.Key
	now    time.Time
	replay *mapReplay
}

func newService(t testing.TB, etype int32, change func(*Config)) *service {
	t.Helper()
	s := &service{key: randomKey(t, etype), now: time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC), replay: new(mapReplay)}
	kt, err := StaticKeytab([]krb.KeytabEntry{{Principal: host, KVNO: 3, Key: s.key}})
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Keytab: kt, Replay: s.replay, Now: func() time.Time { return s.now }}
	if change != nil {
		change(&c)
	}
	if s.Acceptor, err = New(c); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *service) request(t testing.TB) *request {
	return newRequest(t, alice, host, s.key, 3, s.now)
}

func writeKeytab(t testing.TB, entries ...krb.KeytabEntry) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keytab")
	if err := krb.WriteKeytab(path, entries); err != nil {
		t.Fatal(err)
	}
	return path
}
