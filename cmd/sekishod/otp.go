package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/config"
	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/otp/prove"
	"github.com/sekisho/sekisho/state"
)

// buildCodes makes what checks one-time codes by the tokens in the directory. It
// reads them as an identity that nothing else of sekishod uses.
func (d *daemon) buildCodes(in inherited, base string) (err error) {
	p := d.provider
	p.BindDN, p.Password, p.External = d.cfg.OTP.BindDN, nil, false
	if d.realm != nil {
		p.BindDN, p.Password = d.realm.Info().Layout.Codes(), d.realm.CodesPassword
	} else {
		secret, ok, err := in.secret(fdCodes)
		if err == nil && !ok {
			secret, err = config.ReadSecret(d.cfg.OTP.PasswordFile)
		}
		if err != nil {
			return fmt.Errorf("otp.password_file: %w", err)
		}
		p.Password = func() ([]byte, error) { return []byte(secret), nil }
	}
	tokens, err := ldapsync.NewTokens(ldapsync.TokensConfig{Provider: p, BaseDN: base})
	if err != nil {
		return fmt.Errorf("pam.otp: %w", err)
	}
	d.codes, err = prove.New(prove.Config{Tokens: tokens, Spend: d.spendCode, Drift: d.cfg.OTP.Drift, Now: d.now,
		Log: d.log.WithField("part", "codes")})
	if err != nil {
		return err
	}
	d.passwords.close = append(d.passwords.close, tokens.Close)
	d.passwords.provers[broker.ProofOTP] = d.codes.Prove
	return nil
}

// spendCode makes the mark of a code that was used, which all brokers see.
func (d *daemon) spendCode(ctx context.Context, key string, ttl time.Duration) (fresh bool, err error) {
	err = d.state.Create(ctx, state.BucketCodes, key, nil, ttl)
	if errors.Is(err, state.ErrExists) {
		return false, nil
	}
	return err == nil, err
}
