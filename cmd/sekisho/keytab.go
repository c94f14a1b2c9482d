package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/admin"
	"github.com/sekisho/sekisho/krb"
)

func (a *app) hostKeytab() *cobra.Command {
	var sshd, own string
	var rekey bool
	c := &cobra.Command{
		Use: "keytab NAME --sshd FILE --sekishod FILE", Short: "Write a host's Kerberos keys", Args: takes(1, 1, "a host name"),
		Long: `Write the keys of a host's two principals to new files that only you can read:
host/FQDN, which sshd accepts tickets with (/etc/krb5.keytab there, root's alone),
and sekisho/FQDN, which its sekishod knows a false KDC by
(/etc/sekisho/krb5.keytab, readable for the group sekisho). A principal that is
missing is made. FQDN is the first of the host's names that has a dot.

--rekey makes new keys. The version before stays good until the next --rekey, so
that tickets in use go on to work: carry the files to the host soon.`,
		Example: `  sekisho host keytab web1.example.org --sshd /root/web1.keytab --sekishod /root/web1.sekisho.keytab
  sekisho host keytab web1.example.org --rekey --sshd /root/web1.new --sekishod /root/web1.sekisho.new`,
		RunE: func(c *cobra.Command, args []string) error {
			if sshd == "" || own == "" || sshd == own {
				return usagef("say where the two keytabs are to be written: --sshd FILE and --sekishod FILE")
			}
			for _, f := range []string{sshd, own} {
				if _, err := os.Lstat(f); !errors.Is(err, fs.ErrNotExist) {
					return refusedError{fmt.Errorf("%s is there already: name a new file", f)}
				}
			}
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				k, err := d.HostKeys(ctx, args[0], rekey)
				if err != nil {
					return err
				}
				for _, w := range []struct {
					path string
					keys []krb.KeytabEntry
				}{{sshd, k.SSHD}, {own, k.Sekishod}} {
					if err := krb.WriteKeytab(w.path, w.keys); err != nil {
						return err
					}
					a.say("%s: keys of %s, version %d", w.path, w.keys[0].Principal, w.keys[0].KVNO)
				}
				return nil
			})
		},
	}
	f := c.Flags()
	f.StringVar(&sshd, "sshd", "", "new file for the keys of host/FQDN")
	f.StringVar(&own, "sekishod", "", "new file for the keys of sekisho/FQDN")
	f.BoolVar(&rekey, "rekey", false, "make new keys")
	a.complete(c, "host")
	return c
}
