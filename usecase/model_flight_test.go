package usecase_test

// The steps of a request and of a flight. Each has the name of the function of
// accesstoken.go or refresh.go in which it happens, and is one thing that
// nothing can come between: one call of the store, or one event of an exchange.
const (
	atNothing modelStep = iota
	atEnd

	atOpen // of a request: read the record and compare the ticket
	atRefresh
	atWait // for the flight

	atTakeLease
	atTakeLeaseRelease // it is fresh: give the lease back
	atAgainFresh
	atExchange
	atExchangeAnswer
	atExchangeRenew // the answer is lost
	atRelease       // the exchange did not get through, or the flight ends otherwise with its lease
	atKeepReplace
	atKeepGet
	atKeepRevoke
	atRefusedGet
	atRefusedRelease
	atRefusedDelete
)

const modelAttempts = 3 // refreshAttempts

// mutation is a departure from the code, to see that the checker notices.
// TestModelNoticesWhatIsMissing has a sentence about each.
type mutation uint8

const (
	faithful mutation = iota
	withoutReadUnderLease
	withoutLease
	withoutRenewal
	withLeaseBackTooEarly
	withClockReadTwice
	withBlindWrite
	withUpsert
	withoutStoreRetry
	withoutGetOnConflict
	withoutRevocationOfLatePair
	withRevocationOnConflict
	withoutGetOnRefusal
	withDeleteOfAnyVersion
	withEndOnOutage
	withFlightOfCaller
	withoutTicketCheck
	withoutLeaseExpiry
	withLeaseBeyondWindow
	withoutEndOnRefusal
	withoutNewVersion
	withExpiredTokens
	withoutSecondCall
	withoutSecondOpen
	withoutForget
	withoutRelease
	withoutAnnouncement
	withBlindRevocation
	withHastyLook
	withoutOwnWrite
)

// request goes on with a request.
func (x *expansion) request(slot uint8) {
	s := x.from
	r := s.requests[slot]
	switch r.at {
	case atOpen:
		x.get(r.replica, "open", func(s *modelState, rec modelRecord, a storeAnswer) {
			switch {
			case a == storeDown:
				s.tell(slot, toldStore)
			case a == storeDone && rec.ticket != r.ticket && s.cache[r.replica].there && x.m.mutation != withoutForget:
				s.cache[r.replica] = modelRecord{} // and ask the store
			case a == storeNone, rec.ticket != r.ticket:
				s.tell(slot, toldBadTicket)
			default:
				s.requests[slot].stale = rec.refresh
				s.requests[slot].at = atRefresh
			}
		})
	case atRefresh:
		begin := func(s *modelState) string {
			s.requests[slot].at = atWait
			if s.flights[r.replica].at != atNothing {
				return "join the flight"
			}
			s.flights[r.replica] = modelFlight{at: atTakeLease, stale: r.stale, expired: s.families[r.stale.family()].expired}
			return "begin a flight"
		}
		if !s.usable(r.stale) {
			x.will(r.replica+1, begin(&s), s)
			break
		}
		if t := s; t.expiries > 0 {
			// The upstream has rejected it, or refreshBehind has begun: somebody
			// waits for that here, which is no less.
			t.expiries--
			t.requests[slot].rejected = true
			x.may(r.replica+1, begin(&t), t)
		}
		s.tell(slot, toldToken)
		x.will(r.replica+1, "use the token", s)
	case atWait:
		if x.m.mutation == withFlightOfCaller {
			t := s
			t.tell(slot, toldNothing)
			t.flights[r.replica] = modelFlight{}
			x.will(r.replica+1, "the caller hangs up", t)
		}
	}
}

// tell ends a request.
func (s *modelState) tell(slot uint8, what modelResult) {
	r := s.requests[slot]
	switch what {
	case toldToken:
		if r.stale.family() != r.ticket {
			s.breaks(neverOther)
		}
	case toldBadTicket, toldSignedOut:
		joined := s.flights[r.replica].stale
		excused := what == toldBadTicket && r.rejected && r.at == atWait && joined.family() != r.ticket
		if s.rec.there && s.rec.ticket == r.ticket && !excused {
			s.breaks(neverSent)
		}
	}
	if s.probed {
		s.told = what
	}
	s.requests[slot] = modelRequest{}
}

// end ends a flight and tells all who wait for it, each of whom compares its own
// ticket and opens the record once more if the flight was of another sign-in.
func (x *expansion) end(s *modelState, i uint8, what modelResult, rec modelRecord) {
	if f := s.flights[i]; what == toldToken && rec.refresh.family() == f.stale.family() && rec.refresh.generation() < min(f.expired, s.families[f.stale.family()].expired) {
		s.breaks(neverStale)
	}
	if s.lease == modelOwner(i+1) && s.faults == x.from.faults && s.flights[i].at != atKeepGet && s.flights[i].at != atKeepRevoke {
		s.breaks(neverHeld)
	}
	for slot := range s.requests {
		r := &s.requests[slot]
		if r.at != atWait || r.replica != i {
			continue
		}
		told := what
		if what == toldToken {
			r.stale = rec.refresh
			if rec.ticket != r.ticket && x.m.mutation != withoutTicketCheck {
				told = toldBadTicket
				if !r.again && !r.rejected && x.m.mutation != withoutSecondOpen {
					*r = modelRequest{at: atOpen, replica: i, ticket: r.ticket, again: true}
					continue
				}
			}
		}
		s.tell(uint8(slot), told)
	}
	s.flights[i] = modelFlight{}
}

// fresh is Broker.fresh.
func (x *expansion) fresh(s *modelState, rec modelRecord, stale modelToken) bool {
	return rec.refresh != stale && (s.usable(rec.refresh) || x.m.mutation == withExpiredTokens)
}

// flight goes on with the flight of a replica.
func (x *expansion) flight(i uint8) {
	s, me := x.from, i+1
	f := s.flights[i]
	switch f.at {
	case atTakeLease:
		x.takeLease(i)
	case atTakeLeaseRelease:
		x.releaseLease(i, "takeLease: release", func(s *modelState) { x.end(s, i, toldToken, f.rec) })
	case atAgainFresh:
		t := s
		if x.fresh(&t, f.rec, f.stale) {
			x.end(&t, i, toldToken, f.rec)
		} else {
			t.flights[i].at = atExchange
		}
		x.will(me, "refreshOnce: fresh", t)
	case atExchange:
		t := s
		t.flights[i].at, t.flights[i].call = atExchangeAnswer, callSent
		x.will(me, "exchange: send", t)
	case atExchangeAnswer:
		x.exchange(i)
	case atExchangeRenew:
		x.renewForSecondCall(i)
	case atRelease:
		if x.m.mutation == withoutRelease {
			t := s
			x.end(&t, i, f.tells, modelRecord{})
			x.will(me, "no release", t)
			break
		}
		x.releaseLease(i, "release", func(s *modelState) { x.end(s, i, f.tells, modelRecord{}) })
	case atKeepReplace, atKeepGet:
		x.keep(i)
	case atKeepRevoke:
		x.enqueue(i, "keep: revoke", f.next, 0, func(s *modelState) { x.end(s, i, f.tells, f.rec) })
	case atRefusedGet, atRefusedRelease, atRefusedDelete:
		x.refused(i)
	}
}

func (x *expansion) takeLease(i uint8) {
	s, me := x.from, modelOwner(i+1)
	f := s.flights[i]
	free := s.lease == ownedByNobody || s.lease == me || x.m.mutation == withoutLease
	if s.rec.there && !free && !x.fresh(&s, s.rec, f.stale) {
		// It looks again and again, until its time is over.
		x.end(&s, i, toldUnavailable, modelRecord{})
		x.may(i+1, "takeLease: waited for too long", s)
		return
	}
	x.store(i+1, "takeLease", func(s *modelState) storeAnswer {
		switch {
		case !s.rec.there:
			return storeNone
		case !free:
			return storeHeld
		}
		s.lease = me
		return storeDone
	}, func(s *modelState, a storeAnswer) {
		f := &s.flights[i]
		switch {
		case a == storeDown:
			x.end(s, i, toldStore, modelRecord{})
		case a == storeNone:
			x.end(s, i, toldSignedOut, modelRecord{})
		case x.m.mutation == withoutReadUnderLease:
			f.rec, f.at = modelRecord{there: true, version: s.rec.version, ticket: f.stale.family(), refresh: f.stale}, atExchange
		case a == storeHeld && x.m.mutation == withClockReadTwice:
			f.rec, f.at = s.rec, atAgainFresh
		case a == storeHeld:
			x.end(s, i, toldToken, s.rec)
		default:
			f.rec, f.at, f.lapsed, f.after = s.rec, atExchange, false, s.lapsed(s.rec.refresh)
			if x.fresh(s, f.rec, f.stale) {
				f.at = atTakeLeaseRelease
			}
		}
	})
}

func (x *expansion) exchange(i uint8) {
	s, me := x.from, i+1
	f := s.flights[i]
	token := f.rec.refresh
	unavailable := func(s *modelState) {
		if x.m.mutation == withEndOnOutage {
			s.flights[i].at, s.flights[i].call = atRefusedGet, callNone
			return
		}
		if f.again {
			s.goesAstray(i, faultLost)
		}
		s.flights[i] = modelFlight{at: atRelease, tells: toldUnavailable}
	}
	lost := func(s *modelState) {
		if f.again || x.m.mutation == withoutSecondCall {
			unavailable(s)
			return
		}
		s.flights[i].at, s.flights[i].call, s.flights[i].again = atExchangeRenew, callNone, true
	}
	switch f.call {
	case callSent:
		t := s
		if next, ok := x.m.exchanged(&t, token, s.lapsed(token)); ok {
			t.flights[i].call, t.flights[i].next = callGranted, next
		} else {
			t.flights[i].call = callRefused
		}
		x.will(me, "the auth server does the exchange", t)
		if t := s; x.strikes(&t, faultCut) {
			unavailable(&t)
			x.may(me, "the exchange does not get through", t)
		}
		if t := s; t.left[1] == 0 && x.strikes(&t, faultLate) {
			t.leave(token)
			lost(&t)
			x.may(me, "the exchange takes too long", t)
		}
	case callGranted, callRefused:
		t := s
		t.flights[i].call, t.flights[i].again = callNone, false
		t.flights[i].at = atKeepReplace
		if f.call == callRefused {
			t.flights[i].at = atRefusedGet
		} else if x.m.mutation == withLeaseBackTooEarly && t.lease == modelOwner(me) {
			t.lease = ownedByNobody
		}
		x.will(me, "exchange: answer", t)
		if t := s; x.strikes(&t, faultLost) {
			if f.call == callGranted && x.m.window != secondWindow {
				t.families[token.family()].astray |= faultLost
			}
			lost(&t)
			x.may(me, "the answer of the exchange is lost", t)
		}
	}
}

// renewForSecondCall finds out whether the lease is still there before a lost
// answer is asked for again.
func (x *expansion) renewForSecondCall(i uint8) {
	x.store(i+1, "exchange: renew", func(s *modelState) storeAnswer {
		switch {
		case !s.rec.there:
			return storeNone
		case s.lease != modelOwner(i+1) && x.m.mutation != withoutLease:
			return storeHeld
		}
		return storeDone
	}, func(s *modelState, a storeAnswer) {
		f := &s.flights[i]
		if a == storeDone || a == storeDown {
			f.at = atExchange
			return
		}
		// Whoever has the lease now may not need the pair that got lost, and the
		// window may close before somebody does.
		s.goesAstray(i, faultLost)
		f.at, f.again, f.attempt = atTakeLease, false, f.attempt+1
		if f.attempt == modelAttempts {
			s.flights[i] = modelFlight{at: atRelease, tells: toldUnavailable}
		}
	})
}

func (x *expansion) keep(i uint8) {
	s, me := x.from, modelOwner(i+1)
	if t := s; x.strikes(&t, faultGiveUp) {
		t.goesAstray(i, faultGiveUp)
		x.end(&t, i, toldStore, modelRecord{})
		x.may(i+1, "keep: the store stays away", t)
	}
	again := func(s *modelState) {
		s.flights[i].at = atKeepReplace
		if x.m.mutation == withoutStoreRetry {
			x.end(s, i, toldStore, modelRecord{})
		}
	}
	gone := func(s *modelState) {
		x.revokeLate(s, i, toldSignedOut, modelRecord{})
	}
	if s.flights[i].at == atKeepGet {
		x.get(i, "keep: get", func(s *modelState, cur modelRecord, a storeAnswer) {
			f := &s.flights[i]
			switch {
			case a == storeDown:
				again(s)
			case a == storeNone:
				gone(s)
			case cur.ticket != f.rec.ticket || cur.refresh != f.rec.refresh:
				x.overtaken(s, i, cur)
			default:
				f.rec = cur
				again(s)
			}
		})
		return
	}
	x.store(i+1, "keep: replace", func(s *modelState) storeAnswer {
		f := s.flights[i]
		switch {
		case !s.rec.there && x.m.mutation != withUpsert:
			return storeNone
		case s.rec.version != f.rec.version && x.m.mutation != withBlindWrite && x.m.mutation != withUpsert:
			return storeConflict
		}
		s.rec = modelRecord{there: true, version: s.rec.version + 1, ticket: s.rec.ticket, refresh: f.next}
		if s.lease == me {
			s.lease = ownedByNobody
		}
		if !s.spent(f.next) {
			s.families[f.next.family()].astray = 0
		}
		return storeDone
	}, func(s *modelState, a storeAnswer) {
		f := &s.flights[i]
		switch {
		case a == storeDown:
			again(s)
		case a == storeNone:
			gone(s)
		case a == storeConflict && x.m.mutation == withoutGetOnConflict:
			x.end(s, i, toldSignedOut, modelRecord{})
		case a == storeConflict && x.m.mutation == withoutNewVersion:
		case a == storeConflict:
			f.at = atKeepGet
		default:
			x.end(s, i, toldToken, modelRecord{there: true, version: f.rec.version + 1, ticket: f.rec.ticket, refresh: f.next})
		}
	})
}

func (x *expansion) overtaken(s *modelState, i uint8, cur modelRecord) {
	f := s.flights[i]
	switch {
	case cur.refresh == f.next:
	case cur.ticket != f.rec.ticket, x.m.mutation == withRevocationOnConflict:
		x.revokeLate(s, i, toldToken, cur)
		return
	}
	x.end(s, i, toldToken, cur)
}

// revokeLate has a flight revoke the pair that it has brought, and then tell.
func (x *expansion) revokeLate(s *modelState, i uint8, tells modelResult, rec modelRecord) {
	if x.m.mutation == withoutRevocationOfLatePair {
		x.end(s, i, tells, rec)
		return
	}
	f := &s.flights[i]
	f.at, f.tells, f.rec = atKeepRevoke, tells, rec
}

func (x *expansion) refused(i uint8) {
	again := func(s *modelState) {
		f := &s.flights[i]
		f.at, f.attempt = atTakeLease, f.attempt+1
		if f.attempt == modelAttempts {
			s.flights[i] = modelFlight{at: atRelease, tells: toldUnavailable}
		}
	}
	unknown := func(s *modelState) { s.flights[i] = modelFlight{at: atRelease, tells: toldStore} }
	switch x.from.flights[i].at {
	case atRefusedGet:
		if x.m.mutation == withoutGetOnRefusal {
			t := x.from
			t.flights[i].at = atRefusedDelete
			x.will(i+1, "refused: no get", t)
			return
		}
		x.get(i, "refused: get", func(s *modelState, cur modelRecord, a storeAnswer) {
			f := &s.flights[i]
			switch {
			case a == storeDown:
				unknown(s)
			case a == storeNone:
				x.end(s, i, toldSignedOut, modelRecord{})
			case cur.refresh != f.rec.refresh, x.m.mutation == withoutEndOnRefusal:
				f.rec, f.at = cur, atRefusedRelease
			default:
				f.rec.version, f.at = cur.version, atRefusedDelete
			}
		})
	case atRefusedRelease:
		x.releaseLease(i, "refused: release", func(s *modelState) {
			if f := s.flights[i]; x.fresh(s, f.rec, f.stale) {
				x.end(s, i, toldToken, f.rec)
				return
			}
			again(s)
		})
	case atRefusedDelete:
		x.store(i+1, "refused: delete", func(s *modelState) storeAnswer {
			anyVersion := x.m.mutation == withDeleteOfAnyVersion || x.m.mutation == withoutGetOnRefusal
			switch {
			case !s.rec.there:
				return storeNone
			case s.rec.version != s.flights[i].rec.version && !anyVersion:
				return storeConflict
			}
			if !s.families[s.rec.refresh.family()].dead {
				s.breaks(neverEnded)
			}
			if f := s.families[s.rec.refresh.family()]; x.m.faults&^gentleFaults == 0 && !f.unwanted {
				s.breaks(neverFaulty)
			}
			s.delete()
			return storeDone
		}, func(s *modelState, a storeAnswer) {
			switch a {
			case storeConflict:
				again(s)
			case storeDown:
				unknown(s)
			default:
				x.end(s, i, toldSignedOut, modelRecord{})
			}
		})
	}
}
