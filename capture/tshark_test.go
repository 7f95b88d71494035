package capture

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
)

// The tests against tshark: two devices on the loopback interface capture what
// they exchange, and tshark must decrypt it. One end initiates the first
// handshake, and the other the second, so each is seen in both roles.

// needTshark skips the test if tshark is not installed.
func needTshark(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("tshark is not installed")
	}
}

// A frame is what tshark shows of a packet.
type frame struct {
	on        string // the interface
	message   string // the type of the WireGuard message
	decrypted bool   // the handshake message or the inner packet
	tcpPort   string // the destination of the innermost packet
	tcpLen    int
	wrong     string // what tshark finds wrong, except for keepalives
}

// readFrames returns what tshark shows of a capture.
func readFrames(t *testing.T, file string, options ...string) (frames []frame) {
	t.Helper()
	args := append([]string{"-n", "-r", file, "-T", "fields", "-E", "occurrence=l",
		"-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"}, options...)
	for _, field := range []string{"frame.interface_name", "wg.type", "wg.timestamp.value", "wg.handshake_ok",
		"tcp.dstport", "tcp.len", "wg.keepalive", "wg.decryption_error", "_ws.malformed",
		"ip.checksum_bad.expert", "udp.checksum.bad", "tcp.checksum_bad.expert"} {
		args = append(args, "-e", field)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "tshark", args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("tshark: %v\n%s", err, errs.String())
	}
	for row := range strings.Lines(out.String()) {
		f := strings.Split(strings.TrimSuffix(row, "\n"), "\t")
		fr := frame{on: f[0], message: f[1], tcpPort: f[4], wrong: strings.Join(f[7:], "")}
		fmt.Sscan(f[5], &fr.tcpLen)
		fr.decrypted = f[2] != "" || f[3] != "" || f[4] != "" || f[6] != ""
		frames = append(frames, fr)
	}
	return frames
}

// An end is a device with its capture and its key log.
type end struct {
	*wireguard.Device
	public   wireguard.PublicKey
	addr     netip.Addr
	capture  *Writer
	file     string // the capture
	keys     string // the key log
	unkeyed  *Writer
	withheld string // a capture without secrets
	keyLog   *os.File
}

// both passes what a device shows to two captures.
type both [2]*Writer

func (b both) OuterPacket(sent bool, local, remote netip.AddrPort, tos uint8, payload []byte) {
	b[0].OuterPacket(sent, local, remote, tos, payload)
	b[1].OuterPacket(sent, local, remote, tos, payload)
}

func (b both) InnerPacket(sent bool, packet []byte) {
	b[0].InnerPacket(sent, packet)
	b[1].InnerPacket(sent, packet)
}

func (b both) HandshakeSecrets(lines []byte) {
	b[0].HandshakeSecrets(lines)
	b[1].HandshakeSecrets(lines)
}

// newEnd starts a device that captures from its start.
func newEnd(t *testing.T, name string, private wireguard.PrivateKey, addr string) *end {
	t.Helper()
	dir := t.TempDir()
	create := func(file string) *os.File {
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	e := &end{
		public:   private.PublicKey(),
		addr:     netip.MustParseAddr(addr),
		file:     filepath.Join(dir, name+".pcapng"),
		withheld: filepath.Join(dir, name+"-without-secrets.pcapng"),
		keys:     filepath.Join(dir, name+".keys"),
	}
	e.capture = New(create(e.file), Options{})
	e.unkeyed = New(create(e.withheld), Options{OmitSecrets: true})
	e.keyLog = create(e.keys)
	var err error
	e.Device, err = wireguard.New(wireguard.Config{
		PrivateKey: private,
		Address:    []netip.Prefix{netip.PrefixFrom(e.addr, e.addr.BitLen())},
		KeyLog:     e.keyLog,
		Capture:    both{e.capture, e.unkeyed},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func (e *end) addPeer(t *testing.T, peer *end, host string, psk wireguard.PresharedKey) {
	t.Helper()
	cfg := wireguard.PeerConfig{
		PublicKey:    peer.public,
		PresharedKey: psk,
		Endpoint:     fmt.Sprintf("%s:%d", host, peer.Stats().ListenPort),
		AllowedIPs:   []netip.Prefix{netip.PrefixFrom(peer.addr, peer.addr.BitLen())},
	}
	if err := e.SetPeer(cfg); err != nil {
		t.Fatal(err)
	}
}

// finish ends the captures of e.
func (e *end) finish(t *testing.T) {
	t.Helper()
	e.Close()
	for _, w := range []*Writer{e.capture, e.unkeyed} {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if n := w.Dropped(); n > 0 {
			t.Errorf("%d packets dropped", n)
		}
	}
}

// exchange sends a text from one end to the other over TCP and waits for its
// echo.
func exchange(t *testing.T, from, to *end, port int, text string) {
	t.Helper()
	target := netip.AddrPortFrom(to.addr, uint16(port)).String()
	l, err := to.Listen(t.Context(), "tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	var echo sync.WaitGroup
	echo.Go(func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.Copy(c, c)
	})
	defer echo.Wait()
	defer l.Close()
	c, err := from.DialContext(t.Context(), "tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go io.WriteString(c, text)
	if _, err := io.ReadFull(c, make([]byte, len(text))); err != nil {
		t.Fatal(err)
	}
}

// rekey has from begin a new session, which the protocol allows five seconds
// after the former.
func rekey(t *testing.T, from, to *end) {
	t.Helper()
	completed := func() time.Time { return from.Stats().Peers[0].LastHandshake }
	before := completed()
	for completed().Equal(before) {
		if err := from.Handshake(t.Context(), to.public); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestTsharkDecrypts(t *testing.T) {
	needTshark(t)
	for _, test := range []struct {
		name, host, near, far string
		psk                   wireguard.PresharedKey
	}{
		{"IPv4", "127.0.0.1", "10.0.0.1", "10.0.0.2", wireguard.PresharedKey{}},
		{"IPv6 with a preshared key", "[::1]", "fd00::1", "fd00::2", wireguard.NewPresharedKey()},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			near := newEnd(t, "near", wireguard.NewPrivateKey(), test.near)
			far := newEnd(t, "far", wireguard.NewPrivateKey(), test.far)
			near.addPeer(t, far, test.host, test.psk)
			far.addPeer(t, near, test.host, test.psk)
			long := strings.Repeat("more than one segment ", 5000)
			exchange(t, near, far, 7001, "first session")
			rekey(t, far, near)
			exchange(t, near, far, 7002, "second session")
			exchange(t, near, far, 7003, long)
			near.finish(t)
			far.finish(t)
			for _, e := range []*end{near, far} {
				t.Run(filepath.Base(e.file), func(t *testing.T) {
					checkDecrypted(t, e.file, len(long))
				})
				t.Run(filepath.Base(e.keys), func(t *testing.T) {
					checkDecrypted(t, e.withheld, len(long), "-o", "wg.keylog_file:"+e.keys)
				})
			}
			checkEncrypted(t, near.withheld)
		})
	}
}

// checkDecrypted expects tshark to decrypt all outer packets of a capture, and to
// see the TCP connections on both of its interfaces.
func checkDecrypted(t *testing.T, file string, long int, options ...string) {
	t.Helper()
	var handshakes string
	received := make(map[string]int) // by interface and port
	for i, f := range readFrames(t, file, options...) {
		if f.on == "outer" && !f.decrypted {
			t.Errorf("frame %d, of type %s, is not decrypted", i+1, f.message)
		}
		if f.wrong != "" {
			t.Errorf("frame %d: %s", i+1, f.wrong)
		}
		if f.message == "1" || f.message == "2" {
			handshakes += f.message
		}
		received[f.on+" "+f.tcpPort] += f.tcpLen
	}
	// On a slow machine an initiation may be repeated.
	if strings.Count(handshakes, "1") < 2 || strings.Count(handshakes, "2") < 2 {
		t.Errorf("handshake messages of types %s", handshakes)
	}
	for _, on := range []string{"outer", "inner"} {
		for port, want := range map[string]int{"7001": len("first session"), "7002": len("second session"), "7003": long} {
			if n := received[on+" "+port]; n < want {
				t.Errorf("%s: %d bytes to port %s, want %d", on, n, port, want)
			}
		}
	}
}

// checkEncrypted expects the outer packets of a capture to stay encrypted, and the
// inner ones to be there.
func checkEncrypted(t *testing.T, file string) {
	t.Helper()
	inner := 0
	for i, f := range readFrames(t, file) {
		if f.on == "inner" {
			inner += f.tcpLen
		} else if f.tcpPort != "" {
			t.Errorf("frame %d is decrypted without secrets", i+1)
		}
	}
	if inner == 0 {
		t.Error("no inner TCP")
	}
}
