package ldapsync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/keys"
	"github.com/sekisho/sekisho/ldapsync/ldif"
)

// Rehearsal is what Rehearse is asked. It reads, and writes nothing.
type Rehearsal struct {
	// Client is bound as somebody who sees at least what the broker's account sees.
	Client *Client
	// BaseDN, Schema, UIDFloor, KeyPolicy and LockoutDuration are those of the
	// Config that the directory is followed by.
	BaseDN          string
	Schema          Schema
	UIDFloor        uint32
	KeyPolicy       keys.Policy
	LockoutDuration time.Duration
	// Refint: the directory keeps member up to date when an entry that it names is
	// deleted or renamed (slapo-refint(5)), and puts Nobody in where no member would
	// be left.
	Refint bool
	Nobody string
	// Changes are made in their order.
	Changes []ldif.Record
	// Progress is told now and then how many entries were read; nil: nobody is.
	Progress func(entries int)
}

// Rehearsed is the directory before and after.
type Rehearsed struct {
	Before, After *broker.Snapshot
	// Entries is how many were read.
	Entries int
	// Faults are the touched entries with something that cannot be used afterwards.
	Faults []Fault
}

// Fault is an entry, or some of its values, that is not used.
type Fault struct {
	Skipped
	// Already: it is so before the change too.
	Already bool
}

// ChangeError is a record that the directory would refuse.
type ChangeError struct {
	Line int
	DN   string
	Err  error
}

func (e *ChangeError) Error() string {
	return fmt.Sprintf("line %d: %s: %v", e.Line, printable(e.DN, 200), e.Err)
}
func (e *ChangeError) Unwrap() error { return e.Err }

// pageSize is how many entries are asked for at once.
const pageSize = 1000

// Rehearse reads the directory and makes the changes to a copy of it in memory, as
// the directory would (RFC 4511 §4.6 to §4.9). A change that the directory would
// refuse is a *ChangeError; what else it may refuse (by access, by its schema, by
// overlays) is not known here.
func Rehearse(ctx context.Context, r Rehearsal) (*Rehearsed, error) {
	cfg := Config{BaseDN: r.BaseDN, Schema: r.Schema, UIDFloor: r.UIDFloor, KeyPolicy: r.KeyPolicy, LockoutDuration: r.LockoutDuration, Now: time.Now}
	if cfg.Schema.isZero() {
		cfg.Schema = RFC2307bis()
	}
	setDefault(&cfg.UIDFloor, 1000)
	if err := cfg.Schema.validate(); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	if err := cfg.KeyPolicy.Validate(); err != nil {
		return nil, fmt.Errorf("key policy: %w", err)
	}
	p, err := newPlan(cfg.Schema)
	if err != nil {
		return nil, err
	}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	cfg.Log = logrus.NewEntry(quiet)
	w := &rehearsal{Rehearsal: r, ctx: ctx, p: p, m: newMirror(&cfg, p), items: map[broker.DN]*item{}, gone: map[broker.DN]bool{}}
	if w.types, w.classes, err = readSchema(ctx, r.Client, r.BaseDN); err != nil {
		return nil, fmt.Errorf("reading the directory's schema: %w", err)
	}
	if w.base, err = NormalizeDN(r.BaseDN); err != nil {
		return nil, err
	}
	out := &Rehearsed{}
	if out.Entries, err = w.readAll(); err != nil {
		return nil, err
	}
	out.Before = w.m.cur
	for _, rec := range r.Changes {
		if err := w.apply(rec); err != nil {
			var answer *ldap.Error
			if errors.As(err, &answer) || ctx.Err() != nil {
				return nil, err
			}
			return nil, &ChangeError{rec.Line, rec.DN, err}
		}
	}
	if out.Faults, err = w.settle(); err != nil {
		return nil, err
	}
	out.After = w.m.cur
	return out, nil
}

// rehearsal is the directory with the changes on top of it: only entries that the
// changes touch are held.
type rehearsal struct {
	Rehearsal
	ctx     context.Context
	p       *plan
	m       *mirror
	types   attrTypes
	classes classMust
	base    broker.DN
	// items are the touched entries, under their names of now; gone are names under
	// which the directory has an entry that is there no longer.
	items map[broker.DN]*item
	gone  map[broker.DN]bool
	dead  []*item // deleted ones that the directory has
}

// item is one touched entry, with all of its attributes.
type item struct {
	id    broker.EntryID
	dn    string // as written
	norm  broker.DN
	attrs map[string][][]byte // by canonical description
	fresh bool                // the directory does not have it
}

// readAll makes the first snapshot of everything that the broker would ask for.
func (w *rehearsal) readAll() (int, error) {
	w.m.begin()
	w.m.deferGroup = true
	attrs := append(slices.Clone(w.p.names), "entryUUID")
	n, e := 0, w.p.newEntry()
	err := w.Client.pages(w.ctx, ldap.NewSearchRequest(w.BaseDN, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false, w.p.filter(), attrs, nil),
		func(page []*ldap.Entry) error {
			for _, x := range page {
				id, err := w.idOf(x)
				if err != nil {
					return err
				}
				e.reset()
				e.id, e.dn = id, []byte(x.DN)
				for _, a := range x.Attributes {
					if i := w.p.lookup([]byte(a.Name)); i >= 0 {
						w.p.keep(e, i, a.ByteValues)
					}
				}
				w.m.put(e)
				n++
			}
			if w.Progress != nil {
				w.Progress(n)
			}
			return nil
		})
	if IsCode(err, ldap.LDAPResultSizeLimitExceeded, ldap.LDAPResultAdminLimitExceeded) {
		return 0, fmt.Errorf("%w: the directory does not show you all of it: sign in as an account without a size limit", err)
	}
	if err != nil {
		return 0, err
	}
	w.m.flushDeferred(false)
	w.m.commit()
	return n, nil
}

// keep adds values of an attribute as decodeEntry would.
func (p *plan) keep(e *entry, i int, vs [][]byte) {
	for _, v := range vs {
		if i == 0 && p.class(v) == 0 || i == p.user.keys && len(e.attrs[i]) > maxKeys {
			continue
		}
		e.attrs[i] = append(e.attrs[i], v[:min(len(v), longest)])
	}
}

// idOf is an entry's entryUUID; of one without, a hash of its name.
func (w *rehearsal) idOf(x *ldap.Entry) (broker.EntryID, error) {
	if u := x.GetEqualFoldAttributeValue("entryUUID"); u != "" {
		b, err := hex.DecodeString(strings.ReplaceAll(u, "-", ""))
		if err != nil || len(b) != 16 {
			return broker.EntryID{}, fmt.Errorf("%s: entryUUID is no UUID", printable(x.DN, 200))
		}
		return broker.EntryID(b), nil
	}
	dn, err := NormalizeDN(x.DN)
	if err != nil {
		dn = broker.DN(x.DN)
	}
	return nameID(dn), nil
}

func nameID(dn broker.DN) broker.EntryID {
	sum := sha256.Sum256([]byte("sekisho rehearsal " + string(dn)))
	return broker.EntryID(sum[:16])
}

// settle takes the touched entries into the snapshot, and says which of them
// cannot be used, or not wholly.
func (w *rehearsal) settle() ([]Fault, error) {
	m := w.m
	m.begin()
	for _, it := range w.dead {
		m.remove(it.id)
	}
	names := make([]broker.DN, 0, len(w.items))
	for n := range w.items {
		names = append(names, n)
	}
	slices.Sort(names)
	var faults []Fault
	// Groups come after the users that they name, as they do in a refresh.
	for _, groups := range []bool{false, true} {
		for _, n := range names {
			it := w.items[n]
			e := w.entryOf(it)
			k := w.p.kinds(e)
			if groups != (k&(kindGroup|kindNetgroup) != 0) {
				continue
			}
			asked, err := w.meets(it)
			if err != nil {
				return nil, err
			}
			was, had := m.skips.all[it.id]
			if !asked || k == 0 || !within(string(it.norm), string(w.base)) {
				m.remove(it.id)
				continue
			}
			m.put(e)
			if len(m.t.probs.list) > 0 {
				faults = append(faults, Fault{Skipped{DN: printable(it.dn, 300), Why: m.t.probs.String(), Whole: m.t.probs.whole},
					had && was == m.skips.all[it.id]})
			}
		}
	}
	m.commit()
	return faults, nil
}

// entryOf is an item as the provider would send it.
func (w *rehearsal) entryOf(it *item) *entry {
	e := w.p.newEntry()
	e.id, e.dn = it.id, []byte(it.dn)
	for i, name := range w.p.names {
		if c, _, err := w.types.canonical(name); err == nil {
			w.p.keep(e, i, it.attrs[c])
		}
	}
	return e
}

// pages runs a search page by page (RFC 2696), and gives f each page. Where the
// directory knows no pages, there is one.
func (cl *Client) pages(ctx context.Context, r *ldap.SearchRequest, f func([]*ldap.Entry) error) error {
	control := ldap.NewControlPaging(pageSize)
	r.Controls = []ldap.Control{control}
	for {
		var res *ldap.SearchResult
		err := cl.do(ctx, "searching "+r.BaseDN, func() (err error) {
			res, err = cl.conn.Search(r)
			return err
		})
		if err != nil {
			return err
		}
		if err := f(res.Entries); err != nil {
			return err
		}
		more, _ := ldap.FindControl(res.Controls, ldap.ControlTypePaging).(*ldap.ControlPaging)
		if more == nil || len(more.Cookie) == 0 {
			return nil
		}
		control.SetCookie(more.Cookie)
	}
}
