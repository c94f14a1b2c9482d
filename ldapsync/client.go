package ldapsync

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/go-ldap/ldap/v3"
)

// ClientConfig is how a Client reaches and binds to a directory. Of BindDN,
// External and GSSAPI at most one is set; none is an anonymous bind.
type ClientConfig struct {
	Provider
	// GSSAPI binds with a Kerberos ticket; only inside TLS or over ldapi.
	GSSAPI *GSSAPI
}

// Client is a bound connection for single requests: the command line's
// searches and writes, and password checks. Every method obeys its context:
// when that ends, or Provider.Timeout passes first, the connection is closed
// and the Client is of no more use. Not for concurrent use.
type Client struct {
	conn *ldap.Conn
	raw  net.Conn
	p    Provider
	url  string
}

// Dial connects to the first URL that answers, secures the connection and
// binds. A refused bind is the answer of the whole directory: the next URL is
// not tried. Use errors.As with *ldap.Error, or IsCode, for the result code.
func Dial(ctx context.Context, c ClientConfig) (*Client, error) {
	if err := c.Provider.validate(); err != nil {
		return nil, err
	}
	if c.GSSAPI != nil && (c.External || c.BindDN != "") {
		return nil, errors.New("GSSAPI excludes External and BindDN")
	}
	var errs []error
	for _, u := range c.URLs {
		e, err := parseURL(u)
		if err != nil {
			return nil, err
		}
		cl, err := dialOne(ctx, c, e)
		if err == nil {
			return cl, nil
		}
		var le *ldap.Error
		if errors.As(err, &le) && le.ResultCode < ldap.ErrorNetwork && !unreachable(le.ResultCode) {
			return nil, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// unreachable are result codes that say more about the server than about us.
func unreachable(code uint16) bool {
	return code == ldap.LDAPResultBusy || code == ldap.LDAPResultUnavailable
}

func dialOne(ctx context.Context, c ClientConfig, e endpoint) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	raw, err := c.dial(ctx, e)
	if err != nil {
		return nil, err
	}
	secured := e.tls || e.network == "unix"
	if c.StartTLS && !secured {
		t, err := c.startTLS(ctx, e, raw)
		if err != nil {
			raw.Close()
			return nil, err
		}
		raw, secured = t, true
	}
	if c.GSSAPI != nil && !secured {
		raw.Close()
		return nil, fmt.Errorf("%s: a Kerberos bind is made inside TLS or over ldapi:// only; use ldaps:// or StartTLS", e.url)
	}
	cl := &Client{conn: ldap.NewConn(raw, secured && e.network != "unix"), raw: raw, p: c.Provider, url: e.url}
	cl.conn.Start()
	if err := cl.bind(ctx, c, e); err != nil {
		cl.Close()
		return nil, err
	}
	return cl, nil
}

func (cl *Client) bind(ctx context.Context, c ClientConfig, e endpoint) error {
	switch {
	case c.External:
		return cl.do(ctx, "binding to "+e.url+" by SASL EXTERNAL", cl.conn.ExternalBind)
	case c.GSSAPI != nil:
		return cl.do(ctx, "binding to "+e.url+" with a Kerberos ticket", func() error { return c.GSSAPI.bind(cl.conn, e) })
	case c.BindDN != "":
		pw, err := c.Password()
		if err != nil {
			return err
		}
		defer clear(pw)
		if len(pw) == 0 { // RFC 4513 §5.1.2: an unauthenticated bind, which proves nothing
			return fmt.Errorf("binding to %s as %s: the password is empty", e.url, c.BindDN)
		}
		return cl.do(ctx, fmt.Sprintf("binding to %s as %s", e.url, c.BindDN), func() error {
			return cl.conn.Bind(c.BindDN, string(pw))
		})
	}
	return nil
}

// do runs one exchange under ctx and the timeout: their end closes the
// connection's socket, which go-ldap cannot overlook.
func (cl *Client) do(ctx context.Context, what string, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, cl.p.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { cl.raw.Close() })
	err := f()
	if !stop() && err != nil && ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// URL is the server this Client is bound to.
func (cl *Client) URL() string { return cl.url }

// Search returns all entries of a search; see ldap.NewSearchRequest. Referrals
// are not followed.
func (cl *Client) Search(ctx context.Context, r *ldap.SearchRequest) ([]*ldap.Entry, error) {
	var res *ldap.SearchResult
	err := cl.do(ctx, "searching "+r.BaseDN, func() (err error) {
		res, err = cl.conn.Search(r)
		return err
	})
	if err != nil {
		return nil, err
	}
	return res.Entries, nil
}

// Get returns one entry by its DN with the attributes named; an error with
// code noSuchObject when there is none.
func (cl *Client) Get(ctx context.Context, dn string, attributes ...string) (*ldap.Entry, error) {
	es, err := cl.Search(ctx, ldap.NewSearchRequest(dn, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 0, false,
		"(objectClass=*)", attributes, nil))
	switch {
	case err != nil:
		return nil, err
	case len(es) != 1:
		return nil, fmt.Errorf("reading %s: %w", dn, ldap.NewError(ldap.LDAPResultNoSuchObject, errors.New("no such entry, or no right to see it")))
	}
	return es[0], nil
}

// Add makes an entry.
func (cl *Client) Add(ctx context.Context, r *ldap.AddRequest) error {
	return cl.do(ctx, "adding "+r.DN, func() error { return cl.conn.Add(r) })
}

// Modify changes an entry.
func (cl *Client) Modify(ctx context.Context, r *ldap.ModifyRequest) error {
	return cl.do(ctx, "changing "+r.DN, func() error { return cl.conn.Modify(r) })
}

// ModifyDN renames or moves an entry.
func (cl *Client) ModifyDN(ctx context.Context, r *ldap.ModifyDNRequest) error {
	return cl.do(ctx, "renaming "+r.DN, func() error { return cl.conn.ModifyDN(r) })
}

// Delete removes an entry that has none below it.
func (cl *Client) Delete(ctx context.Context, dn string) error {
	return cl.do(ctx, "deleting "+dn, func() error { return cl.conn.Del(ldap.NewDelRequest(dn, nil)) })
}

// WhoAmI is who the directory takes us for (RFC 4532): "dn:…", or empty for
// anonymous.
func (cl *Client) WhoAmI(ctx context.Context) (string, error) {
	var id string
	err := cl.do(ctx, "asking who we are", func() error {
		res, err := cl.conn.WhoAmI(nil)
		if err == nil {
			id = res.AuthzID
		}
		return err
	})
	return id, err
}

// Close ends the connection. It may be called twice.
func (cl *Client) Close() error {
	// go-ldap's own Close says unbind and may wait for a hung peer: shut the
	// socket under it.
	err := cl.raw.Close()
	cl.conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// IsCode reports whether err is, or wraps, an answer of the directory with one
// of these result codes (ldap.LDAPResult…).
func IsCode(err error, codes ...uint16) bool {
	return ldap.IsErrorAnyOf(err, codes...)
}
