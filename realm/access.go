package realm

import (
	"fmt"
	"strings"
)

// An access rule of slapd: first what, then who may do what, and nothing for all
// others. The first rule whose what fits decides, so their order counts.
type access struct {
	to string
	by []string
}

// accessRules are the embedded directory's rights. Root (cn=admin) is the
// database's rootdn and is not bound by them; anonymous callers may read the root
// DSE and authenticate, and that is all.
func accessRules(l Layout) []access {
	var (
		broker   = fmt.Sprintf("dn.exact=%q", l.Sekishod())
		kdc      = fmt.Sprintf("dn.exact=%q", l.kdc())
		passwd   = fmt.Sprintf("dn.exact=%q", l.passwd())
		codes    = fmt.Sprintf("dn.exact=%q", l.Codes())
		services = fmt.Sprintf("dn.onelevel=%q", l.Services())
		people   = fmt.Sprintf("dn.onelevel=%q", l.People())
		person   = fmt.Sprintf("to dn.onelevel=%q ", l.People())
		subtree  = func(dn string) string { return fmt.Sprintf("to dn.subtree=%q", dn) }
	)
	return []access{
		// Passwords are for binding with. Only the password service writes them, and
		// only people's: it writes the Kerberos keys in the same modify, so that the
		// two never differ. A user who wrote this alone would split his passwords.
		{person + "attrs=userPassword", []string{passwd + " =w", "anonymous auth"}},
		{"to attrs=userPassword", []string{"anonymous auth"}},

		// Kerberos keys are read by the KDC. The password service replaces people's,
		// and must read the old value to guard the change with it.
		{person + "attrs=krbPrincipalKey,krbExtraData", []string{kdc + " read", passwd + " write"}},
		{"to attrs=krbPrincipalKey,krbExtraData,krbPwdHistory,krbMKey", []string{kdc + " read"}},
		{person + "attrs=krbLastPwdChange,krbPasswordExpiration", []string{
			passwd + " write", services + " read", "self read"}},

		// Seeds of one-time codes and old password hashes are slapd's own. Its overlays
		// reach them without asking. The identity that checks codes reads a token, raises
		// its last step, and takes recovery codes away, but can add none. Who has a token
		// is nobody else's business.
		{"to attrs=oathHOTPCounter,oathLastFailure,oathLastLogin,pwdHistory", nil},
		{"to attrs=oathSecret", []string{codes + " read"}},
		{"to attrs=oathTOTPLastTimeStep", []string{codes + " write"}},
		{"to attrs=sekishoRecoveryCode", []string{codes + " =zrscd"}},
		{"to attrs=oathTOTPToken,oathHOTPToken", []string{codes + " read"}},
		{subtree(l.OTP()), []string{codes + " read"}},

		// When sign-ins failed is told to nobody; that an account is locked, to those
		// who must refuse it, and to itself.
		{"to attrs=pwdFailureTime,pwdGraceUseTime", nil},
		{"to attrs=pwdAccountLockedTime,pwdChangedTime,pwdReset,pwdPolicySubentry", []string{
			services + " read", "self read"}},

		// Principals that are not people or hosts are the KDC's.
		{subtree(l.Kerberos()), []string{kdc + " read"}},

		// A user adds and removes his own public keys, and nothing else.
		{person + "attrs=sshPublicKey", []string{"self write", services + " read", people + " read"}},

		// The policy of service accounts is not shown: who follows this tree takes the
		// only policy that he sees for everybody's (ldapsync.Schema.PolicyDefaultDN), and
		// with two he could not tell when a person's lock-out ends.
		{fmt.Sprintf("to dn.exact=%q", l.servicePolicy()), nil},

		// What sekishod writes at each start (probeSlapd).
		{fmt.Sprintf("to dn.exact=%q attrs=description", l.Sekishod()), []string{broker + " write"}},

		// Service accounts are seen by the broker and by themselves.
		{subtree(l.Services()), []string{broker + " read", "self read"}},

		// The rest is not secret, and is read by whoever has signed in as somebody of
		// this tree. A local user without an entry who comes over ldapi is nobody here.
		{"to *", []string{services + " read", people + " read"}},
	}
}

func (a access) String() string {
	var b strings.Builder
	b.WriteString(a.to)
	for _, by := range a.by {
		b.WriteString(" by " + by)
	}
	b.WriteString(" by * none")
	return b.String()
}
