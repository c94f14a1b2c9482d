package prove_test

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/otp"
	"github.com/sekisho/sekisho/otp/prove"
	"github.com/sekisho/sekisho/state"
	"github.com/sekisho/sekisho/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const (
	base    = "dc=example,dc=org"
	codesDN = "cn=codes," + base
	module  = `dn: cn=module{1},cn=config
objectClass: olcModuleList
cn: module{1}
olcModulePath: /usr/lib/ldap
olcModuleLoad: otp
`
	overlay = `dn: olcOverlay={1}otp,olcDatabase={1}mdb,cn=config
objectClass: olcOverlayConfig
olcOverlay: {1}otp
`
)

// site is a directory with slapo-otp, a state store, and brokers that share them.
type site struct {
	t     *testing.T
	slapd *testenv.Slapd
	root  *ldap.Conn
	store state.Store
	now   atomic.Int64 // seconds that the brokers' clocks are ahead
	log   *logrus.Entry
}

func newSite(t *testing.T) *site {
	t.Helper()
	ctx := t.Context()
	secrets := "attrs=oathSecret,oathTOTPLastTimeStep,oathTOTPToken,sekishoRecoveryCode"
	schemas, err := testenv.Schemas()
	if err != nil {
		t.Fatal(err)
	}
	brings := filepath.Join(t.TempDir(), "otp.ldif") // the schema comes with the module
	if err := os.WriteFile(brings, []byte(module), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := testenv.StartSlapd(ctx, testenv.SlapdConfig{Schemas: append(schemas, brings), Config: overlay, Access: []string{
		"to attrs=userPassword by anonymous auth by * none",
		"to " + secrets + ` by dn.exact="` + codesDN + `" write by * none`,
		"to * by * read"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Stop() })
	s := &site{t: t, slapd: d}
	if s.root, err = ldap.DialURL(d.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.root.Close() })
	if err := s.root.Bind(d.RootDN, d.RootPW); err != nil {
		t.Fatal(err)
	}
	s.add(codesDN, "objectClass", "device", "objectClass", "simpleSecurityObject", "cn", "codes", "userPassword", "codes secret")
	s.add("ou=people,"+base, "objectClass", "organizationalUnit", "ou", "people")
	s.add("ou=otp,"+base, "objectClass", "organizationalUnit", "ou", "otp")
	l := logrus.New()
	l.SetOutput(io.Discard)
	s.log = logrus.NewEntry(l)
	if s.store, err = state.Open(ctx, state.Config{Dir: t.TempDir() + "/state", Log: s.log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// add makes an entry of attribute and value pairs.
func (s *site) add(dn string, pairs ...string) {
	s.t.Helper()
	req := ldap.NewAddRequest(dn, nil)
	values := map[string][]string{}
	for i := 0; i < len(pairs); i += 2 {
		values[pairs[i]] = append(values[pairs[i]], pairs[i+1])
	}
	for a, vs := range values {
		req.Attribute(a, vs)
	}
	if err := s.root.Add(req); err != nil {
		s.t.Fatalf("adding %s: %v", dn, err)
	}
}

func (s *site) set(dn, attr string, values ...string) {
	s.t.Helper()
	m := ldap.NewModifyRequest(dn, nil)
	m.Replace(attr, values)
	if err := s.root.Modify(m); err != nil {
		s.t.Fatalf("setting %s of %s: %v", attr, dn, err)
	}
}

// values are all of one attribute.
func (s *site) values(dn, attr string) []string {
	s.t.Helper()
	res, err := s.root.Search(ldap.NewSearchRequest(dn, ldap.ScopeBaseObject, 0, 0, 0, false, "(objectClass=*)", []string{attr}, nil))
	if err != nil {
		s.t.Fatal(err)
	}
	return res.Entries[0].GetAttributeValues(attr)
}

// get is the first of them, or empty.
func (s *site) get(dn, attr string) string {
	s.t.Helper()
	return append(s.values(dn, attr), "")[0]
}

func userDN(name string) string  { return "uid=" + name + ",ou=people," + base }
func tokenDN(name string) string { return "cn=" + name + ",ou=otp," + base }

func passwordOf(name string) string { return name + "'s password" }

// user adds somebody without a token.
func (s *site) user(name string) {
	s.t.Helper()
	salt := []byte("salt1234")
	sum := sha1.Sum(append([]byte(passwordOf(name)), salt...))
	s.add(userDN(name), "objectClass", "inetOrgPerson", "uid", name, "cn", name, "sn", name,
		"userPassword", "{SSHA}"+base64.StdEncoding.EncodeToString(append(sum[:], salt...)))
}

// enrolled adds somebody with a token, and returns the secret and recovery codes.
func (s *site) enrolled(name string, p otp.Params) (secret []byte, recovery []string) {
	s.t.Helper()
	s.user(name)
	secret = otp.NewSecret(p.Algorithm)
	params := "cn=params-" + name + ",ou=otp," + base
	s.add(params, "objectClass", "device", "objectClass", "oathTOTPParams", "cn", "params-"+name, "oathOTPLength", strconv.Itoa(p.Digits),
		"oathHMACAlgorithm", ldapsync.HMACs[p.Algorithm], "oathTOTPTimeStepPeriod", strconv.Itoa(int(p.Period/time.Second)), "oathTOTPTimeStepWindow", "1")
	recovery = otp.NewRecoveryCodes(3)
	pairs := []string{"objectClass", "device", "objectClass", "oathTOTPToken", "objectClass", "sekishoRecovery", "cn", name,
		"oathSecret", string(secret), "oathTOTPParams", params}
	for _, c := range recovery {
		v, _ := otp.HashRecovery(c)
		pairs = append(pairs, "sekishoRecoveryCode", v)
	}
	s.add(tokenDN(name), pairs...)
	m := ldap.NewModifyRequest(userDN(name), nil)
	m.Add("objectClass", []string{"oathTOTPUser"})
	m.Add("oathTOTPToken", []string{tokenDN(name)})
	if err := s.root.Modify(m); err != nil {
		s.t.Fatal(err)
	}
	return secret, recovery
}

// broker is one more of them, with connections of its own.
func (s *site) broker(change func(*prove.Config)) *prove.Checker {
	s.t.Helper()
	tokens, err := ldapsync.NewTokens(ldapsync.TokensConfig{BaseDN: base, Provider: ldapsync.Provider{URLs: []string{s.slapd.LDAPI}, Timeout: 2 * time.Minute,
		BindDN: codesDN, Password: func() ([]byte, error) { return []byte("codes secret"), nil }}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := errors.Join(tokens.Close(), tokens.Close()); err != nil {
			s.t.Error(err)
		}
	})
	c := prove.Config{Tokens: tokens, Drift: 1, Floor: time.Millisecond, Total: time.Minute, Log: s.log,
		Now: func() time.Time { return time.Now().Add(time.Duration(s.now.Load()) * time.Second) },
		Spend: func(ctx context.Context, key string, ttl time.Duration) (bool, error) {
			err := s.store.Create(ctx, state.BucketCodes, key, nil, ttl)
			if errors.Is(err, state.ErrExists) {
				return false, nil
			}
			return err == nil, err
		}}
	if change != nil {
		change(&c)
	}
	k, err := prove.New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	return k
}

func claimOf(name string) broker.Claim {
	return broker.Claim{User: broker.UserName(name), DN: broker.DN(userDN(name)), Door: "pam"}
}

// binds says whether slapd, with slapo-otp, takes a password and a code behind it.
func (s *site) binds(name, code string) bool {
	s.t.Helper()
	l, err := ldap.DialURL(s.slapd.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	defer l.Close()
	err = l.Bind(userDN(name), passwordOf(name)+code)
	if err != nil && !ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials) {
		s.t.Fatal(err)
	}
	return err == nil
}

// oathtool is the code of a moment.
func oathtool(t *testing.T, secret []byte, p otp.Params, at time.Time) string {
	t.Helper()
	out, err := exec.Command("oathtool", "--totp="+string(p.Algorithm), "-d", strconv.Itoa(p.Digits), "-s", fmt.Sprintf("%ds", p.Period/time.Second),
		"-N", fmt.Sprintf("@%d", at.Unix()), hex.EncodeToString(secret)).CombinedOutput()
	if err != nil {
		t.Fatalf("oathtool: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// early waits until a step has just begun, so that what follows is within it.
func early(p otp.Params) {
	for time.Now().Unix()%int64(p.Period/time.Second) > int64(p.Period/time.Second)/2 {
		time.Sleep(100 * time.Millisecond)
	}
}
