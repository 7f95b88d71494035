package wireguard

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/simnet"
)

// TestBulkThroughBlackHole sends a stream between real stacks over a path that
// drops larger datagrams and does not say so. The log does, once.
func TestBulkThroughBlackHole(t *testing.T) {
	for _, c := range []struct {
		name string
		dst  netip.Addr
		mtu  int // of the outer path
	}{
		{"IPv4", innerIPv4(2), 1280 + dataOverhead + 28},
		{"IPv6", innerIPv6(2), 1280 + dataOverhead + 28},
		{"outer path of 1280", innerIPv4(2), 1280},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newRealTimeTestnet(t)
			var log syncBuffer
			near := w.addNode(1, func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			far := w.addNode(2, nil)
			near.addPeer(far)
			far.addPeer(near)
			link := simnet.Link{Latency: 5 * time.Millisecond, MTU: c.mtu, DropBig: true}
			w.SetLink(outerIPv4(1), outerIPv4(2), link)
			w.SetLink(outerIPv4(2), outerIPv4(1), simnet.Link{Latency: link.Latency})
			sendBulk(t, near, far, c.dst, 4<<20)
			if n := strings.Count(log.String(), "path takes smaller packets"); n != 1 {
				t.Errorf("the log says so %d times: %s", n, log.String())
			}
			if dropped := w.Stats().TooBig; dropped > 1000 {
				t.Errorf("%d datagrams were dropped", dropped)
			}
		})
	}
}
