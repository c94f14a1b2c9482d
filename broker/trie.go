package broker

import "hash/maphash"

// trie is a persistent hash multimap from K to *T: an edit copies the path
// to what it changes and shares the rest, so old versions stay as they were.
// Branches fan out by 3 bits of the hash; buckets hold up to trieBucket values
// before they split, so that a split leaves no crowd of nearly empty nodes. The
// hash is seeded for each process, so that nobody who can write directory
// entries can aim for collisions.
//
// A node whose owner is the running edit belongs to it alone and is changed in
// place; that makes the first load of a million entries linear.
type trie[K comparable, T any] struct {
	key  func(*T) K
	root *trieNode[T]
	n    int
}

// trieNode is a branch when kids is not nil, a bucket otherwise. A bucket keeps
// of each value's hash only eight bits, so that a search looks at few values,
// and not the whole, so that a million values stay small.
type trieNode[T any] struct {
	owner *editToken
	kids  *[1 << trieBits]*trieNode[T]
	tags  []uint8
	vals  []*T
}

// editToken marks the nodes that an edit made. It must have a size, or two
// tokens could share an address.
type editToken struct{ _ byte }

const (
	trieBits   = 3
	trieBucket = 40
	trieStep   = 8 // buckets grow by this many values, so that few places stay empty
	trieDepth  = 54 / trieBits
)

var trieSeed = maphash.MakeSeed() // immutable after start

func trieHash[K comparable](k K) uint64 { return maphash.Comparable(trieSeed, k) }

// trieKid is the way that a hash takes in a branch at a depth, and trieTag what
// a bucket keeps of it: bits that no way depends on.
func trieKid(h uint64, depth int) int { return int(h >> (depth * trieBits) & (1<<trieBits - 1)) }
func trieTag(h uint64) uint8          { return uint8(h >> 56) }

// each calls f for every value under k until f returns false.
func (t *trie[K, T]) each(k K, f func(*T) bool) {
	h := trieHash(k)
	n := t.root
	for depth := 0; n != nil && n.kids != nil; depth++ {
		n = n.kids[trieKid(h, depth)]
	}
	if n == nil {
		return
	}
	for i, tag := range n.tags {
		if tag == trieTag(h) && t.key(n.vals[i]) == k && !f(n.vals[i]) {
			return
		}
	}
}

// get returns a value under k, nil when there is none, and whether there are
// several.
func (t *trie[K, T]) get(k K) (v *T, several bool) {
	t.each(k, func(x *T) bool {
		if v != nil {
			several = true
			return false
		}
		v = x
		return true
	})
	return v, several
}

// walk calls f for every value until f returns false; the order is arbitrary.
func (t *trie[K, T]) walk(f func(*T) bool) bool { return walkNode(t.root, f) }

func walkNode[T any](n *trieNode[T], f func(*T) bool) bool {
	if n == nil {
		return true
	}
	if n.kids != nil {
		for _, k := range n.kids {
			if !walkNode(k, f) {
				return false
			}
		}
		return true
	}
	for _, v := range n.vals {
		if !f(v) {
			return false
		}
	}
	return true
}

// repeats calls f for every value that shares its key with another, until f
// returns false. Values of one key are in one bucket, so it compares few.
func (t *trie[K, T]) repeats(f func(*T) bool) { t.repeatsIn(t.root, f) }

func (t *trie[K, T]) repeatsIn(n *trieNode[T], f func(*T) bool) bool {
	switch {
	case n == nil:
		return true
	case n.kids != nil:
		for _, k := range n.kids {
			if !t.repeatsIn(k, f) {
				return false
			}
		}
		return true
	}
	for i, v := range n.vals {
		for j, w := range n.vals {
			if i != j && n.tags[i] == n.tags[j] && t.key(v) == t.key(w) {
				if !f(v) {
					return false
				}
				break
			}
		}
	}
	return true
}

// put adds v beside whatever is there under its key.
func (t *trie[K, T]) put(tok *editToken, v *T) {
	t.root = t.putNode(tok, t.root, trieHash(t.key(v)), v, 0)
	t.n++
}

func (t *trie[K, T]) putNode(tok *editToken, n *trieNode[T], h uint64, v *T, depth int) *trieNode[T] {
	switch {
	case n == nil:
		n = &trieNode[T]{owner: tok}
	case n.owner != tok:
		n = n.copy(tok, 1)
	}
	if n.kids != nil {
		i := trieKid(h, depth)
		n.kids[i] = t.putNode(tok, n.kids[i], h, v, depth+1)
		return n
	}
	if len(n.vals) < trieBucket || depth == trieDepth {
		n.add(trieTag(h), v)
		return n
	}
	vals := n.vals
	n.tags, n.vals, n.kids = nil, nil, new([1 << trieBits]*trieNode[T])
	for _, x := range vals {
		h := trieHash(t.key(x))
		i := trieKid(h, depth)
		n.kids[i] = t.putNode(tok, n.kids[i], h, x, depth+1)
	}
	return t.putNode(tok, n, h, v, depth)
}

// remove takes v, found by identity, out; it reports whether it was there.
func (t *trie[K, T]) remove(tok *editToken, v *T) bool {
	root, ok := removeNode(tok, t.root, trieHash(t.key(v)), v, 0)
	if ok {
		t.root = root
		t.n--
	}
	return ok
}

func removeNode[T any](tok *editToken, n *trieNode[T], h uint64, v *T, depth int) (*trieNode[T], bool) {
	if n == nil {
		return nil, false
	}
	if n.kids != nil {
		i := trieKid(h, depth)
		kid, ok := removeNode(tok, n.kids[i], h, v, depth+1)
		if !ok {
			return n, false
		}
		if n.owner != tok {
			n = n.copy(tok, 0)
		}
		n.kids[i] = kid
		if kid == nil && *n.kids == [1 << trieBits]*trieNode[T]{} {
			return nil, true
		}
		return n, true
	}
	i := n.index(v)
	if i < 0 {
		return n, false
	}
	last := len(n.vals) - 1
	if last == 0 {
		return nil, true
	}
	if n.owner != tok {
		n = n.copy(tok, 0)
	}
	n.tags[i], n.vals[i] = n.tags[last], n.vals[last]
	n.vals[last] = nil
	n.tags, n.vals = n.tags[:last], n.vals[:last]
	return n, true
}

// swap puts now in the place of was, which is there, found by identity.
func (t *trie[K, T]) swap(tok *editToken, was, now *T) {
	k := t.key(was)
	if t.key(now) != k {
		t.remove(tok, was)
		t.put(tok, now)
		return
	}
	t.root = swapNode(tok, t.root, trieHash(k), was, now, 0)
}

func swapNode[T any](tok *editToken, n *trieNode[T], h uint64, was, now *T, depth int) *trieNode[T] {
	if n.owner != tok {
		n = n.copy(tok, 0)
	}
	if n.kids != nil {
		i := trieKid(h, depth)
		n.kids[i] = swapNode(tok, n.kids[i], h, was, now, depth+1)
	} else {
		n.vals[n.index(was)] = now
	}
	return n
}

// index is where v is in a bucket, or -1.
func (n *trieNode[T]) index(v *T) int {
	for i, x := range n.vals {
		if x == v {
			return i
		}
	}
	return -1
}

// copy makes a copy that the edit owns, with room for more values.
func (n *trieNode[T]) copy(tok *editToken, more int) *trieNode[T] {
	c := &trieNode[T]{owner: tok}
	if n.kids != nil {
		kids := *n.kids
		c.kids = &kids
		return c
	}
	c.grow(n, len(n.vals)+more)
	return c
}

// grow gives n the values of from, and room for size values.
func (n *trieNode[T]) grow(from *trieNode[T], size int) {
	size = (size + trieStep - 1) / trieStep * trieStep
	n.tags = append(make([]uint8, 0, size), from.tags...)
	n.vals = append(make([]*T, 0, size), from.vals...)
}

func (n *trieNode[T]) add(tag uint8, v *T) {
	if len(n.vals) == cap(n.vals) && len(n.vals) < trieBucket {
		n.grow(n, len(n.vals)+1)
	}
	n.tags, n.vals = append(n.tags, tag), append(n.vals, v)
}
