package clients

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/wgstack/wireguard"
)

// HTTP3Client returns a client for HTTP/3 servers in the tunnel, and a function
// that closes its connections and its socket.
func HTTP3Client(dev *wireguard.Device, config *tls.Config) (client *http.Client, closeAll func(), err error) {
	socket, err := dev.ListenPacket(context.Background(), "udp", ":0")
	if err != nil {
		return nil, nil, err
	}
	endpoint := &quic.Transport{Conn: socket}
	transport := &http3.Transport{
		TLSClientConfig: config,
		Dial: func(ctx context.Context, address string, tlsConfig *tls.Config, quicConfig *quic.Config) (*quic.Conn, error) {
			addr, err := lookupUDPAddr(ctx, dev, address)
			if err != nil {
				return nil, err
			}
			return endpoint.DialEarly(ctx, addr, tlsConfig, quicConfig)
		},
	}
	closeAll = func() {
		transport.Close()
		endpoint.Close()
		socket.Close()
	}
	return &http.Client{Transport: transport}, closeAll, nil
}

// lookupUDPAddr returns the first address of host:port, looked up through dev.
func lookupUDPAddr(ctx context.Context, dev *wireguard.Device, address string) (*net.UDPAddr, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	addrs, err := dev.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrs[0], uint16(n))), nil
}

// ServeHTTP3 serves HTTP/3 until the device is closed, on a socket such as
// dev.ListenPacket(ctx, "udp", ":443"). config has a certificate.
func ServeHTTP3(socket net.PacketConn, config *tls.Config, handler http.Handler) error {
	server := &http3.Server{TLSConfig: config, Handler: handler}
	return server.Serve(socket)
}
