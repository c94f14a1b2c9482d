package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/sekisho/sekisho/audit"
	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/door/local"
)

// syslogSocket is the local syslog's (syslog(3)).
const syslogSocket = "/dev/log"

// buildAudit opens the audit record. With a full disk it opens too, and nobody
// is let in until there is room; what is not there, or not ours, is an error.
func (d *daemon) buildAudit() error {
	c := audit.Config{
		Dir: filepath.Join(d.cfg.StateDir, "audit"), Host: d.cfg.Host, FileSize: int64(d.cfg.Audit.FileSize) << 20,
		Keep: time.Duration(d.cfg.Audit.Keep), Now: d.now, Log: d.log.WithField("part", "audit"),
	}
	if d.cfg.Audit.Syslog {
		c.Syslog = syslogSocket
	}
	var err error
	d.audit, err = audit.Open(c)
	return err
}

// record is broker.Config.Record: the audit record decides whether a grant
// counts, and the log's line, for people, says what came of it.
func (d *daemon) record(log *recorder) func(broker.Request, broker.Decision) error {
	return func(q broker.Request, made broker.Decision) error {
		err := d.audit.Decision(q, made)
		if err != nil && made.Outcome == broker.Allow {
			made = broker.Decision{Outcome: broker.Unknown, Reason: broker.ReasonRecorder, Generation: made.Generation, Age: made.Age}
		}
		log.record(q, made)
		return err
	}
}

// noteWrite keeps what somebody had sekishod write, or tried to: the verb, on what, and
// what came of it.
func (d *daemon) noteWrite(verb string, c local.Caller, subject, text string) {
	e := audit.Event{Kind: verb, Actor: actor(c), Subject: subject, Text: fmt.Sprintf("%s, by uid %d on the local socket", text, c.UID)}
	if err := d.audit.Note(e); err != nil {
		d.log.WithError(err).WithField("verb", verb).WithField("by", e.Actor).Warn("what was written was not recorded")
	}
}

// actor names a caller by what the kernel and the directory say of him.
func actor(c local.Caller) string {
	switch {
	case c.Root():
		return "root"
	case c.User != "":
		return string(c.User)
	}
	return fmt.Sprintf("uid %d", c.UID)
}

// closeAudit ends the record, after all that writes to it.
func (d *daemon) closeAudit() {
	if err := d.audit.Close(); err != nil {
		d.log.WithError(err).Error("ending the audit record")
	}
}

// auditReport is how the record is doing.
func (d *daemon) auditReport() *report.Audit {
	s := d.audit.Status()
	r := &report.Audit{Seq: s.Seq, File: s.File, Sealed: s.Sealed, Queued: s.Queued, SyslogLost: s.SyslogLost, Key: s.Key}
	if s.Err != nil {
		r.Error = clip(s.Err.Error())
	}
	return r
}
