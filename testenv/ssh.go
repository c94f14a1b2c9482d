package testenv

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Key is an SSH key pair.
type Key struct {
	Private []byte // OpenSSH PEM, no passphrase
	Public  []byte // one authorized_keys line: type, blob, comment, newline
}

// NewKey makes an Ed25519 key pair.
func NewKey(comment string) (*Key, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(priv, comment)
	if err != nil {
		return nil, fmt.Errorf("writing a private key: %w", err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("writing a public key: %w", err)
	}
	line := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(sshPub)), "\n") + " " + comment + "\n"
	return &Key{Private: pem.EncodeToMemory(block), Public: []byte(line)}, nil
}

// SSHDConfig says how an sshd is set up; the zero value takes keys from
// ~/.ssh/authorized_keys.
type SSHDConfig struct {
	Port    int      // default 22
	Service string   // PAM service: sshd takes it from the base of argv[0]; default sshd
	PAM     string   // text of /etc/pam.d/SERVICE; default: no passwords, pam_unix account, pam_mkhomedir
	Lines   []string // lines of sshd_config; they stand before ours, and the first one wins
	Env     []string // such as KRB5_KTNAME; PAM modules do not see it
}

const keyPAM = `auth     required pam_deny.so
account  required pam_nologin.so
account  required pam_unix.so
session  required pam_mkhomedir.so umask=0077
session  required pam_permit.so
`

// StartSSHD starts Debian's sshd on the host. Key exchange is curve25519
// unless Lines say otherwise: the default, sntrup761, costs 130 ms a login.
func (h *Host) StartSSHD(ctx context.Context, cfg SSHDConfig) (*Daemon, error) {
	if cfg.Port == 0 {
		cfg.Port = 22
	}
	if cfg.Service == "" {
		cfg.Service = "sshd"
	}
	if cfg.PAM == "" {
		cfg.PAM = keyPAM
	}
	argv0 := "/run/sshd-as/" + cfg.Service
	conf := fmt.Sprintf("/etc/ssh/sshd_config.%d", cfg.Port)
	pidFile := fmt.Sprintf("/run/sshd-%d.pid", cfg.Port)
	lines := append(append([]string{}, cfg.Lines...),
		"Port "+strconv.Itoa(cfg.Port),
		"HostKey /etc/ssh/ssh_host_ed25519_key",
		"PidFile "+pidFile,
		"KexAlgorithms curve25519-sha256",
		"UsePAM yes",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"PermitRootLogin prohibit-password",
		"UseDNS no",
		"PrintMotd no",
		"PrintLastLog no",
		"LogLevel VERBOSE",
		"Subsystem sftp internal-sftp",
	)
	if err := h.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return nil, fmt.Errorf("configuring sshd: %w", err)
	}
	if err := h.WriteFile("/etc/pam.d/"+cfg.Service, []byte(cfg.PAM), 0o644); err != nil {
		return nil, fmt.Errorf("configuring PAM: %w", err)
	}
	err := h.Inside(func() error {
		if err := os.MkdirAll(filepath.Dir(argv0), 0o755); err != nil {
			return err
		}
		if err := os.Remove(argv0); err != nil && !os.IsNotExist(err) {
			return err
		}
		if err := os.Remove(pidFile); err != nil && !os.IsNotExist(err) {
			return err
		}
		return os.Symlink("/usr/sbin/sshd", argv0)
	})
	if err != nil {
		return nil, fmt.Errorf("naming sshd: %w", err)
	}
	if out, err := h.Command(ctx, "/usr/sbin/sshd", "-t", "-f", conf).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("checking sshd's configuration: %w: %s", err, out)
	}
	return h.Start(ctx, DaemonConfig{
		Name: "sshd", Path: argv0, Args: []string{"-D", "-e", "-f", conf}, Env: cfg.Env,
		Ready: func(context.Context) error { // written once it listens
			return h.Inside(func() error { _, err := os.Stat(pidFile); return err })
		},
	})
}

// SSHCall is one run of the ssh client.
type SSHCall struct {
	To      *Host
	Port    int    // default 22
	User    string // login
	IPv6    bool   // default: IPv4
	Key     *Key   // the only key offered; nil: none
	Command string
	Options []string // "Name=value", each given with -o; they stand before ours, and the first one wins
	Local   string   // runs ssh as this user of the calling host; default root
}

// SSH is Debian's ssh client on h: no configuration file, no questions, the
// world's host keys known and checked. A login that fails exits with 255.
func (h *Host) SSH(ctx context.Context, c SSHCall) *Cmd {
	family := "inet"
	if c.IPv6 {
		family = "inet6"
	}
	args := []string{"-F", "none"}
	for _, o := range c.Options {
		args = append(args, "-o", o)
	}
	for _, o := range []string{
		"BatchMode=yes", "StrictHostKeyChecking=yes", "UserKnownHostsFile=/etc/ssh/ssh_known_hosts",
		"ConnectTimeout=30", "KexAlgorithms=curve25519-sha256",
		"IdentitiesOnly=yes", "IdentityAgent=none", "AddressFamily=" + family,
	} {
		args = append(args, "-o", o)
	}
	if c.Port != 0 {
		args = append(args, "-p", strconv.Itoa(c.Port), "-o", "HostKeyAlias="+c.To.FQDN)
	}
	key := "none"
	var keyErr error
	if c.Key != nil {
		key, keyErr = h.keyFile(c.Key, c.Local)
	}
	args = append(args, "-o", "IdentityFile="+key, "-l", c.User, c.To.FQDN)
	if c.Command != "" {
		args = append(args, c.Command)
	}
	var cmd *Cmd
	if c.Local == "" {
		cmd = h.Command(ctx, "ssh", args...)
	} else {
		cmd = h.CommandAs(ctx, c.Local, "ssh", args...)
	}
	if keyErr != nil {
		cmd.Err = fmt.Errorf("writing the key: %w", keyErr)
	}
	return cmd
}

// keyFile writes the private key where only its user on h can read it.
func (h *Host) keyFile(k *Key, login string) (string, error) {
	pub, _, _, _, err := ssh.ParseAuthorizedKey(k.Public)
	if err != nil {
		return "", err
	}
	name := strings.NewReplacer("/", "_", ":", "_").Replace(ssh.FingerprintSHA256(pub))
	dir := "/run/test-keys" + login
	path := filepath.Join(dir, name)
	return path, h.Inside(func() error {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		tmp, err := os.CreateTemp(dir, "new")
		if err != nil {
			return err
		}
		if _, err := tmp.Write(k.Private); err != nil {
			return err
		}
		if err := tmp.Close(); err != nil {
			return err
		}
		if login != "" {
			uid, gid, err := lookupIDs(login)
			if err != nil {
				return err
			}
			if err := os.Chown(tmp.Name(), uid, gid); err != nil {
				return err
			}
		}
		return os.Rename(tmp.Name(), path) // whole, for concurrent calls
	})
}
