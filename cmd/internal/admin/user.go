package admin

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/realm"
)

// User is a user's entry, as it is shown and set. Times are zero for none.
type User struct {
	Name    string     `json:"name"`
	DN      string     `json:"dn"`
	UID     uint32     `json:"uid"`
	GID     uint32     `json:"gid"`
	Common  string     `json:"common_name"`
	Mail    string     `json:"mail,omitempty"`
	Home    string     `json:"home"`
	Shell   string     `json:"shell,omitempty"`
	Groups  []string   `json:"groups,omitempty"` // direct ones; not in a list
	Keys    int        `json:"keys"`
	Locked  bool       `json:"locked"`
	Expires *time.Time `json:"expires,omitempty"`
	// MustChange says that the password must be changed before it counts again.
	MustChange bool `json:"must_change"`
	// Principal is the Kerberos principal; empty without one.
	Principal string `json:"principal,omitempty"`
	// KDCCodes is "on" where the KDC asks for one-time codes, or why it does not
	// though it should; empty where it does not, or that may not be seen.
	KDCCodes string `json:"kdc_otp,omitempty"`
}

// NewUser is what AddUser makes.
type NewUser struct {
	Name, Common, Mail, Home, Shell string
	// UID is 0 for the next free one. GID is 0 for a group of the user's own,
	// of the same name and number.
	UID, GID uint32
	Keys     []string // checked lines
	Password string   // empty: none
}

const (
	flagNoTickets = 0x40 // DISALLOW_ALL_TIX of krbTicketFlags
	lockedForever = "000001010000Z"
	tries         = 20 // for a free number
)

// AddUser makes a user: a group of his own unless GID is set, and one entry
// with the account, the keys, the password and the Kerberos keys. It returns
// the number that he got.
func (d *Directory) AddUser(ctx context.Context, u NewUser) (uint32, error) {
	if err := CheckUserName(u.Name); err != nil {
		return 0, err
	}
	if err := d.writable("user"); err != nil {
		return 0, err
	}
	if err := checkUser(&u); err != nil {
		return 0, err
	}
	if u.Password != "" && d.c.Issuer == nil {
		return 0, refuse("a password cannot be set here: run as root on the machine of the embedded realm, or set it with the directory's own tools")
	}
	if has, err := d.exists(ctx, d.users(), u.Name); err != nil {
		return 0, err
	} else if has {
		return 0, refuse("there is a user %s already: sekisho user set %s", u.Name, u.Name)
	}
	given := u.UID
	for try := 1; ; try++ {
		if given == 0 {
			n, err := d.NextNumber(ctx, u.UID)
			if err != nil {
				return 0, err
			}
			u.UID = n
		}
		err := d.addUser(ctx, u)
		switch {
		case err == nil:
			return u.UID, nil
		case given == 0 && try < tries && errors.Is(err, errNumberTaken):
			u.UID++ // somebody was faster
		case errors.Is(err, errNumberTaken):
			return 0, refuse("the number %d is taken: give another one with --uid", u.UID)
		default:
			return 0, err
		}
	}
}

var errNumberTaken = errors.New("the number is taken")

// addUser is one try with a settled number.
func (d *Directory) addUser(ctx context.Context, u NewUser) (failed error) {
	k := d.users()
	dn := k.dn(u.Name)
	a := ldap.NewAddRequest(dn, nil)
	classes := []string{"inetOrgPerson", "posixAccount", "shadowAccount", "ldapPublicKey"}
	if d.c.Issuer != nil {
		attrs, err := d.c.Issuer.User(u.Name, u.Password)
		if err != nil {
			return err
		}
		for _, at := range attrs {
			if strings.EqualFold(at.Type, "objectClass") {
				classes = append(classes, at.Vals...)
				continue
			}
			a.Attributes = append(a.Attributes, at)
		}
	}
	a.Attribute("objectClass", classes)
	a.Attribute(k.attr, []string{u.Name})
	a.Attribute("cn", []string{u.Common})
	a.Attribute("sn", []string{u.Common[strings.LastIndexByte(u.Common, ' ')+1:]})
	a.Attribute("uidNumber", []string{strconv.FormatUint(uint64(u.UID), 10)})
	a.Attribute("homeDirectory", []string{u.Home})
	a.Attribute("loginShell", []string{u.Shell})
	if u.Mail != "" {
		a.Attribute("mail", []string{u.Mail})
	}
	if len(u.Keys) > 0 {
		a.Attribute(d.c.Schema.UserKeys, u.Keys)
	}
	if u.GID == 0 {
		own := ownGroup(d, u, dn)
		switch e := d.c.Client.Add(ctx, own); {
		case ldapsync.IsCode(e, ldap.LDAPResultEntryAlreadyExists):
			return refuse("there is a group %s already: give the user's group with --gid or --group", u.Name)
		case ldapsync.IsCode(e, ldap.LDAPResultConstraintViolation):
			return errNumberTaken
		case e != nil:
			return e
		}
		defer func() {
			if failed != nil { // the user could not be made: take his group back
				if e := d.c.Client.Delete(ctx, own.DN); e != nil {
					failed = fmt.Errorf("%w; and the group %s is left over: sekisho group rm %s", failed, u.Name, u.Name)
				}
			}
		}()
		u.GID = u.UID
	}
	a.Attribute("gidNumber", []string{strconv.FormatUint(uint64(u.GID), 10)})
	switch err := d.c.Client.Add(ctx, a); {
	case ldapsync.IsCode(err, ldap.LDAPResultEntryAlreadyExists):
		return refuse("there is a user %s already: sekisho user set %s", u.Name, u.Name)
	case ldapsync.IsCode(err, ldap.LDAPResultConstraintViolation):
		if n, herr := d.holders(ctx, "uidNumber", u.UID); herr == nil && n > 0 {
			return errNumberTaken
		}
		return err
	case err != nil:
		return err
	}
	// A directory without a uniqueness rule takes two of a number.
	n, err := d.holders(ctx, "uidNumber", u.UID)
	if err == nil && n > 1 {
		if err := d.c.Client.Delete(ctx, dn); err != nil {
			return fmt.Errorf("two users have the number %d, and %s could not be removed again: %w", u.UID, u.Name, err)
		}
		return errNumberTaken
	}
	return err
}

// ownGroup is the group of a user's own. With rfc2307's schema it has no
// members by DN.
func ownGroup(d *Directory, u NewUser, dn string) *ldap.AddRequest {
	k := d.groups()
	a := ldap.NewAddRequest(k.dn(u.Name), nil)
	a.Attribute("cn", []string{u.Name})
	a.Attribute("gidNumber", []string{strconv.FormatUint(uint64(u.UID), 10)})
	a.Attribute("description", []string{ownGroupNote})
	if d.c.Preset == "rfc2307" {
		a.Attribute("objectClass", []string{"posixGroup"})
		return a
	}
	a.Attribute("objectClass", []string{"groupOfNames", "posixGroup"})
	a.Attribute("member", []string{dn})
	return a
}

// ownGroupNote marks a group that goes with its user.
const ownGroupNote = "the user's own group"

// checkUser fills in defaults, and refuses what would break a line of
// passwd(5).
func checkUser(u *NewUser) error {
	u.Common = strings.TrimSpace(or(u.Common, u.Name))
	u.Home = or(u.Home, "/home/"+u.Name)
	u.Shell = or(u.Shell, "/bin/bash")
	return checkUserTexts(u.Common, u.Mail, u.Home, u.Shell)
}

func checkUserTexts(common, mail, home, shell string) error {
	for _, t := range []struct{ what, v string }{{"name", common}, {"mail", mail}, {"home", home}, {"shell", shell}} {
		if len(t.v) > 255 || strings.ContainsFunc(t.v, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd || r == ':' }) {
			return refuse("%s %.60q: write at most 255 bytes of UTF-8 without colons and control characters", t.what, t.v)
		}
	}
	for _, p := range []struct{ what, v string }{{"home", home}, {"shell", shell}} {
		if p.v != "" && (!path.IsAbs(p.v) || path.Clean(p.v) != p.v) {
			return refuse("%s %.60q: write an absolute path", p.what, p.v)
		}
	}
	return nil
}

// UserChange is what SetUser changes; nil leaves a thing alone.
type UserChange struct {
	Common, Mail, Home, Shell *string
	UID, GID                  *uint32
	Lock                      *bool
	Expires                   *time.Time // zero: never
	MustChange                *bool      // the password
}

// SetUser changes a user's entry in one modify.
func (d *Directory) SetUser(ctx context.Context, name string, c UserChange) error {
	if err := d.writable("user"); err != nil {
		return err
	}
	text := func(p *string) string {
		if p == nil {
			return ""
		}
		return *p
	}
	if err := checkUserTexts(text(c.Common), text(c.Mail), text(c.Home), text(c.Shell)); err != nil {
		return err
	}
	s := d.c.Schema
	e, err := d.find(ctx, d.users(), name, "objectClass", s.KrbFlags, s.LockedTime, s.AccountLock, s.ShadowExpire, s.KrbExpiration, attrReset)
	if err != nil {
		return err
	}
	m := ldap.NewModifyRequest(e.DN, nil)
	for _, t := range []struct {
		attr string
		v    *string
	}{{"cn", c.Common}, {"homeDirectory", c.Home}, {"loginShell", c.Shell}} {
		if t.v == nil {
			continue
		}
		if *t.v == "" {
			return refuse("%s cannot be empty", t.attr)
		}
		m.Replace(t.attr, []string{*t.v})
	}
	if c.Common != nil {
		m.Replace("sn", []string{(*c.Common)[strings.LastIndexByte(*c.Common, ' ')+1:]})
	}
	if c.Mail != nil {
		m.Replace("mail", some(*c.Mail))
	}
	for _, n := range []struct {
		attr string
		v    *uint32
	}{{"uidNumber", c.UID}, {"gidNumber", c.GID}} {
		if n.v != nil {
			m.Replace(n.attr, []string{strconv.FormatUint(uint64(*n.v), 10)})
		}
	}
	if c.Expires != nil {
		d.setExpiry(m, e, *c.Expires)
	}
	if c.Lock != nil {
		d.setLock(m, e, *c.Lock)
	}
	if c.MustChange != nil {
		if err := d.setMustChange(m, e, *c.MustChange); err != nil {
			return err
		}
	}
	if len(m.Changes) == 0 {
		return refuse("nothing to change: see sekisho user set --help")
	}
	err = d.c.Client.Modify(ctx, m)
	if ldapsync.IsCode(err, ldap.LDAPResultUndefinedAttributeType) {
		return fmt.Errorf("%w: this directory has not loaded the schema or overlay (ppolicy) that it belongs to", err)
	}
	return err
}

// setLock locks everywhere that the entry can be locked: binds by ppolicy,
// tickets by the KDC, or the account as a whole where the schema has that.
func (d *Directory) setLock(m *ldap.ModifyRequest, e *ldap.Entry, lock bool) {
	s := d.c.Schema
	if s.LockedTime != "" {
		var v []string
		if lock {
			v = []string{lockedForever}
		}
		if lock || len(e.GetAttributeValues(s.LockedTime)) > 0 {
			m.Replace(s.LockedTime, v)
		}
	}
	if s.KrbFlags != "" && hasClass(e, "krbTicketPolicyAux") {
		flags, _ := strconv.Atoi(e.GetAttributeValue(s.KrbFlags))
		if lock {
			flags |= flagNoTickets
		} else {
			flags &^= flagNoTickets
		}
		m.Replace(s.KrbFlags, []string{strconv.Itoa(flags)})
	}
	if s.AccountLock != "" && len(e.GetAttributeValues(s.AccountLock)) > 0 {
		m.Replace(s.AccountLock, []string{strings.ToUpper(strconv.FormatBool(lock))})
	}
}

// The attributes by which a password must be changed: at the KDC, and at binds where
// the password policy says pwdMustChange.
const (
	attrPasswordEnds = "krbPasswordExpiration"
	attrReset        = "pwdReset"
)

// setMustChange ends the password, so that it opens nothing but its own change; a new
// password takes both attributes away.
func (d *Directory) setMustChange(m *ldap.ModifyRequest, e *ldap.Entry, must bool) error {
	krb, policy := hasClass(e, "krbPrincipalAux"), d.c.Schema.LockedTime != ""
	if !krb && !policy {
		return refuse("in this directory nothing says that a password must be changed: use its own tools")
	}
	var ends, reset []string
	if must {
		ends, reset = []string{generalized(time.Now().Add(-time.Second))}, []string{"TRUE"}
	}
	if krb {
		m.Replace(attrPasswordEnds, ends)
	}
	if policy && (must || len(e.GetAttributeValues(attrReset)) > 0) {
		m.Replace(attrReset, reset)
	}
	return nil
}

// setExpiry ends the account and its tickets at the same instant. shadowExpire
// counts days, so that at is a midnight in UTC.
func (d *Directory) setExpiry(m *ldap.ModifyRequest, e *ldap.Entry, at time.Time) {
	s := d.c.Schema
	if !hasClass(e, "shadowAccount") && !at.IsZero() {
		m.Add("objectClass", []string{"shadowAccount"})
	}
	var days, krb []string
	if !at.IsZero() {
		days, krb = []string{strconv.FormatInt(at.Unix()/86400, 10)}, []string{generalized(at)}
	}
	if hasClass(e, "shadowAccount") || days != nil {
		m.Replace(s.ShadowExpire, days)
	}
	if s.KrbExpiration != "" && hasClass(e, "krbPrincipalAux") {
		m.Replace(s.KrbExpiration, krb)
	}
}

func hasClass(e *ldap.Entry, class string) bool {
	for _, c := range e.GetEqualFoldAttributeValues("objectClass") {
		if strings.EqualFold(c, class) {
			return true
		}
	}
	return false
}

func some(v string) []string {
	if v == "" {
		return nil
	}
	return []string{v}
}

// RemoveUser takes a user out, and his own group if it is still only his. It
// tells whether the group went too.
func (d *Directory) RemoveUser(ctx context.Context, name string) (group bool, err error) {
	if err := d.writable("user"); err != nil {
		return false, err
	}
	e, err := d.find(ctx, d.users(), name, ldapsync.AttrToken)
	if err != nil {
		return false, err
	}
	g, err := d.find(ctx, d.groups(), name, "description", "member", "memberUid")
	var none *NoneError
	if err != nil && !errors.As(err, &none) {
		return false, err
	}
	own := g != nil && g.GetAttributeValue("description") == ownGroupNote
	if own {
		for _, m := range g.GetAttributeValues("member") {
			own = own && (sameDN(m, e.DN) || isPlaceholder(m, g.DN, d.c.Layout.Base))
		}
		own = own && len(g.GetAttributeValues("memberUid")) == 0
	}
	if err := d.c.Client.Delete(ctx, e.DN); err != nil {
		return false, err
	}
	if err := d.dropToken(ctx, e.GetEqualFoldAttributeValue(ldapsync.AttrToken)); err != nil {
		return false, err
	}
	if !own {
		return false, nil
	}
	if err := d.c.Client.Delete(ctx, g.DN); err != nil {
		return false, fmt.Errorf("the user is gone, but not the group of his own: %w", err)
	}
	return true, nil
}

var userAttrs = []string{"objectClass", "uidNumber", "gidNumber", "cn", "mail", "homeDirectory", "loginShell", "krbPrincipalName",
	attrPasswordEnds, attrReset}

func (d *Directory) userAttrs() []string {
	s := d.c.Schema
	out := append([]string{s.UserName, s.UserKeys, s.UserHome, s.UserShell}, userAttrs...)
	if d.c.Issuer != nil {
		out = append(out, realm.KeyAttributes...)
	}
	for _, a := range []string{s.KrbFlags, s.LockedTime, s.AccountLock, s.ShadowExpire, s.KrbExpiration} {
		if a != "" {
			out = append(out, a)
		}
	}
	return out
}

// User shows one user.
func (d *Directory) User(ctx context.Context, name string) (User, error) {
	e, err := d.find(ctx, d.users(), name, d.userAttrs()...)
	if err != nil {
		return User{}, err
	}
	u := d.readUser(e)
	u.Groups, err = d.directGroups(ctx, e.DN, u.Name)
	return u, err
}

// Users shows all whose names fit pattern, without their groups.
func (d *Directory) Users(ctx context.Context, pattern string) ([]User, error) {
	es, err := d.list(ctx, d.users(), pattern, 0, d.userAttrs()...)
	if err != nil {
		return nil, err
	}
	out := make([]User, len(es))
	for i, e := range es {
		out[i] = d.readUser(e)
	}
	sortBy(out, func(u User) string { return u.Name })
	return out, nil
}

func (d *Directory) readUser(e *ldap.Entry) User {
	s := d.c.Schema
	u := User{
		Name: e.GetAttributeValue(s.UserName), DN: e.DN, UID: number(e, s.UserUID), GID: number(e, s.UserGID),
		Common: e.GetAttributeValue("cn"), Mail: e.GetAttributeValue("mail"),
		Home: e.GetAttributeValue(s.UserHome), Shell: e.GetAttributeValue(s.UserShell),
		Keys: len(e.GetAttributeValues(s.UserKeys)), Principal: e.GetAttributeValue("krbPrincipalName"), KDCCodes: codesAtKDC(e),
	}
	flags, _ := strconv.Atoi(e.GetAttributeValue(s.KrbFlags))
	u.Locked = flags&flagNoTickets != 0 || s.LockedTime != "" && e.GetAttributeValue(s.LockedTime) == lockedForever ||
		s.AccountLock != "" && strings.EqualFold(e.GetAttributeValue(s.AccountLock), "TRUE")
	if days, err := strconv.ParseInt(e.GetAttributeValue(s.ShadowExpire), 10, 32); err == nil && days >= 0 {
		t := time.Unix(days*86400, 0).UTC()
		u.Expires = &t
	}
	if s.KrbExpiration != "" {
		if t := parseGeneralized(e.GetAttributeValue(s.KrbExpiration)); !t.IsZero() && (u.Expires == nil || t.Before(*u.Expires)) {
			u.Expires = &t
		}
	}
	ends := parseGeneralized(e.GetAttributeValue(attrPasswordEnds))
	u.MustChange = !ends.IsZero() && !time.Now().Before(ends) || strings.EqualFold(e.GetAttributeValue(attrReset), "TRUE")
	return u
}

func number(e *ldap.Entry, attr string) uint32 {
	n, err := strconv.ParseUint(e.GetAttributeValue(attr), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// UserByNumber is the name of a user with that uid number; empty for none.
func (d *Directory) UserByNumber(ctx context.Context, uid uint32) (string, error) {
	k := d.users()
	es, err := d.search(ctx, k.base, fmt.Sprintf("(%s=%d)", d.c.Schema.UserUID, uid), 0, k.attr)
	if err != nil || len(es) == 0 {
		return "", err
	}
	return es[0].GetAttributeValue(k.attr), nil
}
