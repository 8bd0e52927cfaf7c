package upstream

// Remember makes c take it that the last handshake with host was for HTTP/2.
func (c *Choice) Remember(host string) { c.speak2.Store(host, nil) }
