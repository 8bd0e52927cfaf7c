package redistest

import (
	"context"
	"testing"
)

func TestX(t *testing.T) {
	t.Run("s", func(t *testing.T) { s := Standalone(t); t.Log(s.URL); s.Nodes[0].Kill(); s.Nodes[0].Start(t) })
	t.Run("c", func(t *testing.T) { s := Cluster(t); t.Log(s.URL) })
	t.Run("t", func(t *testing.T) {
		s := Sentinel(t)
		t.Log(s.URL)
		m := s.Master(t)
		m.Kill()
		eventually(t, "failover", func(context.Context) bool { return s.Master(t) != m })
	})
}
