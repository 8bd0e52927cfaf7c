package redisstore

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"cloakroom/domain"
	"cloakroom/repo/redisstore/redistest"
)

// The slots of a Cluster move from node to node while it is used. A key that is
// on its way is asked for at the wrong node first, and is there all the same.
func TestSlotsMoveInTheMiddleOfWork(t *testing.T) {
	server := redistest.Cluster(t)
	near, far := open(t, server)
	var still []domain.Record
	for n := range 12 {
		r := device(30_000 + n)
		must(t, near.Create(t.Context(), r))
		still = append(still, r)
	}
	work := begin(t, near, far)
	m := newMover(t, server)
	for _, r := range still {
		for _, key := range append(near.indexKeys(r), near.deviceKey(r.DeviceID), near.scheduleKey()) {
			m.move(t, key)
		}
		work.goesOn(t, 10)
	}
	work.end(t)
	near.sound(t)
	for _, r := range still {
		gone, err := far.DeleteByOwner(t.Context(), r.Owner, domain.DeviceID{})
		if err != nil || len(gone) != 1 || gone[0].DeviceID != r.DeviceID {
			t.Errorf("DeleteByOwner: %d devices, %v", len(gone), err)
		}
	}
}

// A write that waits for replicas goes to its node by a way of its own, which
// has to find the node where the slot is now.
func TestWritesThatWaitFollowTheirSlot(t *testing.T) {
	server := redistest.Cluster(t)
	near, _ := open(t, server)
	near.config.WaitReplicas, near.config.WaitTimeout = 1, time.Millisecond // of which there are none
	m := newMover(t, server)
	for n := range 6 {
		r := device(n)
		for _, key := range near.indexKeys(r) {
			if n%2 == 0 {
				m.move(t, key)
			}
		}
		if err := near.Create(t.Context(), r); !errors.Is(err, errUnreplicated) {
			t.Errorf("Create: error %v, want %v", err, errUnreplicated)
		}
	}
}

// A master of a Cluster crashes, and a replica takes over. With WaitReplicas
// nothing is lost that was acknowledged; without, this test fails now and then.
func TestAClusterLosesAMasterInTheMiddleOfWork(t *testing.T) {
	server := redistest.ClusterWithReplicas(t)
	near, far := open(t, server)
	near.config.WaitReplicas, far.config.WaitReplicas = 1, 1
	h := listen(t, far)
	work := begin(t, near, far)
	work.goesOn(t, 50)
	channel, err := near.client.ClusterKeySlot(t.Context(), near.channel()).Result()
	must(t, err)
	// The node that the subscription is with, so that this has to move as well.
	server.Nodes[channel*3/16384].Kill()
	work.stumbles(t)
	work.goesOn(t, 500)
	work.end(t)
	h.hears(t, near)
	near.sound(t)
}

// mover moves slots between the nodes of a Cluster.
type mover struct {
	nodes []*redis.Client
	ids   []string
	addrs []string
}

func newMover(t *testing.T, server *redistest.Server) *mover {
	m := &mover{}
	for _, n := range server.Nodes {
		node := redis.NewClient(&redis.Options{Addr: n.Addr})
		t.Cleanup(func() { _ = node.Close() })
		id, err := node.Do(t.Context(), "cluster", "myid").Text()
		must(t, err)
		m.nodes, m.ids, m.addrs = append(m.nodes, node), append(m.ids, id), append(m.addrs, n.Addr)
	}
	return m
}

// move moves the slot of a key to the next node, key by key.
func (m *mover) move(t *testing.T, key string) {
	t.Helper()
	ctx := context.Background()
	slot, err := m.nodes[0].ClusterKeySlot(ctx, key).Result()
	must(t, err)
	from := 0
	for i, node := range m.nodes {
		// The one that has it does not send elsewhere.
		if err := node.Exists(ctx, key).Err(); err == nil {
			from = i
		}
	}
	to := (from + 1) % len(m.nodes)
	must(t, m.nodes[to].Do(ctx, "cluster", "setslot", slot, "importing", m.ids[from]).Err())
	must(t, m.nodes[from].Do(ctx, "cluster", "setslot", slot, "migrating", m.ids[to]).Err())
	host, port, _ := net.SplitHostPort(m.addrs[to])
	for {
		keys, err := m.nodes[from].ClusterGetKeysInSlot(ctx, int(slot), 1).Result()
		must(t, err)
		if len(keys) == 0 {
			break
		}
		err = m.nodes[from].Migrate(ctx, host, port, keys[0], 0, 5e9).Err()
		if err != nil && !strings.Contains(err.Error(), "NOKEY") {
			t.Fatal(err)
		}
	}
	for _, i := range []int{to, from, (to + 1) % len(m.nodes)} {
		must(t, m.nodes[i].Do(ctx, "cluster", "setslot", slot, "node", m.ids[to]).Err())
	}
	// The next owner of a slot outdoes all that it knows of; if it did not know
	// of this one, the two would quarrel.
	eventually(t, "the nodes agree on the epoch", func() bool {
		epochs := make(map[string]bool)
		for _, node := range m.nodes {
			_, epoch, _ := strings.Cut(node.ClusterInfo(ctx).Val(), "cluster_current_epoch:")
			epoch, _, _ = strings.Cut(epoch, "\r")
			epochs[epoch] = true
		}
		return len(epochs) == 1
	})
}
