package reaper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/wire"
)

// Config is what a Server is made of.
type Config struct {
	// Conn is the second end of a Pair. Needed.
	Conn *os.File
	// Sekishod is the process that has the first. Needed.
	Sekishod int32
	// Socket is the path at which sekishod's PAM door listens: only whom root
	// connected to it can be adopted. Needed.
	Socket string
	// Log gets what an operator must know. Needed.
	Log *logrus.Entry
}

func (c *Config) validate() error {
	if c.Conn == nil || c.Sekishod <= 1 || !filepath.IsAbs(c.Socket) || c.Log == nil {
		return errors.New("reaper: Conn, Sekishod, Socket and Log must be set")
	}
	return nil
}

// Server is what sekisho-reaper does.
type Server struct {
	c      Config     // immutable after New
	self   int32      // immutable
	boot   string     // immutable
	cg     *hierarchy // immutable; nil: there is none
	conn   *net.UnixConn
	note   *os.File       // inotify
	wake   chan struct{}  // holds one when gone may have grown
	nested chan struct{}  // holds one when sessions may have ended with the one around them
	loops  sync.WaitGroup // and what they start
	tasks  sync.WaitGroup // requests under way

	send   sync.Mutex     // of packets
	placed [64]sync.Mutex // by pid: one session of a process is placed at a time; is taken after a session's
	people counted

	mu      sync.Mutex          // guards all below; is taken after a session's
	all     map[string]*session // by id
	watched map[int32]*session  // by inotify's descriptor
	swept   int                 // sessions that have none
	gone    []string            // ids to tell
}

// session is one that is adopted.
type session struct {
	id      string // immutable, like all to changed
	pid     int32
	started uint64
	fresh   bool
	changed chan struct{} // holds one when it may have become empty

	mu     sync.Mutex // guards all below; one adopts, ends or looks at a time
	how    How
	dir    string // its folder; "" for a tree. Is written with Server.mu held, too
	tree   *tree  // nil for a folder
	placed int    // how often it was put into a folder

	watch     int32 // guarded by Server.mu; inotify's descriptor, -1: none
	forgotten bool  // guarded by Server.mu
}

const (
	maxTasks   = 256
	sweepEvery = 2 * time.Second // of sessions that are not watched
	sweepAll   = 10              // of these rounds, one is of all
)

// New makes a Server, and finds the sessions that one before it has adopted. It
// needs all of root's rights; Serve needs CAP_KILL alone, and the group tty.
func New(c Config) (*Server, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	r := &Server{c: c, self: int32(os.Getpid()), wake: make(chan struct{}, 1), nested: make(chan struct{}, 1), all: map[string]*session{}, watched: map[int32]*session{}}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("reaper: %w", err)
	}
	r.boot = strings.TrimSpace(string(boot))
	if r.cg, err = findHierarchy(); err != nil {
		return nil, fmt.Errorf("reaper: finding cgroup2: %w", err)
	}
	if err := os.Mkdir(registryDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("reaper: %w", err)
	}
	if r.cg == nil {
		c.Log.Warn("there is no cgroup2 that can be written: a session is its tree of processes, and some can leave that; see docs/sessions.md")
	} else {
		r.stepOut()
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("reaper: %w", err)
	}
	r.note = os.NewFile(uintptr(fd), "inotify")
	if err := r.recover(); err != nil {
		r.note.Close()
		return nil, fmt.Errorf("reaper: finding sessions: %w", err)
	}
	if r.conn, err = open(c.Conn); err != nil {
		r.note.Close()
		return nil, fmt.Errorf("reaper: %w", err)
	}
	return r, nil
}

// stepOut takes sekishod and this program out of a session in which they were
// started: else its end would be theirs, and everybody's.
func (r *Server) stepOut() {
	for _, pid := range []int32{r.c.Sekishod, r.self} {
		dir, err := r.cg.of(pid)
		if err == nil && !r.cg.within(dir) {
			continue
		}
		if err == nil {
			to := filepath.Join(r.cg.top, daemonName)
			if err = os.Mkdir(to, 0o755); err == nil || errors.Is(err, os.ErrExist) {
				err = move(to, pid)
			}
		}
		if err != nil {
			r.c.Log.WithError(err).Warn("sekishod may run in a login session, which then cannot be ended")
		}
	}
}

// recover finds the sessions of an earlier Server.
func (r *Server) recover() error {
	if r.cg != nil {
		dirs, err := r.cg.sessions()
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			id, pid, started, _ := readFolderName(filepath.Base(dir))
			s := &session{id: id, pid: pid, started: started, changed: make(chan struct{}, 1), watch: -1, dir: dir, how: InFolder, placed: 1}
			if slices.ContainsFunc(r.cg.words(dir), scopeForm.MatchString) {
				s.how = InScope
			}
			r.takeUp(s)
		}
	}
	files, err := os.ReadDir(registryDir)
	if err != nil {
		return err
	}
	for _, f := range files {
		id, pid, started, ok := readFolderName(f.Name())
		if !ok {
			continue
		}
		s := &session{id: id, pid: pid, started: started, changed: make(chan struct{}, 1), watch: -1, how: InTree}
		b, err := os.ReadFile(filepath.Join(registryDir, f.Name()))
		if err == nil {
			err = s.readEntry(b, r.boot)
		}
		if err != nil {
			r.c.Log.WithError(err).WithField("session", id).Warn("a session cannot be taken up again")
			os.Remove(filepath.Join(registryDir, f.Name()))
			continue
		}
		r.takeUp(s)
	}
	return nil
}

// takeUp adopts a session again, or removes what is left of it.
func (r *Server) takeUp(s *session) {
	log := r.c.Log.WithField("session", s.id)
	if old := r.all[s.id]; old != nil {
		log.WithField("folder", s.dir).Error("a second folder of a session: it is not looked after; remove it")
		return
	}
	r.put(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	if alive, err := r.alive(s); err != nil {
		log.WithError(err).Warn("a session may have ended")
	} else if !alive {
		r.drop(s)
	}
}

// put remembers a session, and has the kernel tell of its end.
func (r *Server) put(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[s.id] = s
	r.attach(s)
}

// attach has the kernel tell when a folder becomes empty; r.mu is held.
func (r *Server) attach(s *session) {
	s.watch = -1
	if s.dir != "" {
		if wd, err := unix.InotifyAddWatch(int(r.note.Fd()), filepath.Join(s.dir, "cgroup.events"), unix.IN_MODIFY); err == nil {
			s.watch = int32(wd)
			r.watched[s.watch] = s
			return
		} else if errors.Is(err, unix.ENOSPC) {
			r.c.Log.WithField("session", s.id).Warn("the end of a session is seen late: raise fs.inotify.max_user_watches")
		}
	}
	r.swept++
}

// detach undoes attach; r.mu is held.
func (r *Server) detach(s *session) {
	if s.watch < 0 {
		r.swept--
		return
	}
	delete(r.watched, s.watch)
	unix.InotifyRmWatch(int(r.note.Fd()), uint32(s.watch)) // the kernel has, when the folder has gone
	s.watch = -1
}

// drop lets go of an empty session and what there is of it; s.mu is held. Those
// nested in it, which ended with it, see their own end.
func (r *Server) drop(s *session) {
	r.mu.Lock()
	if r.all[s.id] == s {
		delete(r.all, s.id)
		r.detach(s)
	}
	inside := false
	for _, other := range r.all {
		inside = inside || s.dir != "" && strings.HasPrefix(other.dir, s.dir+"/")
	}
	r.mu.Unlock()
	if inside {
		defer func() {
			select {
			case r.nested <- struct{}{}:
			default:
			}
		}()
	}
	var err error
	if s.dir != "" {
		err = removeFolder(s.dir)
	} else if err = os.Remove(s.entryFile()); errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		r.c.Log.WithError(err).WithField("session", s.id).Warn("removing what was left of a session")
	}
}

// held is an adopted session that is not forgotten, with its mu locked.
func (r *Server) held(id string) (*session, error) {
	for {
		r.mu.Lock()
		s := r.all[id]
		ok := s != nil && !s.forgotten
		r.mu.Unlock()
		if !ok {
			return nil, ErrUnknown
		}
		s.mu.Lock()
		r.mu.Lock()
		same := r.all[id] == s && !s.forgotten
		r.mu.Unlock()
		if same {
			return s, nil
		}
		s.mu.Unlock() // it has ended meanwhile
	}
}

// alive tells whether a session has processes; s.mu is held.
func (r *Server) alive(s *session) (bool, error) {
	if s.dir != "" {
		return populated(s.dir)
	}
	if p, err := readProcess(s.pid); err == nil && p.started == s.started && !p.dead() {
		return true, nil
	}
	in, err := r.tree(s)
	return len(in) > 0, err
}

// Serve answers until the other end of the pair is closed, or ctx ends; nil for
// both. It returns when the last order is carried out; the sessions live on. It
// is called once.
func (r *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { r.conn.Close() })
	defer stop()
	r.loops.Go(r.hear)
	r.loops.Go(func() { r.sweep(ctx) })
	r.loops.Go(func() { r.tell(ctx) })
	err := r.read()
	r.tasks.Wait()
	cancel()
	r.conn.Close()
	r.note.Close()
	r.loops.Wait()
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// read takes requests.
func (r *Server) read() error {
	places := make(chan struct{}, maxTasks)
	b, oob := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4*4))
	for {
		n, oobn, flags, _, err := r.conn.ReadMsgUnix(b, oob)
		if err != nil {
			return err
		}
		fd := received(oob[:oobn])
		if n == 0 && oobn == 0 {
			return io.EOF // of a SOCK_SEQPACKET
		}
		number, message, err := cutNumber(b[:n])
		var q request
		if err == nil && flags&unix.MSG_TRUNC == 0 {
			q, err = readRequest(message)
		}
		if err != nil || number == 0 || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			unix.Close(fd)
			r.c.Log.WithError(err).Warn("a request makes no sense")
			if number != 0 {
				r.answer(number, wire.Answer{Reason: wire.ReasonMalformed, Text: "the request cannot be read: install the same sekisho release on both sides"})
			}
			continue
		}
		places <- struct{}{}
		r.tasks.Go(func() {
			defer func() { <-places }()
			r.answer(number, r.do(q, fd))
			unix.Close(fd)
		})
	}
}

// received is the descriptor of a control message, -1 when there is not exactly
// one.
func received(oob []byte) int {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1
	}
	var fds []int
	for i := range msgs {
		if got, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	if len(fds) == 1 {
		unix.CloseOnExec(fds[0])
		return fds[0]
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return -1
}

func (r *Server) do(q request, fd int) wire.Answer {
	var body []string
	var err error
	switch q.verb {
	case verbAdopt:
		var how How
		how, err = r.adopt(q, fd)
		body = []string{string(how)}
	case verbEnd:
		var e Ended
		e, err = r.end(q)
		body = e.body()
	case verbForget:
		err = r.forget(q.id)
	case verbList:
		body, err = r.list(q.id)
	}
	if err != nil {
		return failure(err)
	}
	return wire.Answer{Outcome: wire.Yes, Body: body}
}

func (r *Server) answer(number uint64, a wire.Answer) {
	b, err := wire.AppendAnswer(appendNumber(nil, number), a)
	if err != nil || len(b) > maxPacket {
		r.c.Log.WithError(err).Error("an answer could not be written")
		return
	}
	r.send.Lock()
	defer r.send.Unlock()
	r.conn.Write(b) // it fails when sekishod has gone, which read sees
}

// forget lets go of a session.
func (r *Server) forget(id string) error {
	s, err := r.held(id)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	r.mu.Lock()
	s.forgotten = true
	r.mu.Unlock()
	if s.dir == "" {
		r.drop(s)
		return nil
	}
	if alive, err := populated(s.dir); err == nil && !alive {
		r.drop(s)
	}
	return nil
}

// list is a page of the sessions after an id.
func (r *Server) list(after string) ([]string, error) {
	r.mu.Lock()
	var ids []string
	for id, s := range r.all {
		if id > after && !s.forgotten {
			ids = append(ids, id)
		}
	}
	r.mu.Unlock()
	slices.Sort(ids)
	var out []string
	for _, id := range ids {
		if len(out) == pageSize {
			break
		}
		s, err := r.held(id)
		if errors.Is(err, ErrUnknown) {
			continue // it has just ended
		}
		if err != nil {
			return nil, err
		}
		alive, err := r.alive(s)
		line := Session{ID: s.id, PID: s.pid, Started: s.started, How: s.how, Alive: alive || err != nil}.line()
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		out = append(out, line)
	}
	return out, nil
}

// Access is what a Server does below a folder, beside reading.
type Access struct {
	Write bool // to files that are there
	Make  bool // and remove, files and folders
}

// Files are the folders that Serve needs, and no other file. Those that are not
// there are not needed.
func (r *Server) Files() map[string]Access {
	files := map[string]Access{
		"/proc":    {},
		"/dev/pts": {Write: true},
		// logind's word on who leads a session; it may come later than this program.
		"/run/systemd": {},
		registryDir:    {Write: true, Make: true},
	}
	if r.cg != nil {
		files[r.cg.mount] = Access{Write: true, Make: true}
	}
	return files
}
