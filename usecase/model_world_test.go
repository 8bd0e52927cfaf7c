package usecase_test

// storeAnswer is what the store says.
type storeAnswer uint8

const (
	storeDone storeAnswer = iota
	storeNone
	storeConflict
	storeHeld
	storeDown // it could not be asked, or its answer was lost
)

// store asks the store to do something, which may also fail before or after.
func (x *expansion) store(who uint8, what string, do func(*modelState) storeAnswer, then func(*modelState, storeAnswer)) {
	s := x.from
	s.forget(who)
	then(&s, do(&s))
	x.will(who, what, s)
	if s := x.from; x.strikes(&s, faultStoreFail) {
		s.forget(who)
		then(&s, storeDown)
		x.may(who, what+", the store fails", s)
	}
	if s := x.from; x.strikes(&s, faultStoreLost) {
		s.forget(who)
		if do(&s) == storeDone {
			then(&s, storeDown)
			x.may(who, what+", its answer is lost", s)
		}
	}
}

// get reads the record, which may come out of the replica's cache.
func (x *expansion) get(i uint8, what string, then func(*modelState, modelRecord, storeAnswer)) {
	s := x.from
	rec := s.rec
	if s.cache[i].there {
		rec = s.cache[i]
	}
	if rec.there {
		then(&s, rec, storeDone)
	} else {
		then(&s, rec, storeNone)
	}
	x.will(i+1, what, s)
	if s := x.from; x.strikes(&s, faultStoreFail) {
		then(&s, modelRecord{}, storeDown)
		x.may(i+1, what+", the store fails", s)
	}
}

func (x *expansion) releaseLease(i uint8, what string, then func(*modelState)) {
	x.store(i+1, what, func(s *modelState) storeAnswer {
		if s.lease == modelOwner(i+1) {
			s.lease = ownedByNobody
		}
		return storeDone
	}, func(s *modelState, _ storeAnswer) { then(s) })
}

// forget drops what a replica has cached, as the cache does with every call but
// Get.
func (s *modelState) forget(who uint8) {
	if who <= 2 {
		s.cache[who-1] = modelRecord{}
	}
}

func (s *modelState) delete() { s.rec, s.lease = modelRecord{}, ownedByNobody }

// window is an auth server's reuse window.
type window uint8

const (
	noWindow     window = iota
	openWindow          // closes at some time
	secondWindow        // closes at some time, though not under the exchange that opened it
	longWindow          // stays open until the successor is used
)

// exchanged is the auth server's work (accounts.Store.Rotate). unavoidable says
// that whoever presents the token, or has presented it, lost its lease, or that
// nobody waits for the answer.
func (m model) exchanged(s *modelState, t modelToken, unavoidable bool) (modelToken, bool) {
	f := &s.families[t.family()]
	switch {
	case f.dead:
		return 0, false
	case !s.spent(t):
		f.issued++
		f.window = m.window != noWindow
		if f.issued > modelChain {
			panic("the model needs longer chains")
		}
		return newModelToken(t.family(), f.issued-1), true
	case t.generation()+2 == f.issued && f.window:
		f.expired = min(f.expired, f.issued-1) // the access token is a new one
		return newModelToken(t.family(), f.issued-1), true
	}
	f.dead = true
	reasons := f.astray
	if m.window == longWindow {
		reasons = 0
	}
	if m.strict || !unavoidable && reasons == 0 {
		s.breaks(neverTheft)
	}
	return 0, false
}

// lapsed reports whether a flight that has to do with the token's family has
// lost its lease.
func (s *modelState) lapsed(t modelToken) bool {
	for _, f := range s.flights {
		if f.at != atNothing && (f.lapsed || f.after) && f.rec.refresh.family() == t.family() {
			return true
		}
	}
	return false
}

// leave gives up an exchange that the auth server may still do.
func (s *modelState) leave(t modelToken) {
	if s.left[0] == 0 {
		s.left[0] = t
		return
	}
	s.left[1] = t
	if s.left[0] > s.left[1] {
		s.left[0], s.left[1] = s.left[1], s.left[0]
	}
}

// goesAstray notes that the pair that a flight has is lost.
func (s *modelState) goesAstray(i uint8, why modelFaults) {
	f := s.flights[i]
	if f.next == 0 {
		return
	}
	if !s.rec.there || s.rec.refresh != f.next {
		s.families[f.next.family()].astray |= why
	}
}

// strikes takes a fault from what may still come.
func (x *expansion) strikes(s *modelState, kind modelFaults) bool {
	if x.m.faults&kind == 0 || s.faults == 0 {
		return false
	}
	s.faults--
	return true
}

// others goes on with everything that is no request and no flight.
func (x *expansion) others() {
	x.authServer()
	x.time()
	x.arrivals()
	x.signOut()
	x.signIn()
	x.reseal()
	for i := range x.from.flights {
		x.crash(uint8(i))
	}
}

func (x *expansion) authServer() {
	s := x.from
	for i, t := range s.left {
		if t == 0 || i == 1 && t == s.left[0] {
			continue
		}
		s := s
		s.left[i] = 0
		if s.left[0] == 0 {
			s.left[0], s.left[1] = s.left[1], 0
		}
		if _, ok := x.m.exchanged(&s, t, true); ok {
			s.families[t.family()].astray |= faultLate
		}
		x.will(0, "the auth server does an exchange that was given up", s)
	}
	x.revocations(0, func(s *modelState) *modelRevocations { return &s.queued })
	for i := range s.hand {
		x.revocations(uint8(i+1), func(s *modelState) *modelRevocations { return &s.hand[i] })
	}
}

// revocations tries the first of some revocations, and looks at the first of
// those that are announced. It takes any replica, when the store can be asked;
// until then nothing happens. One that is announced is dropped if the device is
// signed in when it comes due, which is later than the call that announced it
// may take.
func (x *expansion) revocations(who uint8, of func(*modelState) *modelRevocations) {
	if s := x.from; of(&s).sure != (modelTokens{}) {
		t := of(&s).sure.first()
		of(&s).sure.take(t)
		x.m.revoked(&s, t)
		x.will(who, "revoke", s)
	}
	s := x.from
	if of(&s).announced == (modelTokens{}) {
		return
	}
	t := of(&s).announced.first()
	over := !s.rec.there || s.rec.ticket != t.family()
	ending := s.signOut.at == atSignOutDelete && s.signOut.read.family() == t.family() ||
		s.signIn.at == atSignInOverwrite && s.signIn.previous.refresh.family() == t.family()
	switch {
	case over, x.m.mutation == withBlindRevocation && !ending:
		of(&s).announced.take(t)
		x.m.revoked(&s, t)
		x.will(who, "revoke what was announced", s)
	case !ending, x.m.mutation == withHastyLook:
		of(&s).announced.take(t)
		x.will(who, "drop what was announced", s)
	}
}

// enqueue queues a pair, in the place of one that was announced if that is not
// zero. If the store does not take it, the replica keeps it in memory.
func (x *expansion) enqueue(i uint8, what string, t, announced modelToken, then func(*modelState)) {
	x.store(i+1, what, func(s *modelState) storeAnswer {
		s.queued.sure.put(t)
		if announced != 0 {
			s.queued.announced.take(announced)
		}
		return storeDone
	}, func(s *modelState, a storeAnswer) {
		if a == storeDown {
			s.hand[i].sure.put(t)
		}
		then(s)
	})
}

// announce queues a pair that is to be revoked unless its ticket opens the
// record when somebody looks.
func (x *expansion) announce(i uint8, what string, t modelToken, then func(*modelState)) {
	if x.m.mutation == withoutAnnouncement {
		s := x.from
		then(&s)
		x.will(i+1, "no announcement", s)
		return
	}
	x.store(i+1, what, func(s *modelState) storeAnswer {
		s.queued.announced.put(t)
		return storeDone
	}, func(s *modelState, a storeAnswer) {
		if a == storeDown {
			s.hand[i].announced.put(t)
		}
		then(s)
	})
}

// revoked is the auth server's work. Some end the family of any token that is
// revoked (accounts.Store.Revoke), others do not know a spent one any more.
func (m model) revoked(s *modelState, t modelToken) {
	f := &s.families[t.family()]
	if f.dead || s.spent(t) && !m.endsFamily {
		return
	}
	f.dead = true
	if s.rec.there && s.rec.refresh.family() == t.family() && !f.unwanted {
		s.breaks(neverInUse)
	}
}

func (x *expansion) time() {
	s := x.from
	if s.lease != ownedByNobody {
		x.lapse()
	}
	for i := range s.cache {
		if s.cache[i].there {
			s := s
			s.cache[i] = modelRecord{}
			x.will(uint8(i+1), "the cache hears of the change", s)
		}
	}
	for i := range s.families {
		f := &s.families[i]
		if f.window && !f.dead && (x.m.window == openWindow || x.m.window == secondWindow && !s.exchanging(uint8(i))) {
			s := s
			s.families[i].window = false
			x.may(0, "the reuse window closes", s)
		}
		if s.expiries > 0 && f.expired < f.issued {
			s := s
			s.expiries--
			s.families[i].expired = f.issued
			x.may(0, "the access token expires", s)
		}
	}
}

// exchanging reports whether the flight that a family's head was given to is
// still in its exchange.
func (s *modelState) exchanging(family uint8) bool {
	head := newModelToken(family, s.families[family].issued-1)
	for _, f := range s.flights {
		if (f.at == atExchange || f.at == atExchangeAnswer || f.at == atExchangeRenew) && f.next == head {
			return true
		}
	}
	return false
}

// lapse ends a lease. It is in the nature of one that its holder has left behind
// or need not have any more, and a fault while its holder relies on it: then the
// holder stood still for longer than the lease is, or could not reach the store.
func (x *expansion) lapse() {
	s := x.from
	holder := s.lease
	s.lease = ownedByNobody
	reliedOn := false
	switch holder {
	case ownedByReseal:
		reliedOn = s.reseal.at == atKeepReplace
	case ownedByDead:
		if x.m.mutation == withLeaseBeyondWindow {
			s.families[0].window = false
		}
	default:
		f := &s.flights[holder-1]
		switch f.at {
		case atExchange, atExchangeAnswer, atExchangeRenew, atKeepReplace, atKeepGet:
			reliedOn = x.m.mutation != withoutRenewal
			f.lapsed = reliedOn
		}
	}
	switch {
	case x.m.mutation == withoutLeaseExpiry && holder == ownedByDead:
	case !reliedOn:
		x.will(0, "the lease runs out", s)
	case x.strikes(&s, faultLapse):
		x.may(uint8(holder), "the lease is lost", s)
	}
}

func (x *expansion) arrivals() {
	s := x.from
	if s.probed || s.requests[0].at != atNothing && s.requests[1].at != atNothing {
		return
	}
	slot := 0
	if s.requests[0].at != atNothing {
		slot = 1
	}
	for ticket := range uint8(2) {
		if ticket == 1 && !s.signIn.done {
			continue
		}
		for i := range uint8(2) {
			s := s
			s.requests[slot] = modelRequest{at: atOpen, replica: i, ticket: ticket}
			x.may(i+1, "a request arrives", s)
		}
	}
}

// crash kills a replica. It starts again at once, under another name.
func (x *expansion) crash(i uint8) {
	s := x.from
	f := s.flights[i]
	signsOut, signsIn := i == 0 && s.signOut.at > atEnd, i == 1 && s.signIn.at > atEnd
	if f.at == atNothing && s.hand[i] == (modelRevocations{}) && !signsOut && !signsIn || !x.strikes(&s, faultCrash) {
		return
	}
	if s.lease == modelOwner(i+1) {
		s.lease = ownedByDead
	}
	s.goesAstray(i, faultCrash)
	if f.call == callSent && x.m.faults&faultLate != 0 && s.left[1] == 0 {
		s.leave(f.rec.refresh)
	}
	for slot := range s.requests {
		if s.requests[slot].replica == i {
			s.requests[slot] = modelRequest{}
		}
	}
	s.flights[i] = modelFlight{}
	for family := range s.families {
		if s.hand[i].sure[family]&^s.queued.sure[family] != 0 || s.hand[i].announced[family]&^s.queued.announced[family] != 0 {
			s.families[family].untold |= faultCrash
		}
	}
	s.hand[i], s.cache[i] = modelRevocations{}, modelRecord{}
	if signsOut {
		if s.signOut.went != 0 {
			x.movedOn(&s, faultCrash)
		}
		s.signOut.at, s.signOut.read, s.signOut.went = atEnd, 0, 0
	}
	if signsIn {
		if s.families[1].issued > 0 {
			s.families[1].untold |= faultCrash
		}
		s.signIn.at, s.signIn.previous, s.signIn.written = atEnd, modelRecord{}, false
	}
	x.may(i+1, "is killed", s)
}
