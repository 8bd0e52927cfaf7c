package redistest

import (
	"net"
	"testing"
)

func TestServersAreGoneWhenTheirTestEnds(t *testing.T) {
	var all []*Node
	t.Run("servers", func(t *testing.T) {
		for _, start := range []func(testing.TB) *Server{
			func(t testing.TB) *Server { return Standalone(t) }, Cluster, Sentinel,
		} {
			s := start(t)
			for _, n := range append(s.Nodes, s.Sentinels...) {
				all = append(all, n)
				c, err := net.Dial("tcp", n.Addr)
				if err != nil {
					t.Error(err)
					continue
				}
				_ = c.Close()
			}
		}
	})
	for _, n := range all {
		if c, err := net.Dial("tcp", n.Addr); err == nil {
			_ = c.Close()
			t.Errorf("somebody still listens on %s", n.Addr)
		}
	}
}
