//go:build !linux

package httpguard

func newWatcher() watcher { return newPoller() }
