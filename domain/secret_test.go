package domain_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"cloakroom/domain"
)

const hidden = "hunter2-the-token"

// TestR8_SecretIsNeverPrinted goes through the ways in which a value usually
// ends up in a log or an answer.
func TestR8_SecretIsNeverPrinted(t *testing.T) {
	s := domain.NewSecret(hidden)
	nested := struct {
		Public  domain.Secret
		private domain.Secret
		list    []domain.Secret
		byName  map[string]domain.Secret
	}{s, s, []domain.Secret{s}, map[string]domain.Secret{"a": s}}
	record := domain.Record{Tokens: domain.Tokens{Access: s, Refresh: s, ID: s}}

	var out strings.Builder
	for _, v := range []any{s, &s, nested, &nested, record, &record, []any{s}, fmt.Errorf("wrapped: %v", s)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("m", "v", v, slog.Group("g", "v", v))
		}
		b, _ := json.Marshal(v)
		out.Write(b)
		b, _ = xml.Marshal(v)
		out.Write(b)
	}
	for _, leak := range []string{hidden, fmt.Sprintf("%x", hidden), fmt.Sprintf("%X", hidden), fmt.Sprint([]byte(hidden))} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("a Secret was printed as %q in:\n%s", leak, out.String())
		}
	}
	if !strings.Contains(out.String(), "[redacted]") {
		t.Error("nothing was printed as [redacted]")
	}
	if got := s.Reveal(); got != hidden {
		t.Errorf("Reveal() = %q, want the text", got)
	}
}

func TestSecretEqual(t *testing.T) {
	a, b := domain.NewSecret("x"), domain.NewSecret("x")
	if !a.Equal(b) || a.Equal(domain.NewSecret("y")) || a.Equal(domain.Secret{}) {
		t.Error("Equal does not compare the texts")
	}
	if !domain.NewSecret("").Empty() || !reflect.DeepEqual(domain.NewSecret(""), domain.Secret{}) {
		t.Error("the Secret of an empty text is not the zero Secret")
	}
}

// TestR15_TicketIsRandomAndKeptAsHash also holds R17: the length is constant
// and far below what a browser keeps.
func TestR15_TicketIsRandomAndKeptAsHash(t *testing.T) {
	id, err := domain.NewDeviceID(bytes.NewReader(bytes.Repeat([]byte{7}, 16)))
	if err != nil {
		t.Fatal(err)
	}
	a, err := domain.NewTicket(id, bytes.NewReader(bytes.Repeat([]byte{1}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := domain.NewTicket(id, bytes.NewReader(bytes.Repeat([]byte{2}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Reveal()) != 80 {
		t.Errorf("a ticket has %d characters, want 80", len(a.Reveal()))
	}
	back, err := domain.ParseTicket(a.Reveal())
	if err != nil || back.Reveal() != a.Reveal() || back.DeviceID != id {
		t.Errorf("ParseTicket(Reveal()) = %v, %v", back, err)
	}
	if !a.Hash().Opens(back) || a.Hash().Opens(b) || (domain.TicketHash{}).Opens(domain.Ticket{}) {
		t.Error("the hash opens for the wrong ticket, or not for the right one")
	}
	_, secret, _ := strings.Cut(a.Reveal(), ".")
	raw := bytes.Repeat([]byte{1}, 32)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		printed := fmt.Sprintf(verb+verb, a, struct{ t domain.Ticket }{a})
		for _, leak := range []string{secret, string(raw), fmt.Sprintf("%x", raw), strings.Trim(fmt.Sprint(raw), "[]"), strings.Trim(fmt.Sprintf("%s", *(*[32]byte)(raw)), "[]")} {
			if strings.Contains(printed, leak) {
				t.Errorf("a ticket printed its secret by %s: %s", verb, printed)
			}
		}
	}
	if _, err := domain.NewTicket(id, bytes.NewReader(nil)); err == nil {
		t.Error("a ticket was made without randomness")
	}
}

func TestParseTicketRefuses(t *testing.T) {
	good := "0b0c0d0e-0001-4203-8405-060708090a0b." + strings.Repeat("A", 43)
	if _, err := domain.ParseTicket(good); err != nil {
		t.Fatalf("ParseTicket(%q) = %v", good, err)
	}
	for name, text := range map[string]string{
		"empty":               "",
		"no secret":           "0b0c0d0e-0001-4203-8405-060708090a0b.",
		"short secret":        good[:79],
		"long secret":         good + "A",
		"upper case id":       strings.ToUpper(good[:36]) + good[36:],
		"braces":              "{b0c0d0e-0001-4203-8405-060708090a0}." + strings.Repeat("A", 43),
		"standard alphabet":   good[:79] + "+",
		"padding":             good[:79] + "=",
		"trailing bits":       good[:79] + "B",
		"a line break inside": good[:50] + "\n" + good[51:],
		"another separator":   strings.Replace(good, ".", ":", 1),
	} {
		if got, err := domain.ParseTicket(text); err == nil {
			t.Errorf("%s: ParseTicket = %v, want an error", name, got)
		} else if text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%s: the error repeats the ticket", name)
		}
	}
}

func FuzzParseTicket(f *testing.F) {
	f.Add("0b0c0d0e-0001-4203-8405-060708090a0b." + strings.Repeat("A", 43))
	f.Fuzz(func(t *testing.T, text string) {
		if ticket, err := domain.ParseTicket(text); err == nil && ticket.Reveal() != text {
			t.Errorf("%q was read as the ticket %q", text, ticket.Reveal())
		}
	})
}
