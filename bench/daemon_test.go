//go:build linux

package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
	"golang.org/x/sys/unix"
)

// The wireguard-go daemon as distributions install it: a network interface with
// the kernel's TCP/IP, configured by wg(8). It requires root, and everything
// runs in a network namespace that the test makes.

// A namespace is the name of a network namespace of ip-netns(8).
type namespace string

// newNamespace makes a namespace with a loopback interface for daemons, and
// deletes it when the test ends.
func newNamespace(t testing.TB) namespace {
	t.Helper()
	for _, program := range []string{"wireguard-go", "wg"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	ns, err := makeNamespace(t)
	if err != nil {
		t.Skip(err)
	}
	return ns
}

// makeNamespace is newNamespace without the daemon's programs. The error says
// what is missing.
func makeNamespace(t testing.TB) (namespace, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		return "", errors.New("not root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return "", err
	}
	ns := namespace(fmt.Sprintf("wgt-%08x", rand.Uint32()))
	if err := ip("netns", "add", string(ns)); err != nil {
		return "", err
	}
	t.Cleanup(func() {
		if err := ip("netns", "del", string(ns)); err != nil {
			t.Error(err)
		}
	})
	return ns, ns.ip("link", "set", "lo", "up")
}

// ip runs ip(8).
func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// ip runs ip(8) in the namespace.
func (ns namespace) ip(args ...string) error {
	return ip(append([]string{"-n", string(ns)}, args...)...)
}

// run calls f on a thread in the namespace, to which the sockets that f opens
// then belong.
func (ns namespace) run(f func() error) error {
	done := make(chan error)
	go func() {
		// Never unlocked, so that the thread ends with the goroutine.
		runtime.LockOSThread()
		done <- func() error {
			file, err := os.Open(filepath.Join("/var/run/netns", string(ns)))
			if err != nil {
				return err
			}
			defer file.Close()
			if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

func (ns namespace) ListenPacket(ctx context.Context, network, address string) (pc net.PacketConn, err error) {
	err = ns.run(func() (err error) {
		pc, err = new(net.ListenConfig).ListenPacket(ctx, network, address)
		return err
	})
	return pc, err
}

func (ns namespace) Listen(ctx context.Context, network, address string) (l net.Listener, err error) {
	err = ns.run(func() (err error) {
		l, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	return l, err
}

func (ns namespace) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = ns.run(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Ping sends an echo request each second until a reply arrives, as ping(8)
// does.
func (ns namespace) Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if addr.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	pc, err := ns.ListenPacket(ctx, network, "")
	if err != nil {
		return 0, err
	}
	defer pc.Close()
	// Type, code, checksum, identifier and number, and data.
	const header = 8
	b := binary.BigEndian.AppendUint64([]byte{request, 0, 0, 0, 0, 0, 0, 0}, rand.Uint64())
	binary.BigEndian.PutUint16(b[2:], checksum(b)) // the kernel computes that of ICMPv6
	got := make([]byte, 1500)
	for {
		start := time.Now()
		if _, err := pc.WriteTo(b, &net.IPAddr{IP: addr.AsSlice()}); err != nil {
			return 0, err
		}
		pc.SetReadDeadline(start.Add(time.Second))
		for {
			n, _, err := pc.ReadFrom(got)
			if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
				break
			}
			if err != nil {
				return 0, err
			}
			if n == len(b) && got[0] == reply && bytes.Equal(got[header:n], b[header:]) {
				return time.Since(start), nil
			}
		}
	}
}

// checksum computes the Internet checksum (RFC 1071) of an even number of
// bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// A daemon is a wireguard-go process with an interface in a namespace.
type daemon struct {
	namespace
	name string // of the interface
	cmd  *exec.Cmd
	peer wireguard.PublicKey // the last peer set
}

// kindDaemon returns the kind that starts daemons in the namespace.
func kindDaemon(ns namespace) kind {
	return kind{"daemon", func(cfg wireguard.Config) (end, error) { return newDaemon(ns, cfg) }}
}

func newDaemon(ns namespace, cfg wireguard.Config) (_ *daemon, err error) {
	// The socket, which is outside the namespace, is named after the interface.
	e := &daemon{namespace: ns, name: fmt.Sprintf("wgt%08x", rand.Uint32())}
	e.cmd = exec.Command("ip", "netns", "exec", string(ns), "wireguard-go", "-f", e.name)
	e.cmd.Env = append(os.Environ(), "LOG_LEVEL=error")
	var errs bytes.Buffer
	e.cmd.Stdout, e.cmd.Stderr = &errs, &errs
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			e.Close()
			err = fmt.Errorf("%w\n%s", err, errs.String())
		}
	}()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err = tryWG("", "show", e.name); err == nil {
			break
		}
		if time.Now().After(end) {
			return nil, err
		}
	}
	if err := e.wg(cfg.PrivateKey.Base64(), "listen-port", strconv.Itoa(int(cfg.ListenPort)), "private-key", "/dev/stdin"); err != nil {
		return nil, err
	}
	for _, p := range cfg.Peers {
		if err := e.SetPeer(p); err != nil {
			return nil, err
		}
	}
	if err := e.ip("link", "set", e.name, "mtu", strconv.Itoa(wireguard.DefaultMTU), "up"); err != nil {
		return nil, err
	}
	for _, p := range cfg.Address {
		if err := e.ip("addr", "add", p.String(), "dev", e.name, "nodad"); err != nil {
			return nil, err
		}
	}
	for _, p := range cfg.Peers {
		for _, ips := range p.AllowedIPs {
			if err := e.ip("route", "add", ips.String(), "dev", e.name); err != nil {
				return nil, err
			}
		}
	}
	return e, nil
}

// wg runs "wg set" for the interface with args.
func (e *daemon) wg(stdin string, args ...string) error {
	_, err := tryWG(stdin, append([]string{"set", e.name}, args...)...)
	return err
}

func (e *daemon) SetPeer(cfg wireguard.PeerConfig) error {
	e.peer = cfg.PublicKey
	var ips []string
	for _, p := range cfg.AllowedIPs {
		ips = append(ips, p.String())
	}
	args := []string{"peer", e.peer.String(), "preshared-key", "/dev/stdin", "allowed-ips", strings.Join(ips, ","),
		"persistent-keepalive", strconv.Itoa(int(cfg.PersistentKeepalive / time.Second))}
	if cfg.Endpoint != "" {
		args = append(args, "endpoint", cfg.Endpoint)
	}
	return e.wg(cfg.PresharedKey.Base64(), args...)
}

func (e *daemon) RemovePeer(public wireguard.PublicKey) error {
	return e.wg("", "peer", public.String(), "remove")
}

func (e *daemon) Peer() wireguard.PeerStats {
	dump, err := tryWG("", "show", e.name, "dump")
	if err != nil {
		panic(err)
	}
	s, err := parseDump(dump, e.peer)
	if err != nil {
		panic(err)
	}
	return s
}

func (e *daemon) Port() uint16 {
	out, err := tryWG("", "show", e.name, "listen-port")
	if err != nil {
		panic(err)
	}
	port, err := strconv.ParseUint(strings.TrimSpace(out), 10, 16)
	if err != nil {
		panic(err)
	}
	return uint16(port)
}

func (e *daemon) Close() error {
	e.cmd.Process.Signal(unix.SIGTERM)
	stop := time.AfterFunc(10*time.Second, func() { e.cmd.Process.Kill() })
	defer stop.Stop()
	e.cmd.Wait()
	err := os.Remove(filepath.Join("/var/run/wireguard", e.name+".sock"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func TestDaemon(t *testing.T) {
	for i, name := range []string{"own to daemon", "daemon to own"} {
		for _, outer := range []string{"127.0.0.1", "::1"} {
			t.Run(name+"/"+outer, func(t *testing.T) {
				t.Parallel()
				ns := newNamespace(t)
				psk := wireguard.NewPresharedKey()
				tun := tunnel{outer: outer, psk: [2]wireguard.PresharedKey{psk, psk}}
				tun.kinds[i], tun.listen[i] = kindOwn, ns.ListenPacket
				tun.kinds[1-i] = kindDaemon(ns)
				r := tun.start(t)
				own, other := r.ends[i].(own), r.ends[1-i].(*daemon)
				for _, family := range []int{4, 6} {
					r.ping(t, 0, family)
					r.ping(t, 1, family)
				}
				checkStatsAgree(t, own, other) // the counters agree only while no packet is lost
				r.checkTraffic(t)
				r.streams(t, 4, 16<<20>>raceShift).finish(t)

				d := r.streams(t, 6, -1)
				d.advance(t)
				since := r.handshakes()
				forceHandshake(t, own.Device)
				r.rekeyed(t, since)
				d.advance(t)

				// The daemon loses the session.
				before := own.Peer().LastHandshake
				peer := r.peers[1-i]
				peer.Endpoint = other.Peer().Endpoint.String()
				if err := errors.Join(other.RemovePeer(peer.PublicKey), other.SetPeer(peer)); err != nil {
					t.Fatal(err)
				}
				r.ping(t, 1-i, 4)
				if !own.Peer().LastHandshake.After(before) {
					t.Error("a ping without handshake")
				}
				d.advance(t)

				// The daemon moves to another port.
				if err := other.wg("", "listen-port", "0"); err != nil {
					t.Fatal(err)
				}
				d.advance(t)
				if got, at := own.Peer().Endpoint, netip.AddrPortFrom(netip.MustParseAddr(outer), other.Port()); got != at {
					t.Errorf("own believes the daemon at %v, want %v", got, at)
				}
				d.finish(t)
			})
		}
	}
}

// checkStatsAgree checks that wg(8) shows the same about own as own's Stats.
func checkStatsAgree(t *testing.T, own own, other *daemon) {
	t.Helper()
	var a, b wireguard.PeerStats
	eventually(t, "no packet is on its way", func() bool {
		a, b = own.Peer(), other.Peer()
		return a.RxBytes == b.TxBytes && a.TxBytes == b.RxBytes
	})
	if b.Endpoint.Port() != own.Port() || a.Endpoint.Port() != other.Port() {
		t.Errorf("own at %d is believed at %v, daemon at %d at %v", own.Port(), b.Endpoint, other.Port(), a.Endpoint)
	}
	if apart := a.LastHandshake.Sub(b.LastHandshake).Abs(); apart > 3*time.Second {
		t.Errorf("the last handshake was at %v, wg shows %v", a.LastHandshake, b.LastHandshake)
	}
}
