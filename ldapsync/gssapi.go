package ldapsync

import (
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"
	krbclient "github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/crypto"
	krbgss "github.com/jcmturner/gokrb5/v8/gssapi"
	"github.com/jcmturner/gokrb5/v8/iana/flags"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/spnego"
	"github.com/jcmturner/gokrb5/v8/types"
)

// GSSAPI is a SASL GSSAPI bind (RFC 4752) with a ticket from a credential
// cache, without a security layer of its own: it is for connections that are
// secured already.
type GSSAPI struct {
	// CCache is the path of a file credential cache, with or without FILE:.
	CCache string
	// Krb5Conf is the path of krb5.conf. Default /etc/krb5.conf.
	Krb5Conf string
	// Service is the directory's principal without its realm. Default
	// ldap/HOST with the URL's host; must be set for ldapi.
	Service string
}

// bind runs the exchange on conn. gokrb5 panics on some malformed files: that
// comes back as an error.
func (g *GSSAPI) bind(conn *ldap.Conn, e endpoint) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("the credential cache or krb5.conf cannot be read; get a new ticket with kinit")
		}
	}()
	service := g.Service
	if service == "" {
		if e.network == "unix" {
			return errors.New("name the directory's service principal, like ldap/host.example.org")
		}
		service = "ldap/" + e.host
	}
	conf := g.Krb5Conf
	if conf == "" {
		conf = "/etc/krb5.conf"
	}
	kc, err := config.Load(conf)
	if err != nil {
		return fmt.Errorf("reading %s: %w", conf, err)
	}
	cc, err := credentials.LoadCCache(strings.TrimPrefix(g.CCache, "FILE:"))
	if err != nil {
		return fmt.Errorf("reading the credential cache %s; get a ticket with kinit: %w", g.CCache, err)
	}
	cl, err := krbclient.NewFromCCache(cc, kc)
	if err != nil {
		return fmt.Errorf("using the credential cache %s; get a new ticket with kinit: %w", g.CCache, err)
	}
	defer cl.Destroy()
	return conn.GSSAPIBind(&gssInitiator{cl: cl}, service, "")
}

// gssInitiator is the initiator's side of RFC 4121, as far as a bind needs it.
type gssInitiator struct {
	cl             *krbclient.Client
	session, chose types.EncryptionKey // the ticket's key, and the acceptor's subkey
	sentAt         types.Authenticator
}

// InitSecContext implements ldap.GSSAPIClient.
func (g *gssInitiator) InitSecContext(target string, token []byte) ([]byte, bool, error) {
	return g.InitSecContextWithOptions(target, token, nil)
}

// InitSecContextWithOptions implements ldap.GSSAPIClient: the AP-REQ, and then
// the AP-REP, which proves that the server holds the service's key.
func (g *gssInitiator) InitSecContextWithOptions(target string, token []byte, _ []int) ([]byte, bool, error) {
	if token == nil {
		ticket, key, err := g.cl.GetServiceTicket(target)
		if err != nil {
			return nil, false, fmt.Errorf("getting a ticket for %s: %w", target, err)
		}
		g.session = key
		out, err := g.apReq(ticket)
		return out, true, err
	}
	var t spnego.KRB5Token
	if err := t.Unmarshal(token); err != nil {
		return nil, false, fmt.Errorf("reading the server's Kerberos token: %w", err)
	}
	switch {
	case t.IsKRBError():
		return nil, false, t.KRBError
	case !t.IsAPRep():
		return nil, false, errors.New("the server sent no AP-REP")
	}
	plain, err := crypto.DecryptEncPart(t.APRep.EncPart, g.session, keyusage.AP_REP_ENCPART)
	if err != nil {
		return nil, false, fmt.Errorf("the server does not prove that it is %s: %w", target, err)
	}
	var part messages.EncAPRepPart
	if err := part.Unmarshal(plain); err != nil {
		return nil, false, fmt.Errorf("reading the server's AP-REP: %w", err)
	}
	// KerberosTime has whole seconds (RFC 4120 §5.2.3); the rest is in cusec.
	if part.CTime.Unix() != g.sentAt.CTime.Unix() || part.Cusec != g.sentAt.Cusec {
		return nil, false, errors.New("the server's AP-REP answers another request")
	}
	g.chose = part.Subkey
	return []byte{}, false, nil
}

// apReq makes the initial token (RFC 4121 §4.1).
func (g *gssInitiator) apReq(ticket messages.Ticket) ([]byte, error) {
	auth, err := types.NewAuthenticator(g.cl.Credentials.Domain(), g.cl.Credentials.CName())
	if err != nil {
		return nil, fmt.Errorf("making an authenticator: %w", err)
	}
	sum := make([]byte, 24) // §4.1.1: no channel bindings
	binary.LittleEndian.PutUint32(sum, 16)
	binary.LittleEndian.PutUint32(sum[20:], krbgss.ContextFlagMutual|krbgss.ContextFlagInteg)
	auth.Cksum = types.Checksum{CksumType: 0x8003, Checksum: sum}
	req, err := messages.NewAPReq(ticket, g.session, auth)
	if err != nil {
		return nil, fmt.Errorf("making an AP-REQ: %w", err)
	}
	types.SetFlag(&req.APOptions, flags.APOptionMutualRequired)
	g.sentAt = auth
	b, err := req.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encoding an AP-REQ: %w", err)
	}
	// RFC 2743 §3.1 framing: [APPLICATION 0] { OID krb5, 01 00, AP-REQ }.
	oid := []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02}
	return appendTLV(nil, 0x60, oid, []byte{1, 0}, b), nil
}

const (
	wrapFromAcceptor   = 1
	wrapSealed         = 2
	wrapAcceptorSubkey = 4
	wrapHeader         = 16
)

// NegotiateSaslAuth implements ldap.GSSAPIClient: RFC 4752 §3.1, the choice of
// no security layer.
func (g *gssInitiator) NegotiateSaslAuth(token []byte, authzid string) ([]byte, error) {
	offer, err := g.unwrap(token)
	if err != nil {
		return nil, err
	}
	if len(offer) != 4 || offer[0]&1 == 0 {
		return nil, errors.New("the server insists on a SASL security layer; inside TLS none is needed: set its sasl-secprops to minssf=0")
	}
	return g.wrap(append([]byte{1, 0, 0, 0}, authzid...))
}

func (g *gssInitiator) key(flags byte) types.EncryptionKey {
	if flags&wrapAcceptorSubkey != 0 {
		return g.chose
	}
	return g.session
}

// unwrap opens an unsealed wrap token (RFC 4121 §4.2.4, §4.2.6.2).
func (g *gssInitiator) unwrap(t []byte) ([]byte, error) {
	if len(t) < wrapHeader || t[0] != 5 || t[1] != 4 || t[2]&wrapFromAcceptor == 0 || t[2]&wrapSealed != 0 || t[3] != 0xff {
		return nil, errors.New("the server's last token is no plain GSSAPI wrap token")
	}
	key := g.key(t[2])
	et, err := crypto.GetEtype(key.KeyType)
	if err != nil {
		return nil, fmt.Errorf("the server's key: %w", err)
	}
	body := t[wrapHeader:]
	sumLen, rrc := int(binary.BigEndian.Uint16(t[4:])), int(binary.BigEndian.Uint16(t[6:]))
	if sumLen != et.GetHMACBitLength()/8 || sumLen > len(body) {
		return nil, errors.New("the server's last token has a checksum of wrong size")
	}
	rrc %= len(body)
	body = append(append([]byte(nil), body[rrc:]...), body[:rrc]...)
	data, sum := body[:len(body)-sumLen], body[len(body)-sumLen:]
	want, err := et.GetChecksumHash(key.KeyValue, wrapInput(data, t[:wrapHeader]), keyusage.GSSAPI_ACCEPTOR_SEAL)
	if err != nil {
		return nil, fmt.Errorf("checking the server's last token: %w", err)
	}
	if !hmac.Equal(want, sum) {
		return nil, errors.New("the server's last token has a wrong checksum")
	}
	return data, nil
}

func (g *gssInitiator) wrap(data []byte) ([]byte, error) {
	h := make([]byte, wrapHeader)
	h[0], h[1], h[3] = 5, 4, 0xff
	if g.chose.KeyType != 0 {
		h[2] = wrapAcceptorSubkey
	}
	key := g.key(h[2])
	et, err := crypto.GetEtype(key.KeyType)
	if err != nil {
		return nil, fmt.Errorf("our key: %w", err)
	}
	binary.BigEndian.PutUint64(h[8:], uint64(g.sentAt.SeqNumber))
	sum, err := et.GetChecksumHash(key.KeyValue, wrapInput(data, h), keyusage.GSSAPI_INITIATOR_SEAL)
	if err != nil {
		return nil, fmt.Errorf("signing our last token: %w", err)
	}
	binary.BigEndian.PutUint16(h[4:], uint16(len(sum)))
	return append(append(h, data...), sum...), nil
}

// wrapInput is what the checksum covers: the data, then the header with EC and
// RRC zero.
func wrapInput(data, header []byte) []byte {
	in := append(append([]byte(nil), data...), header...)
	clear(in[len(data)+4 : len(data)+8])
	return in
}

// DeleteSecContext implements ldap.GSSAPIClient.
func (g *gssInitiator) DeleteSecContext() error {
	g.session, g.chose = types.EncryptionKey{}, types.EncryptionKey{}
	return nil
}

var _ ldap.GSSAPIClient = (*gssInitiator)(nil)
