//go:build !unix

package bench

import (
	"errors"
	"time"
)

func cpuTime() (time.Duration, error) {
	return 0, errors.New("the benchmark reads CPU times by getrusage, which this system does not have")
}
