package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/otp"
)

// OTPProver is pam.otp with its default: totp, pam:SERVICE, or "" for nobody.
func (c Config) OTPProver() string {
	switch {
	case c.PAM.OTP == "none":
		return ""
	case c.PAM.OTP != "":
		return c.PAM.OTP
	case c.Embedded() && c.PasswordProver() != "ldap", c.Follows():
		return "totp"
	}
	return ""
}

// Issuer is otp.issuer with its default.
func (c Config) Issuer() string {
	switch {
	case c.OTP.Issuer != "":
		return c.OTP.Issuer
	case c.Embedded():
		return c.Realm.Domain
	}
	var labels []string
	dn, err := ldap.ParseDN(c.Directory.Base)
	if err == nil {
		for _, r := range dn.RDNs {
			if a := r.Attributes[0]; strings.EqualFold(a.Type, "dc") {
				labels = append(labels, a.Value)
			}
		}
	}
	if len(labels) == 0 {
		return "Sekisho"
	}
	return strings.Join(labels, ".")
}

func (c Config) checkOTP() error {
	if !slices.Contains([]string{"", "totp", "none"}, c.PAM.OTP) && !isPAMProver(c.PAM.OTP) {
		return fmt.Errorf("pam.otp %q must be totp, none, or pam:SERVICE with the name of a file in /etc/pam.d", clip(c.PAM.OTP))
	}
	o := c.OTP
	if o.Drift < 0 || o.Drift > otp.MaxDrift {
		return fmt.Errorf("otp.drift must be from 0 to %d steps: 1 is good", otp.MaxDrift)
	}
	if o.Issuer != "" {
		if err := otp.CheckName(o.Issuer); err != nil {
			return fmt.Errorf("otp.issuer: %w", err)
		}
	}
	if c.Embedded() && c.PasswordProver() == "ldap" && c.PAM.OTP == "totp" {
		return errors.New("pam.otp = \"totp\" does not go with pam.password = \"ldap\" in the embedded realm: its directory asks who has a token for password and code in one; leave pam.password out")
	}
	external := !c.Embedded() && !c.Follows()
	switch {
	case !external && (o.BindDN != "" || o.PasswordFile != ""):
		return errors.New("otp.bind_dn and otp.password_file are for a directory that somebody else runs: take them out")
	case (o.BindDN == "") != (o.PasswordFile == ""):
		return errors.New("otp.bind_dn and otp.password_file go together: set both or none")
	case external && c.PAM.OTP == "totp" && o.BindDN == "":
		return errors.New("pam.otp = \"totp\" needs otp.bind_dn: an account that may read oathSecret and write oathTOTPLastTimeStep, other than directory.bind_dn")
	case o.BindDN != "" && strings.EqualFold(o.BindDN, c.Directory.BindDN):
		return errors.New("otp.bind_dn must be another account than directory.bind_dn, which shall not be able to read secrets")
	}
	if _, err := ldap.ParseDN(o.BindDN); err != nil {
		return fmt.Errorf("otp.bind_dn %q is no DN", clip(o.BindDN))
	}
	if o.PasswordFile != "" && !filepath.IsAbs(o.PasswordFile) {
		return fmt.Errorf("otp.password_file %q must be an absolute path", clip(o.PasswordFile))
	}
	return nil
}
