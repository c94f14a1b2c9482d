package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/door/gate"
	"github.com/sekisho/sekisho/pamhelper"
	"github.com/sekisho/sekisho/wire"
)

// Limits of one sekisho-pam.
const (
	maxConversations = 256
	replyTime        = 120 * time.Second // for a person: sshd's LoginGraceTime
	wholeTime        = 150 * time.Second // after which a conversation gets no further reply
	endTime          = time.Second       // for a process, after its last answer
)

// supervisor has conversations held by processes of their own. It talks to
// sekishod, and hands on nothing that it has not read to the last byte.
type supervisor struct {
	services map[string]bool
	uid      uint32 // who may ask beside root
	log      *logrus.Entry
	brood    *brood
}

// serve answers the connections of l until ctx ends or sekishod has gone.
func (s *supervisor) serve(ctx context.Context, l net.Listener) error {
	busy, err := wire.AppendAnswer(nil, unknown(wire.ReasonBusy, "too many PAM conversations at once"))
	if err != nil {
		return err
	}
	g, err := gate.New(gate.Config{
		Max: maxConversations, PerUID: 1, Privileged: []uint32{s.uid}, Idle: replyTime, Request: 5 * time.Second,
		Busy: busy, Log: s.log,
	})
	if err != nil {
		return err
	}
	if err := g.Serve(ctx, l, s.handle); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func unknown(reason, text string) wire.Answer { return wire.Answer{Reason: reason, Text: text} }

// handle holds one conversation.
func (s *supervisor) handle(ctx context.Context, c *gate.Conn) {
	c.Next(false)
	r, err := wire.ReadRequest(c, nil)
	if err != nil {
		if !errors.Is(err, io.EOF) {
			s.write(c, unknown(wire.ReasonMalformed, "the request cannot be read"))
		}
		return
	}
	if c.UID != 0 && c.UID != s.uid {
		s.write(c, unknown(wire.ReasonCaller, "sekisho-pam answers only sekishod"))
		return
	}
	call, err := pamhelper.ReadCall(r)
	if err != nil {
		s.write(c, unknown(wire.ReasonMalformed, err.Error()))
		return
	}
	if !s.services[call.Service] || !stackExists(call.Service) {
		s.write(c, unknown(pamhelper.ReasonService, "sekisho-pam was not started for this service, or the host has no such stack"))
		return
	}
	s.converse(ctx, c, call, r)
}

func (s *supervisor) write(c *gate.Conn, a wire.Answer) error {
	b, err := wire.AppendAnswer(nil, a)
	if err != nil {
		b, _ = wire.AppendAnswer(nil, unknown(wire.ReasonMalformed, "the answer cannot be written"))
	}
	_, err = c.Write(b)
	return err
}

// stackExists reports whether the host has a stack of that name. Without one,
// PAM would ask the stack "other", and its no is not what was asked for.
func stackExists(service string) bool {
	for _, dir := range []string{"/etc/pam.d/", "/usr/lib/pam.d/"} {
		if st, err := os.Stat(dir + service); err == nil && st.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// converse has a process run the stack, from the request to the last answer.
func (s *supervisor) converse(ctx context.Context, c *gate.Conn, call pamhelper.Call, r wire.Request) {
	log := s.log.WithFields(logrus.Fields{"service": call.Service, "user": call.User})
	ours, theirs, err := socketPair()
	if err != nil {
		log.WithError(err).Error("making a socket pair: the conversation was refused")
		s.write(c, unknown(wire.ReasonBusy, "sekisho-pam has no descriptors left"))
		return
	}
	defer ours.Close()
	p, err := s.brood.start(theirs)
	theirs.Close()
	if err != nil {
		log.WithError(err).Error("the conversation was refused")
		s.write(c, unknown(wire.ReasonBusy, "sekisho-pam cannot start a process"))
		return
	}
	stop := context.AfterFunc(ctx, func() { s.brood.kill(p) })
	defer stop()
	a, ended := s.talk(ctx, talk{c, ours, log}, r)
	if !ended {
		s.brood.kill(p)
	}
	s.write(c, a)
	ours.Close()
	// The place at the gate is free only when the process is gone: one that
	// cannot even be killed counts.
	select {
	case <-p.gone:
	case <-time.After(endTime):
		s.brood.kill(p)
		<-p.gone
	}
}

// talk is the two connections of a conversation: to sekishod, and to the process.
type talk struct {
	c    *gate.Conn
	ours net.Conn
	log  *logrus.Entry
}

// talk passes on prompts and replies and returns the last answer. ended tells
// whether it is the process's own, which ends by itself then.
func (s *supervisor) talk(ctx context.Context, t talk, r wire.Request) (last wire.Answer, ended bool) {
	end := time.Now().Add(wholeTime)
	for round := 0; ; round++ {
		if err := t.ours.SetDeadline(time.Now().Add(pamhelper.StackTime)); err != nil {
			return unknown(pamhelper.ReasonCrashed, ""), false
		}
		a, err := wire.Ask(t.ours, r)
		switch {
		case ctx.Err() != nil:
			return unknown(pamhelper.ReasonLeft, "sekisho-pam is being stopped"), false
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.log.Errorf("the PAM stack hung for %s and was killed", pamhelper.StackTime)
			return unknown(pamhelper.ReasonHung, "the host's PAM stack did not answer in time"), false
		case err != nil:
			t.log.WithError(err).Error("the PAM stack's process ended without an answer: a module has crashed or exited")
			return unknown(pamhelper.ReasonCrashed, "a module of the host's PAM stack has crashed"), false
		case a.Reason != pamhelper.ReasonPrompt:
			return a, true
		case round == pamhelper.MaxRounds || time.Now().After(end):
			return unknown(pamhelper.ReasonMany, "the host's PAM stack asks without end"), false
		}
		if err := s.write(t.c, a); err != nil {
			return unknown(pamhelper.ReasonLeft, ""), false
		}
		t.c.Next(false)
		if r, err = wire.ReadRequest(t.c, nil); err != nil {
			return unknown(pamhelper.ReasonLeft, "there was no reply"), false
		}
	}
}

// socketPair makes the connection to a process: our end, and its.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fds[0]), "process")
	defer f.Close()
	theirs := os.NewFile(uintptr(fds[1]), "supervisor")
	ours, err := net.FileConn(f)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}
