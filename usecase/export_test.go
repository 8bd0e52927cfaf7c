package usecase

// LookForRevocations has the broker look at once for revocations that are due.
// Tests that move its clock need not wait for the real one.
func (b *Broker) LookForRevocations() { b.revocations.nudge() }
