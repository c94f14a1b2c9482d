package main

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/door/kdcotp"
	"github.com/sekisho/sekisho/realm"
)

// kdcDoor is where the embedded realm's KDC asks about passwords with one-time codes
// behind them.
type kdcDoor struct {
	*kdcotp.Server
	socket *net.UnixListener
}

// buildKDCDoor makes the door and its socket, before the KDC starts: what it asks
// while the door is not yet open waits. The KDC runs as the user that we are.
func (d *daemon) buildKDCDoor() error {
	if d.realm == nil {
		return nil
	}
	log := d.log.WithField("part", "kdc")
	if err := realm.CodesFault(); err != nil {
		log.WithError(err).Warn("the KDC can ask nobody for one-time codes")
	}
	if d.codes == nil {
		log.Warn("pam.otp is not totp: whoever must show the KDC a one-time code gets no ticket")
	}
	s, err := kdcotp.New(kdcotp.Config{SignIn: d.signInAtKDC, Host: broker.HostName(d.cfg.Host), Callers: []uint32{uint32(os.Getuid())}, Log: log})
	if err != nil {
		return err
	}
	path := d.realm.Info().OTP // in a folder that is ours alone
	l, err := listen(path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	d.kdcDoor = &kdcDoor{s, l}
	return err
}

// serveKDC starts the door.
func (d *daemon) serveKDC(doors *crew, fail context.CancelCauseFunc) {
	if d.kdcDoor == nil {
		return
	}
	doors.do("kdc", fail, func(ctx context.Context) error {
		err := d.kdcDoor.Serve(ctx, d.kdcDoor.socket)
		if rerr := os.Remove(d.realm.Info().OTP); err == nil && !errors.Is(rerr, os.ErrNotExist) {
			err = rerr
		}
		return err
	})
}

// signInAtKDC decides on what somebody typed at kinit's prompt.
func (d *daemon) signInAtKDC(ctx context.Context, r broker.Request, typed string) broker.Decision {
	return d.broker.Prove(ctx, r, broker.ProofOTP, func(ctx context.Context, c broker.Claim) broker.Proven {
		if d.codes == nil {
			return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonProver}
		}
		return d.codes.CheckBehind(ctx, c, typed, func(ctx context.Context, password string) broker.Proven {
			return d.passwordInRealm(ctx, c, password)
		})
	})
}

// passwordInRealm says whether a password is the user's, by the embedded realm's
// keys and without the KDC.
func (d *daemon) passwordInRealm(ctx context.Context, c broker.Claim, password string) broker.Proven {
	err := d.realm.CheckPassword(ctx, string(c.User), password)
	switch {
	case err == nil:
		return broker.Proven{Outcome: broker.Allow}
	case errors.Is(err, realm.ErrWrongPassword):
		return broker.Proven{Reason: broker.ReasonWrongPassword}
	}
	d.log.WithError(err).WithFields(logrus.Fields{"user": string(c.User), "door": string(c.Door)}).Warn("a password could not be checked")
	return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonProver}
}

// provePasswordInRealm is passwordInRealm as a prover.
func (d *daemon) provePasswordInRealm(ctx context.Context, c broker.Claim, ask broker.Asker) broker.Proven {
	typed, err := ask(ctx, broker.Prompt{Kind: broker.PromptPassword, Text: "Password: "})
	if err != nil || len(typed) != 1 {
		return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonConversation}
	}
	return d.passwordInRealm(ctx, c, typed[0])
}
