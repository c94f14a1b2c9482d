package audit

import (
	"fmt"
	"runtime"
	"time"
)

// sealing is what is not sealed yet.
type sealing struct {
	lines int
	since time.Time // when the first of them was written, by the real clock
}

func (s sealing) due() bool {
	return s.lines >= sealLines || s.lines > 0 && time.Since(s.since) >= sealAge
}

// Open begins to write in c.Dir, after what is there. Another Log with the same
// folder is refused.
func Open(c Config) (_ *Log, err error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	if err := makeFolder(c.Dir); err != nil {
		return nil, err
	}
	held, err := lock(c.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			held.Close()
		}
	}()
	key, made, err := openKey(c.Dir)
	if err != nil {
		return nil, err
	}
	host := writer{}
	host.text("host", c.Host)
	l := &Log{c: c, key: publicOf(key), wake: make(chan struct{}, 1), done: make(chan struct{}), stop: make(chan struct{}),
		held: held, disk: disk{dir: c.Dir, host: string(host.b), key: key, limit: c.FileSize, sync: c.sync}, next: newBatch()}
	if err := l.disk.open(); err != nil {
		return nil, err
	}
	gone, deletes, err := l.disk.tail()
	if err != nil {
		l.disk.close()
		return nil, err
	}
	if c.Syslog != "" {
		l.syslog = newSyslog(c.Syslog, c.Log)
	}
	l.status = Status{Seq: l.disk.seq, File: l.disk.name, Sealed: l.disk.lastSeal}
	for _, a := range l.disk.asides {
		c.Log.WithField("file", a.name).WithField("bytes", a.bytes).Warn("the audit record was cut off in the midst: what is no whole record stays aside, and the next file says so: " + a.text)
	}
	if gone > 0 {
		c.Log.WithField("seal", gone).WithField("last", l.disk.seq).Error("sealed records are gone from the audit folder: look at sekisho audit verify")
		w := writer{}
		w.count("of", gone)
		text := "the seal was written, and is gone with all that followed the line before"
		if gone <= l.disk.seq {
			text = "the seal was written, and what is there is another record: it was written anew"
		}
		w.text("text", text)
		l.enter(KindCut, w.b)
	}
	// They are taken back before a seal of ours can follow: a file goes only when
	// its delete is sealed.
	for _, seq := range deletes {
		w := writer{}
		w.count("of", seq)
		l.enter(KindVoid, w.b)
	}
	w := writer{}
	text := ""
	if made {
		text = "with a new key"
	}
	w.note(Event{Kind: "start", Text: text})
	l.enter(KindNote, w.b)
	go l.run()
	l.rouse()
	return l, nil
}

// enter queues a record of the Log's own. Only run, and Open before it, use it.
func (l *Log) enter(kind Kind, body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.next
	b.entries = append(b.entries, entry{at: l.c.Now(), kind: kind, start: len(b.body)})
	b.body = append(b.body, body...)
}

// run writes until Close.
func (l *Log) run() {
	defer close(l.done)
	l.old = expiry{keep: l.c.Keep, allowed: 1, since: time.Now()}
	tick := time.NewTimer(sealAge)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			l.finish()
			return
		default:
		}
		if l.work() {
			l.gather()
			if !l.commit() {
				select {
				case <-l.stop:
				case <-time.After(retryEvery):
				}
			}
			continue
		}
		tick.Reset(l.idle())
		select {
		case <-l.wake:
		case <-tick.C:
		case <-l.stop:
		}
	}
}

// work tells whether there is anything to write.
func (l *Log) work() bool {
	l.old.look(l)
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.next.entries) > 0 || len(l.voids) > 0 || !l.missing.none() || l.err != nil || l.seal.due() || len(l.disk.asides) > 0 || l.old.name != ""
}

// mostGather bounds how long a write waits for company.
const mostGather = 2 * time.Millisecond

// gather waits for those who will ask again, when several waited for the last
// writes, as long as they keep coming: else each of them who is early would have a
// write of his own, and a sync costs more than all else that a decision does.
func (l *Log) gather() {
	begun, seen := time.Now(), -1
	for l.pace > 1 {
		l.mu.Lock()
		n := l.next.waiting
		l.mu.Unlock()
		if n >= l.pace || n == seen || time.Since(begun) > mostGather {
			return
		}
		if seen < 0 {
			runtime.Gosched() // they have just been woken
		} else {
			time.Sleep(50 * time.Microsecond)
		}
		seen = n
	}
}

// idle is how long there is nothing to do.
func (l *Log) idle() time.Duration {
	if l.seal.lines > 0 {
		return max(0, sealAge-time.Since(l.seal.since)) + time.Millisecond
	}
	return time.Minute
}

// finish writes the last records and a seal of all.
func (l *Log) finish() {
	w := writer{}
	w.note(Event{Kind: "stop"})
	l.enter(KindNote, w.b)
	ok := l.commit()
	for tries := 0; tries < 3 && (!ok || l.work()); tries++ {
		if !ok {
			time.Sleep(retryEvery)
		}
		ok = l.commit()
	}
	if ok && l.disk.f != nil {
		ok = l.commitSeal()
	}
	l.mu.Lock()
	if !ok {
		l.closeErr = fmt.Errorf("closing the audit record: %w", l.err)
	}
	b := l.next
	b.end(ErrClosed)
	close(b.taken)
	l.next = newBatch()
	l.mu.Unlock()
	l.disk.close()
	if l.syslog != nil {
		l.syslog.close()
	}
	l.held.Close()
}

// take takes the queue over.
func (l *Log) take() (b *batch, m missing, voids []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, m, voids = l.next, l.missing, l.voids[:min(len(l.voids), 4096)]
	m.failed = l.err != nil
	l.next = newBatch()
	close(b.taken)
	l.busy = time.Now()
	return b, m, voids
}

// commit writes all that waits, and tells whether it is on the disk.
func (l *Log) commit() bool {
	d := &l.disk
	if d.full() {
		if l.seal.lines > 0 && !l.commitSeal() {
			return false
		}
		d.leave()
		l.old.allowed += 2
	}
	b, m, voids := l.take()
	if d.f == nil {
		if err := d.begin(l.c.Now()); err != nil {
			return l.fail(b, err)
		}
	}
	now := l.c.Now()
	out, c := l.buf[:0], d.chain
	mends := len(d.asides)
	for _, a := range d.asides {
		out = d.line(out, &c, now, KindMend, a.fields())
	}
	sealed := 0
	if l.seal.due() && mends == 0 {
		out = d.line(out, &c, now, KindSeal, l.sealFields())
		sealed = len(out)
	}
	if !m.none() {
		w := writer{}
		w.count("grants", m.grants)
		w.count("lost", m.lost)
		w.text("text", m.why)
		out = d.line(out, &c, now, KindGap, w.b)
	}
	for _, seq := range voids {
		w := writer{}
		w.count("of", seq)
		out = d.line(out, &c, now, KindVoid, w.b)
	}
	if l.old.name != "" {
		out = d.line(out, &c, now, KindDelete, l.old.fields())
	}
	newest := now
	for i := range b.entries {
		e := &b.entries[i]
		out = d.line(out, &c, e.at, e.kind, b.fields(i))
		e.seq = c.seq
		if e.at.After(newest) {
			newest = e.at
		}
	}
	if cap(out) <= mostBytes {
		l.buf = out
	}
	written := int(c.seq - d.seq)
	if written == 0 {
		l.succeed(b, m, voids)
		return true
	}
	if err := d.write(out, c); err != nil {
		return l.fail(b, err)
	}
	l.pace = max(b.waiting, l.pace*7/8) // some are late
	d.asides = d.asides[mends:]
	if newest.After(d.newest) {
		d.newest = newest
	}
	if sealed > 0 {
		d.lastSeal = c.seq - uint64(written) + 1
		d.keepHead(out[:sealed])
		l.seal = sealing{}
		written--
	}
	if l.seal.lines == 0 && written > 0 {
		l.seal.since = time.Now()
	}
	l.seal.lines += written
	l.succeed(b, m, voids)
	if l.syslog != nil {
		l.syslog.send(out)
	}
	if l.old.name != "" {
		// Only a sealed record excuses that a file is gone. When it cannot be
		// sealed the file stays, and the next write says so again.
		if !l.commitSeal() {
			return false
		}
		l.old.remove(l)
	}
	return true
}

// commitSeal writes a seal alone.
func (l *Log) commitSeal() bool {
	d := &l.disk
	l.mu.Lock()
	l.busy = time.Now()
	l.mu.Unlock()
	c, now := d.chain, l.c.Now()
	out := d.line(nil, &c, now, KindSeal, l.sealFields())
	if err := d.write(out, c); err != nil {
		return l.fail(newBatch(), err)
	}
	if now.After(d.newest) {
		d.newest = now
	}
	d.lastSeal = c.seq
	d.keepHead(out)
	l.seal = sealing{}
	l.succeed(newBatch(), missing{}, nil)
	if l.syslog != nil {
		l.syslog.send(out)
	}
	return true
}

func (l *Log) sealFields() []byte {
	w := writer{}
	w.text("key", l.key)
	return w.b
}

// fields are those of a mend.
func (a aside) fields() []byte {
	w := writer{}
	w.text("text", a.text)
	w.text("file", a.name)
	w.number("at", a.at)
	w.number("bytes", a.bytes)
	w.text("sum", a.sum)
	return w.b
}

// succeed lets those go who waited for a batch.
func (l *Log) succeed(b *batch, m missing, voids []uint64) {
	l.mu.Lock()
	l.busy = time.Time{}
	mended := l.err != nil
	l.err = nil
	l.missing.grants -= m.grants
	l.missing.lost -= m.lost
	l.voids = l.voids[len(voids):]
	for _, e := range b.entries {
		if b.late && e.waits {
			l.voids = append(l.voids, e.seq)
		}
	}
	l.status.Seq, l.status.File, l.status.Sealed = l.disk.seq, l.disk.name, l.disk.lastSeal
	if l.syslog != nil {
		l.status.SyslogLost = l.syslog.lost
	}
	b.end(nil)
	l.mu.Unlock()
	if mended {
		l.c.Log.Info("the audit record can be written again")
	}
}

// fail lets those go who waited for a batch, or for what is queued behind it:
// their grants are refused, and not written later. All else stays queued.
func (l *Log) fail(b *batch, err error) bool {
	l.mu.Lock()
	l.busy = time.Time{}
	first := l.err == nil
	l.err, l.missing.why = err, err.Error()
	behind := l.next
	l.next = newBatch()
	l.keep(b, err)
	l.keep(behind, err)
	close(behind.taken)
	b.end(err)
	behind.end(err)
	l.mu.Unlock()
	if first {
		l.c.Log.WithError(err).Error("the audit record cannot be written: nobody is let in until it can")
	}
	return false
}
