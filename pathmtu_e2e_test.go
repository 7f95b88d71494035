package wireguard

import (
	"bytes"
	"io"
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
			l, err := far.Listen(background, "tcp", ":7")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			received := make(chan int64, 1)
			go func() {
				c, err := l.Accept()
				if err != nil {
					received <- 0
					return
				}
				defer c.Close()
				n, _ := io.Copy(io.Discard, c)
				received <- n
			}()
			conn, err := near.DialContext(contextWithTimeout(t, 20*time.Second), "tcp", netip.AddrPortFrom(c.dst, 7).String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			const size = 4 << 20
			start := time.Now()
			conn.SetDeadline(start.Add(30 * time.Second))
			if _, err := io.Copy(conn, bytes.NewReader(make([]byte, size))); err != nil {
				t.Fatal(err)
			}
			conn.(interface{ CloseWrite() error }).CloseWrite()
			if n := <-received; n != size {
				t.Errorf("%d of %d bytes arrived", n, size)
			}
			t.Logf("%d bytes in %v", size, time.Since(start))
			if n := strings.Count(log.String(), "path takes smaller packets"); n != 1 {
				t.Errorf("the log says so %d times: %s", n, log.String())
			}
			if dropped := w.Stats().TooBig; dropped > 1000 {
				t.Errorf("%d datagrams were dropped", dropped)
			}
		})
	}
}
