package usecase_test

import "math/bits"

// A model of the refresh protocol and a checker that walks through every way in
// which it can go. Two replicas serve one device; beside them are the store, an
// auth server with single-use refresh tokens, a sign-out, a second sign-in from
// the same browser and a key rotation. At any step a fault may strike.
//
// This file has the state and what must not happen; model_flight_test.go has the
// steps of refresh.go, under their names there; model_world_test.go has the store,
// the auth server, time and crashes; model_others_test.go has sign-out, sign-in and
// key rotation; model_check_test.go explores; model_run_test.go has the tests.
// docs/refresh.md tells what follows from it.
//
// Time is left out: a lease runs out, a reuse window closes and an access token
// expires at any moment at which that is possible at all. So are the limits that
// only slow things down: pauses, slots, the breaker. A breaker that lets nobody
// through, or a slot that does not become free, is an exchange that does not get
// through.

// modelToken is a refresh token together with the access token that came with
// it: its family, which is a sign-in, and its generation there. Zero is none.
type modelToken uint8

const modelChain = 8 // generations that a family may have

func newModelToken(family, generation uint8) modelToken {
	return modelToken(1 + family*modelChain + generation)
}
func (t modelToken) family() uint8     { return uint8(t-1) / modelChain }
func (t modelToken) generation() uint8 { return uint8(t-1) % modelChain }

// modelTokens is a set of tokens, by family and generation.
type modelTokens [2]uint8

func (set *modelTokens) put(t modelToken)  { set[t.family()] |= 1 << t.generation() }
func (set *modelTokens) take(t modelToken) { set[t.family()] &^= 1 << t.generation() }
func (set *modelTokens) first() modelToken {
	for family, generations := range set {
		if generations != 0 {
			return newModelToken(uint8(family), uint8(bits.TrailingZeros8(generations)))
		}
	}
	return 0
}

// modelRecord is what the protocol looks at in a domain.Record. A ticket has the
// number of the family that came with it.
type modelRecord struct {
	there   bool
	version uint8
	ticket  uint8
	refresh modelToken
}

// modelOwner says whose the lease is. Replica i has the owner i+1.
type modelOwner uint8

const (
	ownedByNobody modelOwner = 0
	ownedByReseal modelOwner = 3
	ownedByDead   modelOwner = 4 // a process that is no more
)

// modelFaults is a set of what can go wrong.
type modelFaults uint8

const (
	faultCrash     modelFaults = 1 << iota // a process is killed, and started again
	faultLost                              // an exchange gets through, and its answer does not
	faultLate                              // an exchange is given up, and the auth server may do it all the same
	faultCut                               // an exchange does not get through
	faultLapse                             // a lease is over before its holder is done
	faultStoreFail                         // the store cannot be asked
	faultStoreLost                         // the store does what it is asked, and its answer is lost
	faultGiveUp                            // the store stays away for longer than a pair is offered to it

	allFaults = ^modelFaults(0)
	// gentleFaults are those after which everybody still has what is needed.
	gentleFaults = faultCut | faultStoreFail | faultStoreLost
)

// modelFamily is what the auth server knows of the tokens of one sign-in, and
// what the model notes about them.
type modelFamily struct {
	issued uint8 // so many; the last is the head, the others are spent
	dead   bool  // revoked, or ended because a spent token came again
	window bool  // the head's predecessor still brings the head

	expired   uint8       // so many of the access tokens, the oldest
	astray    modelFaults // why the head is in nobody's hands
	untold    modelFaults // why nobody is left to have the family revoked
	unwanted  bool        // somebody has it revoked without knowing whether the record still holds it
	elsewhere bool        // it belongs to another device
}

// modelRevocations are pairs to be revoked: sure ones, and those that are
// announced, which are not revoked if the record has the ticket of their family.
type modelRevocations struct{ sure, announced modelTokens }

// modelStep is where a flight, a request or one of the others stands.
type modelStep uint8

// modelFlight is one run of refreshOnce. The zero flight is none.
type modelFlight struct {
	at      modelStep
	attempt uint8
	stale   modelToken
	rec     modelRecord
	next    modelToken // what the exchange has brought, though its answer may have been lost
	call    modelCall
	again   bool        // the answer was lost, and this is the second call
	tells   modelResult // once the lease is given back
	expired uint8       // so many access tokens of the stale one's family when it began
	lapsed  bool        // the lease was lost under it
	after   bool        // it has the lease that was lost under another
}

// modelCall is how far an exchange has come.
type modelCall uint8

const (
	callNone    modelCall = iota
	callSent              // on its way, or waiting at the auth server
	callGranted           // done there, and its answer is on its way
	callRefused
)

// modelRequest is one AccessToken or Rejected. The zero request is none.
type modelRequest struct {
	at      modelStep
	replica uint8
	ticket  uint8
	stale   modelToken // the access token that it found

	again    bool // the flight was of another sign-in, and the record is opened anew
	rejected bool // it is Rejected, which does not do that
}

// modelState is everything at one moment. All of it is single bytes, which makes
// it quick to hash and to compare.
type modelState struct {
	rec      modelRecord
	lease    modelOwner
	families [2]modelFamily
	left     [2]modelToken // exchanges that nobody waits for any more, and that the auth server may still do

	flights  [2]modelFlight
	requests [2]modelRequest
	cache    [2]modelRecord // what a replica holds for the record although it is not any more

	queued modelRevocations    // in the store
	hand   [2]modelRevocations // what a replica has in memory, because the store did not take it

	signOut struct {
		at         modelStep
		read, went modelToken
	}
	signIn struct {
		at       modelStep
		previous modelRecord
		written  bool // the record is overwritten, and the answer to that was lost
		done     bool // the browser has the new ticket
	}
	reseal struct {
		at  modelStep
		rec modelRecord
	}

	faults, expiries uint8 // that may still come

	probed bool // from here on it is noted what a request is told
	told   modelResult
	broken modelInvariant
}

// modelResult is how a request ends.
type modelResult uint8

const (
	toldNothing modelResult = iota
	toldToken
	toldSignedOut   // domain.ErrSignedOut
	toldBadTicket   // domain.ErrBadTicket
	toldUnavailable // domain.ErrAuthUnavailable
	toldStore       // domain.ErrStore
)

// modelInvariant is what must not happen. Zero is that all is well.
type modelInvariant uint8

const (
	_ modelInvariant = iota
	// neverTheft: the auth server takes an exchange for theft, and none of these
	// is the reason:
	//   - the answer of the exchange that spent the token was lost, and it was asked
	//     for once more in vain;
	//   - the auth server does an exchange that was given up, now or before;
	//   - the replica that had the successor died before the store had it;
	//   - the store did not take the successor for as long as it was offered;
	//   - one of those who presented the token had lost its lease meanwhile.
	// Of an auth server with a long window only the second and the last count.
	neverTheft
	neverBack  // a device that was deleted comes back
	neverMixed // the record has the ticket of one sign-in and the tokens of another
	// neverSpent: the record holds a spent token while a replica has the successor
	// and not the lease, which was not lost under it.
	neverSpent
	// neverAlive: all is done, a session is over, and its tokens work on. None of
	// these is the reason:
	//   - a process died that alone had them: it was signing somebody in, or the
	//     store had not taken them into its queue;
	//   - their pair went astray, as in neverTheft;
	//   - the record had moved on since a sign-out had read it and announced its
	//     pair, and the store's answer to the Delete was lost, or the process died
	//     just then.
	neverAlive
	// neverInUse: a family that the record holds is revoked. It happens to one that
	// is unwanted: the Overwrite of a second sign-in and the Get after it have failed.
	neverInUse
	neverEnded  // a refresh ends a device whose family is alive
	neverFaulty // a refresh ends a device, and there were gentleFaults alone
	neverOther  // a ticket gets a token of another sign-in
	neverStale  // a request gets a token that had expired before its flight began
	// neverSent: somebody is told to sign in whose ticket opens the device. It can
	// happen to a Rejected alone, which joins a flight from before the sign-in that
	// its ticket is of.
	neverSent
	// neverHeld: a flight ends and keeps its lease, although the store did what it
	// was last asked. It happens to one that has taken the lease that another lost,
	// and was overtaken by that other in keep.
	neverHeld
	neverStuck // work stands still before it is done
	neverLoops // work goes on without end
	neverLeft  // once the faults have stopped, a request gets neither a token that works nor a clean end
)

var invariantNames = [...]string{
	neverTheft:  "a token is exchanged twice without need",
	neverBack:   "a deleted device comes back",
	neverMixed:  "a record mixes two sign-ins",
	neverSpent:  "a spent token rests in the record while a replica has its successor",
	neverAlive:  "a pair outlives its session",
	neverInUse:  "a pair in use is revoked",
	neverEnded:  "a refresh ends a device whose session lives",
	neverFaulty: "a refresh ends a device though all faults were gentle",
	neverOther:  "a ticket gets a token of another sign-in",
	neverStale:  "an expired token is handed out",
	neverSent:   "somebody with a good ticket is told to sign in",
	neverHeld:   "a flight ends and keeps its lease",
	neverStuck:  "work stands still before it is done",
	neverLoops:  "work goes on without end",
	neverLeft:   "a request after all faults gets neither a token nor a clean end",
}

func (i modelInvariant) String() string { return invariantNames[i] }

func (s *modelState) breaks(i modelInvariant) {
	if s.broken == 0 {
		s.broken = i
	}
}

// usable is domain.Lifetimes.AccessUsable.
func (s *modelState) usable(t modelToken) bool {
	return t.generation() >= s.families[t.family()].expired
}

// spent reports whether a token has a successor.
func (s *modelState) spent(t modelToken) bool {
	return t.generation()+1 < s.families[t.family()].issued
}

// look checks what has to be true of every state.
func (s *modelState) look() {
	if !s.rec.there {
		return
	}
	held := s.rec.refresh
	if held.family() != s.rec.ticket {
		s.breaks(neverMixed)
	}
	for i, f := range s.flights {
		has := (f.at == atKeepReplace || f.at == atKeepGet) && f.next.family() == held.family() && f.next > held
		if has && s.lease != modelOwner(i+1) && !f.lapsed {
			s.breaks(neverSpent)
		}
	}
}

// lookAtRest checks a state in which nothing is left to do.
func (s *modelState) lookAtRest() {
	still := s.lease != ownedByNobody || s.queued != (modelRevocations{})
	for i := range s.flights {
		still = still || s.flights[i].at != atNothing || s.requests[i].at != atNothing || s.hand[i] != (modelRevocations{}) || s.left[i] != 0
	}
	for _, at := range []modelStep{s.signOut.at, s.signIn.at, s.reseal.at} {
		still = still || at != atNothing && at != atEnd
	}
	if still {
		s.breaks(neverStuck)
	}
	for i, f := range s.families {
		over := !s.rec.there || s.rec.refresh.family() != uint8(i)
		if over && f.issued > 0 && !f.dead && !f.elsewhere && f.astray|f.untold == 0 {
			s.breaks(neverAlive)
		}
	}
}
