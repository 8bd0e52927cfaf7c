package passwords

import (
	"errors"
	"strings"
	"testing"
)

func TestR44_PasswordPolicy(t *testing.T) {
	for _, c := range []struct {
		name, password string
		want           error
	}{
		{"seven characters", "k3#xQ9z", ErrTooShort},
		{"eight characters", "k3#xQ9zw", nil},
		{"seven characters in more than eight bytes", "üöäßéèô", ErrTooShort},
		{"one class of characters is enough", "qjxkvbzmwp", nil},
		{"spaces count", "a b c d ", nil},
		{"a long sentence", strings.Repeat("two words ", 20), nil},
		{"the longest", strings.Repeat("ü", MaxLength), nil},
		{"longer than that", strings.Repeat("ü", MaxLength+1), ErrTooLong},
		{"common", "password123", ErrCommon},
		{"common in another case", "PassWord123", ErrCommon},
		{"the email address", "Demo.User@example.com", ErrPersonal},
		{"the part before the @", "DEMO.USER", ErrPersonal},
		{"the user name", "walter.white", ErrPersonal},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Check(c.password, "demo.user@example.com", "walter.white"); !errors.Is(got, c.want) {
				t.Errorf("Check(%q) = %v, want %v", c.password, got, c.want)
			}
		})
	}
}

func TestR44_CommonListIsReadable(t *testing.T) {
	if len(common) < 300 {
		t.Errorf("the list has %d passwords, want some hundreds", len(common))
	}
	for password := range common {
		if len(password) < MinLength || password != strings.ToLower(strings.TrimSpace(password)) {
			t.Errorf("%q in the list can never match", password)
		}
	}
}
