package bench

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

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

// BenchmarkScale measures what each of many devices, peers, connections and flows
// costs when there are so many: memory of both ends, the time to make it, and the
// CPU time while nothing happens, all divided by their number.
func BenchmarkScale(b *testing.B) {
	for _, m := range []struct {
		name  string
		sizes [3]int
		start func(b *testing.B, n int) (stop func())
	}{
		{"devices", [3]int{50, 500, 5000}, startDevices},
		{"peers", [3]int{1000, 10_000, 100_000}, startPeers},
		{"connections", [3]int{1000, 10_000, 100_000}, startConnections},
		{"flows", [3]int{100, 1000, 10_000}, startFlows},
	} {
		for _, n := range m.sizes {
			b.Run(fmt.Sprintf("%s=%d", m.name, n), func(b *testing.B) {
				if runsOnce() {
					n = m.sizes[0] / 10
				}
				compare(b, []contestant{{kindOwn.name, func() []metric { return scale(b, n, m.start) }}})
			})
		}
	}
}

func scale(b *testing.B, n int, start func(b *testing.B, n int) (stop func())) []metric {
	before, begun := measureMemory(), time.Now()
	stop := start(b, n)
	took := time.Since(begun)
	metrics := append(before.each(n), metric{"make-us", float64(took.Microseconds()) / float64(n)})
	quiet := 5 * time.Second
	if runsOnce() {
		quiet = time.Millisecond
	}
	cpu, begun := cpuTime(), time.Now()
	time.Sleep(quiet)
	used := (cpuTime() - cpu).Seconds() / time.Since(begun).Seconds()
	stop()
	return append(metrics, metric{"idle-cpu-ppm", used * 1e6 / float64(n)})
}

func startDevices(b *testing.B, n int) (stop func()) {
	ends := make([]end, n)
	for i := range ends {
		ends[i] = startAlone(b, kindOwn, wireguard.NewPrivateKey(), idlePeer(i))
	}
	return func() {
		for _, e := range ends {
			e.Close()
		}
	}
}

func startPeers(b *testing.B, n int) (stop func()) {
	e := startAlone(b, kindOwn, wireguard.NewPrivateKey())
	for i := range n {
		if err := e.SetPeer(idlePeer(i)); err != nil {
			b.Fatal(err)
		}
	}
	return func() { e.Close() }
}

// connectionsPerPort is how many connections have the same port at one end.
const connectionsPerPort = 20_000

// startConnections starts TCP connections between two devices.
func startConnections(b *testing.B, n int) (stop func()) {
	r := tunnel{kinds: [2]kind{kindOwn, kindOwn}}.start(b)
	open := make([]net.Conn, 0, 2*n)
	for at := uint16(2000); len(open) < 2*n; at++ {
		address := netip.AddrPortFrom(inner(1, 4), at).String()
		l, err := r.ends[1].Listen(b.Context(), "tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		for range min(connectionsPerPort, n-len(open)/2) {
			c, err := r.ends[0].DialContext(b.Context(), "tcp", address)
			if err != nil {
				b.Fatalf("connection %d: %v", len(open)/2, err)
			}
			a, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			open = append(open, c, a)
		}
		l.Close()
	}
	return func() {
		r.ends[0].Close()
		r.ends[1].Close()
		runtime.KeepAlive(open)
	}
}

// startFlows starts UDP flows through an exit, each to another host, which answers.
func startFlows(b *testing.B, n int) (stop func()) {
	r := tunnel{kinds: [2]kind{kindOwn, kindOwn}}.start(b)
	exit := r.ends[1].(own)
	err := r.ends[0].SetPeer(wireguard.PeerConfig{
		PublicKey:  exit.Stats().PublicKey,
		Endpoint:   fmt.Sprintf("127.0.0.1:%d", exit.Port()),
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
	})
	if err != nil {
		b.Fatal(err)
	}
	exit.HandleUDP(func(f *wireguard.UDPFlow) {
		c, err := f.Accept()
		if err != nil {
			return
		}
		buf := make([]byte, 16)
		n, _ := c.Read(buf)
		c.Write(buf[:n])
	})
	open := make([]net.Conn, n)
	for i := range open {
		host := netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})
		if open[i], err = r.ends[0].DialContext(b.Context(), "udp", netip.AddrPortFrom(host, 53).String()); err != nil {
			b.Fatal(err)
		}
		open[i].SetDeadline(time.Now().Add(10 * time.Second))
		open[i].Write([]byte("x"))
		if _, err := open[i].Read(make([]byte, 1)); err != nil {
			b.Fatalf("flow %d: %v", i, err)
		}
	}
	return func() {
		r.ends[0].Close()
		r.ends[1].Close()
		runtime.KeepAlive(open)
	}
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
