package broker

import "runtime"

// heapFloor is how much garbage may gather at least before it is collected, in
// bytes. The runtime lets the heap grow to twice of what is alive, which is so
// little here that under load it would collect a hundred times a second, for a
// tenth of the CPU time.
const heapFloor = 32 << 20

// holdHeapFloor makes the runtime count with heapFloor until release. The pages
// are never touched, so that they take address space and no memory; what does
// take some is the garbage, heapFloor of it at most beyond what GOGC allows. A
// higher GOGC would have no such bound.
func holdHeapFloor() (release func()) {
	floor := make([]byte, heapFloor)
	return func() { runtime.KeepAlive(floor) }
}
