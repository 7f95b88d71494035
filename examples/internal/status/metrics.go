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

func clientMetric(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("gateway_"+name, help, nil, nil)
}

var (
	peerSent      = peerMetric("sent_bytes_total", "UDP payload sent to the peer.")
	peerReceived  = peerMetric("received_bytes_total", "UDP payload received from the peer.")
	peerHandshake = peerMetric("latest_handshake_seconds", "Unix time of the latest handshake; 0: never.")
	peerDropped   = peerMetric("dropped_packets_total", "Packets lost while they waited for a handshake.")

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
	for _, p := range c.Stats().Peers {
		key := p.PublicKey.String()
		send(peerSent, prometheus.CounterValue, float64(p.TxBytes), key)
		send(peerReceived, prometheus.CounterValue, float64(p.RxBytes), key)
		send(peerHandshake, prometheus.GaugeValue, unixSeconds(p.LastHandshake), key)
		send(peerDropped, prometheus.CounterValue, float64(p.Dropped), key)
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
			send(inUse, prometheus.GaugeValue, map[bool]float64{true: 1}[m.Active], group.Name, m.Name)
		}
	}
	send(isReady, prometheus.GaugeValue, map[bool]float64{true: 1}[ready])
}

// unixSeconds returns a time in the unit of Prometheus, 0 for the zero time.
func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
