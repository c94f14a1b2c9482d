package userdb

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sekisho/sekisho/broker"
)

// userRecord is the part of a JSON user record that we fill in
// (https://systemd.io/USER_RECORD).
type userRecord struct {
	UserName      broker.UserName `json:"userName"`
	UID           uint32          `json:"uid"`
	GID           uint32          `json:"gid"`
	RealName      string          `json:"realName,omitempty"`
	HomeDirectory string          `json:"homeDirectory"`
	Shell         string          `json:"shell"`
	Disposition   string          `json:"disposition"`
	Service       string          `json:"service"`
	Privileged    *privileged     `json:"privileged,omitempty"`
}

type privileged struct {
	SSHAuthorizedKeys []string `json:"sshAuthorizedKeys"`
}

// groupRecord is the same for a group (https://systemd.io/GROUP_RECORD).
type groupRecord struct {
	GroupName   broker.GroupName `json:"groupName"`
	GID         uint32           `json:"gid"`
	Disposition string           `json:"disposition"`
	Service     string           `json:"service"`
}

// look is one look at the directory and the local files: what an answer is
// made from.
type look struct {
	*Server
	snap  *broker.Snapshot
	local *accounts
}

// look fails when nothing can be said of anybody.
func (s *Server) look() (*look, error) {
	v := s.c.View()
	if v.Snapshot == nil {
		return nil, errors.New("the directory has not been read yet")
	}
	if age := v.Age(s.c.Now()); age > v.MaxAge {
		return nil, fmt.Errorf("the last good snapshot of the directory is older than %s", v.MaxAge.Round(time.Second))
	}
	local, err := s.local.read()
	if err != nil {
		return nil, fmt.Errorf("reading the machine's own accounts: %w", err)
	}
	return &look{s, v.Snapshot, local}, nil
}

// user is the user of that name if he may be shown, else nil.
func (l *look) user(name broker.UserName) *broker.User {
	if !validName(string(name)) {
		return nil
	}
	u, ambiguous := l.snap.User(name)
	if u == nil || u.Name != name || ambiguous || !l.mayShowUser(u) {
		return nil
	}
	return u
}

func (l *look) userByID(id uint64) *broker.User {
	if id > uint64(l.c.Max) {
		return nil
	}
	u, ambiguous := l.snap.UserByUID(uint32(id))
	if u == nil || uint64(u.UID) != id || ambiguous || !l.mayShowUser(u) {
		return nil
	}
	return u
}

// gidUsers is the one system group that is everybody's, on every Linux: many a
// directory gives it to all its people. It is their primary group and no more;
// the group itself stays the host's own.
const gidUsers = 100

func (l *look) mayShowUser(u *broker.User) bool {
	why := ""
	switch {
	case !validName(string(u.Name)):
		why = "its name is none that an account can have"
	case !l.validID(u.UID):
		why = fmt.Sprintf("uid %d is not for the directory to give", u.UID)
	case u.GID != gidUsers && !l.validID(u.GID):
		why = fmt.Sprintf("gid %d is not for the directory to give", u.GID)
	case l.local.users[string(u.Name)], l.local.uids[u.UID]:
		why = "/etc/passwd has its name or uid"
	case u.GID != gidUsers && l.local.gids[u.GID]:
		why = fmt.Sprintf("its gid %d is a local group's", u.GID)
	case !validPath(u.Home) && u.Home != "":
		why = "its home directory is no plain absolute path"
	case !validPath(u.Shell) && u.Shell != "":
		why = "its shell is no plain absolute path"
	default:
		return true
	}
	l.note(string(u.DN), why)
	return false
}

// group is the group of that name if it may be shown, else nil.
func (l *look) group(name broker.GroupName) *broker.Group {
	if !validName(string(name)) {
		return nil
	}
	g, ambiguous := l.snap.Group(name)
	if g == nil || g.Name != name || ambiguous || !l.mayShowGroup(g) {
		return nil
	}
	return g
}

func (l *look) groupByID(id uint64) *broker.Group {
	if id > uint64(l.c.Max) {
		return nil
	}
	g, ambiguous := l.snap.GroupByGID(uint32(id))
	if g == nil || uint64(g.GID) != id || ambiguous || !l.mayShowGroup(g) {
		return nil
	}
	return g
}

func (l *look) mayShowGroup(g *broker.Group) bool {
	why := ""
	switch {
	case g.GID == 0: // no posixGroup: nothing is wrong with it
		return false
	case !validName(string(g.Name)):
		why = "its name is none that a group can have"
	case !l.validID(g.GID):
		why = fmt.Sprintf("gid %d is not for the directory to give", g.GID)
	case l.local.groups[string(g.Name)], l.local.gids[g.GID]:
		why = "/etc/group has its name or gid"
	default:
		return true
	}
	l.note(string(g.DN), why)
	return false
}

// note logs once why an entry is not shown.
func (l *look) note(dn, why string) {
	if l.noted.once(dn + "\x00" + why) {
		l.c.Log.WithField("dn", dn).Warn("the users door does not show this entry: " + why)
	}
}

// groupsOf are the memberships of a user: every group that may be shown and
// that he is in, directly or through other groups. With only, just that one.
func (l *look) groupsOf(name broker.UserName, only *string) (found []membershipAnswer) {
	u := l.user(name)
	if u == nil {
		return nil
	}
	l.snap.GroupsOf(u, func(g *broker.Group) bool {
		// By its name, as the client will ask next: what it would not be
		// shown then, it must not be told of now.
		if (only == nil || *only == string(g.Name)) && g.GID != 0 && l.group(g.Name) == g {
			found = append(found, membershipAnswer{u.Name, g.Name})
		}
		return len(found) < maxMemberships
	})
	return found
}

// membersOf are the memberships of a group with at most limit member values;
// none of a larger one.
func (l *look) membersOf(name broker.GroupName, limit int) (found []membershipAnswer) {
	if limit == 0 || l.group(name) == nil {
		return nil
	}
	seen := map[broker.UserName]bool{}
	whole := l.snap.MembersOf(name, min(limit, maxMemberships), func(u *broker.User) bool {
		if !seen[u.Name] && l.user(u.Name) == u {
			seen[u.Name] = true
			found = append(found, membershipAnswer{u.Name, name})
		}
		return true
	})
	if !whole {
		return nil
	}
	return found
}

func (l *look) userRecord(u *broker.User, priv bool) userRecord {
	r := userRecord{UserName: u.Name, UID: u.UID, GID: u.GID, HomeDirectory: "/", Shell: "/bin/sh", // passwd(5): what empty fields mean
		Disposition: "regular", Service: Service}
	if u.Home != "" {
		r.HomeDirectory = path.Clean(u.Home)
	}
	if u.Shell != "" {
		r.Shell = path.Clean(u.Shell)
	}
	if validGecos(u.Gecos) {
		r.RealName = u.Gecos
	}
	if priv && l.c.Keys {
		for _, k := range u.Keys {
			if line, err := k.Format(); err == nil {
				if r.Privileged == nil {
					r.Privileged = &privileged{}
				}
				r.Privileged.SSHAuthorizedKeys = append(r.Privileged.SSHAuthorizedKeys, line)
			}
		}
	}
	return r
}

// validID reports whether a number is between Min and Max and not one that
// systemd keeps (https://systemd.io/UIDS-GIDS): 60001 to 65535 are homed's,
// those of dynamic services, nobody and the 16-bit -1; the last two are nobody
// of old and the 32-bit -1.
func (l *look) validID(id uint32) bool {
	return id >= l.c.Min && id <= l.c.Max && id != 0 && (id < 60001 || id > 65535) && id < 1<<32-2
}

// maxName is the longest name that utmp, and so the client, takes.
const maxName = 31

// validName is the account-name pattern: [A-Za-z_][A-Za-z0-9_.-]*, 31 bytes.
func validName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || !(c >= '0' && c <= '9' || c == '.' || c == '-')) {
			return false
		}
	}
	return true
}

// validPath reports whether a home directory or shell is absolute, of one line
// of text, and does not lead back up.
func validPath(s string) bool {
	return path.IsAbs(s) && len(s) <= 1024 && validText(s) && !strings.Contains(s+"/", "/../")
}

// validGecos is for the real name; one that is not valid is left out.
func validGecos(s string) bool { return len(s) <= 512 && validText(s) }

// validText refuses what would break a line of passwd(5) or a terminal.
func validText(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, c := range s {
		if c < 0x20 || c >= 0x7f && c < 0xa0 || c == ':' || c == '\u2028' || c == '\u2029' {
			return false
		}
	}
	return true
}
