package main

import (
	"fmt"
	"slices"
	"strings"
)

// A scenario is a metric of a benchmark that is shown.
type scenario struct {
	group string
	name  string // of the benchmark
	label string
	unit  string
	less  bool // smaller values are better
}

const (
	throughput = "Throughput"
	latency    = "Latency and rates"
	cost       = "What it takes"
)

var scenarios = []scenario{
	{throughput, "TCP/streams=1", "TCP, one stream", "MB/s", false},
	{throughput, "TCP/streams=4", "TCP, 4 streams", "MB/s", false},
	{throughput, "TCP/streams=64", "TCP, 64 streams", "MB/s", false},
	{throughput, "Duplex/streams=1", "TCP both ways, one stream", "MB/s", false},
	{throughput, "Duplex/streams=4", "TCP both ways, 4 streams", "MB/s", false},
	{throughput, "TUN/streams=1", "TCP, one stream, vs TUN + kernel TCP", "MB/s", false},
	{throughput, "TUN/streams=4", "TCP, 4 streams, vs TUN + kernel TCP", "MB/s", false},
	{throughput, "Path/rtt=80ms/loss=0%", "TCP, 80 ms away", "B/s", false},
	{throughput, "Path/rtt=5ms/loss=1%", "TCP, 5 ms away and 1% lost", "B/s", false},
	{throughput, "Path/rtt=20ms/loss=1%", "TCP, 20 ms away and 1% lost", "B/s", false},
	{throughput, "Path/rtt=20ms/late=1%", "TCP, 20 ms away and 1% late", "B/s", false},
	{throughput, "UDP/size=1200", "UDP, 1200 bytes", "packets/s", false},
	{throughput, "Peers/busy=1000/idle=0", "Data from 1000 peers in turns", "packets/s", false},
	{latency, "Latency/idle", "Round trip, median", "p50-us", true},
	{latency, "Latency/loaded", "Round trip under load, 99th percentile", "p99-us", true},
	{latency, "Dial/at-once=8", "TCP connections, 8 at a time", "conns/s", false},
	{latency, "Handshake/at-once=8", "Handshakes, 8 at a time", "handshakes/s", false},
	{latency, "Path/rtt=20ms/loss=1%", "20 KB, 20 ms away and 1% lost, 99th perc.", "p99-us", true},
	{cost, "TCP/streams=4", "CPU for TCP, 4 streams", "CPU-s/GB", true},
	{cost, "Allocations", "Allocations for a packet of TCP", "allocs/packet", true},
	{cost, "Memory/device", "Heap of an idle device", "heap-B", true},
	{cost, "Memory/idle-peer/peers=2000", "Heap of an idle peer", "heap-B", true},
	{cost, "Memory/busy-peer/peers=1000", "Heap of a busy peer", "heap-B", true},
	{cost, "Memory/connection", "Heap of a TCP connection, both ends", "heap-B", true},
}

// charted reports whether a metric belongs to a scenario.
func charted(name, unit string) bool {
	return slices.ContainsFunc(scenarios, func(s scenario) bool { return s.name == name && s.unit == unit })
}

// otherImpls are the implementations shown beside this library and its rival.
var otherImpls = []string{"tailscale"}

// rival returns the implementation whose ratio is 1.
func (s scenario) rival() string {
	if strings.HasPrefix(s.name, "TUN/") {
		return "wireguard-go-tun"
	}
	return "wireguard-go"
}

// ratioUnit returns the unit of the benchmark's own ratios to the rival.
func (s scenario) ratioUnit() string {
	if s.rival() == "wireguard-go-tun" {
		return "x-tun-" + s.unit
	}
	return "x-" + s.unit
}

// better converts a ratio of values into how many times better the first value
// is.
func (s scenario) better(ratio float64) float64 {
	if s.less {
		return 1 / ratio
	}
	return ratio
}

// format formats a value with its unit.
func (s scenario) format(v float64) string {
	switch s.unit {
	case "MB/s":
		return formatSI(v*1e6, "B/s")
	case "B/s":
		return formatSI(v, "B/s")
	case "p50-us", "p99-us":
		return formatSI(v/1e6, "s")
	case "heap-B":
		return formatSI(v, "B")
	case "CPU-s/GB":
		return formatSI(v, "s/GB")
	case "allocs/packet":
		return formatDigits(v)
	}
	return formatSI(v, "/s")
}

// formatSI formats a value with the SI prefix that suits it.
func formatSI(v float64, unit string) string {
	prefixes := []struct {
		factor float64
		prefix string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}, {1, ""}, {1e-3, "m"}, {1e-6, "µ"}}
	for i, p := range prefixes {
		if v >= 0.9995*p.factor || i == len(prefixes)-1 {
			return formatDigits(v/p.factor) + " " + p.prefix + unit
		}
	}
	panic("unreachable")
}

// formatDigits formats three significant digits, or all digits before the
// point.
func formatDigits(v float64) string {
	switch {
	case v >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// formatRatio formats a ratio.
func formatRatio(ratio float64) string {
	if ratio >= 9.95 {
		return fmt.Sprintf("%.0f×", ratio)
	}
	return fmt.Sprintf("%.1f×", ratio)
}
