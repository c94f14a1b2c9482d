package clock

import (
	"context"
	"errors"
	"time"
)

// ProbeKDC asks the KDC at addr (host:port) the time, without any credential:
// an AS-REQ for a principal that does not exist is answered by a KRB-ERROR with
// the KDC's time (RFC 4120 §5.9.1). offset is how far the KDC is ahead of this
// machine, and the true figure is offset ± bound.
func ProbeKDC(ctx context.Context, addr, realm string, now func() time.Time) (offset, bound time.Duration, err error) {
	return 0, 0, errors.New("not written yet")
}
