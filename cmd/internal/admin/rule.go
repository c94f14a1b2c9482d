package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/ldapsync"
)

// Rule is a rule's entry, value by value.
type Rule struct {
	Name        string   `json:"name"`
	DN          string   `json:"dn"`
	Description string   `json:"description,omitempty"`
	Subject     []string `json:"subject"`
	Door        []string `json:"door"`
	Target      []string `json:"target"`
	Login       []string `json:"login,omitempty"`
	From        []string `json:"from,omitempty"`
	Time        []string `json:"time,omitempty"`
	Proof       []string `json:"proof,omitempty"`
	Permit      []string `json:"permit,omitempty"`
	NotBefore   string   `json:"not_before,omitempty"`
	Expires     string   `json:"expires,omitempty"`
	MaxAge      string   `json:"max_age,omitempty"`
	Enabled     string   `json:"enabled,omitempty"`
	// Fault is why the broker does not use the rule; empty when it does.
	Fault string `json:"fault,omitempty"`
}

// attributes are the values in the form that the broker parses.
func (r Rule) attributes() broker.RuleAttributes {
	return broker.RuleAttributes{
		Name: r.Name, Description: r.Description, Subject: r.Subject, Door: r.Door, Target: r.Target, Login: r.Login,
		From: r.From, Time: r.Time, Proof: r.Proof, Permit: r.Permit, NotBefore: r.NotBefore, Expires: r.Expires,
		MaxAge: r.MaxAge, Enabled: r.Enabled,
	}
}

// values lists the attributes of the entry.
func (r *Rule) values() []struct {
	attr   string
	list   *[]string
	single *string
} {
	return []struct {
		attr   string
		list   *[]string
		single *string
	}{
		{"description", nil, &r.Description},
		{"sekishoSubject", &r.Subject, nil}, {"sekishoDoor", &r.Door, nil}, {"sekishoTarget", &r.Target, nil},
		{"sekishoLogin", &r.Login, nil}, {"sekishoFrom", &r.From, nil}, {"sekishoTime", &r.Time, nil},
		{"sekishoProof", &r.Proof, nil}, {"sekishoPermit", &r.Permit, nil},
		{"sekishoNotBefore", nil, &r.NotBefore}, {"sekishoExpires", nil, &r.Expires},
		{"sekishoMaxAge", nil, &r.MaxAge}, {"sekishoEnabled", nil, &r.Enabled},
	}
}

// check refuses what the broker would not read.
func (r Rule) check() error {
	if !ruleName.MatchString(r.Name) {
		return refuse("rule name %.60q: write 1 to 64 letters, digits or _ . - that begin with a letter, a digit or _", r.Name)
	}
	if _, err := broker.ParseRule(r.attributes()); err != nil {
		return refuse("the rule would not be read: %v", err)
	}
	return nil
}

// AddRule makes a rule that the broker will read.
func (d *Directory) AddRule(ctx context.Context, r Rule) error {
	if err := r.check(); err != nil {
		return err
	}
	a := ldap.NewAddRequest(d.rules().dn(r.Name), nil)
	a.Attribute("objectClass", []string{"sekishoRule"})
	a.Attribute("cn", []string{r.Name})
	for _, v := range r.values() {
		switch {
		case v.list != nil && len(*v.list) > 0:
			a.Attribute(v.attr, *v.list)
		case v.single != nil && *v.single != "":
			a.Attribute(v.attr, []string{*v.single})
		}
	}
	err := d.c.Client.Add(ctx, a)
	switch {
	case ldapsync.IsCode(err, ldap.LDAPResultEntryAlreadyExists):
		return refuse("there is a rule %s already: sekisho rule set %s", r.Name, r.Name)
	case ldapsync.IsCode(err, ldap.LDAPResultUndefinedAttributeType, ldap.LDAPResultInvalidAttributeSyntax):
		return fmt.Errorf("%w: the directory has not loaded the schema for rules, sekisho.ldif", err)
	case ldapsync.IsCode(err, ldap.LDAPResultNoSuchObject):
		return fmt.Errorf("%w: make %s first", err, d.rules().home)
	}
	return err
}

// SetRule reads a rule, lets change edit it, and writes what is different, if
// the broker will read the result.
func (d *Directory) SetRule(ctx context.Context, name string, change func(*Rule)) error {
	e, err := d.find(ctx, d.rules(), name, "*")
	if err != nil {
		return err
	}
	old := readRule(e)
	next := old
	change(&next)
	if err := next.check(); err != nil {
		return err
	}
	m := ldap.NewModifyRequest(e.DN, nil)
	was := old.values()
	for i, v := range next.values() {
		switch {
		case v.list != nil && !slices.Equal(*v.list, *was[i].list):
			m.Replace(v.attr, *v.list)
		case v.single != nil && *v.single != *was[i].single:
			m.Replace(v.attr, some(*v.single))
		}
	}
	if len(m.Changes) == 0 {
		return nil
	}
	return d.c.Client.Modify(ctx, m)
}

// RemoveRule takes a rule out.
func (d *Directory) RemoveRule(ctx context.Context, name string) error {
	e, err := d.find(ctx, d.rules(), name, "1.1")
	if err != nil {
		return err
	}
	return d.c.Client.Delete(ctx, e.DN)
}

// Rule shows one rule.
func (d *Directory) Rule(ctx context.Context, name string) (Rule, error) {
	e, err := d.find(ctx, d.rules(), name, "*")
	if err != nil {
		return Rule{}, err
	}
	return readRule(e), nil
}

// Rules shows all whose names fit pattern.
func (d *Directory) Rules(ctx context.Context, pattern string) ([]Rule, error) {
	es, err := d.list(ctx, d.rules(), pattern, 0, "*")
	if err != nil {
		return nil, err
	}
	out := make([]Rule, len(es))
	for i, e := range es {
		out[i] = readRule(e)
	}
	sortBy(out, func(r Rule) string { return r.Name })
	return out, nil
}

func readRule(e *ldap.Entry) Rule {
	r := Rule{Name: e.GetAttributeValue("cn"), DN: e.DN}
	for _, v := range r.values() {
		if v.list != nil {
			*v.list = append([]string{}, e.GetEqualFoldAttributeValues(v.attr)...)
			slices.Sort(*v.list)
		} else if vs := e.GetEqualFoldAttributeValues(v.attr); len(vs) > 0 {
			*v.single = strings.Join(vs, "; ")
		}
	}
	if _, err := broker.ParseRule(r.attributes()); err != nil {
		r.Fault = err.Error()
	}
	return r
}
