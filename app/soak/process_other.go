//go:build !linux

package soak

import "syscall"

// attributes: elsewhere, what was started outlives this process if it dies
// without cleaning up.
func attributes() *syscall.SysProcAttr { return nil }
