package soak

import "syscall"

// attributes has the kernel kill what was started if this process dies without
// cleaning up.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
