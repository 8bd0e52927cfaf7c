package web

import (
	"strconv"
	"time"
)

// activeWithin is how fresh a sign of life is to count as "active now". It is
// longer than the pause between two writes of last seen.
const activeWithin = 3 * time.Minute

// stamp is a moment as a page shows it.
type stamp struct {
	Text  string // in words, seen from now
	Exact string // to the minute, with the zone's name
	ISO   string // for machines; empty if the moment is not known
}

func newStamp(t, now time.Time, words func(t, now time.Time) string) stamp {
	if t.IsZero() {
		return stamp{Text: "unknown"}
	}
	return stamp{
		Text:  words(t, now),
		Exact: t.In(now.Location()).Format("2 Jan 2006, 15:04 MST"),
		ISO:   t.UTC().Format(time.RFC3339),
	}
}

// lastActive words how long ago t was, more coarsely the longer it is. A
// moment that has not come yet is another machine's clock, and counts as now.
// The script words it anew while a page stays open: cloakroom.js, lastActive.
func lastActive(t, now time.Time) string {
	switch ago := now.Sub(t); {
	case ago < activeWithin:
		return "active now"
	case ago < time.Hour:
		return strconv.Itoa(int(ago/time.Minute)) + " minutes ago"
	}
	return day(t, now)
}

// day names the calendar day of t, past or to come, in the location of now.
func day(t, now time.Time) string {
	t = t.In(now.Location())
	switch midnight(t).Sub(midnight(now)) / (24 * time.Hour) {
	case -1:
		return "yesterday"
	case 0:
		return "today"
	case 1:
		return "tomorrow"
	}
	if t.Year() != now.Year() {
		return t.Format("2 Jan 2006")
	}
	return t.Format("2 Jan")
}

// midnight is in UTC, whatever the location of t: there every day has 24 hours.
func midnight(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
}
