package config

import (
	"strings"
	"testing"
)

const siteDir = "[directory]\nurl = [\"ldaps://ldap1.example.org\"]\nbase = \"ou=x,dc=example,dc=org\"\nbind_dn = \"cn=sekishod,dc=example,dc=org\"\npassword_file = \"/p\"\n"
const siteOTP = "[otp]\nbind_dn = \"cn=codes,dc=example,dc=org\"\npassword_file = \"/q\"\n"

func TestOTPProver(t *testing.T) {
	for _, c := range []struct{ text, prover, issuer string }{
		{"", "totp", "sekisho.internal"},
		{"[pam]\notp = \"none\"\n", "", "sekisho.internal"},
		{"[pam]\npassword = \"ldap\"\n", "", "sekisho.internal"},
		{"[pam]\notp = \"pam:site\"\n[otp]\nissuer = \"Site X\"\n", "pam:site", "Site X"},
		{siteDir, "", "example.org"},
		{siteDir + siteOTP, "", "example.org"},
		{siteDir + siteOTP + "[pam]\notp = \"totp\"\n", "totp", "example.org"},
		{"host = \"web1.example.org\"\n[upstream]\nbrokers = [\"broker.example.org:7443\"]\n", "totp", "Sekisho"},
	} {
		cfg, err := parse([]byte(c.text), "x")
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		if got := cfg.OTPProver(); got != c.prover {
			t.Errorf("%q: codes are checked by %q, want %q", c.text, got, c.prover)
		}
		if got := cfg.Issuer(); got != c.issuer {
			t.Errorf("%q: the issuer is %q, want %q", c.text, got, c.issuer)
		}
	}
}

func TestOTPRefused(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"[pam]\notp = \"kdc\"\n", "pam.otp"},
		{"[pam]\notp = \"pam:../x\"\n", "pam.otp"},
		{"[pam]\npassword = \"ldap\"\notp = \"totp\"\n", "leave pam.password out"},
		{"[otp]\ndrift = -1\n", "otp.drift"},
		{"[otp]\ndrift = 21\n", "otp.drift"},
		{"[otp]\nissuer = \"a:b\"\n", "otp.issuer"},
		{siteOTP, "take them out"},
		{siteDir + "[pam]\notp = \"totp\"\n", "needs otp.bind_dn"},
		{siteDir + "[otp]\nbind_dn = \"cn=codes\"\n", "set both or none"},
		{siteDir + "[otp]\npassword_file = \"/q\"\n", "set both or none"},
		{siteDir + "[otp]\nbind_dn = \"cn=Sekishod,dc=example,dc=org\"\npassword_file = \"/q\"\n", "another account"},
		{siteDir + "[otp]\nbind_dn = \"codes\"\npassword_file = \"/q\"\n", "no DN"},
		{siteDir + "[otp]\nbind_dn = \"cn=codes\"\npassword_file = \"q\"\n", "absolute path"},
	} {
		_, err := parse([]byte("host = \"web1\"\n"+c.text), "x")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q in it", c.text, err, c.want)
		}
	}
}
