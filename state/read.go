package state

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// message is one of a bucket's stream.
type message struct {
	subject  string
	data     []byte
	revision uint64
	created  time.Time
	gone     bool // a tombstone
}

const (
	// readBatch is how many messages are asked for at once.
	readBatch = 1000
	// readWait is how long they may take: one that ended meanwhile never comes.
	readWait = 300 * time.Millisecond
	// readTries is how often nothing may come at all.
	readTries = 10
)

// read calls f with each key's last message, tombstones too, in the order of their
// revisions. A key that is written meanwhile may come twice; the latter counts.
func (e *engine) read(ctx context.Context, b bucket, f func(message)) error {
	st, err := e.stream(ctx, b)
	if err != nil {
		return err
	}
	last := uint64(0)
	for still := 0; still < readTries; still++ {
		// What was asked for and did not come in time, or was lost on its way, does
		// not come again: a new consumer begins after the last that did.
		all, err := e.readAfter(ctx, st, last, func(m message) {
			last, still = m.revision, -1
			f(m)
		})
		if all || err != nil {
			return err
		}
	}
	return errUnread
}

var errUnread = errors.New("there are messages that cannot be read")

// readAfter reads until there is no more, or a batch is not whole.
func (e *engine) readAfter(ctx context.Context, st jetstream.Stream, last uint64, f func(message)) (all bool, err error) {
	one, cancel := e.one(ctx)
	defer cancel()
	cons, err := st.CreateConsumer(one, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: last + 1, AckPolicy: jetstream.AckNonePolicy,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return false, err
	}
	defer func() {
		// If this fails it ends by itself after ten idle seconds.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readWait)
		defer cancel()
		st.DeleteConsumer(ctx, cons.CachedInfo().Name)
	}()
	left, next := cons.CachedInfo().NumPending, uint64(1)
	for left > 0 {
		want := int(min(left, readBatch))
		batch, stop, err := fetch(ctx, cons, want)
		if err != nil {
			return false, err
		}
		got := 0
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil || meta.Sequence.Consumer != next {
				continue // one before was lost; so are all to come, to the end of the batch
			}
			got, next, left = got+1, next+1, meta.NumPending
			f(message{subject: m.Subject(), data: m.Data(), revision: meta.Sequence.Stream,
				created: meta.Timestamp, gone: tombstone(m.Headers())})
		}
		stop()
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if err := batch.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return false, err
		}
		if got == want {
			continue
		}
		// What was left may have ended meanwhile. Then nothing is, and nothing is on
		// its way.
		one, cancel := e.one(ctx)
		info, err := cons.Info(one)
		cancel()
		if err != nil {
			return false, err
		}
		return info.NumPending == 0 && info.Delivered.Consumer == next-1, nil
	}
	return true, nil
}

func fetch(ctx context.Context, cons jetstream.Consumer, most int) (jetstream.MessageBatch, context.CancelFunc, error) {
	ctx, cancel := context.WithTimeout(ctx, readWait)
	batch, err := cons.Fetch(most, jetstream.FetchContext(ctx))
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return batch, cancel, nil
}

func (s *store) List(ctx context.Context, name string) ([]Entry, error) {
	b, err := request(name, "any", nil, 0)
	if err != nil {
		return nil, err
	}
	doing := "listing " + name
	ctx, done, err := s.call(ctx)
	if err != nil {
		return nil, unavailable(doing, err)
	}
	defer done()
	for try := 0; ; try++ {
		all, err := s.list(ctx, b)
		if err == nil {
			return all, nil
		}
		if !s.again(ctx, err, try) {
			return nil, unavailable(doing, err)
		}
	}
}

func (s *store) list(ctx context.Context, b bucket) ([]Entry, error) {
	e, err := s.engine()
	if err != nil {
		return nil, err
	}
	var all []Entry
	at := map[string]int{} // of a subject
	var bad error
	err = e.read(ctx, b, func(m message) {
		i, again := at[m.subject]
		if again {
			all[i].Key = "" // a later one counts; no key is empty
			delete(at, m.subject)
		}
		if m.gone {
			return
		}
		r, err := parseRecord(m.data)
		if err != nil {
			bad = err
			return
		}
		at[m.subject] = len(all)
		all = append(all, Entry{Key: r.key, Value: r.value, Revision: m.revision, Created: m.created})
	})
	s.judge(e, b, err)
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(e Entry) bool { return e.Key == "" }), nil
}
