package bench

import (
	"net"
	"net/netip"
	"runtime"
	"testing"

	"github.com/wgstack/wireguard"
)

// BenchmarkMemory measures heap, stacks and goroutines of one device, peer or
// connection; of a connection both ends.
func BenchmarkMemory(b *testing.B) {
	both := []kind{kindOwn, kindGo}
	for _, m := range []struct {
		name  string
		kinds []kind
		round func(*testing.B, kind) []metric
	}{
		{"device", both, deviceMemory},
		{"idle-peer/peers=2000", both, func(b *testing.B, k kind) []metric { return idlePeerMemory(b, k, 2000) }},
		{"idle-peer/peers=100000", both[:1], func(b *testing.B, k kind) []metric { return idlePeerMemory(b, k, 100_000) }},
		{"busy-peer/peers=1000", both, busyPeerMemory},
		{"connection", both, connectionMemory},
	} {
		b.Run(m.name, func(b *testing.B) {
			var cs []contestant
			for _, k := range m.kinds {
				cs = append(cs, contestant{k.name, func() []metric { return m.round(b, k) }})
			}
			compare(b, cs)
		})
	}
}

// deviceMemory measures an idle device with one peer.
func deviceMemory(b *testing.B, k kind) []metric {
	const devices = 4
	m := measureMemory()
	for range devices {
		e := startAlone(b, k, wireguard.NewPrivateKey(), idlePeer(0))
		defer e.Close()
	}
	return m.each(devices)
}

// idlePeerMemory measures peers that a device has never received from.
func idlePeerMemory(b *testing.B, k kind, peers int) []metric {
	e := startAlone(b, k, wireguard.NewPrivateKey())
	defer e.Close()
	m := measureMemory()
	for i := range peers {
		if err := e.SetPeer(idlePeer(i)); err != nil {
			b.Fatal(err)
		}
	}
	return m.each(peers)
}

// busyPeerMemory measures peers that have sessions and have moved data in both
// directions.
func busyPeerMemory(b *testing.B, k kind) []metric {
	const peers = 1000 // enough to make the device's own share small
	s := newPeerLoad(b, k, peers, true)
	defer s.close()
	m := measureMemory()
	s.addMembers()
	s.handshake()
	s.round(4)
	for _, m := range s.members {
		m.sealed = nil
	}
	return m.each(peers)[:1]
}

// connectionMemory measures idle TCP connections.
func connectionMemory(b *testing.B, k kind) []metric {
	const connections = 200
	r := tunnel{kinds: [2]kind{k, k}}.start(b)
	dialed, accepted := r.dial(b, 0, 4) // establishes the session and what the first connection allocates
	open := []net.Conn{dialed, accepted}
	m := measureMemory()
	for range connections {
		dialed, accepted := r.dial(b, 0, 4)
		open = append(open, dialed, accepted)
	}
	metrics := m.each(connections)[:1]
	for _, c := range open {
		c.Close()
	}
	r.ends[0].Close()
	r.ends[1].Close()
	return metrics
}

// startAlone starts a device without traffic. It is closed when the benchmark
// ends.
func startAlone(b *testing.B, k kind, private wireguard.PrivateKey, peers ...wireguard.PeerConfig) end {
	b.Helper()
	e, err := k.start(wireguard.Config{
		PrivateKey: private,
		Address:    []netip.Prefix{netip.PrefixFrom(inner(0, 4), 32)},
		Peers:      peers,
	})
	if err != nil {
		b.Fatalf("start %v: %v", k, err)
	}
	b.Cleanup(func() { e.Close() })
	return e
}

// memory is the memory in use by the process.
type memory struct{ heap, stacks, goroutines float64 }

func measureMemory() memory {
	var s runtime.MemStats
	runtime.GC() // sync.Pool survives one collection
	runtime.GC()
	runtime.ReadMemStats(&s)
	return memory{float64(s.HeapAlloc), float64(s.StackInuse), float64(runtime.NumGoroutine())}
}

// each returns the growth since m, divided by n.
func (m memory) each(n int) []metric {
	now := measureMemory()
	return []metric{
		{"heap-B", (now.heap - m.heap) / float64(n)},
		{"stack-B", max(0, now.stacks-m.stacks) / float64(n)}, // stacks of other goroutines may have shrunk
		{"goroutines", (now.goroutines - m.goroutines) / float64(n)},
	}
}

// BenchmarkAllocations counts the allocations of the whole process for each
// packet of bulk TCP: both ends, with their TCP/IP stacks.
func BenchmarkAllocations(b *testing.B) {
	comparePairings(b, func(b *testing.B, r *running) func() []metric {
		u := newBulkLoad(b, r, 4, false)
		return func() []metric {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			u.round()
			runtime.ReadMemStats(&after)
			const packets = bulkRound / segmentPayload
			return []metric{
				{"allocs/packet", float64(after.Mallocs-before.Mallocs) / packets},
				{"B/packet", float64(after.TotalAlloc-before.TotalAlloc) / packets},
			}
		}
	})
}
