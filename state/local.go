package state

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// local is the store in this process. Its folder has
//
//	lock        held while it is open
//	ledger      the count of the marks
//	jetstream/  NATS's own
type local struct {
	dir    string
	lock   *os.File     // nil until it is taken
	ledger *ledger      // nil until it is open
	unsure bool         // the ledger told nothing, though there may have been marks
	sick   chan *engine // one that must be started anew; room for one
}

// open takes the folder, and makes it if need be. After an error it may be called
// again.
func (l *local) open() error {
	if l.ledger != nil {
		return nil
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	fi, err := os.Stat(l.dir)
	if err != nil {
		return err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others may enter it: chmod 0700 %s", l.dir)
	}
	if err := l.take(); err != nil {
		return err
	}
	fresh := true // on the first start there is neither
	for _, name := range []string{"ledger", "jetstream"} {
		if _, err := os.Lstat(filepath.Join(l.dir, name)); !errors.Is(err, os.ErrNotExist) {
			fresh = false
		}
	}
	ledger, err := openLedger(filepath.Join(l.dir, "ledger"))
	if errors.Is(err, errLedger) {
		if l.unsure, err = !fresh, nil; fresh {
			err = ledger.replace(newSlots())
		}
	}
	if err != nil {
		if ledger != nil { // else it could not be read
			ledger.close()
		}
		return err
	}
	l.ledger = ledger
	return nil
}

// take locks the folder, until close.
func (l *local) take() error {
	if l.lock != nil {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(l.dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return errors.New("another process has it open: only one sekishod can use it; several share a cluster (state.servers)")
	}
	l.lock = f
	return nil
}

func (l *local) close() (err error) {
	if l.ledger != nil {
		err = l.ledger.close()
	}
	if l.lock != nil {
		if cerr := l.lock.Close(); err == nil {
			err = cerr
		}
	}
	return err
}

// startWait bounds how long the server may take to read its folder: a million marks
// take ten seconds.
const startWait = time.Minute

// start starts the server in this process. It listens nowhere.
func (l *local) start(c *Config) (_ *engine, err error) {
	if err := ready(l.dir); err != nil {
		return nil, err
	}
	srv, err := server.NewServer(&server.Options{
		ServerName: "sekisho", DontListen: true, NoSigs: true,
		JetStream: true, StoreDir: l.dir, SyncAlways: true, DisableJetStreamBanner: true,
		JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: c.MaxDisk,
		MaxPayload: 2 * maxRecord,
	})
	if err != nil {
		return nil, err
	}
	log := &serverLog{log: c.Log}
	srv.SetLoggerV2(log, false, false, false)
	defer func() {
		if err != nil {
			srv.Shutdown()
			srv.WaitForShutdown()
		}
	}()
	srv.Start()
	if !srv.ReadyForConnections(startWait) || !srv.JetStreamEnabled() {
		if log.fatal != "" {
			return nil, fmt.Errorf("the server inside does not start: %s", log.fatal)
		}
		return nil, errors.New("the server inside does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.Name("sekishod"), nats.NoReconnect(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		return nil, fmt.Errorf("connecting to the server inside: %w", err)
	}
	return newEngine(c, nc, srv)
}

// serverLog takes the server's own log to ours. Of what a server in one process
// says only complaints are of interest.
type serverLog struct {
	log   *logrus.Entry
	fatal string // what it ended for; written in Start, before it returns
}

func (l *serverLog) line(level logrus.Level, format string, v []any) {
	l.log.Logf(level, "state: %s", strings.TrimSpace(fmt.Sprintf(format, v...)))
}

func (l *serverLog) Noticef(format string, v ...any) { l.line(logrus.DebugLevel, format, v) }
func (l *serverLog) Warnf(format string, v ...any)   { l.line(logrus.WarnLevel, format, v) }
func (l *serverLog) Errorf(format string, v ...any)  { l.line(logrus.ErrorLevel, format, v) }
func (l *serverLog) Debugf(format string, v ...any)  {}
func (l *serverLog) Tracef(format string, v ...any)  {}
func (l *serverLog) Fatalf(format string, v ...any) {
	l.fatal = fmt.Sprintf(format, v...)
	l.line(logrus.ErrorLevel, format, v)
}

// admit reads what a server that was started has, and compares it with the ledger.
func (s *store) admit(ctx context.Context, e *engine) error {
	if err := e.health(); err != nil {
		s.c.Log.WithError(err).Error("the folder of the state store is damaged: what is in that bucket may be lost")
	}
	now, got := s.c.Now(), newSlots()
	high, barred := map[string]uint64{}, map[string]time.Time{}
	for _, b := range buckets {
		st, err := e.stream(ctx, b)
		if err != nil {
			return err
		}
		info := st.CachedInfo()
		high[b.name] = info.State.LastSeq
		if info.State.Lost != nil {
			s.c.Log.WithField("bucket", b.name).Error("the folder of the state store is damaged: some entries are lost")
		}
		if !b.mark {
			continue
		}
		if err := e.read(ctx, b, func(m message) {
			if r, err := parseRecord(m.data); err == nil && !m.gone {
				i, at := place(b.name, r)
				if got[i].at < at {
					got[i] = slot{at: at}
				}
				got[i].count++
			}
		}); err != nil {
			return fmt.Errorf("reading %s: %w", b.name, err)
		}
		n, until := s.local.ledger.missing(b.name, got, now)
		switch {
		case s.local.unsure:
			barred[b.name] = now.Add(shortLife * time.Second)
		case n > 0 && until.Sub(now) > shortLife*time.Second || n > 0 && until.IsZero():
			return fmt.Errorf("%d marks of the bucket %s are lost that are needed for longer than two hours", n, b.name)
		case n > 0:
			barred[b.name] = until
		}
		if t, is := barred[b.name]; is {
			s.c.Log.WithFields(logrus.Fields{"bucket": b.name, "marks": n, "until": t.UTC().Format(time.RFC3339)}).
				Error("marks are lost: until they would have ended nothing can be marked as spent, and what rests on that says \"could not find out\"")
		}
	}
	if err := s.local.ledger.replace(got); err != nil {
		return err
	}
	s.local.unsure = false
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, t := range barred {
		if t.After(s.barred[name]) {
			s.barred[name] = t
		}
	}
	for name, n := range high {
		s.high[name] = max(s.high[name], n)
	}
	s.eng, s.why = e, nil
	return nil
}

// health is why the server inside takes no more.
func (e *engine) health() error {
	// Other codes are about the question: a busy machine gives 500, for not having
	// answered in a millisecond.
	if h := e.srv.Healthz(&server.HealthzOptions{}); h.StatusCode == http.StatusServiceUnavailable {
		return errors.New(h.Error)
	}
	if e.nc.IsClosed() {
		return nats.ErrConnectionClosed
	}
	return nil
}

// examine takes a server inside out of use that is not well.
func (s *store) examine(e *engine) {
	if s.local == nil {
		return
	}
	err := e.health()
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.eng == e && !s.closed {
		s.eng, s.why = nil, err
		s.local.sick <- e // has room: another comes only when this was taken
	}
}

// healthEvery is how long a write that failed may wait for its answer.
const healthEvery = 200 * time.Millisecond

// nurse starts the server anew after a fault: after one failed write NATS takes no
// more, though the disk have room again.
func (s *store) nurse() {
	tick, look := time.NewTicker(time.Second), time.NewTicker(healthEvery)
	defer tick.Stop()
	defer look.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
			if err := s.local.ledger.sync(); err != nil {
				s.c.Log.WithError(err).Error("the count of the marks cannot be written")
			}
			continue
		case <-look.C:
			// To a write that failed there is no answer.
			if e, err := s.engine(); err == nil {
				s.examine(e)
			}
			continue
		case sick := <-s.local.sick:
			s.mu.RLock()
			why := s.why
			s.mu.RUnlock()
			sick.close()
			s.revive(why)
		}
	}
}

// revive tries to start the server until it works.
func (s *store) revive(why error) {
	s.c.Log.WithError(why).Error("the state store does not work; trying again until it does")
	for try := 4; pause(s.ctx, try); try++ {
		err := s.restart()
		if err == nil {
			s.c.Log.Info("the state store works again")
			return
		}
		if s.ctx.Err() != nil {
			return
		}
		if err.Error() != why.Error() {
			s.c.Log.WithError(err).Error("the state store still does not work")
		}
		why = err
		s.mu.Lock()
		s.why = err
		s.mu.Unlock()
	}
}

// restart starts the server if the disk can be written.
func (s *store) restart() error {
	if err := probe(s.local.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return s.begin(s.ctx)
}

// begin takes the folder, starts the server in it and admits that. After an error
// it may be called again.
func (s *store) begin(ctx context.Context) error {
	if err := s.local.open(); err != nil {
		return err
	}
	e, err := s.local.start(&s.c)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, startWait)
		defer cancel()
		if err = s.admit(ctx, e); err == nil {
			return nil
		}
		e.close()
		if ctx.Err() != nil {
			return fmt.Errorf("it takes too long: %w", err)
		}
	}
	// NATS says why by its text alone.
	if perr := probe(s.local.dir); noRoom(perr) {
		return fmt.Errorf("%w: %w", perr, err)
	}
	return fmt.Errorf("%w; %w", err, errMend)
}

// noRoom tells whether a disk, or what we may use of it, is full.
func noRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// probe writes a MiB: starting with less would end at the next write.
func probe(dir string) error {
	path := filepath.Join(dir, "probe")
	defer os.Remove(path)
	return create(path, make([]byte, 1<<20))
}
