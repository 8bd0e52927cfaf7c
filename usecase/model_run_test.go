package usecase_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// modelRuns are the explorations that docs/refresh.md lists. In each, any number
// of requests comes to the two replicas, two at a time.
var modelRuns = []struct {
	name string
	model
}{
	{"refresh", model{faults: allFaults, strikes: 3, expiries: 1}},
	{"refresh, reuse window", model{window: openWindow, endsFamily: true, faults: allFaults, strikes: 2, expiries: 1}},
	{"refresh, reuse window that outlives the exchange", model{window: secondWindow, endsFamily: true, faults: allFaults, strikes: 2, expiries: 1}},
	{"refresh, long reuse window", model{window: longWindow, endsFamily: true, faults: allFaults, strikes: 2, expiries: 1}},
	{"sign-out", model{signOut: true, faults: allFaults, strikes: 2, expiries: 1}},
	{"sign-out, reuse window, cache", model{window: openWindow, endsFamily: true, cache: true, signOut: true, faults: allFaults, strikes: 1, expiries: 1}},
	{"second sign-in", model{signIn: true, faults: allFaults, strikes: 1, expiries: 1}},
	{"second sign-in, reuse window", model{window: openWindow, endsFamily: true, signIn: true, faults: allFaults, strikes: 2}},
	{"second sign-in, cache", model{cache: true, signIn: true, faults: allFaults, strikes: 1}},
	{"key rotation", model{reseal: true, faults: allFaults, strikes: 2}},
	{"all of these", model{signOut: true, signIn: true, reseal: true, faults: allFaults, strikes: 1}},
	{"sign-out and second sign-in, gentle faults", model{signOut: true, signIn: true, faults: gentleFaults, strikes: 2}},
}

// TestR9_R10_ModelOfTheRefresh explores everything that can happen to one device.
func TestR9_R10_ModelOfTheRefresh(t *testing.T) {
	doc, err := os.ReadFile("../docs/refresh.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range modelRuns {
		t.Run(run.name, func(t *testing.T) {
			t.Parallel()
			m := run.model
			brief := testing.Short() || modelRaced
			if brief {
				m.strikes, m.expiries = m.strikes-1, 0
			}
			r := explore(m)
			if r.broken != 0 {
				t.Fatal(r)
			}
			t.Log(r)
			row := fmt.Sprintf("| %s | %d | %s | %d |", run.name, m.strikes, thousands(r.states), r.longest)
			if !brief && !strings.Contains(string(doc), row) {
				t.Errorf("docs/refresh.md does not have the line\n%s", row)
			}
		})
	}
}

func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// TestModelWhatCostsASession holds the table of docs/refresh.md: after which
// fault alone the auth server may see a token twice and end the session.
func TestModelWhatCostsASession(t *testing.T) {
	for _, c := range []struct {
		fault                          modelFaults
		strikes                        uint8
		none, closing, second, staying bool // by the auth server's window
	}{
		{faultCut, 2, false, false, false, false},
		{faultStoreFail, 2, false, false, false, false},
		{faultStoreLost, 2, false, false, false, false},
		{faultLost, 1, true, true, false, false},
		{faultLost, 2, true, true, true, false},
		{faultCrash, 1, true, true, true, false},
		{faultCrash, 2, true, true, true, false},
		{faultGiveUp, 1, true, true, true, false},
		{faultGiveUp, 2, true, true, true, false},
		{faultLate, 1, true, true, true, true},
		{faultLapse, 1, true, true, true, true},
	} {
		for w, want := range [...]bool{noWindow: c.none, openWindow: c.closing, secondWindow: c.second, longWindow: c.staying} {
			r := explore(model{window: window(w), faults: c.fault, strikes: c.strikes, expiries: 1, strict: true})
			if got := r.broken == neverTheft; got != want || !got && r.broken != 0 {
				t.Errorf("fault %#x %d times, window %d: a session is lost: %t, want %t; %v", c.fault, c.strikes, w, got, want, r)
			}
		}
	}
}

// TestModelNoticesWhatIsMissing takes one thing at a time out of the protocol.
func TestModelNoticesWhatIsMissing(t *testing.T) {
	for _, c := range []struct {
		what     string
		mutation mutation
		model    model
		want     modelInvariant
	}{
		{"the record is not read again under the lease", withoutReadUnderLease, model{}, neverTheft},
		{"no lease is taken", withoutLease, model{}, neverTheft},
		{"no lease is taken", withoutLease, model{}, neverFaulty},
		{"the lease is not renewed", withoutRenewal, model{}, neverTheft},
		{"the lease is not renewed", withoutRenewal, model{}, neverSpent},
		{"the lease is given back before the pair is stored", withLeaseBackTooEarly, model{}, neverSpent},
		{"the lease of a process that died lasts for ever", withoutLeaseExpiry, model{faults: faultCrash, strikes: 1}, neverStuck},
		{"the lease lasts longer than the reuse window", withLeaseBeyondWindow, model{window: longWindow, faults: faultCrash, strikes: 1}, neverTheft},
		{"a token is fresh for takeLease and not for refreshOnce", withClockReadTwice, model{signIn: true, expiries: 1}, neverSpent},
		{"a token that has expired is fresh", withExpiredTokens, model{expiries: 1}, neverStale},
		{"the pair is written without a look at the version", withBlindWrite, model{signIn: true}, neverMixed},
		{"the pair is written even if the record is gone", withUpsert, model{signOut: true}, neverBack},
		{"a store that fails is not asked again", withoutStoreRetry, model{faults: faultStoreFail, strikes: 1}, neverTheft},
		{"a conflict is taken for a sign-out", withoutGetOnConflict, model{faults: faultStoreLost, strikes: 1}, neverSent},
		{"a conflict is tried again with the old version", withoutNewVersion, model{reseal: true, faults: faultLapse, strikes: 1}, neverLoops},
		{"the pair that comes late is not revoked", withoutRevocationOfLatePair, model{signOut: true}, neverAlive},
		{"the pair is revoked upon a conflict", withRevocationOnConflict, model{window: longWindow, endsFamily: true, faults: faultStoreLost, strikes: 1, expiries: 1}, neverInUse},
		{"a refusal ends the device at once", withoutGetOnRefusal, model{signIn: true}, neverEnded},
		{"a refusal ends the device whatever its version", withDeleteOfAnyVersion, model{signIn: true, faults: faultLapse, strikes: 1}, neverEnded},
		{"a refusal ends nothing", withoutEndOnRefusal, model{faults: faultLost, strikes: 1}, neverLeft},
		{"an outage ends the device", withEndOnOutage, model{faults: faultCut, strikes: 1}, neverEnded},
		{"the refresh ends with the caller who began it", withFlightOfCaller, model{}, neverTheft},
		{"an answer that was lost is not asked for again", withoutSecondCall, model{window: secondWindow, faults: faultLost, strikes: 1, expiries: 1}, neverTheft},
		{"the record is not opened again after a flight of another sign-in", withoutSecondOpen, model{signIn: true, expiries: 1}, neverSent},
		{"a cache is believed that a ticket does not fit", withoutForget, model{signIn: true, cache: true}, neverSent},
		{"the lease is not given back after an outage", withoutRelease, model{faults: faultCut, strikes: 1}, neverHeld},
		{"the lease is not given back when the store fails", withoutRelease, model{faults: faultLost | faultStoreFail, strikes: 2}, neverHeld},
		{"a sign-out announces nothing, and its answer is lost", withoutAnnouncement, model{signOut: true, faults: faultStoreLost, strikes: 1}, neverAlive},
		{"a sign-out announces nothing, and its process is killed", withoutAnnouncement, model{signOut: true, faults: faultCrash, strikes: 1}, neverAlive},
		{"a second sign-in announces nothing, and its process is killed", withoutAnnouncement, model{signIn: true, faults: faultCrash, strikes: 1}, neverAlive},
		{"what was announced is revoked without a look", withBlindRevocation, model{signOut: true, faults: faultStoreFail, strikes: 1}, neverInUse},
		{"what was announced comes due before the device has ended", withHastyLook, model{signOut: true, faults: faultCrash, strikes: 1}, neverAlive},
		{"a sign-in does not know its own write", withoutOwnWrite, model{signIn: true, faults: faultStoreLost, strikes: 1}, neverInUse},
		{"the ticket is not compared after the wait", withoutTicketCheck, model{signIn: true}, neverOther},
	} {
		t.Run(c.what+": "+c.want.String(), func(t *testing.T) {
			m := c.model
			m.only = c.want
			if r := explore(m); r.broken != 0 {
				t.Fatalf("it fails without that, too: %v", r)
			}
			m.mutation = c.mutation
			if r := explore(m); r.broken != c.want {
				t.Errorf("found: %v; want: %v", r, c.want)
			}
		})
	}
}
