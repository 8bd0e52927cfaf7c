package usecase_test

// The steps of SignOut, at replica 1.
const (
	atSignOutGet modelStep = iota + atRefusedDelete + 1
	atSignOutAnnounce
	atSignOutDelete
	atSignOutRevoke // what went is another pair than was announced

	atSignInOpen
	atSignInGrant
	atSignInAnnounce
	atSignInOverwrite
	atSignInGet
	atSignInGetOwn // the Overwrite may have happened
	atSignInRevoke // it has failed, and the new pair is nobody's
)

func (x *expansion) signOut() {
	s := x.from
	over := func(s *modelState) { s.signOut.at, s.signOut.read, s.signOut.went = atEnd, 0, 0 }
	switch s.signOut.at {
	case atNothing:
		if x.m.signOut {
			s.signOut.at = atSignOutGet
			x.may(1, "somebody signs out", s)
		}
	case atSignOutGet:
		x.get(0, "signOut: own", func(s *modelState, rec modelRecord, a storeAnswer) {
			if a != storeDone {
				over(s)
				return
			}
			s.signOut.at, s.signOut.read = atSignOutAnnounce, rec.refresh
		})
	case atSignOutAnnounce:
		x.announce(0, "signOut: announce", s.signOut.read, func(s *modelState) { s.signOut.at = atSignOutDelete })
	case atSignOutDelete:
		x.store(1, "signOut: delete", func(s *modelState) storeAnswer {
			if !s.rec.there {
				return storeNone
			}
			s.signOut.went = s.rec.refresh
			s.delete()
			return storeDone
		}, func(s *modelState, a storeAnswer) {
			switch {
			case a == storeDown && s.signOut.went != 0:
				x.movedOn(s, faultStoreLost)
				over(s)
			case a == storeDone && (s.signOut.went != s.signOut.read || x.m.mutation == withoutAnnouncement):
				s.signOut.at = atSignOutRevoke
			default:
				over(s)
			}
		})
	case atSignOutRevoke:
		announced := s.signOut.read
		if announced.family() != s.signOut.went.family() {
			announced = 0
		}
		x.enqueue(0, "signOut: revoke what went", s.signOut.went, announced, over)
	}
}

// movedOn notes that the pair that a sign-out has deleted, and that nobody has any
// more, is not the one that it has announced. It does not matter where the
// announced one takes its family along.
func (x *expansion) movedOn(s *modelState, why modelFaults) {
	read, went := s.signOut.read, s.signOut.went
	if went != read && (went.family() != read.family() || !x.m.endsFamily) {
		s.families[went.family()].untold |= why
	}
}

// signIn is SignIn at replica 2 from the browser that has the device. If it
// cannot keep the device, it makes another, which is not looked at any more.
func (x *expansion) signIn() {
	s := x.from
	over := func(s *modelState) { s.signIn.at, s.signIn.previous, s.signIn.written = atEnd, modelRecord{}, false }
	another := func(s *modelState) {
		s.families[1].elsewhere = true
		over(s)
	}
	failed := func(s *modelState) {
		s.signIn.at, s.signIn.previous, s.signIn.written = atSignInRevoke, modelRecord{}, false
	}
	admitted := func(s *modelState) {
		over(s)
		s.signIn.done = true
	}
	switch s.signIn.at {
	case atNothing:
		if x.m.signIn {
			s.signIn.at = atSignInOpen
			x.may(2, "somebody signs in again", s)
		}
	case atSignInOpen:
		x.get(1, "signIn: open", func(s *modelState, rec modelRecord, a storeAnswer) {
			switch a {
			case storeDone:
				s.signIn.at, s.signIn.previous = atSignInGrant, rec
			default:
				s.signIn.at = atEnd
			}
		})
	case atSignInGrant:
		s.families[1].issued = 1
		s.signIn.at = atSignInAnnounce
		x.will(2, "signIn: the auth server grants", s)
	case atSignInAnnounce:
		x.announce(1, "signIn: announce", s.signIn.previous.refresh, func(s *modelState) { s.signIn.at = atSignInOverwrite })
	case atSignInOverwrite:
		x.store(2, "signIn: overwrite", func(s *modelState) storeAnswer {
			switch {
			case !s.rec.there:
				return storeNone
			case s.rec.version != s.signIn.previous.version:
				return storeConflict
			}
			s.rec = modelRecord{there: true, version: s.rec.version + 1, ticket: 1, refresh: newModelToken(1, 0)}
			s.lease = ownedByNobody
			return storeDone
		}, func(s *modelState, a storeAnswer) {
			switch a {
			case storeDone:
				admitted(s)
			case storeNone:
				another(s)
			case storeConflict:
				s.signIn.at = atSignInGet
			case storeDown:
				s.signIn.at, s.signIn.written = atSignInGetOwn, s.rec.ticket == 1
				if x.m.mutation == withoutOwnWrite {
					failed(s)
				}
			}
		})
	case atSignInGet:
		x.get(1, "signIn: get", func(s *modelState, rec modelRecord, a storeAnswer) {
			switch a {
			case storeDone:
				s.signIn.at, s.signIn.previous = atSignInAnnounce, rec
			case storeNone:
				another(s)
			default:
				failed(s)
			}
		})
	case atSignInGetOwn:
		x.get(1, "signIn: get", func(s *modelState, rec modelRecord, a storeAnswer) {
			switch {
			case a == storeDone && rec.ticket == 1:
				admitted(s)
			default:
				if a == storeDown && s.signIn.written {
					s.families[1].unwanted = true
				}
				failed(s)
			}
		})
	case atSignInRevoke:
		x.enqueue(1, "signIn: revoke the new pair", newModelToken(1, 0), 0, over)
	}
}

// reseal is reseal for the record, in a process of its own.
func (x *expansion) reseal() {
	s := x.from
	stop := func(s *modelState) { s.reseal.at, s.reseal.rec = atEnd, modelRecord{} }
	if at := s.reseal.at; at == atTakeLease || at == atKeepReplace || at == atRelease {
		if t := s; x.strikes(&t, faultCrash) {
			if t.lease == ownedByReseal {
				t.lease = ownedByDead
			}
			stop(&t)
			x.may(3, "is killed", t)
		}
	}
	switch s.reseal.at {
	case atNothing:
		if x.m.reseal {
			s.reseal.at = atTakeLease
			x.may(3, "the keys are rotated", s)
		}
	case atTakeLease:
		if s.rec.there && s.lease != ownedByNobody && s.lease != ownedByReseal {
			return // and looks again
		}
		x.store(3, "reseal: takeLease", func(s *modelState) storeAnswer {
			if !s.rec.there {
				return storeNone
			}
			s.lease = ownedByReseal
			return storeDone
		}, func(s *modelState, a storeAnswer) {
			stop(s)
			if a == storeDone {
				s.reseal.at, s.reseal.rec = atKeepReplace, s.rec
			}
		})
	case atKeepReplace:
		x.store(3, "reseal: replace", func(s *modelState) storeAnswer {
			switch {
			case !s.rec.there:
				return storeNone
			case s.rec.version != s.reseal.rec.version:
				return storeConflict
			}
			s.rec.version++
			s.rec.refresh = s.reseal.rec.refresh
			if s.lease == ownedByReseal {
				s.lease = ownedByNobody
			}
			return storeDone
		}, func(s *modelState, a storeAnswer) {
			switch a {
			case storeDone:
				stop(s)
			case storeConflict:
				s.reseal.at = atRelease
			default:
				s.reseal.at, s.reseal.rec = atRelease, modelRecord{}
			}
		})
	case atRelease:
		x.store(3, "reseal: release", func(s *modelState) storeAnswer {
			if s.lease == ownedByReseal {
				s.lease = ownedByNobody
			}
			return storeDone
		}, func(s *modelState, _ storeAnswer) {
			if s.reseal.rec.there {
				s.reseal.at, s.reseal.rec = atTakeLease, modelRecord{}
				return
			}
			stop(s)
		})
	}
}
