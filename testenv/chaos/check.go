package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/site"
)

var errInside = errors.New("somebody is inside whose right was taken away")

// settle is how long the last ends may take.
const settle = 30 * time.Second

// check looks at the site after a storm.
func (s *storm) check() error {
	if err := s.Soon(settle, s.nobodyInside); err != nil {
		return err
	}
	if err := s.Soon(settle, s.sessionsAreTrue); err != nil {
		return err
	}
	if err := s.codesAreSpentOnce(); err != nil {
		return err
	}
	s.mu.Lock()
	bad := s.bad
	s.mu.Unlock()
	return errors.Join(bad, s.auditIsWhole())
}

// nobodyInside: who may not log in has no process anywhere.
func (s *storm) nobodyInside() error {
	for _, p := range s.people {
		if p.in {
			continue
		}
		for _, h := range s.Hosts {
			out, err := h.Command(s.Ctx, "pgrep", "-a", "-u", p.uid).Output()
			switch site.ExitCode(err) {
			case 1: // none
			case 0:
				return fmt.Errorf("%w: %s on %s: %s", errInside, p.name, h.Name, out)
			default:
				return fmt.Errorf("looking for processes of %s on %s: %w", p.name, h.Name, err)
			}
		}
	}
	return nil
}

// sessionsAreTrue: each ssh that lives has its session, on its host and on the
// broker, and there are no others.
func (s *storm) sessionsAreTrue() error {
	s.mu.Lock()
	live := map[string]int{}
	for _, l := range s.lives {
		if l.Ended().IsZero() {
			live[l.User+"@"+l.On.Name]++
		}
	}
	s.mu.Unlock()
	for at, where := range map[*testenv.Host][]*testenv.Host{s.Broker: s.Hosts, s.Hosts[0]: s.Hosts[:1], s.Hosts[1]: s.Hosts[1:]} {
		all, err := s.Sessions(at, "")
		if err != nil {
			return err
		}
		if err := s.same(live, all, where); err != nil {
			return fmt.Errorf("%s: %w", at.Name, err)
		}
	}
	return nil
}

// same compares what lives with what is known of some hosts.
func (s *storm) same(live map[string]int, all []site.Session, where []*testenv.Host) error {
	known, ids := map[string]int{}, map[string]bool{}
	for _, k := range all {
		if ids[k.ID] {
			return fmt.Errorf("session %s is there twice", k.ID)
		}
		ids[k.ID] = true
		name, _, _ := strings.Cut(k.Host, ".")
		known[k.User+"@"+name]++
	}
	var errs []error
	for _, h := range where {
		for _, p := range s.people {
			who := p.name + "@" + h.Name
			if live[who] != known[who] {
				errs = append(errs, fmt.Errorf("%s: %d live, %d known", who, live[who], known[who]))
			}
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// auditIsWhole: on every machine.
func (s *storm) auditIsWhole() error {
	for _, h := range s.All() {
		if out, err := h.Command(s.Ctx, site.Sekisho, "audit", "verify").CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", h.Name, err, out)
		}
	}
	return nil
}

// show prints what each machine says when a check has failed.
func (s *storm) show() {
	for _, p := range s.people {
		fmt.Fprintf(os.Stderr, "%s may log in: %v\n", p.name, p.in)
	}
	for _, h := range s.All() {
		for _, args := range [][]string{{site.Sekisho, "status"}, {site.Sekisho, "sessions", "--json"}, {site.Sekisho, "audit", "tail", "-n", "150", "--json"},
			{site.Sekisho, "group", "show", "staff"}, {"ps", "-eo", "pid,ppid,user:12,stat,lstart,cgroup:60,args"}} {
			if args[1] == "group" && h != s.Broker {
				continue
			}
			out, _ := h.Command(s.Ctx, args[0], args[1:]...).CombinedOutput()
			fmt.Fprintf(os.Stderr, "%s: %s:\n%s\n", h.Name, strings.Join(args, " "), out)
		}
	}
}
