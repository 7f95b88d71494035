package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// The tools that configure WireGuard: wg(8), and wgctrl for Go. They look for
// devices in /var/run/wireguard, which usually requires root.

// A controlled is a device that the tools can configure.
type controlled struct {
	testing.TB
	*wireguard.Device
	name string
}

var controlledDevices atomic.Int32

// control starts a device and serves its configuration until the test ends.
func control(t testing.TB, cfg wireguard.Config) *controlled {
	t.Helper()
	// At most as long as the name of an interface.
	name := fmt.Sprintf("wgt%x-%d", rand.Uint32(), controlledDevices.Add(1))
	l, err := wireguard.ListenUAPI(name)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	d, err := wireguard.New(cfg)
	if err != nil {
		l.Close()
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- d.ServeUAPI(l) }()
	t.Cleanup(func() {
		d.Close()
		if err := <-served; err != nil {
			t.Errorf("ServeUAPI: %v", err)
		}
	})
	return &controlled{t, d, name}
}

// needWG skips the test if wg(8) is not installed.
func needWG(t testing.TB) {
	if _, err := exec.LookPath("wg"); err != nil {
		t.Skip("wg(8), of wireguard-tools, is not installed")
	}
}

// tryWG runs wg(8) and returns its output.
func tryWG(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "wg", args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("wg %.200q: %w: %s", args, err, errs.String())
	}
	return out.String(), nil
}

// wg runs a command of wg(8) on the device.
func (c *controlled) wg(stdin, command string, args ...string) string {
	c.Helper()
	out, err := tryWG(stdin, append([]string{command, c.name}, args...)...)
	if err != nil {
		c.Fatal(err)
	}
	return out
}

// peer returns the device's state of a peer.
func (c *controlled) peer(public wireguard.PublicKey) (wireguard.PeerStats, bool) {
	for _, p := range c.Stats().Peers {
		if p.PublicKey == public {
			return p, true
		}
	}
	return wireguard.PeerStats{}, false
}

func (c *controlled) mustPeer(public wireguard.PublicKey) wireguard.PeerStats {
	c.Helper()
	p, ok := c.peer(public)
	if !ok {
		c.Fatalf("no peer %s", public)
	}
	return p
}

// connect establishes a session with another device and returns that device's
// public key.
func (c *controlled) connect(key wireguard.PrivateKey) wireguard.PublicKey {
	c.Helper()
	other, err := wireguard.New(wireguard.Config{
		PrivateKey: key,
		Peers:      []wireguard.PeerConfig{{PublicKey: c.Stats().PublicKey}},
	})
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { other.Close() })
	err = c.SetPeer(wireguard.PeerConfig{
		PublicKey:  key.PublicKey(),
		Endpoint:   fmt.Sprintf("127.0.0.1:%d", other.Stats().ListenPort),
		AllowedIPs: prefixes("10.0.0.2/32"),
	})
	if err != nil {
		c.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := c.Handshake(ctx, key.PublicKey()); err != nil {
		c.Fatal(err)
	}
	return key.PublicKey()
}

func prefixes(ss ...string) []netip.Prefix {
	ps := make([]netip.Prefix, len(ss))
	for i, s := range ss {
		ps[i] = netip.MustParsePrefix(s)
	}
	return ps
}

func TestToolShow(t *testing.T) {
	needWG(t)
	t.Parallel()
	private, psk := wireguard.NewPrivateKey(), wireguard.NewPresharedKey()
	c := control(t, wireguard.Config{PrivateKey: private})
	public := c.connect(wireguard.NewPrivateKey())
	other := wireguard.PeerConfig{
		PublicKey:           wireguard.NewPrivateKey().PublicKey(),
		PresharedKey:        psk,
		Endpoint:            "[2001:db8::1]:1234",
		AllowedIPs:          prefixes("10.9.0.0/16", "fd00::/64"),
		PersistentKeepalive: 25 * time.Second,
	}
	if err := c.SetPeer(other); err != nil {
		t.Fatal(err)
	}

	interfaces, err := tryWG("", "show", "interfaces")
	if err != nil || !slices.Contains(strings.Fields(interfaces), c.name) {
		t.Errorf("wg show interfaces: %q, %v, want %s among them", interfaces, err, c.name)
	}
	stats := c.Stats()
	shown := c.wg("", "show")
	for _, want := range []string{
		"interface: " + c.name,
		"public key: " + stats.PublicKey.String(),
		"listening port: " + strconv.Itoa(int(stats.ListenPort)),
		"peer: " + public.String(),
		"endpoint: " + c.mustPeer(public).Endpoint.String(),
		"latest handshake:",
		"transfer: 92 B received, ",
		"peer: " + other.PublicKey.String(),
		"preshared key: (hidden)",
		"endpoint: " + other.Endpoint,
		"allowed ips: 10.9.0.0/16, fd00::/64",
		"persistent keepalive: every 25 seconds",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("wg show has no %q:\n%s", want, shown)
		}
	}

	lines := strings.Split(strings.TrimSpace(c.wg("", "show", "dump")), "\n")
	want := []string{strings.Join([]string{private.Base64(), stats.PublicKey.String(), strconv.Itoa(int(stats.ListenPort)), "off"}, "\t")}
	for _, p := range c.Stats().Peers {
		psk, ips, keepalive := "(none)", []string(nil), "off"
		for _, ip := range p.AllowedIPs {
			ips = append(ips, ip.String())
		}
		if p.PublicKey == other.PublicKey {
			psk, keepalive = other.PresharedKey.Base64(), "25"
		}
		handshake := int64(0)
		if !p.LastHandshake.IsZero() {
			handshake = p.LastHandshake.Unix()
		}
		want = append(want, strings.Join([]string{p.PublicKey.String(), psk, p.Endpoint.String(), strings.Join(ips, ","),
			strconv.FormatInt(handshake, 10), strconv.FormatUint(p.RxBytes, 10), "*", keepalive}, "\t"))
	}
	// The keepalive must continue although the peer does not answer.
	for i := range lines {
		if f := strings.Split(lines[i], "\t"); len(f) == 8 {
			f[6] = "*"
			lines[i] = strings.Join(f, "\t")
		}
	}
	slices.Sort(lines[1:])
	slices.Sort(want[1:])
	if !slices.Equal(lines, want) {
		t.Errorf("wg show dump:\n%q\nwant\n%q", lines, want)
	}
}

func TestToolSet(t *testing.T) {
	needWG(t)
	t.Parallel()
	c := control(t, wireguard.Config{})
	private, psk, public := wireguard.NewPrivateKey(), wireguard.NewPresharedKey(), wireguard.NewPrivateKey().PublicKey()
	c.wg(private.Base64(), "set", "private-key", "/dev/stdin")
	if got := c.Stats().PublicKey; got != private.PublicKey() {
		t.Errorf("public key %s, want %s", got, private.PublicKey())
	}
	port := c.Stats().ListenPort
	c.wg("", "set", "listen-port", "0")
	if got := c.Stats().ListenPort; got == port || got == 0 {
		t.Errorf("port %d after %d", got, port)
	}
	c.wg("", "set", "fwmark", "0")

	c.wg(psk.Base64(), "set", "peer", public.String(), "preshared-key", "/dev/stdin", "endpoint", "127.0.0.1:9",
		"persistent-keepalive", "30", "allowed-ips", "10.1.2.3/16,::/0")
	got := c.mustPeer(public)
	if got.Endpoint.String() != "127.0.0.1:9" || got.PersistentKeepalive != 30*time.Second || !slices.Equal(got.AllowedIPs, prefixes("10.1.0.0/16", "::/0")) {
		t.Errorf("peer is %+v", got)
	}
	if got := strings.Fields(c.wg("", "show", "preshared-keys")); len(got) != 2 || got[1] != psk.Base64() {
		t.Error("wg does not show the preshared key")
	}
	// Settings that the command does not mention stay.
	c.wg("", "set", "peer", public.String(), "persistent-keepalive", "off")
	if got := c.mustPeer(public); got.PersistentKeepalive != 0 || len(got.AllowedIPs) != 2 || !got.Endpoint.IsValid() {
		t.Errorf("peer is %+v", got)
	}
	c.wg("", "set", "peer", public.String(), "preshared-key", "/dev/null", "allowed-ips", "")
	if got := c.mustPeer(public); len(got.AllowedIPs) != 0 {
		t.Errorf("peer is %+v", got)
	}
	if got := strings.Fields(c.wg("", "show", "preshared-keys")); len(got) != 2 || got[1] != "(none)" {
		t.Error("the preshared key was not cleared")
	}

	taken, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port = c.Stats().ListenPort
	_, err = tryWG("", "set", c.name, "listen-port", strconv.Itoa(taken.LocalAddr().(*net.UDPAddr).Port))
	if err == nil || !strings.Contains(err.Error(), "Address already in use") {
		t.Errorf("taken port: %v", err)
	}
	if got := c.Stats().ListenPort; got != port {
		t.Errorf("port %d after a failure, want %d", got, port)
	}

	c.wg("", "set", "peer", public.String(), "remove")
	if _, ok := c.peer(public); ok {
		t.Error("peer was not removed")
	}
	c.wg("", "set", "peer", public.String(), "remove") // again
	c.wg("", "set", "private-key", "/dev/null")
	if got := c.Stats().PublicKey; !got.IsZero() {
		t.Errorf("public key %s without a private key", got)
	}
}

func TestToolConf(t *testing.T) {
	needWG(t)
	t.Parallel()
	c := control(t, wireguard.Config{PrivateKey: wireguard.NewPrivateKey()})
	connected := wireguard.NewPrivateKey()
	public := c.connect(connected)
	session := c.mustPeer(public)
	peers := []wireguard.PublicKey{wireguard.NewPrivateKey().PublicKey(), wireguard.NewPrivateKey().PublicKey()}

	// addconf adds.
	c.wg(fmt.Sprintf("[Peer]\nPublicKey = %s\nAllowedIPs = 10.1.0.0/16, fd01::/16\nEndpoint = [::1]:9\nPersistentKeepalive = 60\nPresharedKey = %s\n",
		peers[0], wireguard.NewPresharedKey().Base64()), "addconf", "/dev/stdin")
	if got := c.mustPeer(peers[0]); len(c.Stats().Peers) != 2 || !slices.Equal(got.AllowedIPs, prefixes("10.1.0.0/16", "fd01::/16")) {
		t.Errorf("addconf: %+v", c.Stats())
	}

	// ParseConfig and setconf of another device accept the output of showconf.
	conf := c.wg("", "showconf")
	cfg, err := wireguard.ParseConfig(strings.NewReader(conf))
	if err != nil {
		t.Fatalf("showconf: %v", err)
	}
	if cfg.PrivateKey.PublicKey() != c.Stats().PublicKey || cfg.ListenPort != c.Stats().ListenPort || len(cfg.Peers) != 2 {
		t.Errorf("showconf:\n%s", conf)
	}
	other := control(t, wireguard.Config{Peers: []wireguard.PeerConfig{{PublicKey: peers[1]}}})
	_, own, _ := strings.Cut(conf, "\n")
	lines := slices.DeleteFunc(strings.Split(own, "\n"), func(l string) bool { return strings.HasPrefix(l, "ListenPort") })
	other.wg(fmt.Sprintf("[Interface]\nListenPort = %d\n%s", other.Stats().ListenPort, strings.Join(lines, "\n")), "setconf", "/dev/stdin")
	again, _, found := strings.Cut(other.wg("", "showconf"), fmt.Sprintf("ListenPort = %d\n", other.Stats().ListenPort))
	if !found || again != "[Interface]\n" {
		t.Errorf("setconf changed the port")
	}
	if len(other.Stats().Peers) != 2 {
		t.Errorf("setconf did not replace the peers: %+v", other.Stats())
	}
	if _, ok := other.peer(peers[1]); ok {
		t.Error("setconf left a peer")
	}
	if a, b := peerSections(conf), peerSections(other.wg("", "showconf")); !slices.Equal(a, b) {
		t.Errorf("after setconf:\n%q\nwant\n%q", b, a)
	}

	// syncconf changes only what differs, and keeps sessions.
	c.wg(fmt.Sprintf("[Interface]\nPrivateKey = %s\nListenPort = %d\n[Peer]\nPublicKey = %s\nAllowedIPs = 10.0.0.2/32, 10.3.0.0/16\nEndpoint = %s\n[Peer]\nPublicKey = %s\nAllowedIPs = 10.4.0.0/16\n",
		cfg.PrivateKey.Base64(), cfg.ListenPort, public, session.Endpoint, peers[1]), "syncconf", "/dev/stdin")
	if _, ok := c.peer(peers[0]); ok {
		t.Error("syncconf left a peer that is not in the file")
	}
	if got := c.mustPeer(peers[1]); !slices.Equal(got.AllowedIPs, prefixes("10.4.0.0/16")) {
		t.Errorf("syncconf: %+v", got)
	}
	got := c.mustPeer(public)
	if !slices.Equal(got.AllowedIPs, prefixes("10.0.0.2/32", "10.3.0.0/16")) {
		t.Errorf("syncconf: %+v", got)
	}
	if !got.LastHandshake.Equal(session.LastHandshake) || got.TxBytes < session.TxBytes {
		t.Errorf("syncconf ended the session: %+v, before %+v", got, session)
	}

	// setconf replaces everything.
	c.wg("[Interface]\n", "setconf", "/dev/stdin")
	if s := c.Stats(); len(s.Peers) != 0 || !s.PublicKey.IsZero() {
		t.Errorf("empty setconf: %+v", s)
	}
}

// peerSections returns the sorted [Peer] sections of a file.
func peerSections(conf string) []string {
	sections := strings.Split(conf, "[Peer]\n")[1:]
	for i := range sections {
		sections[i] = strings.TrimSpace(sections[i])
	}
	slices.Sort(sections)
	return sections
}

// TestToolScale gives one peer 130,560 prefixes, and removes half of them.
func TestToolScale(t *testing.T) {
	needWG(t)
	t.Parallel()
	c := control(t, wireguard.Config{PrivateKey: wireguard.NewPrivateKey()})
	public := wireguard.NewPrivateKey().PublicKey()
	var want []netip.Prefix
	for i := range 255 {
		for j := range 256 {
			want = append(want,
				netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i), byte(j), 0, 0}), 32),
				netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i), byte(j), 0, 128}), 25))
		}
	}
	if len(want) != 130560 {
		t.Fatal(len(want))
	}
	conf := func(ps []netip.Prefix) string {
		var s strings.Builder
		fmt.Fprintf(&s, "[Interface]\nPrivateKey = %s\n[Peer]\nPublicKey = %s\n", wireguard.NewPrivateKey().Base64(), public)
		for chunk := range slices.Chunk(ps, 256) {
			s.WriteString("AllowedIPs = ")
			for i, p := range chunk {
				if i > 0 {
					s.WriteString(", ")
				}
				s.WriteString(p.String())
			}
			s.WriteString("\n")
		}
		return s.String()
	}
	for _, ps := range [][]netip.Prefix{want, want[:len(want)/2], want} {
		start := time.Now()
		c.wg(conf(ps), "setconf", "/dev/stdin")
		set := time.Since(start)
		start = time.Now()
		fields := strings.Fields(c.wg("", "show", "allowed-ips"))
		t.Logf("%d prefixes: set in %v, shown in %v", len(ps), set, time.Since(start))
		if len(fields) == 0 || fields[0] != public.String() {
			t.Fatalf("wg show allowed-ips: %.100q", fields)
		}
		got := prefixes(fields[1:]...)
		slices.SortFunc(got, netip.Prefix.Compare)
		slices.SortFunc(ps, netip.Prefix.Compare)
		if !slices.Equal(got, ps) {
			t.Fatalf("wg shows %d prefixes, want %d", len(got), len(ps))
		}
	}
}

func TestToolWGCtrl(t *testing.T) {
	t.Parallel()
	private, psk := wireguard.NewPrivateKey(), wireguard.NewPresharedKey()
	c := control(t, wireguard.Config{PrivateKey: wireguard.NewPrivateKey()})
	client, err := wgctrl.New()
	if err != nil {
		t.Skip(err)
	}
	defer client.Close()

	own, port, keepalive := wgtypes.Key(private), int(c.Stats().ListenPort), 20*time.Second
	public := wireguard.NewPrivateKey().PublicKey()
	ips := []net.IPNet{
		{IP: net.IPv4(10, 1, 0, 0).To4(), Mask: net.CIDRMask(16, 32)},
		{IP: net.ParseIP("fd00::"), Mask: net.CIDRMask(64, 128)},
	}
	peer := wgtypes.PeerConfig{
		PublicKey:                   wgtypes.Key(public),
		PresharedKey:                (*wgtypes.Key)(&psk),
		Endpoint:                    &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9},
		PersistentKeepaliveInterval: &keepalive,
		ReplaceAllowedIPs:           true,
		AllowedIPs:                  ips,
	}
	configure := func(cfg wgtypes.Config) *wgtypes.Device {
		t.Helper()
		if err := client.ConfigureDevice(c.name, cfg); err != nil {
			t.Fatal(err)
		}
		d, err := client.Device(c.name)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := configure(wgtypes.Config{PrivateKey: &own, ListenPort: &port, ReplacePeers: true, Peers: []wgtypes.PeerConfig{peer}})
	if d.Type != wgtypes.Userspace || d.PublicKey != wgtypes.Key(private.PublicKey()) || d.ListenPort != port || len(d.Peers) != 1 {
		t.Fatalf("device is %v %v, port %d, %d peers", d.Type, d.PublicKey, d.ListenPort, len(d.Peers))
	}
	p := d.Peers[0]
	if p.PublicKey != peer.PublicKey || p.PresharedKey != wgtypes.Key(psk) || p.Endpoint.String() != "127.0.0.1:9" ||
		p.PersistentKeepaliveInterval != keepalive || !p.LastHandshakeTime.IsZero() || p.ReceiveBytes != 0 || p.ProtocolVersion != 1 ||
		fmt.Sprint(p.AllowedIPs) != fmt.Sprint(ips) {
		t.Errorf("peer is %v %v %v %v %v", p.Endpoint, p.PersistentKeepaliveInterval, p.LastHandshakeTime, p.ProtocolVersion, p.AllowedIPs)
	}
	connected := c.connect(wireguard.NewPrivateKey())
	d = configure(wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: peer.PublicKey, UpdateOnly: true, Remove: true}}})
	if len(d.Peers) != 1 || d.Peers[0].PublicKey != wgtypes.Key(connected) {
		t.Fatalf("%d peers are left", len(d.Peers))
	}
	if s, p := c.mustPeer(connected), d.Peers[0]; !p.LastHandshakeTime.Equal(s.LastHandshake) || p.ReceiveBytes != int64(s.RxBytes) || p.TransmitBytes == 0 {
		t.Errorf("wgctrl reads %v, %d, %d, want %+v", p.LastHandshakeTime, p.ReceiveBytes, p.TransmitBytes, s)
	}
}
