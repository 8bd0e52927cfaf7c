package upstream_test

import (
	"testing"

	"cloakroom/infra/upstream"
	"cloakroom/infra/upstream/enginetest"
)

// Over TLS it is for HTTP/2 alone.
func TestTransportIsAnEngine(t *testing.T) {
	open := func(t *testing.T, c upstream.Config) upstream.Engine {
		e := upstream.NewTransport(c)
		t.Cleanup(e.Close)
		return e
	}
	enginetest.Run(t, open)
	enginetest.RunHandshakes(t, open)
}
