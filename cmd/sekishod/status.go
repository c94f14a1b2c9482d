package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/door/local"
	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/realm"
	"github.com/sekisho/sekisho/wire"
)

// maxShown bounds the skipped entries in an answer to status.
const maxShown = 50

// statusVerb answers `sekisho status`: everybody how old the answers are, root
// what is wrong.
func (d *daemon) statusVerb() local.Verb {
	return local.Verb{
		May: local.Anyone,
		Do: func(_ context.Context, c local.Caller, _ wire.Request) wire.Answer {
			s := d.status()
			if toldAll(c) {
				d.addAmbiguous(&s.Sync)
				s.Feed = d.feedReport()
			} else {
				s = forAnyone(s)
			}
			body, err := report.Encode(s)
			if err != nil {
				return wire.Answer{Reason: "answer", Text: err.Error()}
			}
			return wire.Answer{Outcome: wire.Yes, Body: body}
		},
	}
}

// toldAll tells whether a caller is told what is wrong.
func toldAll(c local.Caller) bool { return c.Root() || c.UID == uint32(os.Getuid()) }

// acceptVerb answers `sekisho sync accept`.
func (d *daemon) acceptVerb() local.Verb {
	return local.Verb{
		May: local.RootOnly,
		Do: func(_ context.Context, c local.Caller, _ wire.Request) wire.Answer {
			if d.ldap == nil {
				return wire.Answer{Outcome: wire.No, Reason: "nothing-held", Text: "this host follows a broker: changes are held back, and accepted, there"}
			}
			held := d.ldap.Status().Held
			switch err := d.ldap.Accept(); {
			case errors.Is(err, ldapsync.ErrNothingHeld):
				return wire.Answer{Outcome: wire.No, Reason: "nothing-held", Text: "no change is held back"}
			case err != nil:
				return wire.Answer{Reason: "accept", Text: err.Error()}
			}
			e, text := d.log.WithField("by", "root"), "a change that was held back was accepted"
			if held != nil {
				e = e.WithField("users", held.Users).WithField("of", held.Of)
				text += fmt.Sprintf(": %d of %d users go", held.Users, held.Of)
			}
			d.noteWrite("sync-accept", c, "", text)
			e.Warn("the change that was held back was accepted")
			return wire.Answer{Outcome: wire.Yes, Text: "accepted"}
		},
	}
}

// passwdVerb changes the caller's own password in the embedded realm: the
// directory lets nobody write his own, since the Kerberos keys must change in
// the same modify.
func (d *daemon) passwdVerb() local.Verb {
	turn := make(chan struct{}, 4) // hashing is dear
	return local.Verb{
		May:    local.Self,
		Fields: []string{wire.FieldUser, report.FieldOld, report.FieldNew},
		Do: func(ctx context.Context, c local.Caller, r wire.Request) wire.Answer {
			user := r.Get(wire.FieldUser)
			err := d.tryOld(ctx, user, func() error {
				select {
				case turn <- struct{}{}:
					defer func() { <-turn }()
				case <-ctx.Done():
					return errBusy
				}
				return d.realm.ChangePassword(ctx, user, r.Get(report.FieldOld), r.Get(report.FieldNew))
			})
			e := d.log.WithField("user", user).WithField("uid", c.UID)
			var refused *realm.PasswordRefused
			switch {
			case err == nil:
				e.Info("password changed")
				d.noteWrite(report.VerbPasswd, c, user, "password changed")
				return wire.Answer{Outcome: wire.Yes}
			case errors.Is(err, realm.ErrWrongPassword), errors.Is(err, realm.ErrLocked), errors.Is(err, errThrottled):
				e.WithError(err).Warn("password change refused")
				if !errors.Is(err, errThrottled) { // or anybody could fill the record
					d.noteWrite(report.VerbPasswd, c, user, "password not changed: "+err.Error())
				}
				return wire.Answer{Outcome: wire.No, Reason: "wrong-password", Text: "the old password is wrong, or the account is locked, or it was wrong too often: try again later"}
			case errors.As(err, &refused):
				return wire.Answer{Outcome: wire.No, Reason: "password-refused", Text: clip(refused.Error())}
			}
			e.WithError(err).Warn("password not changed")
			if errors.Is(err, errBusy) {
				return wire.Answer{Reason: wire.ReasonBusy, Text: err.Error()}
			}
			return wire.Answer{Reason: "password", Text: err.Error()}
		},
	}
}

// status gathers how everything is doing.
func (d *daemon) status() report.Status {
	v, now := d.sync.View(), d.now()
	r := report.Status{
		Host: d.cfg.Host, Embedded: d.realm != nil, PID: os.Getpid(), Started: d.started, UserDB: d.userDBState(), Sync: d.syncReport(),
	}
	if v.Snapshot != nil {
		r.HostKnown = v.Host(broker.HostName(d.cfg.Host)) != nil
		r.Sync.AgeSeconds = int64(v.Age(now) / time.Second)
	}
	if d.realm != nil {
		r.LDAPI = d.realm.Info().LDAPI
		for _, c := range d.realm.Status() {
			r.Realm = append(r.Realm, report.Child{Name: c.Name, PID: c.PID, Ready: c.Ready, Restarts: c.Restarts,
				Since: c.Since, LastError: clip(c.LastError)})
		}
	}
	if d.pam != nil {
		r.PAM = &report.PAM{Password: d.cfg.PasswordProver(), OTP: d.cfg.OTPProver(), Sessions: d.pam.Opened()}
		c := d.clock.Status()
		r.Clock = &report.Clock{State: c.State.String(), Text: clip(c.Text)}
	}
	r.Audit = d.auditReport()
	st := d.local.Stats()
	r.Socket = &report.Socket{Open: st.Open, Requests: st.Requests, Denied: st.Denied, Malformed: st.Malformed, Busy: st.Busy}
	return r
}

// addAmbiguous puts the users who shut each other out before what else is not
// used. It looks at the whole directory, so only root may have it done.
func (d *daemon) addAmbiguous(y *report.Sync) {
	s := d.sync.View().Snapshot
	if s == nil {
		return
	}
	var out []report.Skipped
	for _, u := range s.Ambiguous(maxShown / 5) {
		out = append(out, report.Skipped{DN: clip(string(u.DN)), Whole: true, Why: clip(fmt.Sprintf(
			"the name %s or the uid number %d stands in another entry too: all of them are shut out until one is left", u.Name, u.UID))})
	}
	y.SkippedEntries += len(out)
	y.Skipped = append(out, y.Skipped...)
}

// forAnyone leaves what an unprivileged user may know.
func forAnyone(s report.Status) report.Status {
	return report.Status{
		Host: s.Host, HostKnown: s.HostKnown, Embedded: s.Embedded, Started: s.Started, UserDB: s.UserDB, Clock: s.Clock,
		Sync: report.Sync{
			State: s.Sync.State, Loaded: s.Sync.Loaded, Generation: s.Sync.Generation,
			AgeSeconds: s.Sync.AgeSeconds, MaxAgeSeconds: s.Sync.MaxAgeSeconds,
			Users: s.Sync.Users, Groups: s.Sync.Groups, Hosts: s.Sync.Hosts, Rules: s.Sync.Rules,
		},
	}
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// clip keeps texts from outside within the limits of the wire.
func clip(s string) string {
	const most = 500
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
