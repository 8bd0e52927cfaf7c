package usecase

import "time"

// LookForRevocations has the broker look at once for revocations that are due.
// Tests that move its clock need not wait for the real one.
func (b *Broker) LookForRevocations() { b.revocations.nudge() }

// RevocationPause returns how long there is nothing to do for the queue of
// revocations.
func (b *Broker) RevocationPause() time.Duration { return b.revocations.pause(b.now()) }
