package usecase_test

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"strings"
)

// modelSet numbers states in the order in which they come.
type modelSet struct {
	states []modelState
	table  []int32 // the number and one of what has hashed here, or to before here; 0 for nothing
	seed   maphash.Seed
}

// id returns the number of a state, which is a new one if it has none yet.
func (set *modelSet) id(s modelState) int32 {
	if 2*len(set.states) >= len(set.table) {
		set.grow()
	}
	at := set.slot(s)
	if set.table[at] == 0 {
		set.states = append(set.states, s)
		set.table[at] = int32(len(set.states))
	}
	return set.table[at] - 1
}

func (set *modelSet) slot(s modelState) int {
	mask := len(set.table) - 1
	at := int(maphash.Comparable(set.seed, s)) & mask
	for set.table[at] != 0 && set.states[set.table[at]-1] != s {
		at = (at + 1) & mask
	}
	return at
}

func (set *modelSet) grow() {
	if set.table == nil {
		set.seed = maphash.MakeSeed()
	}
	set.table = make([]int32, max(1024, 4*len(set.table)))
	for i, s := range set.states {
		set.table[set.slot(s)] = int32(i + 1)
	}
}

// model says what there is and what may happen.
type model struct {
	window     window
	endsFamily bool // to revoke a spent token ends its family
	cache      bool // replicas have a cache in front of the store

	signOut, signIn, reseal bool // may happen, once each

	faults   modelFaults // that may strike
	strikes  uint8       // so many of them in one run
	expiries uint8       // so many access tokens expire, or are rejected, after the first

	strict   bool           // no theft is unavoidable
	only     modelInvariant // is looked at, if it is not zero
	mutation mutation
}

func (m model) start() modelState {
	var s modelState
	s.rec = modelRecord{there: true, version: 1, refresh: newModelToken(0, 0)}
	s.families[0] = modelFamily{issued: 1, expired: 1}
	s.faults, s.expiries = m.strikes, m.expiries
	return s
}

// expansion collects what can happen next in a state.
type expansion struct {
	m    model
	from modelState
	// work has what is going to happen, unless something else does first;
	// chance has what may happen or not.
	work, chance []move
}

type move struct {
	who  uint8 // replica 1 or 2, 3 for the key rotation, 0 for nobody's doing
	what string
	to   modelState
}

func (x *expansion) add(list *[]move, who uint8, what string, to modelState) {
	if !x.from.rec.there && to.rec.there {
		to.breaks(neverBack)
	}
	to.look()
	if x.m.only != 0 && to.broken != x.m.only {
		to.broken = 0
	}
	to.sort()
	*list = append(*list, move{who, what, to})
	if !x.m.cache || to.rec == x.from.rec {
		return
	}
	// A replica that did not make the change itself may have had the record in
	// its cache, and has it there until it hears of the change.
	for i := range to.cache {
		if who != uint8(i+1) && !to.cache[i].there {
			late := to
			late.cache[i] = x.from.rec
			*list = append(*list, move{who, what + ", a cache keeps the old record", late})
		}
	}
}

func (x *expansion) will(who uint8, what string, to modelState) { x.add(&x.work, who, what, to) }
func (x *expansion) may(who uint8, what string, to modelState)  { x.add(&x.chance, who, what, to) }

func (x *expansion) expand(s modelState) {
	x.from, x.work, x.chance = s, x.work[:0], x.chance[:0]
	for i := range uint8(2) {
		x.request(i)
		x.flight(i)
	}
	x.others()
}

// report is what an exploration has found.
type report struct {
	states, steps int
	resting       int // states in which nothing is left to do
	longest       int // steps from any state until nothing is left to do, if nothing new comes
	broken        modelInvariant
	trace         []string // the shortest way there
}

// explore walks through all states, breadth first, until it finds one that
// breaks an invariant or has seen them all. Then it checks that work always ends
// and that a request after it is answered.
func explore(m model) report {
	x := &expansion{m: m}
	var known modelSet
	known.id(m.start())
	parents := []int32{-1}
	var edges []int32  // the work of all states, one behind the other
	from := []int32{0} // where a state's work begins in edges
	var r report
	fails := func(at int32, broken modelInvariant, last string) report {
		r.states, r.broken = len(known.states), broken
		r.trace = append(trace(m, known.states, parents, at), last)
		return r
	}
	for at := int32(0); int(at) < len(known.states); at++ {
		x.expand(known.states[at])
		if len(x.work) == 0 {
			s := known.states[at]
			if s.lookAtRest(); s.broken != 0 && (m.only == 0 || s.broken == m.only) {
				return fails(at, s.broken, "and nothing is left to do")
			}
			r.resting++
		}
		for kind, moves := range [2][]move{x.work, x.chance} {
			for _, mv := range moves {
				if mv.to.broken != 0 {
					return fails(at, mv.to.broken, mv.String())
				}
				id := known.id(mv.to)
				if int(id) == len(parents) {
					parents = append(parents, at)
				}
				if kind == 0 {
					edges = append(edges, id)
				}
				r.steps++
			}
		}
		from = append(from, int32(len(edges)))
	}
	r.states = len(known.states)
	longest, looping := longestWork(edges, from)
	if looping >= 0 {
		return fails(looping, neverLoops, "and so on")
	}
	r.longest = longest
	for at := range known.states {
		if from[at] != from[at+1] {
			continue
		}
		if broken, last := m.probe(x, known.states[at]); broken != 0 {
			return fails(int32(at), broken, last)
		}
	}
	return r
}

// longestWork returns the length of the longest way through the work alone, or
// a state from which there is a way without end.
func longestWork(edges, from []int32) (longest int, looping int32) {
	n := len(from) - 1
	incoming := make([]int32, n)
	for _, to := range edges {
		incoming[to]++
	}
	depth := make([]int32, n)
	var ready []int32
	for at, c := range incoming {
		if c == 0 {
			ready = append(ready, int32(at))
		}
	}
	for done := 0; done < len(ready); done++ {
		at := ready[done]
		longest = max(longest, int(depth[at]))
		for _, to := range edges[from[at]:from[at+1]] {
			depth[to] = max(depth[to], depth[at]+1)
			if incoming[to]--; incoming[to] == 0 {
				ready = append(ready, to)
			}
		}
	}
	for at, c := range incoming {
		if c > 0 {
			return 0, int32(at)
		}
	}
	return longest, -1
}

// probe sends one request with the ticket of the record at either replica, in a
// state in which all is done and no faults come any more. It needs a refresh. It
// has to end with a token that works if the family lives and its head is to be
// had, and with a clean sign-out otherwise.
func (m model) probe(x *expansion, s modelState) (modelInvariant, string) {
	if !s.rec.there {
		return 0, ""
	}
	t := s.rec.refresh
	f := s.families[t.family()]
	for i := range uint8(2) {
		s := s
		s.probed, s.faults, s.expiries = true, 0, 0
		s.requests[0] = modelRequest{at: atRefresh, replica: i, ticket: s.rec.ticket, stale: t}
		s.families[t.family()].expired = t.generation() + 1
		todo := []modelState{s}
		seen := map[modelState]bool{}
		for len(todo) > 0 {
			s := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			x.expand(s)
			if len(x.work) == 0 {
				good := s.told == toldToken && s.rec.there && !s.families[s.rec.refresh.family()].dead
				over := s.told == toldSignedOut && !s.rec.there
				lost := f.dead || t.generation()+1 < f.issued && !f.window
				if s.lookAtRest(); s.broken != 0 {
					return s.broken, "and a request comes"
				}
				if !good && !over || over && !lost {
					return neverLeft, fmt.Sprintf("and a request at replica %d is told %d", i+1, s.told)
				}
			}
			for _, mv := range x.work {
				if mv.to.broken != 0 {
					return mv.to.broken, mv.String()
				}
				if !seen[mv.to] {
					seen[mv.to] = true
					todo = append(todo, mv.to)
				}
			}
		}
	}
	return 0, ""
}

// sort makes states that differ in the order of the requests alone the same.
func (s *modelState) sort() {
	a, b := s.requests[0], s.requests[1]
	if cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.replica, b.replica), cmp.Compare(a.ticket, b.ticket), cmp.Compare(a.stale, b.stale), less(a.again, b.again), less(a.rejected, b.rejected)) > 0 {
		s.requests[0], s.requests[1] = b, a
	}
}

// less compares as cmp.Compare does, false before true.
func less(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (mv move) String() string {
	switch mv.who {
	case 0:
		return mv.what
	case 3:
		return "key rotation: " + mv.what
	}
	return fmt.Sprintf("replica %d: %s", mv.who, mv.what)
}

// trace tells how a state came about.
func trace(m model, states []modelState, parents []int32, at int32) []string {
	if parents[at] < 0 {
		return nil
	}
	before := trace(m, states, parents, parents[at])
	x := &expansion{m: m}
	x.expand(states[parents[at]])
	for _, mv := range append(x.work, x.chance...) {
		if mv.to == states[at] {
			return append(before, mv.String())
		}
	}
	return before
}

func (r report) String() string {
	if r.broken == 0 {
		return fmt.Sprintf("%d states, %d steps, %d at rest, at most %d steps to rest", r.states, r.steps, r.resting, r.longest)
	}
	return fmt.Sprintf("%v, after %d states:\n  %s", r.broken, r.states, strings.Join(r.trace, "\n  "))
}
