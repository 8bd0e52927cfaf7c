package redistest

import "syscall"

// attributes has the kernel kill a server whose test process dies without
// cleaning up, as on a time-out.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
