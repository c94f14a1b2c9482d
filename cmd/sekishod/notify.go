package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// notify tells the service manager a state, as sd_notify(3) does; without one
// it does nothing.
func notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if path[0] == '@' { // the abstract namespace of unix(7)
		path = "\x00" + path[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	defer c.Close()
	c.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	return nil
}

// watchdogPeriod is how often the service manager wants to hear that we live
// (sd_watchdog_enabled(3)): three times in what it allows. 0: it does not ask.
func watchdogPeriod(usec, pid string) time.Duration {
	n, err := strconv.ParseUint(usec, 10, 63)
	if err != nil || n > uint64(time.Hour/time.Microsecond) || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return time.Duration(n) * time.Microsecond / 3
}

// keepAlive tells the service manager that we live until ctx ends: a sekishod
// that hangs makes every program wait that looks up a name.
func (d *daemon) keepAlive(ctx context.Context) {
	period := watchdogPeriod(os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID"))
	if period == 0 {
		return
	}
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		d.tell("WATCHDOG=1")
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
