package bench

import (
	"net"
	"net/netip"
	"runtime"
	"testing"

	"github.com/wgstack/wireguard"
)

// BenchmarkMemory measures what one of each takes: of the heap, of stacks and
// in goroutines. Of connections it counts both ends.
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

// deviceMemory is of an idle device with one peer.
func deviceMemory(b *testing.B, k kind) []metric {
	const devices = 4
	m := measureMemory()
	for range devices {
		e := startAlone(b, k, wireguard.NewPrivateKey(), idlePeer(0))
		defer e.Close()
	}
	return m.each(devices)
}

// idlePeerMemory is of peers that a device knows and never heard from.
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

// busyPeerMemory is of peers that have sessions and have moved data both ways.
func busyPeerMemory(b *testing.B, k kind) []metric {
	const peers = 1000 // to share what the device itself takes under load
	s := newSwarm(b, k, peers, true)
	defer s.close()
	m := measureMemory()
	s.enlist()
	s.shake()
	s.round(4)
	for _, m := range s.members {
		m.sealed = nil
	}
	return m.each(peers)[:1]
}

// connectionMemory is of TCP connections that were made, and no more.
func connectionMemory(b *testing.B, k kind) []metric {
	const connections = 200
	r := tunnel{kinds: [2]kind{k, k}}.start(b)
	dialed, accepted := r.dial(b, 0, 4) // there is a session, and what a first one leaves
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

// startAlone starts a device that nobody talks to. It ends with the benchmark
// at the latest.
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

// memory is what is in use.
type memory struct{ heap, stacks, goroutines float64 }

func measureMemory() memory {
	var s runtime.MemStats
	runtime.GC() // pools keep things for one more
	runtime.GC()
	runtime.ReadMemStats(&s)
	return memory{float64(s.HeapAlloc), float64(s.StackInuse), float64(runtime.NumGoroutine())}
}

// each is what each of n things takes that are there since m was measured.
func (m memory) each(n int) []metric {
	now := measureMemory()
	return []metric{
		{"heap-B", (now.heap - m.heap) / float64(n)},
		{"stack-B", max(0, now.stacks-m.stacks) / float64(n)}, // idle stacks shrink meanwhile
		{"goroutines", (now.goroutines - m.goroutines) / float64(n)},
	}
}

// BenchmarkAllocations counts what the whole process allocates for a packet in
// bulk TCP: by both ends, their TCP/IP stacks included.
func BenchmarkAllocations(b *testing.B) {
	contest(b, func(b *testing.B, r *running) func() []metric {
		u := newBulk(b, r, 4, false)
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
