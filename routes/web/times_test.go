package web

import (
	"testing"
	"time"
	_ "time/tzdata" // the test of a day with 23 hours needs no time zones on the machine
)

func at(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		panic(err)
	}
	return t
}

func TestLastActive(t *testing.T) {
	now := at("2026-03-12 09:30:00")
	for _, c := range []struct {
		name string
		t    time.Time
		want string
	}{
		{"this moment", now, "active now"},
		{"just within", now.Add(-3*time.Minute + time.Millisecond), "active now"},
		{"three minutes", now.Add(-3 * time.Minute), "3 minutes ago"},
		{"cut, not rounded", now.Add(-13*time.Minute + time.Millisecond), "12 minutes ago"},
		{"just within the hour", now.Add(-time.Hour + time.Millisecond), "59 minutes ago"},
		{"an hour", now.Add(-time.Hour), "today"},
		{"first of the day", at("2026-03-12 00:00:00"), "today"},
		{"last of the day before", at("2026-03-11 23:59:59"), "yesterday"},
		{"two days", at("2026-03-10 23:59:59"), "10 Mar"},
		{"first of the year", at("2026-01-01 00:00:00"), "1 Jan"},
		{"last year", at("2025-12-31 23:59:59"), "31 Dec 2025"},
		{"a clock that is ahead", now.Add(time.Hour), "active now"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := lastActive(c.t, now); got != c.want {
				t.Errorf("lastActive(%v) = %q, want %q", c.t, got, c.want)
			}
		})
	}
}

func TestDay(t *testing.T) {
	now := at("2026-12-31 09:30:00")
	for _, c := range []struct {
		t    time.Time
		want string
	}{
		{at("2026-12-31 23:59:59"), "today"},
		{at("2027-01-01 00:00:00"), "tomorrow"},
		{at("2027-01-02 00:00:00"), "2 Jan 2027"},
		{at("2026-12-30 00:00:00"), "yesterday"},
		{at("2026-12-29 23:59:59"), "29 Dec"},
		{at("2026-03-12 12:00:00"), "12 Mar"},
	} {
		if got := day(c.t, now); got != c.want {
			t.Errorf("day(%v) = %q, want %q", c.t, got, c.want)
		}
	}
}

// A day is what the reader's calendar says, also on the day that has 23 hours.
func TestDayGoesByTheLocationOfNow(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 29, 23, 30, 0, 0, berlin) // summer time began this morning
	for _, c := range []struct {
		t    time.Time
		want string
	}{
		{at("2026-03-28 23:00:00"), "today"}, // midnight in Berlin
		{at("2026-03-28 22:59:59"), "yesterday"},
		{at("2026-03-27 22:59:59"), "27 Mar"},
		{at("2026-03-29 22:00:00"), "tomorrow"},
	} {
		if got := day(c.t, now); got != c.want {
			t.Errorf("day(%v) = %q, want %q", c.t, got, c.want)
		}
	}
}

func TestStamp(t *testing.T) {
	now := at("2026-03-12 09:30:00")
	want := stamp{Text: "12 minutes ago", Exact: "12 Mar 2026, 09:18 UTC", ISO: "2026-03-12T09:18:00Z"}
	if got := newStamp(now.Add(-12*time.Minute), now, lastActive); got != want {
		t.Errorf("stamp %+v, want %+v", got, want)
	}
	if got := newStamp(time.Time{}, now, lastActive); got != (stamp{Text: "unknown"}) {
		t.Errorf("stamp of no time: %+v", got)
	}
}
