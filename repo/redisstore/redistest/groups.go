package redistest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
)

const slots = 16384

// Cluster starts a Redis Cluster of three masters without replicas.
func Cluster(t testing.TB) *Server {
	t.Helper()
	need(t, "redis-cluster", "3 masters")
	return cluster(t, 0)
}

// ClusterWithReplicas starts a Redis Cluster of three masters with two replicas
// each, one of which takes its place some seconds after it has gone. The masters
// are the first three nodes.
func ClusterWithReplicas(t testing.TB) *Server {
	t.Helper()
	need(t, "redis-cluster", "3 masters, 6 replicas")
	return cluster(t, 2)
}

func cluster(t testing.TB, replicas int) *Server {
	t.Helper()
	const masters = 3
	s := &Server{}
	var bus []string
	for range masters * (1 + replicas) {
		_, port, _ := net.SplitHostPort(FreeAddr(t))
		bus = append(bus, port)
		s.Nodes = append(s.Nodes, start(t, "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0",
			"--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--cluster-port", port))
	}
	ctx := context.Background()
	first, firstPort, _ := net.SplitHostPort(s.Nodes[0].Addr)
	var ids []string
	for i, n := range s.Nodes {
		id, err := n.client.Do(ctx, "cluster", "myid").Text()
		must(t, err,
			// Epochs of their own spare the nodes a dispute over who has which.
			n.client.Do(ctx, "cluster", "set-config-epoch", i+1).Err(),
			n.client.Do(ctx, "cluster", "meet", first, firstPort, bus[0]).Err(),
		)
		ids = append(ids, id)
		if i < masters {
			must(t, n.client.ClusterAddSlotsRange(ctx, slots*i/masters, slots*(i+1)/masters-1).Err())
		}
	}
	for i, n := range s.Nodes {
		eventually(t, "the nodes know each other", func(ctx context.Context) bool {
			return strings.Contains(n.client.ClusterInfo(ctx).Val(), fmt.Sprintf("cluster_known_nodes:%d\r", len(s.Nodes)))
		})
		if i >= masters {
			must(t, n.client.ClusterReplicate(ctx, ids[i%masters]).Err())
		}
	}
	for i, n := range s.Nodes {
		eventually(t, "the cluster stands", func(ctx context.Context) bool {
			info := n.client.ClusterInfo(ctx).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_slots_ok:%d\r", slots)) &&
				(i < masters || strings.Contains(n.client.Info(ctx, "replication").Val(), "master_link_status:up")) &&
				// Clients see the replicas only when this node does.
				strings.Count(n.client.ClusterNodes(ctx).Val(), "slave") == len(s.Nodes)-masters
		})
	}
	s.URL = "redis+cluster://" + addrs(s.Nodes)
	return s
}

// masterName is the name under which the Sentinels watch the master.
const masterName = "cloakroom"

// Sentinel starts a master with two replicas and three Sentinels that put a
// replica in its place a second after it has gone.
func Sentinel(t testing.TB) *Server {
	t.Helper()
	need(t, "redis-sentinel", "1 master, 2 replicas, 3 sentinels")
	common := []string{"--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"}
	master := start(t, common...)
	s := &Server{Nodes: []*Node{master}}
	host, port, _ := net.SplitHostPort(master.Addr)
	for range 2 {
		s.Nodes = append(s.Nodes, start(t, append(common, "--replicaof", host+" "+port)...))
	}
	for _, n := range s.Nodes[1:] {
		eventually(t, "the replica has the master's data", func(ctx context.Context) bool {
			return strings.Contains(n.client.Info(ctx, "replication").Val(), "master_link_status:up")
		})
	}
	for range 3 {
		s.Sentinels = append(s.Sentinels, startSentinel(t, strings.ReplaceAll(fmt.Sprintf(`
			sentinel monitor NAME %s %s 2
			sentinel down-after-milliseconds NAME 1000
			sentinel failover-timeout NAME 5000
			sentinel parallel-syncs NAME 2
			`, host, port), "NAME", masterName)))
	}
	for _, n := range s.Sentinels {
		// Before they all know each other there may be no majority.
		eventually(t, "the sentinels know each other", func(ctx context.Context) bool {
			sentinels, _ := n.client.Do(ctx, "sentinel", "sentinels", masterName).Slice()
			replicas, _ := n.client.Do(ctx, "sentinel", "replicas", masterName).Slice()
			quorum := n.client.Do(ctx, "sentinel", "ckquorum", masterName).Err()
			return len(sentinels) == 2 && len(replicas) == 2 && quorum == nil
		})
	}
	s.URL = "redis+sentinel://" + addrs(s.Sentinels) + "/" + masterName
	return s
}

// Master returns the node that the Sentinels call the master.
func (s *Server) Master(t testing.TB) *Node {
	t.Helper()
	addr, err := s.Sentinels[0].client.Do(context.Background(), "sentinel", "get-master-addr-by-name", masterName).StringSlice()
	must(t, err)
	for _, n := range s.Nodes {
		if n.Addr == net.JoinHostPort(addr[0], addr[1]) {
			return n
		}
	}
	t.Fatalf("the master is %v, which is none of ours", addr)
	return nil
}

func addrs(nodes []*Node) string {
	var all []string
	for _, n := range nodes {
		all = append(all, n.Addr)
	}
	return strings.Join(all, ",")
}
