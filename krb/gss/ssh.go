package gss

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sekisho/sekisho/krb"
)

// SSHServer is the GSSAPIServer of golang.org/x/crypto/ssh for gssapi-with-mic (RFC 4462
// §3). It holds the state of one attempt: make one for each connection, and a
// ssh.ServerConfig of its own with it.
type SSHServer struct {
	a   *Acceptor
	ctx context.Context
	p   Peer

	c      *Context
	proved bool // the client has shown that it holds c's key, in this session
}

// SSHServer makes the adapter for one connection; ctx ends with it.
func (a *Acceptor) SSHServer(ctx context.Context, p Peer) *SSHServer {
	return &SSHServer{a: a, ctx: ctx, p: p}
}

// AcceptSecContext establishes the context. srcName is the verified principal,
// name@REALM; it counts for nothing before VerifyMIC, as x/crypto/ssh has it.
func (s *SSHServer) AcceptSecContext(token []byte) (outputToken []byte, srcName string, needContinue bool, err error) {
	if s.c != nil {
		return nil, "", false, errors.New("another token after the context was established")
	}
	c, reply, err := s.a.Accept(s.ctx, token, s.p)
	if err != nil {
		return nil, "", false, err
	}
	if c.flags&Integrity == 0 {
		return nil, "", false, errors.New("the client did not ask for integrity, without which it is not bound to this session (RFC 4462 §3.5)")
	}
	s.c = c
	return reply, c.client.String(), false, nil
}

// VerifyMIC checks that the context belongs to this SSH session.
func (s *SSHServer) VerifyMIC(micField, micToken []byte) error {
	if s.c == nil {
		return errors.New("a MIC without a context")
	}
	if err := s.c.VerifyMIC(micField, micToken); err != nil {
		return err
	}
	s.proved = true
	return nil
}

// DeleteSecContext forgets the attempt. x/crypto/ssh calls it when AllowLogin has
// returned.
func (s *SSHServer) DeleteSecContext() error {
	s.c, s.proved = nil, false
	return nil
}

// Context is the context whose MIC was verified, for AllowLogin: it knows the
// principal and the delegated credentials. Nil at all other times.
func (s *SSHServer) Context() *Context {
	if !s.proved {
		return nil
	}
	return s.c
}

// SSHConfig says where an SSHClient gets its tickets.
type SSHConfig struct {
	// Ticket gets the service ticket for host/HOST. HOST is as it was given to
	// ssh.GSSAPIWithMICAuthMethod: nothing here asks the DNS for a better name. Needed.
	Ticket func(ctx context.Context, host string) (krb.Credential, error)
	// Delegate, if set, gets the ticket-granting ticket that is handed to HOST. Its
	// failure is one of the whole attempt.
	Delegate func(ctx context.Context, host string) (krb.Credential, error)
}

// SSHClient is the GSSAPIClient of golang.org/x/crypto/ssh. It holds the state of one
// attempt: make one for each connection. The server must prove itself.
type SSHClient struct {
	ctx context.Context
	cfg SSHConfig

	i *Initiator
	c *Context
}

// NewSSHClient makes the adapter for one connection; ctx bounds its requests for
// tickets.
func NewSSHClient(ctx context.Context, cfg SSHConfig) (*SSHClient, error) {
	if cfg.Ticket == nil {
		return nil, errors.New("gss: an SSH client without a source of tickets")
	}
	return &SSHClient{ctx: ctx, cfg: cfg}, nil
}

// InitSecContext makes the first token, or takes the server's answer. Target is
// host@HOST. Whether credentials are delegated is SSHConfig's to say: x/crypto/ssh
// always passes false.
func (s *SSHClient) InitSecContext(target string, token []byte, _ bool) (outputToken []byte, needContinue bool, err error) {
	if s.i != nil {
		c, err := s.i.Finish(token)
		if err != nil {
			return nil, false, err
		}
		s.c = c
		return nil, false, nil
	}
	host, ok := strings.CutPrefix(target, "host@")
	if !ok || host == "" || len(token) > 0 {
		return nil, false, fmt.Errorf("target %.80q is not host@HOST, or there is a token too early", target)
	}
	cred, err := s.cfg.Ticket(s.ctx, host)
	if err != nil {
		return nil, false, fmt.Errorf("a ticket for %s: %w", host, err)
	}
	o := Options{Flags: Mutual}
	if s.cfg.Delegate != nil {
		tgt, err := s.cfg.Delegate(s.ctx, host)
		if err != nil {
			return nil, false, fmt.Errorf("a ticket to delegate to %s: %w", host, err)
		}
		o.Delegate = &tgt
	}
	if s.i, err = Initiate(cred, o); err != nil {
		return nil, false, err
	}
	return s.i.Token(), true, nil
}

// GetMIC binds the context to the SSH session.
func (s *SSHClient) GetMIC(micField []byte) ([]byte, error) {
	if s.c == nil {
		return nil, errors.New("no context yet")
	}
	return s.c.GetMIC(micField)
}

// DeleteSecContext forgets the attempt.
func (s *SSHClient) DeleteSecContext() error {
	s.i, s.c = nil, nil
	return nil
}
