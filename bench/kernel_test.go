package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
)

// The other end is the Linux kernel's WireGuard: Debian's kernel in a guest
// that qemu emulates. It reaches the host at 10.0.2.2 and fec0::2, and the host
// reaches it at a port of 127.0.0.1; that requires no privilege.

// TestKernel boots one guest for all subtests.
//
// Covers N15.
func TestKernel(t *testing.T) {
	g := boot(t)
	aged := g.startAging(t)
	t.Run("own begins", g.testOwnBegins)
	t.Run("kernel begins", g.testKernelBegins)
	t.Run("bulk", g.testBulk)
	t.Run("rekey", g.testRekey)
	t.Run("roam", g.testRoam)
	t.Run("cookie of the kernel", g.testKernelCookie)
	t.Run("cookie for the kernel", g.testOwnCookie)
	t.Run("aged", aged)
}

// A guest has the addresses inner(0, family); devices have others.
type guest struct {
	public wireguard.PublicKey
	at     netip.AddrPort // its endpoint

	shell sync.Mutex // guards what follows
	in    io.Writer
	out   *os.File
	lines *bufio.Scanner // of out
	last  int            // number of the last command
}

// TCP ports on which the guest listens inside the tunnel.
const (
	echoPort = 7 // echoes what it receives
	filePort = 8 // sends the file
)

// fileSize is the size of guestFile, random bytes in the guest.
const (
	guestFile = "/tmp/file"
	fileSize  = 4 << 20
)

// boot starts a guest and stops it when the test ends.
func boot(t *testing.T) *guest {
	t.Helper()
	dir := os.Getenv("WG_KERNEL")
	if dir == "" {
		t.Skip("WG_KERNEL does not name a directory made by .ci/kernel")
	}
	free, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{at: free.LocalAddr().(*net.UDPAddr).AddrPort()}
	free.Close()

	log := filepath.Join(t.TempDir(), "console")
	cmd := exec.Command("nice", "-n", "19", "qemu-system-x86_64",
		"-accel", "tcg", "-cpu", "max", "-m", "192",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(dir, "vmlinuz"), "-initrd", filepath.Join(dir, "initrd"),
		"-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on tsc=reliable no_timer_check mitigations=off",
		"-netdev", fmt.Sprintf("user,id=net,hostfwd=udp:%v-10.0.2.15:51820", g.at),
		"-device", "virtio-net-pci,netdev=net,romfile=",
		"-chardev", "file,id=log,path="+log, "-serial", "chardev:log",
		"-chardev", "stdio,id=shell,signal=off", "-serial", "chardev:shell")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if g.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	g.out = out.(*os.File)
	g.lines = bufio.NewScanner(g.out)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			console, _ := os.ReadFile(log)
			t.Logf("qemu: %s\nconsole: %s", errs.String(), console)
		}
	})
	g.answer(t, "the guest starts")
	t.Logf("the guest started in %v", time.Since(start))

	private := wireguard.NewPrivateKey()
	g.public = private.PublicKey()
	for _, command := range []string{
		fmt.Sprintf("date -u -s @%d", time.Now().Unix()),
		"ip link add wg0 type wireguard",
		"echo " + private.Base64() + " >/tmp/key",
		"wg set wg0 listen-port 51820 private-key /tmp/key",
		"ip addr add " + inner(0, 4).String() + "/24 dev wg0",
		"ip addr add " + inner(0, 6).String() + "/64 dev wg0",
		"ip link set wg0 up",
		fmt.Sprintf("head -c %d /dev/urandom >%s", fileSize, guestFile),
		fmt.Sprintf("nc -ll -p %d -e cat >/dev/null 2>&1 &", echoPort),
		fmt.Sprintf("nc -ll -p %d -e cat %s >/dev/null 2>&1 &", filePort, guestFile),
	} {
		g.run(t, command)
	}
	return g
}

// answer waits for the end of the last command, and returns its output.
func (g *guest) answer(t testing.TB, what string) string {
	t.Helper()
	g.out.SetReadDeadline(time.Now().Add(time.Minute))
	var printed strings.Builder
	for g.lines.Scan() {
		if status, ok := strings.CutPrefix(g.lines.Text(), fmt.Sprintf("=%d ", g.last)); ok {
			if status != "0" {
				t.Fatalf("%s: exit status %s\n%s", what, status, printed.String())
			}
			return printed.String()
		}
		printed.WriteString(g.lines.Text() + "\n")
	}
	t.Fatalf("%s: no answer: %v\n%s", what, g.lines.Err(), printed.String())
	return ""
}

// run runs a command in the guest, waits for its end, and returns its output.
func (g *guest) run(t testing.TB, command string) string {
	t.Helper()
	g.shell.Lock()
	defer g.shell.Unlock()
	g.last++
	if _, err := fmt.Fprintf(g.in, "%d %s\n", g.last, command); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return g.answer(t, command)
}

// A guestPeer is a device of this library that is a peer of the guest. Its
// addresses are inner(n, family).
type guestPeer struct {
	*wireguard.Device
	g      *guest
	n      int
	public wireguard.PublicKey
	psk    wireguard.PresharedKey
}

// A guestPeerConfig says how a device and the guest reach each other.
type guestPeerConfig struct {
	n        int    // determines its addresses
	endpoint string // of the guest, as configured at the device; may be empty
	via      string // the device's address, as configured at the guest; may be empty
	// The persistent keepalives of the device and of the guest.
	keepalive, itsKeepalive time.Duration
	listen                  func(ctx context.Context, network, address string) (net.PacketConn, error)
}

// startPeer starts a device that is a peer of the guest, until the test ends.
func (g *guest) startPeer(t testing.TB, a guestPeerConfig) *guestPeer {
	t.Helper()
	v := &guestPeer{g: g, n: a.n, psk: wireguard.NewPresharedKey()}
	private := wireguard.NewPrivateKey()
	v.public = private.PublicKey()
	cfg := wireguard.Config{PrivateKey: private, ListenPacket: a.listen}
	peer := wireguard.PeerConfig{PublicKey: g.public, PresharedKey: v.psk, PersistentKeepalive: a.keepalive}
	for _, family := range []int{4, 6} {
		own, its := inner(a.n, family), inner(0, family)
		cfg.Address = append(cfg.Address, netip.PrefixFrom(own, own.BitLen()))
		peer.AllowedIPs = append(peer.AllowedIPs, netip.PrefixFrom(its, its.BitLen()))
	}
	var err error
	if v.Device, err = wireguard.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		v.Close()
		v.removeFromGuest(t)
	})
	v.addToGuest(t, a.via, a.itsKeepalive)
	peer.Endpoint = a.endpoint
	if err := v.SetPeer(peer); err != nil {
		t.Fatal(err)
	}
	return v
}

// addToGuest adds the device to the guest's peers.
func (v *guestPeer) addToGuest(t testing.TB, via string, keepalive time.Duration) {
	t.Helper()
	at := ""
	if via != "" {
		at = " endpoint " + net.JoinHostPort(via, strconv.Itoa(int(v.Stats().ListenPort)))
	}
	v.g.run(t, fmt.Sprintf("echo %s >/tmp/psk; wg set wg0 peer %s preshared-key /tmp/psk allowed-ips %v,%v persistent-keepalive %d%s",
		v.psk.Base64(), v.public, inner(v.n, 4), inner(v.n, 6), keepalive/time.Second, at))
}

// removeFromGuest removes the device from the guest's peers.
func (v *guestPeer) removeFromGuest(t testing.TB) {
	t.Helper()
	v.g.run(t, "wg set wg0 peer "+v.public.String()+" remove")
}

// guest returns the device's state of the guest.
func (v *guestPeer) guest() wireguard.PeerStats { return v.Stats().Peers[0] }

// atGuest returns the guest's state of the device.
func (v *guestPeer) atGuest(t testing.TB) wireguard.PeerStats {
	t.Helper()
	s, err := parseDump(v.g.run(t, "wg show wg0 dump"), v.public)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// parseDump returns a peer's state from the output of "wg show INTERFACE dump".
func parseDump(dump string, public wireguard.PublicKey) (wireguard.PeerStats, error) {
	s := wireguard.PeerStats{PublicKey: public}
	for line := range strings.Lines(dump) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) != 8 || f[0] != public.String() {
			continue
		}
		if f[2] != "(none)" {
			s.Endpoint = netip.MustParseAddrPort(f[2])
		}
		if f[3] != "(none)" {
			s.AllowedIPs = prefixes(strings.Split(f[3], ",")...)
		}
		var numbers [3]uint64
		for i := range numbers {
			var err error
			if numbers[i], err = strconv.ParseUint(f[4+i], 10, 64); err != nil {
				return s, fmt.Errorf("wg shows %q: %w", line, err)
			}
		}
		if numbers[0] != 0 {
			s.LastHandshake = time.Unix(int64(numbers[0]), 0)
		}
		s.RxBytes, s.TxBytes = numbers[1], numbers[2]
		return s, nil
	}
	return s, fmt.Errorf("wg shows no peer %s: %q", public, dump)
}

// checkStatsAgree checks that the guest's and the device's counters, endpoint
// and time of handshake agree.
func (v *guestPeer) checkStatsAgree(t *testing.T, via string) {
	t.Helper()
	var its, own wireguard.PeerStats
	eventually(t, "no packet is on its way", func() bool {
		own = v.guest()
		its = v.atGuest(t)
		return own.RxBytes == its.TxBytes && own.TxBytes == its.RxBytes
	})
	if at := netip.AddrPortFrom(netip.MustParseAddr(via), v.Stats().ListenPort); its.Endpoint != at {
		t.Errorf("the kernel believes the device at %v, want %v", its.Endpoint, at)
	}
	if apart := its.LastHandshake.Sub(own.LastHandshake).Abs(); apart > 3*time.Second {
		t.Errorf("the kernel says that the last handshake was at %v, the device %v", its.LastHandshake, own.LastHandshake)
	}
}

// testPings pings in both directions, over IPv4 and IPv6.
func (v *guestPeer) testPings(t *testing.T) {
	for _, family := range []int{4, 6} {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		for range 5 {
			if _, err := v.Ping(ctx, inner(0, family)); err != nil {
				t.Errorf("ping %v: %v", inner(0, family), err)
			}
		}
		v.g.ping(t, 5, inner(v.n, family))
	}
}

// ping sends n echo requests of 84 bytes from the guest (104 if to is an IPv6
// address) and requires a reply to each.
func (g *guest) ping(t testing.TB, n int, to netip.Addr) {
	t.Helper()
	printed := g.run(t, fmt.Sprintf("ping -A -q -c %d -w 15 %v", n, to))
	if want := fmt.Sprintf("%d packets transmitted, %[1]d packets received", n); !strings.Contains(printed, want) {
		t.Errorf("the kernel pings %v: %s", to, printed)
	}
}

// echo sends streams to the guest's echo server over IPv4 and IPv6: size bytes
// each, or until finish if size is negative.
func (v *guestPeer) echo(t *testing.T, size int64) *duplex {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	d := newDuplex()
	for i, family := range []int{4, 6} {
		c, err := v.DialContext(ctx, "tcp", netip.AddrPortFrom(inner(0, family), echoPort).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		d.start(i, c, c, size)
	}
	return d
}

func (g *guest) testOwnBegins(t *testing.T) {
	v := g.startPeer(t, guestPeerConfig{n: 1, endpoint: g.at.String()})
	v.testPings(t)
	v.checkStatsAgree(t, "10.0.2.2")
	if got := v.guest().Endpoint; got != g.at {
		t.Errorf("the device believes the kernel at %v, want %v", got, g.at)
	}
}

// testKernelBegins has the kernel initiate; the device learns its endpoint. Ten
// pings must take as many bytes as between two kernels.
func (g *guest) testKernelBegins(t *testing.T) {
	for _, via := range []string{"10.0.2.2", "fec0::2"} {
		t.Run("through "+via, func(t *testing.T) {
			v := g.startPeer(t, guestPeerConfig{n: 1, via: via})
			g.ping(t, 10, inner(v.n, 4))
			if s := v.guest(); s.RxBytes != 1428 || s.TxBytes != 1372 {
				t.Errorf("received %d bytes and sent %d, want 1428 and 1372", s.RxBytes, s.TxBytes)
			}
			v.checkStatsAgree(t, via)
			v.testPings(t)
		})
	}
}

// testBulk sends the file from the guest to the device, through connections
// that either side dials, and random bytes to the echo server.
func (g *guest) testBulk(t *testing.T) {
	v := g.startPeer(t, guestPeerConfig{n: 1, endpoint: g.at.String()})
	want := strings.Fields(g.run(t, "sha256sum "+guestFile))[0]
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// receive checks that the file comes through the connection.
	receive := func(what string, c net.Conn) {
		t.Helper()
		defer c.Close()
		start := time.Now()
		c.SetDeadline(start.Add(time.Minute))
		h := sha256.New()
		n, err := io.Copy(h, c)
		if got := fmt.Sprintf("%x", h.Sum(nil)); err != nil || got != want {
			t.Errorf("%s: %d bytes with the sum %s arrived, want %d with %s: %v", what, n, got, fileSize, want, err)
		}
		t.Logf("%s: %.1f MB/s", what, fileSize/1e6/time.Since(start).Seconds())
	}
	for _, family := range []int{4, 6} {
		c, err := v.DialContext(ctx, "tcp", netip.AddrPortFrom(inner(0, family), filePort).String())
		if err != nil {
			t.Fatal(err)
		}
		receive(fmt.Sprintf("own dials, IPv%d", family), c)

		l, err := v.Listen(ctx, "tcp", netip.AddrPortFrom(inner(v.n, family), port).String())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var accepted sync.WaitGroup
		accepted.Go(func() {
			if c, err := l.Accept(); err == nil {
				receive(fmt.Sprintf("kernel dials, IPv%d", family), c)
			}
		})
		g.run(t, fmt.Sprintf("nc %v %d <%s", inner(v.n, family), port, guestFile))
		accepted.Wait()
	}
	start := time.Now()
	v.echo(t, fileSize).finish(t)
	t.Logf("there and back: %.1f MB/s", 2*fileSize/1e6/time.Since(start).Seconds())
}

// forceHandshake makes a handshake as soon as five seconds have passed since
// the last one.
func forceHandshake(t testing.TB, d *wireguard.Device) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	last := func() time.Time { return d.Stats().Peers[0].LastHandshake }
	for before := last(); !last().After(before); time.Sleep(20 * time.Millisecond) {
		if err := d.Handshake(ctx, d.Stats().Peers[0].PublicKey); err != nil {
			t.Fatal(err)
		}
	}
}

// testRekey replaces the keys of a session in use, from either side.
func (g *guest) testRekey(t *testing.T) {
	v := g.startPeer(t, guestPeerConfig{n: 1, endpoint: g.at.String()})
	d := v.echo(t, -1)
	d.advance(t)
	forceHandshake(t, v.Device)
	d.advance(t)
	before := v.guest()
	v.removeFromGuest(t)
	v.addToGuest(t, "10.0.2.2", 0)
	g.ping(t, 1, inner(v.n, 4))
	d.advance(t)
	if after := v.guest(); !after.LastHandshake.After(before.LastHandshake) {
		t.Errorf("no handshake for a kernel without session: %+v, before %+v", after, before)
	}
	d.finish(t)
}

func (g *guest) testRoam(t *testing.T) {
	nat := newRelay(t, g.at)
	v := g.startPeer(t, guestPeerConfig{n: 1, endpoint: nat.at().String()})
	d := v.echo(t, -1)
	for range 2 {
		d.advance(t)
		at := netip.AddrPortFrom(netip.MustParseAddr("10.0.2.2"), nat.moveBack().Port())
		d.advance(t)
		if got := v.atGuest(t).Endpoint; got != at {
			t.Errorf("the kernel believes the device at %v, want %v", got, at)
		}
		at = nat.moveFront()
		d.advance(t)
		if got := v.guest().Endpoint; got != at {
			t.Errorf("the device believes the kernel at %v, want %v", got, at)
		}
		if err := v.Rebind(); err != nil {
			t.Fatal(err)
		}
	}
	d.advance(t)
	d.finish(t)
}

// startAging starts two sessions, one initiated by each side, and returns the
// test that the initiator of each rekeys it after two minutes.
func (g *guest) startAging(t *testing.T) func(*testing.T) {
	const rekeyAfter = 2 * time.Minute
	begun := []*guestPeer{
		g.startPeer(t, guestPeerConfig{n: 2, endpoint: g.at.String(), keepalive: time.Second}),
		g.startPeer(t, guestPeerConfig{n: 3, via: "10.0.2.2", itsKeepalive: time.Second}),
	}
	var first []time.Time
	for _, v := range begun {
		eventually(t, "there is a session", func() bool { return !v.guest().LastHandshake.IsZero() })
		first = append(first, v.guest().LastHandshake)
	}
	return func(t *testing.T) {
		for i, v := range begun {
			by := []string{"own", "kernel"}[i]
			for v.guest().LastHandshake.Equal(first[i]) && time.Since(first[i]) < rekeyAfter+10*time.Second {
				time.Sleep(100 * time.Millisecond)
			}
			if age := v.guest().LastHandshake.Sub(first[i]); age < rekeyAfter || age > rekeyAfter+5*time.Second {
				t.Errorf("%s: renewed after %v, want %v", by, age, rekeyAfter)
			}
			v.testPings(t)
		}
	}
}

// Types of messages.
const (
	initiation  = 1
	response    = 2
	cookieReply = 3
)

// A message is a handshake message on the wire.
type message struct {
	out bool // sent by the device
	raw []byte
}

func (m message) kind() byte { return m.raw[0] }

// sender returns the sender index of an initiation.
func (m message) sender() []byte { return m.raw[4:8] }

// receiver returns the receiver index of a response or cookie reply.
func (m message) receiver() []byte {
	if m.kind() == response {
		return m.raw[8:12]
	}
	return m.raw[4:8]
}

// hasMAC2 reports whether an initiation has a MAC2.
func (m message) hasMAC2() bool { return !bytes.Equal(m.raw[132:148], make([]byte, 16)) }

// A recordingConn is the socket of a device. It records handshake messages, and
// can repeat an old initiation many times before each new one, and once after
// it, which puts the receiver under load.
type recordingConn struct {
	net.PacketConn

	mu      sync.Mutex
	seen    []message
	old     []byte   // the initiation to repeat; nil: none
	pending [][]byte // datagrams to return from ReadFrom
	from    net.Addr // where pending is from
}

const repetitions = 1200

func (p *recordingConn) listen(ctx context.Context, network, address string) (net.PacketConn, error) {
	var lc net.ListenConfig
	var err error
	p.PacketConn, err = lc.ListenPacket(ctx, network, address)
	return p, err
}

// recordMessage records a handshake message, and returns the initiation to
// repeat around it, if any.
func (p *recordingConn) recordMessage(b []byte, out bool) (old []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(b) < 32 || b[0] < initiation || b[0] > cookieReply {
		return nil
	}
	m := message{out, bytes.Clone(b)}
	p.seen = append(p.seen, m)
	if m.kind() != initiation {
		return nil
	}
	return p.old
}

// answersOldInitiation reports whether b is a cookie reply to the repeated
// initiation.
func (p *recordingConn) answersOldInitiation(b []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return b[0] == cookieReply && p.old != nil && bytes.Equal(message{raw: b}.receiver(), message{raw: p.old}.sender())
}

func (p *recordingConn) WriteTo(b []byte, to net.Addr) (int, error) {
	old := p.recordMessage(b, true)
	if p.answersOldInitiation(b) {
		return len(b), nil // it would only fill the guest's socket buffer
	}
	if old == nil {
		return p.PacketConn.WriteTo(b, to)
	}
	for i := range repetitions {
		p.PacketConn.WriteTo(old, to)
		if i%32 == 0 {
			time.Sleep(time.Millisecond) // do not overflow the guest's socket buffer
		}
	}
	n, err := p.PacketConn.WriteTo(b, to)
	p.PacketConn.WriteTo(old, to)
	return n, err
}

func (p *recordingConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		p.mu.Lock()
		if len(p.pending) > 0 {
			n := copy(b, p.pending[0])
			p.pending = p.pending[1:]
			p.mu.Unlock()
			return n, p.from, nil
		}
		p.mu.Unlock()
		n, from, err := p.PacketConn.ReadFrom(b)
		if err != nil {
			return n, from, err
		}
		old := p.recordMessage(b[:n], false)
		if old == nil {
			return n, from, nil
		}
		p.mu.Lock()
		p.pending = append(slices.Repeat([][]byte{old}, repetitions), bytes.Clone(b[:n]), old)
		p.from = from
		p.mu.Unlock()
	}
}

// repeatLatest selects the last initiation of the given direction for
// repetition from now on, and clears the record.
func (p *recordingConn) repeatLatest(t testing.TB, out bool) (old message) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.seen {
		if m.kind() == initiation && m.out == out {
			old = m
		}
	}
	if old.raw == nil {
		t.Fatal("no initiation has passed")
	}
	p.old, p.seen = old.raw, nil
	return old
}

// underLoad makes handshakes, with the last initiation repeated around them,
// until a cookie led to a session. More than one try may be needed, since
// whether the receiver is under load depends on scheduling.
func (p *recordingConn) underLoad(t *testing.T, out bool, handshake func()) {
	t.Helper()
	var err error
	for range 8 {
		old := p.repeatLatest(t, out)
		handshake()
		if err = p.check(out, old); err == nil {
			return
		}
		t.Log(err)
	}
	t.Error("no session by a cookie")
}

// count returns the number of messages of the given direction, kind and
// receiver index.
func count(seen []message, out bool, kind byte, receiver []byte) (n int) {
	for _, m := range seen {
		if m.out == out && m.kind() == kind && bytes.Equal(m.receiver(), receiver) {
			n++
		}
	}
	return n
}

// check returns nil if a cookie led to the session: since repeatLatest, an
// initiation got only a cookie reply, and then one with mac2 got a response,
// while the old ones around it got only cookie replies.
func (p *recordingConn) check(out bool, old message) error {
	p.mu.Lock()
	seen := p.seen
	p.mu.Unlock()
	var begun []int
	for i, m := range seen {
		if m.kind() == initiation && m.out == out {
			begun = append(begun, i)
		}
	}
	if len(begun) == 0 {
		return errors.New("no initiation")
	}
	first, at := seen[begun[0]], begun[len(begun)-1]
	last := seen[at]
	// The cookie may be from an earlier try.
	if !first.hasMAC2() {
		if len(begun) < 2 {
			return errors.New("the receiver was not under load")
		}
		if cookies, sessions := count(seen, !out, cookieReply, first.sender()), count(seen, !out, response, first.sender()); cookies != 1 || sessions != 0 {
			return fmt.Errorf("the first initiation got %d cookie replies and %d responses, want a cookie reply", cookies, sessions)
		}
	}
	if !last.hasMAC2() {
		return errors.New("the last initiation has no mac2")
	}
	if cookies, sessions := count(seen, !out, cookieReply, last.sender()), count(seen, !out, response, last.sender()); cookies != 0 || sessions != 1 {
		return fmt.Errorf("the last initiation got %d cookie replies and %d responses, want a response", cookies, sessions)
	}
	// Some of them are lost.
	if n := count(seen[at:], !out, cookieReply, old.sender()); n < repetitions/2 {
		return fmt.Errorf("%d of %d old initiations got a cookie reply: the receiver was not under load when it took mac2", n, repetitions+1)
	}
	return nil
}

// testKernelCookie checks that the device returns the cookie that the kernel
// under load demands.
func (g *guest) testKernelCookie(t *testing.T) {
	p := new(recordingConn)
	v := g.startPeer(t, guestPeerConfig{n: 1, endpoint: g.at.String(), listen: p.listen})
	forceHandshake(t, v.Device)
	p.underLoad(t, true, func() { forceHandshake(t, v.Device) })
	v.testPings(t)
}

// testOwnCookie checks that the kernel returns the cookie that the device under
// load demands.
func (g *guest) testOwnCookie(t *testing.T) {
	p := new(recordingConn)
	v := g.startPeer(t, guestPeerConfig{n: 1, via: "10.0.2.2", listen: p.listen})
	g.ping(t, 1, inner(v.n, 4))
	p.underLoad(t, false, func() {
		v.removeFromGuest(t)
		v.addToGuest(t, "10.0.2.2", 0)
		g.ping(t, 1, inner(v.n, 4))
	})
	v.testPings(t)
}
