package status

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/wgstack/wireguard/examples/internal/limit"
)

// newCollectors returns the collectors of a server: its own, those of the
// program, and those of the process.
func newCollectors(s *Server) []prometheus.Collector {
	return append([]prometheus.Collector{
		&collector{s},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	}, s.Metrics...)
}

// A collector reads the metrics of a device and of its clients.
type collector struct{ *Server }

func peerMetric(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("wireguard_"+name, help, []string{"public_key"}, nil)
}

func peerMetricOf(name, help, label string) *prometheus.Desc {
	return prometheus.NewDesc("wireguard_"+name, help, []string{"public_key", label}, nil)
}

func deviceMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("wireguard_"+name, help, labels, nil)
}

func clientMetric(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("gateway_"+name, help, nil, nil)
}

var (
	peerSent      = peerMetric("sent_bytes_total", "UDP payload sent to the peer.")
	peerReceived  = peerMetric("received_bytes_total", "UDP payload received from the peer.")
	peerHandshake = peerMetric("latest_handshake_seconds", "Unix time of the latest handshake; 0: never.")
	peerDropped   = peerMetric("dropped_packets_total", "Packets lost while they waited for a handshake.")

	peerHandshakes = peerMetricOf("handshakes_total", "Handshakes by result: started, completed, failed.", "result")
	peerSession    = peerMetric("session_age_seconds", "Age of the keys in use; 0: none.")
	peerRoundTrip  = peerMetric("handshake_round_trip_seconds", "Round trip of the latest handshake; 0: unknown.")
	peerPathMTU    = peerMetric("path_mtu_bytes", "Size of the largest packet inside the tunnel that the path takes.")
	peerStaged     = peerMetric("staged_packets", "Packets that wait for a session.")
	peerQueued     = peerMetric("send_queue_bytes", "Memory of packets that wait for a session or for the socket.")
	peerDrops      = peerMetricOf("peer_drops_total", "Packets and messages of the peer, or for it, that were dropped.", "reason")

	deviceDrops   = deviceMetric("drops_total", "Packets and messages that were dropped, those of peers included.", "reason")
	offloads      = deviceMetric("socket_offload", "1: the system segments what the socket sends (gso), joins what it receives (gro).", "address", "offload")
	tcpConns      = deviceMetric("tcp_connections", "TCP connections inside the tunnel.")
	tcpListeners  = deviceMetric("tcp_listeners", "TCP listeners inside the tunnel.")
	udpSockets    = deviceMetric("udp_sockets", "UDP sockets inside the tunnel.")
	retransmits   = deviceMetric("tcp_retransmits_total", "TCP segments inside the tunnel that were sent again.")
	receivedBytes = deviceMetric("receive_queue_bytes", "Memory of messages that were received and not yet delivered.")

	clientsOpen     = clientMetric("connections", "Connections of clients now.")
	clientsAdded    = clientMetric("connections_total", "Connections of clients.")
	clientsEvicted  = clientMetric("evicted_connections_total", "Connections ended because there were too many.")
	clientsSent     = clientMetric("client_sent_bytes_total", "Payload from clients.")
	clientsReceived = clientMetric("client_received_bytes_total", "Payload to clients.")

	alivePong = prometheus.NewDesc("gateway_latest_pong_seconds", "Unix time of the latest pong of an address in CheckAlive; 0: never.", []string{"address"}, nil)
	inUse     = prometheus.NewDesc("gateway_failover_in_use", "1: the member of the failover group is in use.", []string{"group", "member"}, nil)
	isReady   = clientMetric("ready", "1: all addresses in CheckAlive answer.")
)

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		peerSent, peerReceived, peerHandshake, peerDropped,
		peerHandshakes, peerSession, peerRoundTrip, peerPathMTU, peerStaged, peerQueued, peerDrops,
		deviceDrops, offloads, tcpConns, tcpListeners, udpSockets, retransmits, receivedBytes,
		clientsOpen, clientsAdded, clientsEvicted, clientsSent, clientsReceived,
		alivePong, inUse, isReady,
	} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, value, labels...)
	}
	stats := c.Stats()
	for reason, n := range stats.Drops {
		send(deviceDrops, prometheus.CounterValue, float64(n), reason.String())
	}
	for _, socket := range stats.Sockets {
		send(offloads, prometheus.GaugeValue, number(socket.GSO), socket.Address.String(), "gso")
		send(offloads, prometheus.GaugeValue, number(socket.GRO), socket.Address.String(), "gro")
	}
	send(tcpConns, prometheus.GaugeValue, float64(stats.TCPConns))
	send(tcpListeners, prometheus.GaugeValue, float64(stats.TCPListeners))
	send(udpSockets, prometheus.GaugeValue, float64(stats.UDPSockets))
	send(retransmits, prometheus.CounterValue, float64(stats.Retransmits))
	send(receivedBytes, prometheus.GaugeValue, float64(stats.ReceivedBytes))
	for _, p := range stats.Peers {
		key := p.PublicKey.String()
		send(peerSent, prometheus.CounterValue, float64(p.TxBytes), key)
		send(peerReceived, prometheus.CounterValue, float64(p.RxBytes), key)
		send(peerHandshake, prometheus.GaugeValue, unixSeconds(p.LastHandshake), key)
		send(peerDropped, prometheus.CounterValue, float64(p.Dropped), key)
		send(peerHandshakes, prometheus.CounterValue, float64(p.Handshakes.Started), key, "started")
		send(peerHandshakes, prometheus.CounterValue, float64(p.Handshakes.Completed), key, "completed")
		send(peerHandshakes, prometheus.CounterValue, float64(p.Handshakes.Failed), key, "failed")
		send(peerSession, prometheus.GaugeValue, p.SessionAge.Seconds(), key)
		send(peerRoundTrip, prometheus.GaugeValue, p.RoundTrip.Seconds(), key)
		send(peerPathMTU, prometheus.GaugeValue, float64(p.PathMTU), key)
		send(peerStaged, prometheus.GaugeValue, float64(p.Staged), key)
		send(peerQueued, prometheus.GaugeValue, float64(p.QueuedBytes), key)
		for reason, n := range p.Drops {
			send(peerDrops, prometheus.CounterValue, float64(n), key, reason.String())
		}
	}
	totals := limit.Sum(c.Clients...)
	send(clientsOpen, prometheus.GaugeValue, float64(totals.Open))
	send(clientsAdded, prometheus.CounterValue, float64(totals.Added))
	send(clientsEvicted, prometheus.CounterValue, float64(totals.Evicted))
	send(clientsSent, prometheus.CounterValue, float64(totals.Sent))
	send(clientsReceived, prometheus.CounterValue, float64(totals.Received))
	pongs, ready := c.alive().check(time.Now())
	for addr, pong := range pongs {
		send(alivePong, prometheus.GaugeValue, unixSeconds(pong), addr.String())
	}
	for _, group := range c.failovers() {
		for _, m := range group.Members {
			send(inUse, prometheus.GaugeValue, number(m.Active), group.Name, m.Name)
		}
	}
	send(isReady, prometheus.GaugeValue, number(ready))
}

// number returns 1 for true.
func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// unixSeconds returns a time in the unit of Prometheus, 0 for the zero time.
func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
