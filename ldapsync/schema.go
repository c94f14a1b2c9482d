package ldapsync

import (
	"fmt"
	"strings"
)

// Schema says which entries and attributes mean what. Attribute names and
// object classes are compared without regard to case. An empty attribute name
// is never asked for. Classes are "any of"; entries of none are not asked for.
type Schema struct {
	// UserBase and so on limit the kind to a subtree; empty: all of BaseDN.
	UserBase, GroupBase, HostBase, RuleBase string
	// Filter, when set, is an LDAP filter that every entry must meet besides
	// being of one of the classes below.
	Filter string

	UserClasses    []string
	UserName       string // one value
	UserUID        string
	UserGID        string
	UserGecos      string // the first of UserGecos and UserCommon with a value
	UserCommon     string
	UserHome       string
	UserShell      string
	UserKeys       string
	DefaultShell   string // where an entry has none
	DefaultHome    string // where an entry has none; %u is the name. Empty: the entry is skipped
	ShadowExpire   string // days since the epoch
	LockedTime     string // pwdAccountLockedTime
	PolicySubentry string // pwdPolicySubentry
	KrbExpiration  string // generalizedTime
	KrbFlags       string // bit 0x40: DISALLOW_ALL_TIX
	AccountLock    string // boolean: nsAccountLock
	ADControl      string // userAccountControl, bit 2: ACCOUNTDISABLE
	ADExpires      string // accountExpires, 100 ns since 1601

	GroupClasses   []string
	GroupName      string
	GroupGID       string
	GroupMemberDN  []string // member, uniqueMember
	GroupMemberUID string   // memberUid

	NetgroupClasses []string
	NetgroupTriple  string
	NetgroupMember  string

	HostClasses []string
	HostNames   []string
	HostAddrs   string
	HostKeys    string // keys by which a host may follow a broker: sekishoHostKey

	RuleClasses []string // entries of sekishoRule; its attributes have fixed names

	PolicyClasses   []string // entries of pwdPolicy
	PolicyLockout   string   // pwdLockoutDuration, seconds
	PolicyDefaultDN string   // the policy of users without PolicySubentry; empty: the only one, if there is one
}

// RFC2307bis is OpenLDAP with groupOfNames and auxiliary posixGroup: the
// embedded realm, and the default.
func RFC2307bis() Schema {
	return Schema{
		UserClasses: []string{"posixAccount"}, UserName: "uid", UserUID: "uidNumber", UserGID: "gidNumber",
		UserGecos: "gecos", UserCommon: "cn", UserHome: "homeDirectory", UserShell: "loginShell",
		UserKeys: "sshPublicKey", DefaultShell: "/bin/sh",
		ShadowExpire: "shadowExpire", LockedTime: "pwdAccountLockedTime", PolicySubentry: "pwdPolicySubentry",
		KrbExpiration: "krbPrincipalExpiration", KrbFlags: "krbTicketFlags", AccountLock: "nsAccountLock",
		GroupClasses: []string{"groupOfNames", "groupOfUniqueNames", "posixGroup"}, GroupName: "cn", GroupGID: "gidNumber",
		GroupMemberDN: []string{"member", "uniqueMember"}, GroupMemberUID: "memberUid",
		NetgroupClasses: []string{"nisNetgroup"}, NetgroupTriple: "nisNetgroupTriple", NetgroupMember: "memberNisNetgroup",
		HostClasses: []string{"ipHost"}, HostNames: []string{"cn"}, HostAddrs: "ipHostNumber",
		HostKeys:      "sekishoHostKey",
		RuleClasses:   []string{"sekishoRule"},
		PolicyClasses: []string{"pwdPolicy"}, PolicyLockout: "pwdLockoutDuration",
	}
}

// RFC2307 is OpenLDAP with the nis schema: posixGroup with memberUid.
func RFC2307() Schema {
	s := RFC2307bis()
	s.GroupClasses = []string{"posixGroup", "groupOfNames", "groupOfUniqueNames"}
	return s
}

// FreeIPA is a FreeIPA tree (389 Directory Server with its content
// synchronization plugin, which speaks RFC 4533). Keys are in ipaSshPubKey.
func FreeIPA() Schema {
	s := RFC2307bis()
	s.UserKeys = "ipaSshPubKey"
	s.LockedTime, s.PolicySubentry = "", ""
	s.GroupClasses = []string{"ipaUserGroup", "groupOfNames", "posixGroup", "ipaHostGroup"}
	s.HostClasses, s.HostNames, s.HostAddrs = []string{"ipaHost"}, []string{"fqdn"}, ""
	s.PolicyClasses, s.PolicyLockout = nil, ""
	return s
}

// ActiveDirectory is a tree with Active Directory's classes and RFC 2307
// attributes. Active Directory itself does not speak RFC 4533: this is for an
// OpenLDAP provider that holds a copy of such a tree.
func ActiveDirectory() Schema {
	s := RFC2307bis()
	s.UserClasses, s.UserName, s.UserGecos, s.UserCommon = []string{"user"}, "sAMAccountName", "displayName", "cn"
	s.UserHome, s.DefaultHome = "unixHomeDirectory", "/home/%u"
	s.ADControl, s.ADExpires = "userAccountControl", "accountExpires"
	s.LockedTime, s.PolicySubentry, s.KrbExpiration, s.KrbFlags, s.AccountLock = "", "", "", "", ""
	s.GroupClasses, s.GroupName, s.GroupMemberDN = []string{"group"}, "sAMAccountName", []string{"member"}
	s.HostClasses, s.HostNames = []string{"computer"}, []string{"dNSHostName"}
	s.PolicyClasses, s.PolicyLockout = nil, ""
	return s
}

// Preset is the schema of that name: rfc2307bis, rfc2307, freeipa or ad.
func Preset(name string) (Schema, error) {
	switch name {
	case "", "rfc2307bis":
		return RFC2307bis(), nil
	case "rfc2307":
		return RFC2307(), nil
	case "freeipa":
		return FreeIPA(), nil
	case "ad":
		return ActiveDirectory(), nil
	}
	return Schema{}, fmt.Errorf("schema %q: must be rfc2307bis, rfc2307, freeipa or ad", name)
}

func (s *Schema) isZero() bool { return len(s.UserClasses) == 0 && s.UserName == "" }

func (s *Schema) validate() error {
	for _, x := range []struct{ what, v string }{
		{"UserName", s.UserName}, {"UserUID", s.UserUID}, {"UserGID", s.UserGID}, {"GroupName", s.GroupName},
	} {
		if x.v == "" {
			return fmt.Errorf("%s must be set", x.what)
		}
	}
	if len(s.UserClasses) == 0 {
		return fmt.Errorf("UserClasses must be set")
	}
	for _, l := range [][]string{s.UserClasses, s.GroupClasses, s.NetgroupClasses, s.HostClasses, s.RuleClasses,
		s.PolicyClasses, s.GroupMemberDN, s.HostNames, {s.UserName, s.UserUID, s.UserGID, s.GroupName}} {
		for _, n := range l {
			if strings.Trim(n, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.;") != "" || n == "" {
				return fmt.Errorf("%q is no attribute or class name", n)
			}
		}
	}
	for _, b := range []string{s.UserBase, s.GroupBase, s.HostBase, s.RuleBase, s.PolicyDefaultDN} {
		if _, err := NormalizeDN(b); err != nil {
			return fmt.Errorf("%q is no DN: %w", b, err)
		}
	}
	return nil
}
