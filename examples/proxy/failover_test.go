package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// A farPeer is a far end that a test ends and starts again. Its server at
// farAddr4 says which far end it is.
type farPeer struct {
	t      *testing.T
	name   string
	config wireguard.Config
	dev    *wireguard.Device
}

func newFarPeer(t *testing.T, name string, near wireguard.PublicKey) *farPeer {
	f := &farPeer{t: t, name: name, config: wireguard.Config{
		PrivateKey: wireguard.NewPrivateKey(),
		Address:    []netip.Prefix{hostPrefix(farAddr4)},
		Peers:      []wireguard.PeerConfig{{PublicKey: near, AllowedIPs: []netip.Prefix{hostPrefix(nearAddr4)}}},
	}}
	f.start()
	f.config.ListenPort = f.dev.Stats().ListenPort
	return f
}

func (f *farPeer) start() {
	f.t.Helper()
	f.dev = clitest.Device(f.t, f.config)
	l, err := f.dev.Listen(f.t.Context(), "tcp", ":7")
	if err != nil {
		f.t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for b := make([]byte, 1); ; {
					if _, err := c.Read(b); err != nil {
						return
					}
					io.WriteString(c, f.name)
				}
			}()
		}
	}()
}

func (f *farPeer) section() []string {
	return []string{"[Peer]", "PublicKey = " + f.config.PrivateKey.PublicKey().String(),
		fmt.Sprintf("Endpoint = 127.0.0.1:%d", f.config.ListenPort), "AllowedIPs = 192.0.2.1/32"}
}

// ask asks the far end of a connection for its name, which has one letter.
func ask(c net.Conn) (string, error) {
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	b := make([]byte, 1)
	_, err := io.ReadFull(c, b)
	return string(b), err
}

// awaitName dials until the far end has a name.
func awaitName(t *testing.T, addr, want string) net.Conn {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ask(c); got == want && err == nil {
			return c
		}
		c.Close()
	}
	t.Fatalf("no connection to %s", want)
	return nil
}

// TestFailover lets a peer end and start again: new connections go to another
// and then back, and the one to the other stays.
func TestFailover(t *testing.T) {
	t.Parallel() // it waits for handshakes to fail
	near := wireguard.NewPrivateKey()
	a, b := newFarPeer(t, "a", near.PublicKey()), newFarPeer(t, "b", near.PublicKey())
	info := clitest.FreeAddress(t)
	lines := []string{"[Interface]", "PrivateKey = " + near.Base64(), "Address = " + nearAddr4.String()}
	lines = append(lines, a.section()...)
	lines = append(lines, b.section()...)
	lines = append(lines,
		"[Failover]", "Interval = 1", "AllowedIPs = 10.0.0.0/8",
		"Peer = "+a.config.PrivateKey.PublicKey().String(), "Peer = "+b.config.PrivateKey.PublicKey().String(),
		"[TCPClientTunnel]", "BindAddress = 127.0.0.1:0", "Target = "+farAddr4.String()+":7")
	match, _ := clitest.Start(t, run, `^TCP for \S+ on (\S+)$`, "-c", clitest.File(t, lines...), "-i", info)

	awaitName(t, match[1], "a").Close()
	a.dev.Close()
	pinned := awaitName(t, match[1], "b")
	defer pinned.Close()
	_, body := getInfo(t, info, "/status.json")
	if !strings.Contains(body, `"choices":[{"group":"10.0.0.0/8"`) || !strings.Contains(body, "failover: for 10.0.0.0/8") {
		t.Errorf("/status.json: %s", body)
	}
	a.start()
	// The address that the pinned connection leads to stays, another does not.
	await(t, func() bool {
		_, body := getInfo(t, info, "/status.json")
		return strings.Contains(body, `"allowedIPs":["10.66.0.1/32"`)
	})
	if got, err := ask(pinned); got != "b" || err != nil {
		t.Errorf("the connection leads to %q, %v", got, err)
	}
	pinned.Close()
	awaitName(t, match[1], "a").Close()
}

// await waits until a condition holds.
func await(t *testing.T, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come true")
		}
	}
}

// TestFailoverOfEndpoints gives a peer two endpoints, of which the first is
// silent for a while.
func TestFailoverOfEndpoints(t *testing.T) {
	t.Parallel()
	near := wireguard.NewPrivateKey()
	a := newFarPeer(t, "a", near.PublicKey())
	silent, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	lines := []string{"[Interface]", "PrivateKey = " + near.Base64(), "Address = " + nearAddr4.String()}
	section := a.section()
	second := section[2]
	first := silent.LocalAddr().(*net.UDPAddr)
	section[2] = "Endpoint = " + first.String()
	section[3] = "AllowedIPs = 10.0.0.0/8"
	lines = append(lines, section...)
	lines = append(lines, "[Failover]", "Interval = 1", "Peer = "+a.config.PrivateKey.PublicKey().String(), second,
		"[TCPClientTunnel]", "BindAddress = 127.0.0.1:0", "Target = "+farAddr4.String()+":7")
	info := clitest.FreeAddress(t)
	match, _ := clitest.Start(t, run, `^TCP for \S+ on (\S+)$`, "-c", clitest.File(t, lines...), "-i", info)
	c := awaitName(t, match[1], "a")
	defer c.Close()

	// Now the first is a path to the same peer.
	go forwardDatagrams(silent, a.config.ListenPort)
	await(t, func() bool {
		_, body := getInfo(t, info, "/status.json")
		return strings.Contains(body, fmt.Sprintf(`"endpoint":"%s"`, first)) && strings.Contains(body, fmt.Sprintf(`"name":"%s","inUse":true`, first))
	})
	if got, err := ask(c); got != "a" || err != nil {
		t.Errorf("the connection leads to %q, %v", got, err)
	}
}

// forwardDatagrams forwards between the first sender to conn and a local port.
func forwardDatagrams(conn *net.UDPConn, port uint16) {
	target := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	var sender netip.AddrPort
	for buf := make([]byte, 65535); ; {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case err != nil:
			return
		case from == target:
			conn.WriteToUDPAddrPort(buf[:n], sender)
		default:
			sender = from
			conn.WriteToUDPAddrPort(buf[:n], target)
		}
	}
}
