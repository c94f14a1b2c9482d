package admin

import (
	"context"
	"slices"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/realm"
)

// Service is an account that a program reads the directory with, such as
// another machine's sekishod.
type Service struct {
	Name        string `json:"name"`
	DN          string `json:"dn"`
	Description string `json:"description,omitempty"`
}

func (d *Directory) services() kind {
	l := d.c.Layout
	return kind{"service", []string{"applicationProcess"}, "cn", l.Services(), l.Services()}
}

// AddService makes an account of the embedded realm with a random password,
// which keep must have stored before the account is made.
func (d *Directory) AddService(ctx context.Context, s Service, keep func(password string) error) error {
	if err := checkHost([]string{s.Name}, nil); err != nil {
		return refuse("service name %.60q: write a name in lower case, such as web1", s.Name)
	}
	if has, err := d.exists(ctx, d.services(), s.Name); err != nil {
		return err
	} else if has {
		return refuse("there is a service %s already: sekisho service rm %s makes room for a new one", s.Name, s.Name)
	}
	req, password := d.c.Layout.ServiceAccount(s.Name, s.Description)
	if err := keep(password); err != nil {
		return err
	}
	return d.c.Client.Add(ctx, req)
}

// RemoveService takes an account out: who still uses it cannot sign in again.
func (d *Directory) RemoveService(ctx context.Context, name string) error {
	e, err := d.find(ctx, d.services(), name, "1.1")
	if err != nil {
		return err
	}
	if realmOwn(d.c.Layout, e.DN) {
		return refuse("%s is the embedded realm's own account", name)
	}
	return d.c.Client.Delete(ctx, e.DN)
}

// Services shows the accounts whose names fit pattern, without the realm's own.
func (d *Directory) Services(ctx context.Context, pattern string) ([]Service, error) {
	es, err := d.list(ctx, d.services(), pattern, 0, "cn", "description")
	if err != nil {
		return nil, err
	}
	es = slices.DeleteFunc(es, func(e *ldap.Entry) bool { return realmOwn(d.c.Layout, e.DN) })
	out := make([]Service, len(es))
	for i, e := range es {
		out[i] = Service{Name: rdnValue(e.DN), DN: e.DN, Description: e.GetAttributeValue("description")}
	}
	sortBy(out, func(s Service) string { return s.Name })
	return out, nil
}

// realmOwn tells the accounts that the embedded realm itself works with.
func realmOwn(l realm.Layout, dn string) bool {
	return slices.ContainsFunc([]string{"sekishod", "kdc", "passwd"}, func(n string) bool { return sameDN(dn, l.ServiceDN(n)) })
}
