package wireguard_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/wgstack/wireguard"
)

// twoDevices returns two devices in one program, connected over loopback, for
// the other examples. The first is configured with the endpoint of the second.
func twoDevices() (near, far *wireguard.Device) {
	nearKey, farKey := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	far, err := wireguard.New(wireguard.Config{
		PrivateKey: farKey,
		Address:    []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")},
		Peers: []wireguard.PeerConfig{{
			PublicKey:  nearKey.PublicKey(),
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	near, err = wireguard.New(wireguard.Config{
		PrivateKey: nearKey,
		Address:    []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")},
		Peers: []wireguard.PeerConfig{{
			PublicKey:  farKey.PublicKey(),
			Endpoint:   fmt.Sprintf("127.0.0.1:%d", far.Stats().ListenPort),
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	return near, far
}

// printPage prints what the client gets.
func printPage(client http.Client, url string) {
	resp, err := client.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(os.Stdout, resp.Body)
}

// An HTTP server inside the tunnel, and a client that reaches it.
func Example() {
	near, far := twoDevices()
	defer near.Close()
	defer far.Close()

	l, err := far.Listen(context.Background(), "tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello from inside")
	}))

	client := http.Client{Transport: &http.Transport{DialContext: near.DialContext}}
	printPage(client, "http://10.0.0.2/")
	// Output: hello from inside
}

// An HTTP server that knows its callers by their public keys: a packet from an
// address in the tunnel can only come from the peer that owns the address.
func ExampleDevice_PeerOf() {
	near, far := twoDevices()
	defer near.Close()
	defer far.Close()

	names := map[wireguard.PublicKey]string{near.Stats().PublicKey: "Ada"}
	l, err := far.Listen(context.Background(), "tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		key, _ := far.PeerOf(caller.Addr())
		name, ok := names[key]
		if !ok {
			http.Error(w, "not one of us", http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, "hello %s\n", name)
	}))

	client := http.Client{Transport: &http.Transport{DialContext: near.DialContext}}
	printPage(client, "http://10.0.0.2/")
	// Output: hello Ada
}

// Peers that are looked up when they first send a handshake. A map stands for the
// database.
func ExampleConfig_peerFor() {
	clientKey, serverKey := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	users := map[wireguard.PublicKey]netip.Addr{clientKey.PublicKey(): netip.MustParseAddr("10.0.0.7")}
	server, err := wireguard.New(wireguard.Config{
		PrivateKey: serverKey,
		Address:    []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")},
		PeerFor: func(ctx context.Context, key wireguard.PublicKey) (wireguard.PeerConfig, error) {
			addr, ok := users[key]
			if !ok {
				return wireguard.PeerConfig{}, errors.New("no such user")
			}
			return wireguard.PeerConfig{PublicKey: key, AllowedIPs: []netip.Prefix{netip.PrefixFrom(addr, 32)}}, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	fmt.Println(len(server.Stats().Peers), "peers")

	client, err := wireguard.New(wireguard.Config{
		PrivateKey: clientKey,
		Address:    []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32")},
		Peers: []wireguard.PeerConfig{{
			PublicKey:  serverKey.PublicKey(),
			Endpoint:   fmt.Sprintf("127.0.0.1:%d", server.Stats().ListenPort),
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := client.Handshake(ctx, serverKey.PublicKey()); err != nil {
		log.Fatal(err)
	}
	fmt.Println("after a handshake:", server.Stats().Peers[0].AllowedIPs)
	// Output:
	// 0 peers
	// after a handshake: [10.0.0.7/32]
}

func ExampleParseConfig() {
	cfg, err := wireguard.ParseConfig(strings.NewReader(`
[Interface]
PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
Address = 10.0.0.1/24
DNS = 10.0.0.53

[Peer]
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
AllowedIPs = 10.0.0.0/24, fd00::/64
Endpoint = vpn.example.com:51820
PersistentKeepalive = 25
`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(cfg.Address, cfg.DNS)
	fmt.Println(cfg.Peers[0].Endpoint, cfg.Peers[0].AllowedIPs, cfg.Peers[0].PersistentKeepalive)
	fmt.Println(cfg.PrivateKey)
	// Output:
	// [10.0.0.1/24] [10.0.0.53]
	// vpn.example.com:51820 [10.0.0.0/24 fd00::/64] 25s
	// (private key)
}

func ExampleDevice_DialContext() {
	near, far := twoDevices()
	defer near.Close()
	defer far.Close()

	// A refused connection and a missing peer are reported at once.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := near.DialContext(ctx, "tcp", "10.0.0.2:81")
	fmt.Println(err)
	_, err = near.DialContext(ctx, "tcp", "192.0.2.1:80")
	fmt.Println(err)
	// Output:
	// dial tcp 10.0.0.2:81: connect: connection refused
	// dial tcp 192.0.2.1:80: no peer: no allowed IPs contain 192.0.2.1
}

func ExampleDevice_ListenPacket() {
	near, far := twoDevices()
	defer near.Close()
	defer far.Close()

	server, err := far.ListenPacket(context.Background(), "udp", ":7")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		buf := make([]byte, 1500)
		n, from, err := server.ReadFrom(buf)
		if err == nil {
			server.WriteTo(buf[:n], from)
		}
	}()
	conn, err := near.DialContext(context.Background(), "udp", "10.0.0.2:7")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(conn, "echo")
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	fmt.Println(string(buf[:n]), err)
	// Output: echo <nil>
}

// A gateway for connections to any address: the handler receives every TCP
// connection that peers make through the tunnel.
func ExampleDevice_HandleTCP() {
	near, far := twoDevices()
	defer near.Close()
	defer far.Close()

	far.HandleTCP(func(flow *wireguard.TCPFlow) {
		conn, err := flow.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "you asked for %v\n", conn.LocalAddr())
	})

	conn, err := near.DialContext(context.Background(), "tcp", "10.0.0.99:1234")
	if err != nil {
		log.Fatal(err)
	}
	io.Copy(os.Stdout, conn)
	// Output: you asked for 10.0.0.99:1234
}

// Datagrams to any address, as an exit node receives them.
func ExampleDevice_HandleUDP() {
	near, far := twoDevices()
	defer near.Close()
	defer far.Close()

	far.HandleUDP(func(flow *wireguard.UDPFlow) {
		conn, err := flow.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second)) // UDP has no end of a flow
		buf := make([]byte, 1500)
		n, err := conn.Read(buf)
		if err == nil {
			fmt.Fprintf(conn, "%s to %v", buf[:n], flow.Destination)
		}
	})

	conn, err := near.DialContext(context.Background(), "udp", "10.0.0.99:1234")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(conn, "a datagram")
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	fmt.Println(string(buf[:n]), err)
	// Output: a datagram to 10.0.0.99:1234 <nil>
}

// A peer that is added while the device runs, and later gets another prefix.
func ExampleDevice_SetPeer() {
	dev, err := wireguard.New(wireguard.Config{PrivateKey: wireguard.NewPrivateKey()})
	if err != nil {
		log.Fatal(err)
	}
	defer dev.Close()

	peer := wireguard.PeerConfig{
		PublicKey:  wireguard.NewPrivateKey().PublicKey(),
		Endpoint:   "192.0.2.1:51820",
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
	}
	if err := dev.SetPeer(peer); err != nil {
		log.Fatal(err)
	}
	peer.AllowedIPs = append(peer.AllowedIPs, netip.MustParsePrefix("10.1.0.0/24"))
	if err := dev.SetPeer(peer); err != nil { // a session would continue
		log.Fatal(err)
	}
	fmt.Println(dev.Stats().Peers[0].AllowedIPs)

	if err := dev.RemovePeer(peer.PublicKey); err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(dev.Stats().Peers), "peers")
	// Output:
	// [10.0.0.0/24 10.1.0.0/24]
	// 0 peers
}

func ExampleDevice_Stats() {
	near, far := twoDevices()
	defer near.Close()
	defer far.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := near.Handshake(ctx, far.Stats().PublicKey); err != nil {
		log.Fatal(err)
	}
	for _, p := range near.Stats().Peers {
		fmt.Println(p.AllowedIPs, "received", p.RxBytes, "bytes") // a response
		fmt.Println("handshake in the last minute:", time.Since(p.LastHandshake) < time.Minute)
	}
	// Output:
	// [10.0.0.0/24] received 92 bytes
	// handshake in the last minute: true
}

// New sockets after the host has moved to another network. Sessions continue.
func ExampleDevice_Rebind() {
	near, far := twoDevices()
	defer near.Close()
	defer far.Close()

	port := near.Stats().ListenPort
	if err := near.Rebind(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("same port:", near.Stats().ListenPort == port)
	// Output: same port: true
}

// The configuration protocol on a listener of the program's own. ListenUAPI opens
// the socket that wg(8) looks for, but usually needs root.
func ExampleDevice_ServeUAPI() {
	near, far := twoDevices()
	defer near.Close()
	defer far.Close()

	dir, err := os.MkdirTemp("", "uapi") // a directory that only this user can enter
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "wg0.sock"))
	if err != nil {
		log.Fatal(err)
	}
	go near.ServeUAPI(l)

	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "get=1\n\n")
	for lines := bufio.NewScanner(conn); lines.Scan() && lines.Text() != ""; {
		if key, value, _ := strings.Cut(lines.Text(), "="); key == "allowed_ip" || key == "errno" {
			fmt.Println(key, value)
		}
	}
	// Output:
	// allowed_ip 10.0.0.0/24
	// errno 0
}

// An outer socket with an option of its own: net.ListenConfig.Control is called
// before the socket is bound. On Linux it can bind the socket to an interface with
//
//	unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "eth0")
func ExampleConfig_listenPacket() {
	options := net.ListenConfig{
		Control: func(network, address string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				fmt.Println("a socket of", network)
			})
		},
	}
	dev, err := wireguard.New(wireguard.Config{
		PrivateKey: wireguard.NewPrivateKey(),
		ListenPacket: func(ctx context.Context, _, address string) (net.PacketConn, error) {
			return options.ListenPacket(ctx, "udp4", address)
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer dev.Close()
	// Output: a socket of udp4
}

func ExampleDevice_Handshake() {
	near, far := twoDevices()
	defer near.Close()
	defer far.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(near.Handshake(ctx, far.Stats().PublicKey))
	// Output: <nil>
}

// One tunnel inside another: the inner device sends through the outer one.
func ExampleConfig_multihop() {
	near, far := twoDevices()
	defer near.Close()
	defer far.Close()

	listen := func(outer *wireguard.Device, cfg wireguard.Config) *wireguard.Device {
		cfg.ListenPacket = outer.ListenPacket
		dev, err := wireguard.New(cfg)
		if err != nil {
			log.Fatal(err)
		}
		return dev
	}
	nearKey, farKey := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	innerFar := listen(far, wireguard.Config{
		PrivateKey: farKey,
		ListenPort: 51820,
		Address:    []netip.Prefix{netip.MustParsePrefix("fd00::2/128")},
		MTU:        1360,
		Peers: []wireguard.PeerConfig{{
			PublicKey:  nearKey.PublicKey(),
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("fd00::1/128")},
		}},
	})
	defer innerFar.Close()
	innerNear := listen(near, wireguard.Config{
		PrivateKey: nearKey,
		Address:    []netip.Prefix{netip.MustParsePrefix("fd00::1/128")},
		MTU:        1360,
		Peers: []wireguard.PeerConfig{{
			PublicKey:  farKey.PublicKey(),
			Endpoint:   "10.0.0.2:51820",
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("fd00::/64")},
		}},
	})
	defer innerNear.Close()

	l, err := innerFar.Listen(context.Background(), "tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintln(c, "two tunnels deep")
		c.Close()
	}()
	conn, err := innerNear.DialContext(context.Background(), "tcp", "[fd00::2]:80")
	if err != nil {
		log.Fatal(err)
	}
	io.Copy(os.Stdout, conn)
	// Output: two tunnels deep
}
