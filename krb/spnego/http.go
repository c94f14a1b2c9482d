package spnego

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/sekisho/sekisho/krb/accept"
	"github.com/sekisho/sekisho/krb/gss"
	"github.com/sirupsen/logrus"
)

// Config is what an HTTP needs.
type Config struct {
	// Acceptor judges the tokens. Needed. Let it take tickets for HTTP/HOST only
	// (accept.Config's Service). With RequireBindings it needs Bindings here.
	Acceptor *gss.Acceptor
	// AllowPlain serves requests without TLS too: behind a proxy that ends TLS, on a
	// loopback address, in tests.
	AllowPlain bool
	// Bindings gives the channel bindings that a request's client may have sent: see
	// ServerBindings. Nil: they are not compared.
	Bindings func(*http.Request) ([][]byte, error)
	// Log hears of refusals. Needed.
	Log *logrus.Entry
}

func (c Config) validate() error {
	if c.Acceptor == nil {
		return errors.New("no acceptor")
	}
	if c.Log == nil {
		return errors.New("no log")
	}
	return nil
}

// HTTP asks for Negotiate (RFC 4559) before a handler is reached.
type HTTP struct{ c Config }

// NewHTTP checks the configuration.
func NewHTTP(c Config) (*HTTP, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("spnego: %w", err)
	}
	return &HTTP{c}, nil
}

type contextKey struct{}

// FromContext is the security context of an authenticated request: its Client is
// who made the request.
func FromContext(ctx context.Context) (*gss.Context, bool) {
	c, ok := ctx.Value(contextKey{}).(*gss.Context)
	return c, ok
}

// The sentences that a client is told. The cause goes to the log.
const (
	sayAsk     = "Sign in with Kerberos."
	sayRefused = "The Kerberos sign-in was refused."
	sayUnknown = "The Kerberos sign-in could not be checked. Try again."
	sayPlain   = "Kerberos sign-in needs https."
)

// Handler calls next for requests that carry a good token, each request by itself.
// If the client asked for mutual authentication, the proof is in the response's
// WWW-Authenticate header. Next gets the request without its Authorization header.
//
// Without a token, and with a bad one, the answer is 401; when the token could not be
// judged it is 503, and without TLS 403. Only negotiations of one token are taken:
// a second one would need the connection to be remembered. Kerberos has no more,
// unless a client prefers another mechanism to it.
func (h *HTTP) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil && !h.c.AllowPlain {
			http.Error(w, sayPlain, http.StatusForbidden)
			return
		}
		token, there, err := requestToken(r)
		if !there && err == nil {
			challenge(w, nil, sayAsk, http.StatusUnauthorized)
			return
		}
		var reply []byte
		var c *gss.Context
		if err == nil {
			c, reply, err = h.accept(r, token)
		}
		if err != nil {
			status, text := refusal(err)
			h.c.Log.WithError(err).WithFields(logrus.Fields{"remote": r.RemoteAddr, "status": status}).Info("a Negotiate sign-in failed")
			challenge(w, reply, text, status)
			return
		}
		w.Header().Set("Persistent-Auth", "false") // curl and others would take the connection for signed in
		if len(reply) > 0 {
			w.Header().Set("WWW-Authenticate", "Negotiate "+base64.StdEncoding.EncodeToString(reply))
		}
		r = r.Clone(context.WithValue(r.Context(), contextKey{}, c))
		r.Header.Del("Authorization")
		next.ServeHTTP(w, r)
	})
}

// requestToken is what the Authorization header holds. Another scheme's is no token.
func requestToken(r *http.Request) (token []byte, there bool, err error) {
	v := r.Header.Values("Authorization")
	if len(v) == 0 {
		return nil, false, nil
	}
	if len(v) > 1 {
		return nil, false, errors.New("several Authorization headers")
	}
	return parseHeader(v[0])
}

// parseHeader gives the token behind "Negotiate", at most gss.MaxToken bytes of it.
func parseHeader(v string) (token []byte, there bool, err error) {
	scheme, text, _ := strings.Cut(v, " ")
	if !strings.EqualFold(scheme, "Negotiate") {
		return nil, false, nil
	}
	text = strings.Trim(text, " ")
	if text == "" {
		return nil, false, nil
	}
	if len(text) > base64.StdEncoding.EncodedLen(gss.MaxToken) {
		return nil, false, fmt.Errorf("a token of more than %d bytes", gss.MaxToken)
	}
	if strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return nil, false, errors.New("the token is not base64")
	}
	token, err = base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, false, errors.New("the token is not base64")
	}
	return token, true, nil
}

func (h *HTTP) accept(r *http.Request, token []byte) (*gss.Context, []byte, error) {
	var p gss.Peer
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		p.From = ap.Addr().Unmap()
	}
	if h.c.Bindings != nil {
		var err error
		if p.Bindings, err = h.c.Bindings(r); err != nil {
			return nil, nil, fmt.Errorf("channel bindings: %w", err)
		}
	}
	s := NewAcceptor(h.c.Acceptor, p)
	reply, done, err := s.Step(r.Context(), token)
	if err != nil {
		return nil, reply, err
	}
	if !done {
		return nil, nil, errors.New("the client prefers another mechanism to Kerberos, or sent no token")
	}
	return s.Context(), reply, nil
}

func challenge(w http.ResponseWriter, token []byte, text string, status int) {
	v := "Negotiate"
	if len(token) > 0 {
		v += " " + base64.StdEncoding.EncodeToString(token)
	}
	w.Header().Set("WWW-Authenticate", v)
	w.Header().Set("Persistent-Auth", "false")
	http.Error(w, text, status)
}

// refusal is what the client is told of an error. The offset of the clocks is no secret,
// and the authenticator that shows it was genuine.
func refusal(err error) (status int, text string) {
	var e *accept.Error
	if !errors.As(err, &e) {
		return http.StatusUnauthorized, sayRefused
	}
	switch e.Kind {
	case accept.Unknown:
		return http.StatusServiceUnavailable, sayUnknown
	case accept.Clock:
		d, word := e.ClientAhead.Round(time.Second), "ahead of"
		if d < 0 {
			d, word = -d, "behind"
		}
		return http.StatusUnauthorized, fmt.Sprintf("The Kerberos sign-in was refused: a clock is wrong. Yours is %s %s this server's.", d, word)
	}
	return http.StatusUnauthorized, sayRefused
}
