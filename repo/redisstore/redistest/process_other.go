//go:build !linux

package redistest

import "syscall"

// attributes: elsewhere, a server outlives a test process that dies without
// cleaning up.
func attributes() *syscall.SysProcAttr { return nil }
