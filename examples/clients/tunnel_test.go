package clients

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/wgstack/wireguard"
)

// waitLimit limits what a test waits for. It is generous: a test that reaches it
// has failed.
const waitLimit = 30 * time.Second

// newTunnel returns two devices, connected over loopback. The far one is
// 10.0.0.2 and fd00::2, and serves DNS with the records that are given, which
// the near one asks. The end of the test closes both. A name that is looked up
// in the host's network fails the test.
func newTunnel(t *testing.T, records ...string) (near, far *wireguard.Device) {
	t.Helper()
	forbidHostLookups(t)
	nearKey, farKey := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	far = newDevice(t, wireguard.Config{
		PrivateKey: farKey,
		Address:    prefixes("10.0.0.2/32", "fd00::2/128"),
		Peers: []wireguard.PeerConfig{{
			PublicKey:  nearKey.PublicKey(),
			AllowedIPs: prefixes("10.0.0.1/32", "fd00::1/128"),
		}},
	})
	serveNames(t, far, records)
	near = newDevice(t, wireguard.Config{
		PrivateKey: nearKey,
		Address:    prefixes("10.0.0.1/32", "fd00::1/128"),
		DNS:        []netip.Addr{netip.MustParseAddr("10.0.0.2")},
		Peers: []wireguard.PeerConfig{{
			PublicKey:  farKey.PublicKey(),
			Endpoint:   fmt.Sprintf("127.0.0.1:%d", far.Stats().ListenPort),
			AllowedIPs: prefixes("10.0.0.0/24", "fd00::/64"),
		}},
	})
	return near, far
}

// forbidHostLookups fails the test if a name is looked up in the host's network.
// It replaces the resolver of package net, so that tests cannot be parallel.
func forbidHostLookups(t *testing.T) {
	former := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = former })
	net.DefaultResolver = &net.Resolver{
		PreferGo: true,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			t.Error("a name is looked up in the host's network")
			return nil, errors.New("a test forbids it")
		},
	}
}

func newDevice(t *testing.T, cfg wireguard.Config) *wireguard.Device {
	t.Helper()
	dev, err := wireguard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

func prefixes(text ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range text {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// serveNames serves DNS on port 53 of dev, by UDP and TCP. Its records are lines
// of a zone file.
func serveNames(t *testing.T, dev *wireguard.Device, records []string) {
	t.Helper()
	var zone []dns.RR
	for _, line := range records {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		zone = append(zone, rr)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		answer := new(dns.Msg).SetReply(query)
		question := query.Question[0]
		known := false
		for _, rr := range zone {
			if strings.EqualFold(rr.Header().Name, question.Name) {
				known = true
				if rr.Header().Rrtype == question.Qtype {
					answer.Answer = append(answer.Answer, rr)
				}
			}
		}
		if !known {
			answer.Rcode = dns.RcodeNameError
		}
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
			size := dns.MinMsgSize
			if opt := query.IsEdns0(); opt != nil {
				size = int(opt.UDPSize())
			}
			answer.Truncate(size)
		}
		w.WriteMsg(answer)
	})
	socket, err := dev.ListenPacket(t.Context(), "udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	go (&dns.Server{PacketConn: socket, Handler: handler}).ActivateAndServe()
	go (&dns.Server{Listener: listen(t, dev, ":53"), Handler: handler}).ActivateAndServe()
}

// listen returns a listener of a device, which the end of the test closes.
func listen(t *testing.T, dev *wireguard.Device, address string) net.Listener {
	t.Helper()
	l, err := dev.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// forward connects peers that connect to address of a device to a server of the
// host.
func forward(t *testing.T, dev *wireguard.Device, address, network, server string) {
	t.Helper()
	l := listen(t, dev, address)
	go func() {
		for {
			inside, err := l.Accept()
			if err != nil {
				return
			}
			outside, err := net.Dial(network, server)
			if err != nil {
				inside.Close()
				continue
			}
			go func() {
				var opposite sync.WaitGroup
				opposite.Go(func() { copyStream(outside, inside) })
				copyStream(inside, outside)
				opposite.Wait()
				inside.Close()
				outside.Close()
			}()
		}
	}()
}

// copyStream copies from src to dst and passes on the end of the stream.
func copyStream(dst, src net.Conn) {
	if _, err := io.Copy(dst, src); err != nil {
		src.Close() // so that the other direction ends too
		dst.Close()
		return
	}
	dst.(interface{ CloseWrite() error }).CloseWrite()
}

// limited returns a context that ends with the test or after waitLimit.
func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	t.Cleanup(cancel)
	return ctx
}

// TestTunnel shows that the names in the tests of this package are those of the
// far end's server, which the host does not know.
func TestTunnel(t *testing.T) {
	near, _ := newTunnel(t, "a.internal. 60 IN A 10.0.0.2")
	addrs, err := near.LookupNetIP(limited(t), "ip", "a.internal")
	if err != nil || len(addrs) != 1 || addrs[0] != netip.MustParseAddr("10.0.0.2") {
		t.Errorf("a.internal: %v, %v", addrs, err)
	}
	var dnsError *net.DNSError
	if _, err := near.LookupNetIP(limited(t), "ip", "b.internal"); !errors.As(err, &dnsError) || !dnsError.IsNotFound {
		t.Errorf("b.internal: %v, want that it is not found", err)
	}
}
