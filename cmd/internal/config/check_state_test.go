package config

import (
	"strings"
	"testing"
)

const goodState = `[state]
servers = ["tls://nats1.example.org:4222", "tls://[2001:db8::1]:4222"]
replicas = 3
ca_file = "/etc/sekisho/nats-ca.crt"
cert_file = "/etc/sekisho/nats.crt"
key_file = "/etc/sekisho/nats.key"
`

func TestState(t *testing.T) {
	for _, good := range []string{"", "[state]\nservers = []\n", goodState, strings.Replace(goodState, "replicas = 3", "replicas = 5", 1)} {
		if _, err := parse([]byte(good), "f"); err != nil {
			t.Errorf("%s\n%v", good, err)
		}
	}
	for _, c := range []struct{ old, new, want string }{
		{`tls://nats1`, `nats://nats1`, "state.servers"},
		{`tls://nats1`, `tls://me:secret@nats1`, "state.servers"},
		{`:4222",`, `",`, "port"},
		{`:4222",`, `:99999",`, "state.servers"},
		{`:4222",`, `:4222/x",`, "state.servers"},
		{`replicas = 3`, `replicas = 2`, "state.replicas"},
		{`replicas = 3`, `replicas = 0`, "state.replicas"},
		{`ca_file = "/etc/sekisho/nats-ca.crt"`, ``, "state.ca_file"},
		{`"/etc/sekisho/nats.crt"`, `"nats.crt"`, "state.cert_file"},
		{`key_file = "/etc/sekisho/nats.key"`, ``, "state.key_file"},
		{`servers = ["tls://nats1.example.org:4222", "tls://[2001:db8::1]:4222"]`, ``, "state.servers is not"},
	} {
		if !strings.Contains(goodState, c.old) {
			t.Fatal(c.old)
		}
		_, err := parse([]byte(strings.Replace(goodState, c.old, c.new, 1)), "f")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q for %q: %v", c.new, c.old, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error has a secret: %v", err)
		}
	}
}
