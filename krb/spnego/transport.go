package spnego

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/gss"
)

// Transport is an http.RoundTripper that signs in to every request with Negotiate, at
// the first try, and believes no response that the server has not signed with mutual
// authentication. A 401 is given back as it came: it claims nothing.
type Transport struct {
	// Base carries the requests; nil is http.DefaultTransport.
	Base http.RoundTripper
	// Ticket gets the service ticket for HTTP/HOST, HOST being the URL's, without
	// port. It may refuse hosts that are none of ours. Needed.
	Ticket func(ctx context.Context, host string) (krb.Credential, error)
	// Delegate, if set, gets the ticket-granting ticket that is handed to HOST.
	Delegate func(ctx context.Context, host string) (krb.Credential, error)
	// AllowPlain signs in without TLS too.
	AllowPlain bool
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	i, err := t.begin(r)
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	base := t.Base
	if base == nil {
		base = http.DefaultTransport
	}
	signed := r.Clone(r.Context())
	signed.Header.Set("Authorization", "Negotiate "+base64.StdEncoding.EncodeToString(i.Token()))
	resp, err := base.RoundTrip(signed)
	if err != nil || resp.StatusCode == http.StatusUnauthorized {
		return resp, err
	}
	if err := proved(i, resp); err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("%s has not proved itself: %w", r.URL.Host, err)
	}
	return resp, nil
}

func (t *Transport) begin(r *http.Request) (*Initiator, error) {
	if t.Ticket == nil {
		return nil, errors.New("spnego: a transport without a source of tickets")
	}
	if r.URL.Scheme != "https" && !t.AllowPlain {
		return nil, errors.New("a Kerberos sign-in needs https")
	}
	host := r.URL.Hostname()
	cred, err := t.Ticket(r.Context(), host)
	if err != nil {
		return nil, fmt.Errorf("a ticket for %s: %w", host, err)
	}
	o := gss.Options{Flags: gss.Mutual}
	if t.Delegate != nil {
		tgt, err := t.Delegate(r.Context(), host)
		if err != nil {
			return nil, fmt.Errorf("a ticket to delegate to %s: %w", host, err)
		}
		o.Delegate = &tgt
	}
	return Initiate(cred, o)
}

// proved takes the server's token from its response.
func proved(i *Initiator, resp *http.Response) error {
	for _, v := range resp.Header.Values("WWW-Authenticate") {
		token, there, err := parseHeader(v)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		_, done, err := i.Step(token)
		if err == nil && !done {
			err = errors.New("it wants more tokens than Kerberos has")
		}
		return err
	}
	return errors.New("no token in its response")
}
