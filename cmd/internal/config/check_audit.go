package config

import (
	"errors"
	"fmt"
	"time"
)

// checkAudit keeps what the record needs to be of use.
func (c Config) checkAudit() error {
	if c.Audit.FileSize < 1 || c.Audit.FileSize > 1024 {
		return fmt.Errorf("audit.file_size %d must be 1 to 1024 (MiB)", c.Audit.FileSize)
	}
	if time.Duration(c.Audit.Keep) < 24*time.Hour {
		return errors.New("audit.keep must be a day (\"24h\") or longer")
	}
	return nil
}
