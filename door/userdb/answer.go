package userdb

import (
	"errors"
	"strings"

	"github.com/sekisho/sekisho/broker"
)

// maxMemberships bounds one answer to GetMemberships.
const maxMemberships = 100_000

type userAnswer struct {
	Record     userRecord `json:"record"`
	Incomplete bool       `json:"incomplete"`
}

type groupAnswer struct {
	Record     groupRecord `json:"record"`
	Incomplete bool        `json:"incomplete"`
}

type membershipAnswer struct {
	UserName  broker.UserName  `json:"userName"`
	GroupName broker.GroupName `json:"groupName"`
}

// answer answers a call of uid.
func (s *Server) answer(uid uint32, c call, out *sink) {
	switch {
	case c.upgrade:
		out.error(errNotImplemented, map[string]string{"method": clip(c.method)})
	case c.method == varlinkSelf+".GetInfo":
		out.add(reply{Parameters: map[string]any{"vendor": "Sekisho", "product": "sekishod", "version": "1",
			"url": "https://github.com/sekisho/sekisho", "interfaces": []string{varlinkSelf, userDatabase}}})
	case c.method == varlinkSelf+".GetInterfaceDescription":
		name, ok, err := c.text("interface")
		switch {
		case err != nil || !ok:
			out.error(errInvalidParameter, map[string]string{"parameter": "interface"})
		case describe[name] == "":
			out.error(errInterfaceNotFound, map[string]string{"interface": clip(name)})
		default:
			out.add(reply{Parameters: map[string]string{"description": describe[name]}})
		}
	case c.method == userDatabase+".GetUserRecord":
		s.database(c, out, func(l *look, q question) { l.answerUser(uid, q, out) })
	case c.method == userDatabase+".GetGroupRecord":
		s.database(c, out, func(l *look, q question) { l.answerGroup(q, out) })
	case c.method == userDatabase+".GetMemberships":
		s.database(c, out, func(l *look, q question) { l.answerMemberships(c.more, q, out) })
	default:
		out.error(errMethodNotFound, map[string]string{"method": clip(c.method)})
	}
}

// clip keeps an echo of what the caller said short.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 200)], "?") }

// database prepares what all methods of io.systemd.UserDatabase need.
func (s *Server) database(c call, out *sink, answer func(*look, question)) {
	q, err := readQuestion(c)
	if err != nil {
		var name errParameter
		errors.As(err, &name)
		out.error(errInvalidParameter, map[string]string{"parameter": string(name)})
		return
	}
	if q.service != Service {
		out.error(errBadService, nil)
		return
	}
	l, err := s.look()
	if err != nil {
		if s.noted.once(err.Error()) {
			s.c.Log.WithError(err).Warn("the users door answers that it is not available")
		}
		out.error(errUnavailable, nil)
		return
	}
	answer(l, q)
}

// question is what the three methods ask with; a nil member was not given.
type question struct {
	service         string
	user, group     *string
	userID, groupID *uint64
}

func readQuestion(c call) (q question, err error) {
	var ok bool
	if q.service, ok, err = c.text("service"); err != nil || !ok {
		return question{}, errParameter("service")
	}
	for _, p := range []struct {
		name string
		to   **string
	}{{"userName", &q.user}, {"groupName", &q.group}} {
		v, ok, err := c.text(p.name)
		if err != nil {
			return question{}, err
		}
		if ok {
			*p.to = &v
		}
	}
	for _, p := range []struct {
		name string
		to   **uint64
	}{{"uid", &q.userID}, {"gid", &q.groupID}} {
		v, ok, err := c.number(p.name)
		if err != nil {
			return question{}, err
		}
		if ok {
			*p.to = &v
		}
	}
	return q, nil
}

func (l *look) answerUser(caller uint32, q question, out *sink) {
	var byName, byID *broker.User
	if q.user != nil {
		byName = l.user(broker.UserName(*q.user))
	}
	if q.userID != nil {
		byID = l.userByID(*q.userID)
	}
	u := byName
	if q.user == nil {
		u = byID
	}
	switch {
	case q.user == nil && q.userID == nil:
		out.error(errEnumeration, nil)
	case byName == nil && byID == nil:
		out.error(errNoRecord, nil)
	case q.user != nil && q.userID != nil && byName != byID:
		out.error(errConflict, nil)
	default:
		privileged := caller == 0 || caller == u.UID
		out.add(reply{Parameters: userAnswer{l.userRecord(u, privileged), !privileged}})
	}
}

func (l *look) answerGroup(q question, out *sink) {
	var byName, byID *broker.Group
	if q.group != nil {
		byName = l.group(broker.GroupName(*q.group))
	}
	if q.groupID != nil {
		byID = l.groupByID(*q.groupID)
	}
	g := byName
	if q.group == nil {
		g = byID
	}
	switch {
	case q.group == nil && q.groupID == nil:
		out.error(errEnumeration, nil)
	case byName == nil && byID == nil:
		out.error(errNoRecord, nil)
	case q.group != nil && q.groupID != nil && byName != byID:
		out.error(errConflict, nil)
	default:
		out.add(reply{Parameters: groupAnswer{groupRecord{g.Name, g.GID, "regular", Service}, false}})
	}
}

func (l *look) answerMemberships(more bool, q question, out *sink) {
	var found []membershipAnswer
	switch {
	case q.user != nil:
		found = l.groupsOf(broker.UserName(*q.user), q.group)
	case q.group != nil:
		found = l.membersOf(broker.GroupName(*q.group), l.c.Members)
	default:
		out.error(errEnumeration, nil)
		return
	}
	switch {
	case len(found) == 0:
		out.error(errNoRecord, nil)
		return
	case len(found) > 1 && !more:
		out.error(errExpectedMore, nil)
		return
	}
	for i, m := range found {
		out.add(reply{Parameters: m, Continues: i < len(found)-1})
	}
}
