// Command sekishod is the broker: it follows the directory, decides, and
// answers at this machine's doors. With an empty configuration it also makes
// and runs the directory and a KDC.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"
	_ "time/tzdata" // rules name time zones; a minimal system has no database of them

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/cmd/internal/config"
)

const usage = `sekishod answers at this machine's doors from the directory.

Usage: sekishod [--config FILE] [--check]

  --config FILE  read FILE instead of ` + config.DefaultPath + `
  --check        read the configuration, say what is wrong with it, and exit
  --version      print the version and exit

Without a configuration, sekishod makes and runs a directory and a KDC of its
own. Started by root it binds its sockets and becomes the user "sekisho" for
good. SIGTERM and SIGINT stop it and what it runs. It logs on standard error,
one line for each decision.

Exit codes: 0 stopped by a signal, or the configuration is good; 1 it could not
start or go on; 2 wrong usage or configuration.
`

func main() {
	os.Exit(run(os.Args[1:]))
}

// run is main without the exit.
func run(args []string) int {
	flags := flag.NewFlagSet("sekishod", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage) }
	path := flags.String("config", config.DefaultPath, "")
	check := flags.Bool("check", false, "")
	version := flags.Bool("version", false, "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		return complain(2, fmt.Errorf("no argument is expected, but there is %q: see sekishod --help", flags.Arg(0)))
	}
	if *version {
		fmt.Println("sekishod " + buildVersion())
		return 0
	}
	c, err := config.Load(*path)
	if err != nil {
		return complain(2, err)
	}
	if *check {
		return checkConfig(c, *path)
	}
	if os.Geteuid() == 0 {
		return complain(1, becomeService(c)) // returns only when it failed
	}
	if err := serve(c); err != nil {
		return complain(1, err)
	}
	return 0
}

// serve is the second stage, from build to shutdown.
func serve(c config.Config) error {
	in, err := inherit()
	if err != nil {
		return err
	}
	if err := harden(); err != nil {
		return err
	}
	// A log whose reader has gone is an error of a write (see logWriter), and no end.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	out := newLogWriter(os.Stderr)
	defer out.Close()
	log, err := newLogger(c.Log, out)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	defer ignoreHangup(log)()

	d, err := build(ctx, c, in, log, newRecorder(c.Log, out, time.Now))
	if err != nil {
		return err
	}
	return d.run(ctx)
}

// ignoreHangup says what SIGHUP does not do. The function that it returns ends
// that.
func ignoreHangup(log *logrus.Entry) (stop func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range hup {
			log.Warn("SIGHUP changes nothing: to apply a new configuration, check it (sekishod --check) and restart sekishod")
		}
	}()
	return func() {
		signal.Stop(hup)
		close(hup)
		<-done
	}
}

// checkConfig is --check: what is certain is an error, what may be meant so is
// a warning.
func checkConfig(c config.Config, path string) int {
	problems, warnings := c.Inspect()
	for _, w := range warnings {
		fmt.Fprintf(os.Stderr, "sekishod: %s: warning: %s\n", path, w)
	}
	for _, p := range problems {
		fmt.Fprintf(os.Stderr, "sekishod: %s: %s\n", path, p)
	}
	if len(problems) > 0 {
		return 2
	}
	fmt.Printf("%s: good; %s\n", path, c.Summary())
	return 0
}

func complain(code int, err error) int {
	fmt.Fprintf(os.Stderr, "sekishod: %v\n", err)
	return code
}

// buildVersion is what the go tool wrote into the program.
func buildVersion() string {
	if i, ok := debug.ReadBuildInfo(); ok && i.Main.Version != "" {
		return i.Main.Version
	}
	return "(devel)"
}
