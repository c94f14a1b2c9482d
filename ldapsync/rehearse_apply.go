package ldapsync

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/ldapsync/ldif"
)

// apply makes one change.
func (w *rehearsal) apply(r ldif.Record) error {
	norm, err := w.name(r.DN)
	if err != nil {
		return err
	}
	if r.Kind == ldif.Add {
		return w.add(r, norm)
	}
	it, err := w.find(r.DN, norm)
	if err != nil {
		return err
	}
	if it == nil {
		return errors.New("there is no such entry, or you may not see it")
	}
	switch r.Kind {
	case ldif.Delete:
		return w.delete(it)
	case ldif.Modify:
		return w.modify(it, r.Mods)
	case ldif.Rename:
		return w.rename(it, r)
	}
	return fmt.Errorf("a change of kind %d is not known", r.Kind)
}

// name is a DN in its one form.
func (w *rehearsal) name(dn string) (broker.DN, error) {
	if _, err := ldap.ParseDN(dn); err != nil {
		return "", errDN
	}
	n, err := NormalizeDN(dn)
	if err == nil && n == "" {
		err = errDN
	}
	return n, err
}

// find is the entry of that name as it is now; nil when there is none.
func (w *rehearsal) find(dn string, norm broker.DN) (*item, error) {
	if it := w.items[norm]; it != nil || w.gone[norm] {
		return it, nil
	}
	e, err := w.Client.Get(w.ctx, dn, w.wanted()...)
	if IsCode(err, ldap.LDAPResultNoSuchObject) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return w.take(e)
}

// wanted is all attributes, and those of the plan that are only shown when they are
// asked for.
func (w *rehearsal) wanted() []string {
	return append([]string{"*", "entryUUID"}, w.p.names...)
}

// take makes an entry of the directory a touched one, unless it is.
func (w *rehearsal) take(e *ldap.Entry) (*item, error) {
	norm, err := NormalizeDN(e.DN)
	if err != nil {
		return nil, err
	}
	if it := w.items[norm]; it != nil {
		return it, nil
	}
	it := &item{dn: e.DN, norm: norm, attrs: map[string][][]byte{}}
	if it.id, err = w.idOf(e); err != nil {
		return nil, err
	}
	for _, a := range e.Attributes {
		name, _, err := w.types.canonical(a.Name)
		if err != nil {
			return nil, err
		}
		it.attrs[name] = a.ByteValues
	}
	w.items[norm] = it
	return it, nil
}

// parentOf is the name above a name; both in their one form.
func parentOf(norm broker.DN) broker.DN {
	for i := 0; i < len(norm); i++ {
		switch norm[i] {
		case '\\':
			i++
		case ',':
			return norm[i+1:]
		}
	}
	return ""
}

// free says that a name can be given to an entry: nobody has it, and there is an
// entry above it.
func (w *rehearsal) free(norm broker.DN) error {
	if it, err := w.find(string(norm), norm); err != nil {
		return err
	} else if it != nil {
		return errors.New("there is such an entry already")
	}
	above := parentOf(norm)
	if above == "" {
		return errors.New("no entry is above it")
	}
	if it, err := w.find(string(above), above); err != nil {
		return err
	} else if it == nil {
		return fmt.Errorf("there is no entry %s above it", printable(string(above), 200))
	}
	return nil
}

func (w *rehearsal) add(r ldif.Record, norm broker.DN) error {
	if err := w.free(norm); err != nil {
		return err
	}
	it := &item{id: nameID(norm + broker.DN(fmt.Sprint("\x00", r.Line))), dn: r.DN, norm: norm, attrs: map[string][][]byte{}, fresh: true}
	for _, a := range r.Attributes {
		if err := w.addValues(it.attrs, a); err != nil {
			return err
		}
	}
	if len(it.attrs["objectclass"]) == 0 {
		return errors.New("an entry needs an objectClass")
	}
	if err := w.putRDN(it.attrs, r.DN); err != nil {
		return err
	}
	if err := w.check(it.attrs); err != nil {
		return err
	}
	w.items[norm] = it
	return nil
}

// addValues adds values to an attribute, none of which may be there already.
func (w *rehearsal) addValues(attrs map[string][][]byte, a ldif.Attribute) error {
	name, t, err := w.types.canonical(a.Name)
	if err != nil {
		return err
	}
	have := make(map[string]bool, len(attrs[name]))
	for _, v := range attrs[name] {
		have[t.form(v)] = true
	}
	now := slices.Clone(attrs[name])
	for i, v := range a.Values {
		f := t.form(v)
		if have[f] {
			return fmt.Errorf("%s: value %d of those to be added is there already", a.Name, i+1)
		}
		have[f] = true
		now = append(now, v)
	}
	if t.single && len(now) > 1 {
		return fmt.Errorf("%s can have one value only", a.Name)
	}
	attrs[name] = now
	return nil
}

// deleteValues takes values away, all of which must be there.
func (w *rehearsal) deleteValues(attrs map[string][][]byte, a ldif.Attribute) error {
	name, t, err := w.types.canonical(a.Name)
	if err != nil {
		return err
	}
	if len(attrs[name]) == 0 {
		return fmt.Errorf("%s: the entry has no such attribute, or you may not see it", a.Name)
	}
	if len(a.Values) == 0 {
		delete(attrs, name)
		return nil
	}
	if t.equality == "" {
		return fmt.Errorf("%s: single values of it cannot be deleted: it has no rule to compare by", a.Name)
	}
	drop := map[string]bool{}
	for _, v := range a.Values {
		drop[t.form(v)] = true
	}
	var left [][]byte
	for _, v := range attrs[name] {
		if f := t.form(v); drop[f] {
			delete(drop, f)
		} else {
			left = append(left, v)
		}
	}
	for i, v := range a.Values {
		if drop[t.form(v)] {
			return fmt.Errorf("%s: value %d of those to be deleted is not there", a.Name, i+1)
		}
	}
	if attrs[name] = left; len(left) == 0 {
		delete(attrs, name)
	}
	return nil
}

func (w *rehearsal) modify(it *item, mods []ldif.Mod) error {
	attrs := maps.Clone(it.attrs) // lists are never changed in place
	for _, m := range mods {
		var err error
		switch m.Op {
		case ldif.AddValues:
			err = w.addValues(attrs, m.Attribute)
		case ldif.DeleteValues:
			err = w.deleteValues(attrs, m.Attribute)
		case ldif.ReplaceValues:
			var name string
			if name, _, err = w.types.canonical(m.Name); err == nil {
				delete(attrs, name)
				if len(m.Values) > 0 {
					err = w.addValues(attrs, m.Attribute)
				}
			}
		}
		if err != nil {
			return err
		}
	}
	if err := w.hasRDN(attrs, it.dn); err != nil {
		return err
	}
	if err := w.check(attrs); err != nil {
		return err
	}
	it.attrs = attrs
	return nil
}

// hasRDN says whether an entry has the values that name it.
func (w *rehearsal) hasRDN(attrs map[string][][]byte, dn string) error {
	vals, err := rdnValues(dn)
	if err != nil {
		return err
	}
	for a, vs := range vals {
		name, t, err := w.types.canonical(a)
		if err != nil {
			return err
		}
		for _, v := range vs {
			if !slices.ContainsFunc(attrs[name], func(x []byte) bool { return t.form(x) == t.form([]byte(v)) }) {
				return fmt.Errorf("%s: the value in the entry's name cannot be taken away", a)
			}
		}
	}
	return nil
}

// putRDN adds the values in a name that are not there.
func (w *rehearsal) putRDN(attrs map[string][][]byte, dn string) error {
	vals, err := rdnValues(dn)
	if err != nil {
		return err
	}
	for a, vs := range vals {
		name, t, err := w.types.canonical(a)
		if err != nil {
			return err
		}
		for _, v := range vs {
			if slices.ContainsFunc(attrs[name], func(x []byte) bool { return t.form(x) == t.form([]byte(v)) }) {
				continue
			}
			if err := w.addValues(attrs, ldif.Attribute{Name: a, Values: [][]byte{[]byte(v)}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// check says whether an entry has what its classes demand.
func (w *rehearsal) check(attrs map[string][][]byte) error {
	a, err := w.classes.missing(w.types, attrs)
	if err == nil && a != "" {
		err = fmt.Errorf("it would be left without %s, which its object classes demand", a)
	}
	return err
}

// children says whether an entry has others below it.
func (w *rehearsal) children(it *item) (bool, error) {
	for n := range w.items {
		if parentOf(n) == it.norm {
			return true, nil
		}
	}
	if it.fresh {
		return false, nil
	}
	hidden := 0 // those that the directory still has
	for n := range w.gone {
		if parentOf(n) == it.norm {
			hidden++
		}
	}
	es, err := w.Client.Search(w.ctx, ldap.NewSearchRequest(it.dn, ldap.ScopeSingleLevel, ldap.NeverDerefAliases, hidden+1, 0, false,
		"(objectClass=*)", []string{"1.1"}, nil))
	switch {
	case IsCode(err, ldap.LDAPResultSizeLimitExceeded):
		return true, nil
	case IsCode(err, ldap.LDAPResultNoSuchObject): // it was renamed: what was below it is among the items
		return false, nil
	case err != nil:
		return false, err
	}
	for _, e := range es {
		n, err := NormalizeDN(e.DN)
		if err != nil || !w.gone[n] {
			return true, nil
		}
	}
	return false, nil
}

func (w *rehearsal) delete(it *item) error {
	below, err := w.children(it)
	if err != nil {
		return err
	}
	if below {
		return errors.New("entries are below it: delete those first")
	}
	w.drop(it)
	if !it.fresh {
		w.dead = append(w.dead, it)
	}
	return w.follow(it.norm, "")
}

// drop takes an item from its name.
func (w *rehearsal) drop(it *item) {
	delete(w.items, it.norm)
	w.gone[it.norm] = true
}

// maxMoved bounds how many entries a rename may move.
const maxMoved = 10_000

func (w *rehearsal) rename(it *item, r ldif.Record) error {
	if _, err := rdnValues(r.NewRDN); err != nil || parentOf(broker.DN(r.NewRDN)) != "" {
		return errors.New("newrdn is no RDN")
	}
	oldDN, oldNorm := it.dn, it.norm
	above := r.NewSuperior
	if !r.Moves {
		d, err := ldap.ParseDN(oldDN)
		if err != nil || len(d.RDNs) < 2 {
			return errDN
		}
		above = (&ldap.DN{RDNs: d.RDNs[1:]}).String()
	}
	newDN := r.NewRDN + "," + above
	norm, err := w.name(newDN)
	if err != nil {
		return err
	}
	if norm != oldNorm {
		if within(string(norm), string(oldNorm)) {
			return errors.New("an entry cannot be moved below itself")
		}
		if err := w.free(norm); err != nil {
			return err
		}
	}
	attrs := maps.Clone(it.attrs)
	if r.DeleteOldRDN {
		old, err := rdnValues(oldDN)
		if err != nil {
			return err
		}
		for a, vs := range old {
			for _, v := range vs {
				// One that the new name has too is put back below.
				if err := w.deleteValues(attrs, ldif.Attribute{Name: a, Values: [][]byte{[]byte(v)}}); err != nil {
					return err
				}
			}
		}
	}
	if err := w.putRDN(attrs, r.NewRDN); err != nil {
		return err
	}
	if err := w.check(attrs); err != nil {
		return err
	}
	moved, err := w.below(it)
	if err != nil {
		return err
	}
	w.drop(it)
	it.dn, it.norm, it.attrs = newDN, norm, attrs
	delete(w.gone, norm)
	w.items[norm] = it
	if err := w.follow(oldNorm, newDN); err != nil {
		return err
	}
	for _, x := range moved {
		was := x.norm
		w.drop(x)
		head := strings.TrimSuffix(string(was), ","+string(oldNorm))
		x.dn, x.norm = head+","+newDN, broker.DN(head+","+string(norm))
		delete(w.gone, x.norm)
		w.items[x.norm] = x
		if err := w.follow(was, x.dn); err != nil {
			return err
		}
	}
	return nil
}

// below are all entries below one.
func (w *rehearsal) below(it *item) ([]*item, error) {
	if !it.fresh && !w.gone[it.norm] {
		n := 0
		err := w.Client.pages(w.ctx, ldap.NewSearchRequest(it.dn, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false,
			"(objectClass=*)", w.wanted(), nil), func(page []*ldap.Entry) error {
			if n += len(page); n > maxMoved {
				return fmt.Errorf("more than %d entries are below it: that many are not moved in a rehearsal", maxMoved)
			}
			for _, e := range page {
				if norm, err := NormalizeDN(e.DN); err == nil && !w.gone[norm] {
					if _, err := w.take(e); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil && !IsCode(err, ldap.LDAPResultNoSuchObject) {
			return nil, err
		}
	}
	var out []*item
	for n, x := range w.items {
		if n != it.norm && within(string(n), string(it.norm)) {
			out = append(out, x)
		}
	}
	return out, nil
}

// follow has the groups that name an entry name it as it is called now, or, when
// to is empty, no longer: what slapo-refint does behind the answer.
func (w *rehearsal) follow(norm broker.DN, to string) error {
	if !w.Refint {
		return nil
	}
	es, err := w.Client.Search(w.ctx, ldap.NewSearchRequest(w.BaseDN, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false,
		"(member="+ldap.EscapeFilter(string(norm))+")", w.wanted(), nil))
	if err != nil {
		return err
	}
	for _, e := range es {
		if n, err := NormalizeDN(e.DN); err == nil && !w.gone[n] {
			if _, err := w.take(e); err != nil {
				return err
			}
		}
	}
	t := w.types["member"]
	if t == nil {
		return nil
	}
	for _, it := range w.items {
		var now [][]byte
		hit := false
		for _, v := range it.attrs[t.name] {
			if t.form(v) != string(norm) {
				now = append(now, v)
			} else if hit = true; to != "" {
				now = append(now, []byte(to))
			}
		}
		if !hit {
			continue
		}
		if len(now) == 0 && w.Nobody != "" {
			now = [][]byte{[]byte(w.Nobody)}
		}
		it.attrs = maps.Clone(it.attrs)
		if it.attrs[t.name] = now; len(now) == 0 {
			delete(it.attrs, t.name)
		}
	}
	return nil
}
