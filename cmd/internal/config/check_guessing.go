package config

import (
	"errors"
	"time"
)

func (c Config) checkGuessing() error {
	g := c.Guessing
	switch {
	case g.PerUser < 1 || g.PerUser > 100_000 || g.PerSource < 1 || g.PerSource > 100_000:
		return errors.New("guessing.per_user and guessing.per_source must be from 1 to 100000, such as 5 and 20")
	case g.LongestWait < Duration(time.Second) || g.LongestWait > Duration(24*time.Hour):
		return errors.New("guessing.longest_wait must be from 1s to 24h, such as \"15m\"")
	case g.KnownGood < 0 || g.KnownGood > Duration(10*365*24*time.Hour):
		return errors.New("guessing.known_good must be from 0s to ten years, such as \"720h\"")
	}
	return nil
}
