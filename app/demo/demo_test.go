package demo

import (
	"strings"
	"testing"
)

func TestPortsBeyondTheRangeAreNamed(t *testing.T) {
	err := Settings{Port: 65535, AuthPort: 65536, APIPort: 1 << 20}.Validate()
	if err == nil {
		t.Fatal("Validate takes ports that there are not")
	}
	text := err.Error()
	if strings.HasPrefix(text, "port: ") || !strings.Contains(text, "auth-port: is too large") || !strings.Contains(text, "api-port: is too large") {
		t.Errorf("Validate = %q, want the two that are too large", text)
	}
}
