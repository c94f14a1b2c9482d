package broker

import "hash/maphash"

// trie is a persistent hash multimap from K to *T: an edit copies the path
// to what it changes and shares the rest, so old versions stay as they were.
// Branches fan out by 3 bits of the hash; buckets hold up to trieBucket items
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

type trieNode[T any] struct {
	owner *editToken
	kids  *[1 << trieBits]*trieNode[T] // a branch when not nil
	items []trieItem[T]                // a bucket otherwise
}

type trieItem[T any] struct {
	hash uint64
	val  *T
}

// editToken marks the nodes that an edit made. It must have a size, or two
// tokens could share an address.
type editToken struct{ _ byte }

const (
	trieBits   = 3
	trieBucket = 40
	trieStep   = 4 // buckets grow by this many items, so that few places stay empty
	trieDepth  = 60 / trieBits
)

var trieSeed = maphash.MakeSeed() // immutable after start

func trieHash[K comparable](k K) uint64 { return maphash.Comparable(trieSeed, k) }

// each calls f for every value under k until f returns false.
func (t *trie[K, T]) each(k K, f func(*T) bool) {
	h := trieHash(k)
	n, shift := t.root, 0
	for n != nil && n.kids != nil {
		n = n.kids[h>>shift&(1<<trieBits-1)]
		shift += trieBits
	}
	if n == nil {
		return
	}
	for i := range n.items {
		if n.items[i].hash == h && t.key(n.items[i].val) == k && !f(n.items[i].val) {
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
	for i := range n.items {
		if !f(n.items[i].val) {
			return false
		}
	}
	return true
}

// put adds v beside whatever is there under its key.
func (t *trie[K, T]) put(tok *editToken, v *T) {
	t.root = putNode(tok, t.root, trieItem[T]{trieHash(t.key(v)), v}, 0)
	t.n++
}

// remove takes v, found by identity, out; it reports whether it was there.
func (t *trie[K, T]) remove(tok *editToken, v *T) bool {
	root, ok := removeNode(tok, t.root, trieItem[T]{trieHash(t.key(v)), v}, 0)
	if ok {
		t.root = root
		t.n--
	}
	return ok
}

// swap puts now in the place of was, found by identity.
func (t *trie[K, T]) swap(tok *editToken, was, now *T) {
	k := t.key(was)
	if t.key(now) != k {
		t.remove(tok, was)
		t.put(tok, now)
		return
	}
	t.root = swapNode(tok, t.root, trieItem[T]{trieHash(k), now}, was, 0)
}

func swapNode[T any](tok *editToken, n *trieNode[T], it trieItem[T], was *T, depth int) *trieNode[T] {
	n = n.own(tok)
	if n.kids != nil {
		i := it.hash >> (depth * trieBits) & (1<<trieBits - 1)
		n.kids[i] = swapNode(tok, n.kids[i], it, was, depth+1)
		return n
	}
	for i := range n.items {
		if n.items[i].val == was {
			n.items[i] = it
			break
		}
	}
	return n
}

// own returns n itself when the edit made it, a copy that it owns otherwise.
func (n *trieNode[T]) own(tok *editToken) *trieNode[T] {
	if n.owner == tok {
		return n
	}
	c := &trieNode[T]{owner: tok}
	if n.kids != nil {
		kids := *n.kids
		c.kids = &kids
	} else {
		c.items = append(make([]trieItem[T], 0, bucketCap(len(n.items))), n.items...)
	}
	return c
}

// bucketCap is the room for n items.
func bucketCap(n int) int { return (n + trieStep - 1) / trieStep * trieStep }

func putNode[T any](tok *editToken, n *trieNode[T], it trieItem[T], depth int) *trieNode[T] {
	if n == nil {
		return &trieNode[T]{owner: tok, items: append(make([]trieItem[T], 0, trieStep), it)}
	}
	n = n.own(tok)
	if n.kids != nil {
		i := it.hash >> (depth * trieBits) & (1<<trieBits - 1)
		n.kids[i] = putNode(tok, n.kids[i], it, depth+1)
		return n
	}
	if len(n.items) < trieBucket || depth == trieDepth {
		if len(n.items) == cap(n.items) && len(n.items) < trieBucket {
			n.items = append(make([]trieItem[T], 0, bucketCap(len(n.items)+1)), n.items...)
		}
		n.items = append(n.items, it)
		return n
	}
	items := n.items
	n.items, n.kids = nil, new([1 << trieBits]*trieNode[T])
	for _, x := range append(items, it) {
		i := x.hash >> (depth * trieBits) & (1<<trieBits - 1)
		n.kids[i] = putNode(tok, n.kids[i], x, depth+1)
	}
	return n
}

func removeNode[T any](tok *editToken, n *trieNode[T], it trieItem[T], depth int) (*trieNode[T], bool) {
	if n == nil {
		return nil, false
	}
	if n.kids != nil {
		i := it.hash >> (depth * trieBits) & (1<<trieBits - 1)
		kid, ok := removeNode(tok, n.kids[i], it, depth+1)
		if !ok {
			return n, false
		}
		n = n.own(tok)
		n.kids[i] = kid
		if kid == nil && empty(n.kids) {
			return nil, true
		}
		return n, true
	}
	for i := range n.items {
		if n.items[i].val != it.val {
			continue
		}
		if len(n.items) == 1 {
			return nil, true
		}
		n = n.own(tok)
		last := len(n.items) - 1
		n.items[i] = n.items[last]
		n.items[last] = trieItem[T]{}
		n.items = n.items[:last]
		return n, true
	}
	return n, false
}

func empty[T any](kids *[1 << trieBits]*trieNode[T]) bool {
	for _, k := range kids {
		if k != nil {
			return false
		}
	}
	return true
}
