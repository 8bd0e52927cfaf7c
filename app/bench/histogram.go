package bench

import (
	"math/bits"
	"time"
)

// histogram counts durations in microseconds, in buckets that are 3 % wide at
// most, so that its size does not depend on how many there are.
type histogram [sub * 32]uint32

// sub is the number of buckets for each power of two.
const sub = 32

func (h *histogram) add(d time.Duration) { h[bucket(d)]++ }

// bucket returns the index for d: exact below 2*sub microseconds, and from there
// on by the highest bits.
func bucket(d time.Duration) int {
	us := uint64(max(0, d.Microseconds()))
	shift := max(0, bits.Len64(us)-bits.Len64(2*sub-1))
	return min(sub*shift+int(us>>shift), len(histogram{})-1)
}

// least returns the shortest duration of a bucket.
func least(i int) time.Duration {
	shift := max(0, i/sub-1)
	return time.Duration(uint64(i-sub*shift)<<shift) * time.Microsecond
}

func (h *histogram) merge(other *histogram) {
	for i, n := range other {
		h[i] += n
	}
}

func (h *histogram) count() (total int) {
	for _, n := range h {
		total += int(n)
	}
	return total
}

// quantile returns the duration that the share q of all does not exceed, 0 if
// there are none.
func (h *histogram) quantile(q float64) time.Duration {
	rank, seen := int(q*float64(h.count())), 0
	for i, n := range h {
		if seen += int(n); n > 0 && seen >= rank {
			return least(i)
		}
	}
	return 0
}
