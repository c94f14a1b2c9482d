package config

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"reflect"
	"strconv"
)

func (c Config) checkState() error {
	s := c.State
	if len(s.Servers) == 0 {
		s.Servers = nil // empty or absent is the same
		if !reflect.DeepEqual(s, Default().State) {
			return errors.New("[state] is set, but state.servers is not: name the servers of the NATS cluster, or take the section out")
		}
		return nil
	}
	if len(s.Servers) > 16 {
		return errors.New("state.servers has more than 16: all of a cluster of five are enough")
	}
	for _, v := range s.Servers {
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "tls" || u.Hostname() == "" {
			return errors.New("state.servers must be tls://HOST:PORT, such as tls://nats1.example.org:4222")
		}
		if u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
			return errors.New("state.servers has more than a host and a port: sekishod shows its certificate, and no password")
		}
		if port, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
			return fmt.Errorf("state.servers %q must have a port, such as tls://%s:4222", clip(v), clip(u.Hostname()))
		}
	}
	if s.Replicas != 1 && s.Replicas != 3 && s.Replicas != 5 {
		return fmt.Errorf("state.replicas is %d, but must be 1, 3 or 5: three outlast the loss of one server", s.Replicas)
	}
	for _, f := range []struct{ key, path string }{{"ca_file", s.CAFile}, {"cert_file", s.CertFile}, {"key_file", s.KeyFile}} {
		if !filepath.IsAbs(f.path) {
			return fmt.Errorf("state.%s %q must be an absolute path: with state.servers, both sides show a certificate", f.key, clip(f.path))
		}
	}
	return nil
}
