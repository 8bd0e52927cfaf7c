package authapi

import "testing"

// What a proxy of the environment would see are passwords and tokens. This
// cannot be tried out: the standard library reads the environment once and
// never takes a proxy to loopback addresses.
func TestNoProxyIsTakenFromTheEnvironment(t *testing.T) {
	if New(Config{}).tokens.Proxy != nil {
		t.Error("the transport asks for a proxy")
	}
}
