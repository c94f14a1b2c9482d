package ldapsync

import (
	"context"
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// attrType is what the directory's schema says of an attribute type (RFC 4512
// §4.1.2).
type attrType struct {
	name     string // the first of its names, lower case
	equality string // lower case; empty: values cannot be compared
	single   bool
}

// attrTypes are the directory's attribute types, by all their names and numbers
// in lower case.
type attrTypes map[string]*attrType

var (
	typeNames    = regexp.MustCompile(`\bNAME\s+(?:'([^']*)'|\(([^)]*)\))`)
	typeSup      = regexp.MustCompile(`\bSUP\s+([A-Za-z0-9.-]+)`)
	typeEquality = regexp.MustCompile(`\bEQUALITY\s+([A-Za-z0-9.-]+)`)
	typeSingle   = regexp.MustCompile(`\bSINGLE-VALUE\b`)
	typeQuoted   = regexp.MustCompile(`'[^']*'`)
)

// readAttrTypes reads the schema of the subtree that base is in.
func readAttrTypes(ctx context.Context, c *Client, base string) (attrTypes, error) {
	e, err := c.Get(ctx, base, "subschemaSubentry")
	if err != nil {
		return nil, err
	}
	where := e.GetAttributeValue("subschemaSubentry")
	if where == "" {
		return nil, fmt.Errorf("%s does not say where its schema is (subschemaSubentry)", base)
	}
	if e, err = c.Get(ctx, where, "attributeTypes"); err != nil {
		return nil, err
	}
	all := parseAttrTypes(e.GetEqualFoldAttributeValues("attributeTypes"))
	if all["objectclass"] == nil {
		return nil, fmt.Errorf("the schema at %s cannot be read", where)
	}
	return all, nil
}

func parseAttrTypes(defs []string) attrTypes {
	all := attrTypes{}
	sup := map[*attrType]string{}
	for _, d := range defs {
		oid, _, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(d), "(")), " ")
		names := []string{oid}
		if m := typeNames.FindStringSubmatch(d); m != nil {
			if m[1] != "" {
				names = []string{m[1], oid}
			} else if list := strings.Fields(strings.ReplaceAll(m[2], "'", " ")); len(list) > 0 {
				names = append(list, oid)
			}
		}
		t := &attrType{name: strings.ToLower(names[0])}
		bare := typeQuoted.ReplaceAllString(d, "''") // a description may hold any word
		if m := typeEquality.FindStringSubmatch(bare); m != nil {
			t.equality = strings.ToLower(m[1])
		}
		if m := typeSup.FindStringSubmatch(bare); m != nil {
			sup[t] = strings.ToLower(m[1])
		}
		t.single = typeSingle.MatchString(bare)
		for _, n := range names {
			all[strings.ToLower(n)] = t
		}
	}
	for t := range sup {
		for s, n := all[sup[t]], 0; t.equality == "" && s != nil && n < 16; s, n = all[sup[s]], n+1 {
			t.equality = s.equality
		}
	}
	return all
}

// canonical is an attribute description with the type's first name, in lower
// case; err says that the directory does not know the type.
func (a attrTypes) canonical(desc string) (string, *attrType, error) {
	name, options, has := strings.Cut(strings.ToLower(desc), ";")
	t := a[name]
	if t == nil {
		return "", nil, fmt.Errorf("%s: the directory knows no such attribute", desc)
	}
	if has {
		return t.name + ";" + options, t, nil
	}
	return t.name, t, nil
}

// form is a value in the form in which its equality rule compares (RFC 4517 §4.2):
// two values are the same when their forms are.
func (t *attrType) form(v []byte) string {
	switch rule := t.equality; {
	case rule == "distinguishednamematch", rule == "uniquemembermatch":
		dn := v
		if rule == "uniquemembermatch" {
			dn = cutUniqueID(v)
		}
		if n, err := NormalizeDN(string(dn)); err == nil {
			return string(n) + string(v[len(dn):])
		}
	case strings.HasPrefix(rule, "caseignore"):
		return string(foldValue(v))
	case strings.HasPrefix(rule, "caseexact"):
		return strings.Join(strings.Fields(string(v)), " ")
	case rule == "integermatch":
		if n, ok := new(big.Int).SetString(string(v), 10); ok {
			return n.String()
		}
	case rule == "booleanmatch", rule == "objectidentifiermatch":
		return strings.ToLower(string(v))
	case rule == "generalizedtimematch":
		if at, err := parseTime(string(v)); err == nil {
			return fmt.Sprint(at.Unix())
		}
	case rule == "telephonenumbermatch":
		return strings.NewReplacer(" ", "", "-", "").Replace(strings.ToLower(string(v)))
	case rule == "numericstringmatch":
		return strings.ReplaceAll(string(v), " ", "")
	}
	return string(v)
}

// rdnValues are the attribute values in a name's first RDN.
func rdnValues(dn string) (map[string][]string, error) {
	d, err := ldap.ParseDN(dn)
	if err != nil || len(d.RDNs) == 0 {
		return nil, fmt.Errorf("%q is no DN", printable(dn, 200))
	}
	out := map[string][]string{}
	for _, a := range d.RDNs[0].Attributes {
		out[a.Type] = append(out[a.Type], a.Value)
	}
	return out, nil
}
