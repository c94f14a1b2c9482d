package realm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/accept"
	"github.com/sekisho/sekisho/krb/kpasswd"
)

// changepwMarks is how many requests are remembered against being sent again:
// four minutes of more than forty changes a second.
const changepwMarks = 10_000

// startKpasswd begins to serve password changes (RFC 3244) until ctx ends. Every
// change is the same one modify that ChangePassword makes; that the user knows his
// old password has been found out by the KDC.
func (r *Realm) startKpasswd(ctx context.Context, wg *sync.WaitGroup) error {
	c, f := r.maker.c, r.maker.c.files()
	keytab, err := accept.OpenKeytab(f.changepwKeytab)
	if err != nil {
		return fmt.Errorf("the key of kadmin/changepw: %w", err)
	}
	files := replayFiles{c, f.changepwReplay}
	if err := files.take(); err != nil {
		return err
	}
	replay, err := accept.OpenReplay(accept.ReplayConfig{Path: f.changepwReplay, Max: changepwMarks, Now: c.Now})
	if err != nil {
		return fmt.Errorf("the replay cache for password changes: %w", err)
	}
	server, err := r.newKpasswd(keytab, replay)
	if err != nil {
		return errors.Join(err, replay.Close(), files.giveBack())
	}
	wg.Go(func() {
		defer func() {
			if err := errors.Join(replay.Close(), files.giveBack()); err != nil {
				c.Log.WithError(err).Warn("letting go of the replay cache for password changes")
			}
		}()
		if err := server.Serve(ctx); err != nil {
			c.Log.WithError(err).Error("passwords can no longer be changed over the network")
		}
	})
	return nil
}

// replayFiles are the files of a replay cache, which must belong to the process that
// has it open: with a realm that root runs, that is not the service user.
type replayFiles struct {
	c    Config
	path string
}

func (r replayFiles) take() error {
	if os.Geteuid() != 0 {
		return nil
	}
	return r.chown(0, 0)
}

func (r replayFiles) giveBack() error {
	if os.Geteuid() != 0 {
		return nil
	}
	return r.chown(r.c.UID, r.c.GID)
}

func (r replayFiles) chown(uid, gid int) error {
	for _, p := range []string{r.path, r.path + ".lock"} {
		if err := os.Lchown(p, uid, gid); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (r *Realm) newKpasswd(keytab *accept.Keytab, replay accept.Replay) (*kpasswd.Server, error) {
	c := r.maker.c
	acceptor, err := accept.New(accept.Config{Keytab: keytab, Replay: replay, Now: c.Now})
	if err != nil {
		return nil, err
	}
	server, err := kpasswd.New(kpasswd.Config{
		Listen: c.Kpasswd, Acceptor: acceptor, Realm: r.maker.layout.Realm, Change: r.changeByTicket,
		Log: c.Log.WithField("part", "kpasswd"), Now: c.Now,
	})
	if err != nil {
		return nil, err
	}
	if err := server.Listen(); err != nil {
		return nil, fmt.Errorf("%w (another kadmind or kpasswdd? give the realm other addresses)", err)
	}
	return server, nil
}

// changeByTicket sets the password of a user who has just proved the old one to
// the KDC.
func (r *Realm) changeByTicket(ctx context.Context, user krb.Principal, new string) error {
	if len(user.Components) != 1 {
		return &kpasswd.Denied{Words: "only people change their passwords here; a host's or service's keys are made anew with sekisho host keytab --rekey"}
	}
	err := r.setPassword(ctx, user.Components[0], new)
	var refused *PasswordRefused
	switch {
	case errors.As(err, &refused):
		return &kpasswd.Refused{Words: refused.Reason}
	case errors.Is(err, ErrLocked):
		return &kpasswd.Denied{Words: err.Error()}
	}
	return err
}
