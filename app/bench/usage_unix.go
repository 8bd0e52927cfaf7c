//go:build unix

package bench

import (
	"syscall"
	"time"
)

// cpuTime returns what the process has used of the processors, by itself and in
// the kernel for it, since it was started.
func cpuTime() (time.Duration, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0, err
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), nil
}
