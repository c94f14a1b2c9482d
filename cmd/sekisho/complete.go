package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// How long a completion may take, and how many names it offers.
const (
	completeWait  = 1500 * time.Millisecond
	completeLimit = 200
)

// doors are those of today that ask for a decision.
var doors = []string{"keys"}

// complete has c's arguments completed with the names of these kinds, in order.
func (a *app) complete(c *cobra.Command, kinds ...string) {
	c.ValidArgsFunction = func(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(kinds) {
			return nil, cobra.ShellCompDirectiveDefault // files
		}
		if kinds[len(args)] == "key" {
			return a.keyIDs(c.Context(), args[0], prefix), cobra.ShellCompDirectiveNoFileComp
		}
		return a.names(c.Context(), kinds[len(args)], prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag has an option's value completed with names.
func (a *app) completeFlag(c *cobra.Command, flag, kind string) {
	err := c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return a.names(c.Context(), kind, prefix), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // the option does not exist: seen by every run
	}
}

// completeRule completes user:NAME and its kin.
func (a *app) completeRule(c *cobra.Command) {
	for flag, words := range map[string]map[string]string{
		"subject": {"user:": "user", "group:": "group", "*": ""},
		"target":  {"host:": "host", "hostgroup:": "group", "net:": "", "*": ""},
	} {
		err := c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
			for w, kind := range words {
				if rest, ok := strings.CutPrefix(prefix, w); ok && kind != "" {
					out := a.names(c.Context(), kind, rest)
					for i := range out {
						out[i] = w + out[i]
					}
					return out, cobra.ShellCompDirectiveNoFileComp
				}
			}
			var out []string
			for w := range words {
				if strings.HasPrefix(w, prefix) {
					out = append(out, w)
				}
			}
			return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		})
		if err != nil {
			panic(err)
		}
	}
	for flag, words := range map[string][]string{
		"door":   append([]string{"*"}, doors...),
		"login":  {"self"},
		"proof":  {"key", "certificate", "password", "ticket", "otp"},
		"permit": {"pty", "port-forwarding", "agent-forwarding", "x11-forwarding", "user-rc", "none"},
	} {
		if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err)
		}
	}
}

// names asks the directory with the caller's rights; where that takes a
// password that nobody has given, there are none.
func (a *app) names(ctx context.Context, kind, prefix string) []string {
	if kind == "door" {
		return doors
	}
	var out []string
	a.quietly(ctx, func(ctx context.Context) {
		if d, client, err := a.connect(ctx); err == nil {
			defer client.Close()
			out, _ = d.Names(ctx, kind, prefix, completeLimit)
		}
	})
	return out
}

func (a *app) keyIDs(ctx context.Context, user, prefix string) []string {
	var out []string
	a.quietly(ctx, func(ctx context.Context) {
		d, client, err := a.connect(ctx)
		if err != nil {
			return
		}
		defer client.Close()
		ks, err := d.Keys(ctx, user)
		if err != nil {
			return
		}
		for _, k := range ks {
			if strings.HasPrefix(k.ID, prefix) {
				out = append(out, k.ID+"\t"+k.Comment)
			}
		}
	})
	return out
}

// quietly runs f without asking anybody for anything, and not for long.
func (a *app) quietly(ctx context.Context, f func(context.Context)) {
	a.silent = true
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeWait)
	defer cancel()
	f(ctx)
}

func completionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "completion bash|zsh|fish", Short: "Print the completion script of a shell", Args: takes(1, 1, "a shell: bash, zsh or fish"),
		Long: `Print the completion script of a shell. It completes commands and options, and the
names of users, groups, hosts, rules and keys where the directory can be read
without a password: for root, with --auth kerberos, or with --password-file.`,
		Example: `  sekisho completion bash > /etc/bash_completion.d/sekisho
  sekisho completion zsh > "${fpath[1]}/_sekisho"
  sekisho completion fish > ~/.config/fish/completions/sekisho.fish`,
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(c *cobra.Command, args []string) error {
			out := c.OutOrStdout()
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(out, true)
			case "zsh":
				return c.Root().GenZshCompletion(out)
			case "fish":
				return c.Root().GenFishCompletion(out, true)
			}
			return usagef("%q: there are bash, zsh and fish", args[0])
		},
	}
}
