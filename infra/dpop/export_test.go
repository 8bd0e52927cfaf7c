package dpop

// Len returns how many servers' nonces are kept.
func (n *Nonces) Len() int { n.mu.Lock(); defer n.mu.Unlock(); return len(n.byOrigin) }
