package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/config"
)

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check [FILE]", Short: "Check a configuration of sekishod", Args: takes(0, 1, "at most one file"),
		Long: `Check a configuration of sekishod, by default the installed one, and what it names
on this machine: the password file, the CA file, the accounts. Nothing is started
and nothing is changed. Run it as who starts sekishod.

Exit codes: 0 good, perhaps with warnings; 2 wrong.`,
		Example: "  sekisho check\n  sekisho check ./sekishod.toml",
		RunE: func(_ *cobra.Command, args []string) error {
			path := a.configPath
			if len(args) == 1 {
				path = args[0]
			}
			c, err := config.Load(path)
			if err != nil {
				return usageError{err}
			}
			problems, warnings := c.Inspect()
			if a.json {
				doc := struct {
					File     string   `json:"file"`
					Good     bool     `json:"good"`
					Summary  string   `json:"summary"`
					Problems []string `json:"problems"`
					Warnings []string `json:"warnings"`
				}{path, len(problems) == 0, c.Summary(), append([]string{}, problems...), append([]string{}, warnings...)}
				if err := a.printJSON(doc); err != nil {
					return err
				}
				if len(problems) > 0 {
					return exit(exitUsage)
				}
				return nil
			}
			for _, w := range warnings {
				fmt.Fprintf(a.err, "sekisho: %s: warning: %s\n", path, clean(w))
			}
			if len(problems) > 0 {
				for _, p := range problems[1:] {
					fmt.Fprintf(a.err, "sekisho: %s: %s\n", path, clean(p))
				}
				return usageError{errors.New(path + ": " + problems[0])}
			}
			a.say("%s: good; %s", path, c.Summary())
			return nil
		},
	}
}
