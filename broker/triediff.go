package broker

// trieDiff walks two tries of unique keys side by side. Nodes that are the same
// are the same below, so that it costs what differs; two tries that were built
// apart share none, and are compared value by value.
type trieDiff[K comparable, T any] struct {
	key       func(*T) K
	f         func(old, now *T) bool
	gone, new []*T // scratch
}

// diffTries calls f for each value that only one of the tries has, found by
// identity, together with the other's of the same key, or nil, until f returns
// false.
func diffTries[K comparable, T any](old, now *trie[K, T], f func(old, now *T) bool) {
	d := trieDiff[K, T]{key: now.key, f: f}
	if d.key == nil { // a zero Snapshot's
		d.key = old.key
	}
	d.nodes(old.root, now.root)
}

func (d *trieDiff[K, T]) nodes(a, b *trieNode[T]) bool {
	if a == b {
		return true
	}
	if (a == nil || a.kids != nil) && (b == nil || b.kids != nil) {
		for i := range 1 << trieBits {
			if !d.nodes(a.kid(i), b.kid(i)) {
				return false
			}
		}
		return true
	}
	// At least one is a bucket: the other may be one too, nothing, or what a
	// bucket became when it split.
	d.gone, d.new = d.gone[:0], d.new[:0]
	walkNode(a, func(v *T) bool { d.gone = append(d.gone, v); return true })
	walkNode(b, func(v *T) bool { d.new = append(d.new, v); return true })
	return d.values()
}

// kid is a branch's kid; that of no node is none.
func (n *trieNode[T]) kid(i int) *trieNode[T] {
	if n == nil {
		return nil
	}
	return n.kids[i]
}

// values pairs what is in gone and new, by identity first.
func (d *trieDiff[K, T]) values() bool {
	find := func(v *T, same func(a, b *T) bool) int {
		for i, n := range d.new {
			if n != nil && same(v, n) {
				return i
			}
		}
		return -1
	}
	if len(d.gone)*len(d.new) > 4*trieBucket*trieBucket {
		return d.manyValues()
	}
	same := func(a, b *T) bool { return a == b }
	for i, v := range d.gone {
		if i < len(d.new) && d.new[i] == v { // mostly they have kept their places
			d.gone[i], d.new[i] = nil, nil
		} else if at := find(v, same); at >= 0 {
			d.gone[i], d.new[at] = nil, nil
		}
	}
	for _, v := range d.gone {
		if v == nil {
			continue
		}
		k := d.key(v)
		at := find(v, func(_, b *T) bool { return d.key(b) == k })
		if at < 0 {
			if !d.f(v, nil) {
				return false
			}
			continue
		}
		n := d.new[at]
		d.new[at] = nil
		if !d.f(v, n) {
			return false
		}
	}
	for _, n := range d.new {
		if n != nil && !d.f(nil, n) {
			return false
		}
	}
	return true
}

// manyValues is values for a bucket beside a large subtree: a directory that
// has grown at once.
func (d *trieDiff[K, T]) manyValues() bool {
	byKey := make(map[K]*T, len(d.new))
	for _, n := range d.new {
		byKey[d.key(n)] = n
	}
	for _, v := range d.gone {
		k := d.key(v)
		n := byKey[k]
		delete(byKey, k)
		if v != n && !d.f(v, n) {
			return false
		}
	}
	for _, n := range byKey {
		if !d.f(nil, n) {
			return false
		}
	}
	return true
}
