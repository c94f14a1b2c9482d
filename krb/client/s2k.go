package client

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

// etypes are the encryption types that are asked for, the strongest first.
var etypes = []int32{krb.AES256SHA2, krb.AES256SHA1, krb.AES128SHA2, krb.AES128SHA1}

// Limits of how a KDC says that a password becomes a key. Below the usual number of
// iterations (RFC 3962 §4, RFC 8009 §4) whoever listens could try passwords faster
// than he should, and above the limit the answer would cost us too much.
const (
	iterationsSHA1 = 4096
	iterationsSHA2 = 32768
	maxIterations  = 131072
	maxSalt        = 1024
)

// etypeInfo is an entry of ETYPE-INFO2 (RFC 4120 §5.2.7.5): how the client's key of
// a type is made from his password.
type etypeInfo struct {
	etype      int32
	salt       string
	iterations int
}

func usualIterations(etype int32) int {
	if etype == krb.AES128SHA1 || etype == krb.AES256SHA1 {
		return iterationsSHA1
	}
	return iterationsSHA2
}

// usual is the key that a principal has when the KDC does not say otherwise.
func usual(etype int32, p krb.Principal) etypeInfo {
	salt := p.Realm
	for _, c := range p.Components {
		salt += c
	}
	return etypeInfo{etype, salt, usualIterations(etype)}
}

// parseEtypeInfo2 reads ETYPE-INFO2 for a principal. Entries of other types than
// ours are left out; an entry of ours with absurd parameters is an error.
func parseEtypeInfo2(b []byte, p krb.Principal) ([]etypeInfo, error) {
	list := der.NewReader(b).Seq()
	var out []etypeInfo
	var odd error
	for n := 0; list.More(n, maxEtypeInfos); n++ {
		in := list.Element()
		e := usual(in.Field(0).Int32(), p)
		ours := slices.Contains(etypes, e.etype)
		if in.Has(1) {
			e.salt = in.Field(1).Text()
			if ours && (e.salt == "" || len(e.salt) > maxSalt) {
				odd = fmt.Errorf("the KDC names a salt of %d bytes", len(e.salt))
			}
		}
		if in.Has(2) {
			params := in.Field(2).Octets()
			e.iterations = 0
			if len(params) == 4 {
				e.iterations = int(binary.BigEndian.Uint32(params))
			}
			if ours && (e.iterations < usualIterations(e.etype) || e.iterations > maxIterations) {
				odd = fmt.Errorf("the KDC wants %d iterations for a key of type %d, not %d to %d", e.iterations, e.etype,
					usualIterations(e.etype), maxIterations)
			}
		}
		in.End()
		if ours {
			out = append(out, e)
		}
	}
	if err := list.Done(); err != nil {
		return nil, fmt.Errorf("ETYPE-INFO2 is %w", err)
	}
	if odd != nil {
		return nil, odd
	}
	return out, nil
}

// secret is what a client proves that he knows.
type secret interface {
	// types are the key types there can be, the strongest first.
	types() []int32
	// key is the key that info tells of, or ctx's error. The caller may not change it.
	key(ctx context.Context, info etypeInfo) (krb.Key, error)
	// forget wipes what was derived.
	forget()
}

// maxDerivations bounds what false answers can make one login cost.
const maxDerivations = 4

// password is a secret that becomes a key at some cost.
type password struct {
	text  string
	turns chan struct{} // see Client
	made  map[etypeInfo]krb.Key
}

func (*password) types() []int32 { return etypes }

func (p *password) key(ctx context.Context, info etypeInfo) (krb.Key, error) {
	if k, ok := p.made[info]; ok {
		return k, nil
	}
	if len(p.made) == maxDerivations {
		return krb.Key{}, errors.New("too many different answers tell how the password becomes a key")
	}
	select {
	case p.turns <- struct{}{}:
	case <-ctx.Done():
		return krb.Key{}, fmt.Errorf("waiting for other passwords: %w", ctx.Err())
	}
	k, err := derive(p.text, info)
	<-p.turns
	if err != nil {
		return krb.Key{}, err
	}
	if p.made == nil {
		p.made = map[etypeInfo]krb.Key{}
	}
	p.made[info] = k
	return k, nil
}

func (p *password) forget() {
	for _, k := range p.made {
		clear(k.Value)
	}
}

// derive is string-to-key (RFC 3962 §4, RFC 8009 §4).
func derive(text string, info etypeInfo) (krb.Key, error) {
	et, err := crypto.GetEtype(info.etype)
	if err != nil {
		return krb.Key{}, fmt.Errorf("encryption type %d: %w", info.etype, err)
	}
	params := hex.EncodeToString(binary.BigEndian.AppendUint32(nil, uint32(info.iterations)))
	v, err := et.StringToKey(text, info.salt, params)
	if err != nil {
		return krb.Key{}, fmt.Errorf("deriving a key of type %d failed", info.etype)
	}
	defer clear(v)
	return krb.NewKey(info.etype, v)
}

// keyring is a secret of keys that are there already.
type keyring []krb.Key

func (r keyring) types() []int32 {
	var out []int32
	for _, t := range etypes {
		if slices.ContainsFunc(r, func(k krb.Key) bool { return k.EType == t }) {
			out = append(out, t)
		}
	}
	return out
}

func (r keyring) key(_ context.Context, info etypeInfo) (krb.Key, error) {
	for _, k := range r {
		if k.EType == info.etype {
			return k, nil
		}
	}
	return krb.Key{}, fmt.Errorf("there is no key of type %d", info.etype)
}

func (keyring) forget() {} // the keys are the caller's
