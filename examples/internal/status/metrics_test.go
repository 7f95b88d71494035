package status

import (
	"bytes"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// TestMetrics reads the metrics with Prometheus' own parser, and checks their names
// and types with its linter.
func TestMetrics(t *testing.T) {
	w := request(newServer(nil), loopback, "GET", "/metrics")
	text := w.Body.Bytes()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.New(bytes.NewReader(text)).Lint() // as promtool check metrics
	if err != nil {
		t.Error(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for name, want := range map[string]float64{
		"wireguard_sent_bytes_total":          100,
		"wireguard_received_bytes_total":      200,
		"wireguard_dropped_packets_total":     7,
		"wireguard_drops_total":               9,
		"wireguard_peer_drops_total":          4,
		"wireguard_tcp_retransmits_total":     12,
		"gateway_connections_total":           1,
		"gateway_client_sent_bytes_total":     3,
		"gateway_client_received_bytes_total": 5,
		"gateway_evicted_connections_total":   0,
	} {
		f := families[name]
		if f == nil || f.Metric[0].Counter.GetValue() != want {
			t.Errorf("%s: %v, want %v", name, f, want)
		}
	}
	if f := families["gateway_failover_in_use"]; f == nil || len(f.Metric) != 2 || f.Metric[0].Gauge.GetValue()+f.Metric[1].Gauge.GetValue() != 1 {
		t.Errorf("gateway_failover_in_use: %v", f)
	}
	for _, name := range []string{"wireguard_latest_handshake_seconds", "wireguard_path_mtu_bytes", "wireguard_socket_offload", "wireguard_send_queue_bytes", "wireguard_handshakes_total", "gateway_connections", "gateway_ready", "go_goroutines"} {
		if families[name] == nil {
			t.Errorf("no %s", name)
		}
	}
}
