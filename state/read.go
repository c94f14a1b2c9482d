package state

import (
	"context"
	"errors"
	"fmt"
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
)

// read calls f with each key's last message, tombstones too, in the order of their
// revisions. A key that is written meanwhile may come twice; the latter counts.
func (e *engine) read(ctx context.Context, b bucket, f func(message)) error {
	st, err := e.stream(ctx, b)
	if err != nil {
		return err
	}
	one, cancel := e.one(ctx)
	defer cancel()
	cons, err := st.CreateConsumer(one, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckNonePolicy,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return err
	}
	defer func() {
		// If this fails it ends by itself after ten idle seconds.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		st.DeleteConsumer(ctx, cons.CachedInfo().Name)
	}()
	left := cons.CachedInfo().NumPending
	for next := uint64(1); left > 0; {
		n, err := readSome(ctx, cons, int(min(left, readBatch)), func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
			if meta.Sequence.Consumer != next {
				return fmt.Errorf("message %d came where %d was due", meta.Sequence.Consumer, next)
			}
			next, left = next+1, meta.NumPending
			f(message{subject: m.Subject(), data: m.Data(), revision: meta.Sequence.Stream,
				created: meta.Timestamp, gone: tombstone(m.Headers())})
			return nil
		})
		if err != nil {
			return err
		}
		if n > 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		// What was left may have ended.
		one, cancel := e.one(ctx)
		info, err := cons.Info(one)
		cancel()
		if err != nil {
			return err
		}
		left = info.NumPending
	}
	return nil
}

func readSome(ctx context.Context, cons jetstream.Consumer, most int, f func(jetstream.Msg, *jetstream.MsgMetadata) error) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	batch, err := cons.Fetch(most, jetstream.FetchContext(ctx))
	if err != nil {
		return 0, err
	}
	for m := range batch.Messages() {
		meta, merr := m.Metadata()
		if err == nil && merr == nil {
			merr = f(m, meta)
			n++
		}
		if err == nil {
			err = merr
		}
	}
	if berr := batch.Error(); err == nil && !errors.Is(berr, context.DeadlineExceeded) {
		err = berr
	}
	return n, err
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
