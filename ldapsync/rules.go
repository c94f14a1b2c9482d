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
	classSup     = regexp.MustCompile(`\bSUP\s+(?:([A-Za-z0-9.-]+)|\(([^)]*)\))`)
	classMusts   = regexp.MustCompile(`\bMUST\s+(?:([A-Za-z0-9.-]+)|\(([^)]*)\))`)
	typeQuoted   = regexp.MustCompile(`'[^']*'`)
)

// classMust is which attributes entries of an object class must have, by all names
// of the class in lower case: those of the classes above it are not among them.
type classMust map[string]*classRule

type classRule struct{ above, must []string }

// readSchema reads the schema of the subtree that base is in.
func readSchema(ctx context.Context, c *Client, base string) (attrTypes, classMust, error) {
	e, err := c.Get(ctx, base, "subschemaSubentry")
	if err != nil {
		return nil, nil, err
	}
	where := e.GetAttributeValue("subschemaSubentry")
	if where == "" {
		return nil, nil, fmt.Errorf("%s does not say where its schema is (subschemaSubentry)", base)
	}
	if e, err = c.Get(ctx, where, "attributeTypes", "objectClasses"); err != nil {
		return nil, nil, err
	}
	types := parseAttrTypes(e.GetEqualFoldAttributeValues("attributeTypes"))
	classes := parseClasses(e.GetEqualFoldAttributeValues("objectClasses"))
	if types["objectclass"] == nil || classes["top"] == nil {
		return nil, nil, fmt.Errorf("the schema at %s cannot be read", where)
	}
	return types, classes, nil
}

// definedNames are the names and the number of a schema definition.
func definedNames(d string) []string {
	oid, _, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(d), "(")), " ")
	if m := typeNames.FindStringSubmatch(d); m != nil {
		return append(strings.Fields(strings.ReplaceAll(m[1]+" "+m[2], "'", " ")), oid)
	}
	return []string{oid}
}

func parseClasses(defs []string) classMust {
	all := classMust{}
	list := func(re *regexp.Regexp, d string) []string {
		m := re.FindStringSubmatch(d)
		if m == nil {
			return nil
		}
		return strings.Fields(strings.ToLower(strings.ReplaceAll(m[1]+" "+m[2], "$", " ")))
	}
	for _, d := range defs {
		bare := typeQuoted.ReplaceAllString(d, "''")
		c := &classRule{list(classSup, bare), list(classMusts, bare)}
		for _, n := range definedNames(d) {
			all[strings.ToLower(n)] = c
		}
	}
	return all
}

// missing is an attribute that an entry must have and has not; empty for none.
func (m classMust) missing(types attrTypes, attrs map[string][][]byte) (string, error) {
	var todo []string
	for _, v := range attrs["objectclass"] {
		todo = append(todo, strings.ToLower(string(v)))
	}
	for seen := map[string]bool{}; len(todo) > 0; {
		name := todo[0]
		if todo = todo[1:]; seen[name] {
			continue
		}
		seen[name] = true
		c := m[name]
		if c == nil {
			return "", fmt.Errorf("the directory knows no object class %.60q", name)
		}
		todo = append(todo, c.above...)
		for _, a := range c.must {
			if n, _, err := types.canonical(a); err == nil && len(attrs[n]) == 0 {
				return a, nil
			}
		}
	}
	return "", nil
}

func parseAttrTypes(defs []string) attrTypes {
	all := attrTypes{}
	sup := map[*attrType]string{}
	for _, d := range defs {
		names := definedNames(d)
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
