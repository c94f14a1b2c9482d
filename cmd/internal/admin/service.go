package admin

import (
	"context"
	"crypto/rand"
	"slices"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/ldapsync"
)

// Service is an account that a program reads the directory with, such as the
// sekishod of another host.
type Service struct {
	Name        string `json:"name"`
	DN          string `json:"dn"`
	Description string `json:"description,omitempty"`
	// Own tells that it belongs to the realm itself and is not to be changed.
	Own bool `json:"own"`
}

// ownServices are what the embedded realm runs on.
var ownServices = []string{"sekishod", "kdc", "passwd"}

func (d *Directory) services() kind {
	l := d.c.Layout
	return kind{"service", []string{"simpleSecurityObject", "applicationProcess"}, "cn", "ou=services," + l.Base, "ou=services," + l.Base}
}

// NewSecret makes a password for a service: 32 characters, more than 160 bits.
func NewSecret() string { return rand.Text() + rand.Text()[:6] }

func (d *Directory) checkService(name string) error {
	switch {
	case !d.CanSetPasswords():
		return refuse("services are made here for an embedded realm, by root on its machine; in another directory make an account with its own tools")
	case len(name) > 253 || !hostName.MatchString(name):
		return refuse("service name %.60q: write a name in lower case, such as the host's", name)
	case slices.Contains(ownServices, name):
		return refuse("the service %s is the realm's own", name)
	}
	return nil
}

// AddService makes a service account that reads what is not secret. slapd
// hashes the secret.
func (d *Directory) AddService(ctx context.Context, name, description, secret string) error {
	if err := d.checkService(name); err != nil {
		return err
	}
	a := ldap.NewAddRequest(d.services().dn(name), nil)
	a.Attribute("objectClass", []string{"applicationProcess", "simpleSecurityObject"})
	a.Attribute("cn", []string{name})
	a.Attribute("userPassword", []string{secret})
	if description != "" {
		a.Attribute("description", []string{description})
	}
	err := d.c.Client.Add(ctx, a)
	if ldapsync.IsCode(err, ldap.LDAPResultEntryAlreadyExists) {
		return refuse("there is a service %s already: sekisho service set %s gives it a new secret", name, name)
	}
	return err
}

// SetService gives a service another secret.
func (d *Directory) SetService(ctx context.Context, name, secret string) error {
	if err := d.checkService(name); err != nil {
		return err
	}
	e, err := d.find(ctx, d.services(), name, "1.1")
	if err != nil {
		return err
	}
	m := ldap.NewModifyRequest(e.DN, nil)
	m.Replace("userPassword", []string{secret})
	return d.c.Client.Modify(ctx, m)
}

// RemoveService takes a service account out.
func (d *Directory) RemoveService(ctx context.Context, name string) error {
	if err := d.checkService(name); err != nil {
		return err
	}
	e, err := d.find(ctx, d.services(), name, "1.1")
	if err != nil {
		return err
	}
	return d.c.Client.Delete(ctx, e.DN)
}

// Services lists the service accounts.
func (d *Directory) Services(ctx context.Context) ([]Service, error) {
	es, err := d.list(ctx, d.services(), "", 0, "cn", "description")
	if err != nil {
		return nil, err
	}
	out := make([]Service, len(es))
	for i, e := range es {
		out[i] = Service{Name: rdnValue(e.DN), DN: e.DN, Description: e.GetAttributeValue("description")}
		out[i].Own = slices.Contains(ownServices, out[i].Name)
	}
	sortBy(out, func(s Service) string { return s.Name })
	return out, nil
}
