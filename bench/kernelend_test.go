//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/wgstack/wireguard"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	gotun "golang.zx2c4.com/wireguard/tun"
)

// A kernelEnd is wireguard-go in this process, with an interface in a network
// namespace: connections are those of the kernel's TCP/IP. Its outer socket is
// outside the namespace.
type kernelEnd struct {
	namespace
	uapi[*device.Device]
}

// kindKernel returns the kind whose ends are in the namespace, one at a time.
func kindKernel(ns namespace) kind {
	return kind{nameKernel, func(cfg wireguard.Config) (end, error) { return newKernelEnd(ns, cfg) }}
}

// newKernelKinds makes n namespaces and returns the kinds of ends in them. The
// error says why that is not possible.
func newKernelKinds(t testing.TB, n int) (kinds []kind, err error) {
	for range n {
		ns, err := makeNamespace(t)
		if err != nil {
			return nil, err
		}
		// Connections must not inherit from those before them what the kernel
		// remembers of a destination.
		err = ns.run(func() error {
			return os.WriteFile("/proc/sys/net/ipv4/tcp_no_metrics_save", []byte("1"), 0)
		})
		if err != nil {
			return nil, err
		}
		kinds = append(kinds, kindKernel(ns))
	}
	return kinds, nil
}

func newKernelEnd(ns namespace, cfg wireguard.Config) (end, error) {
	name := fmt.Sprintf("wgt%08x", rand.Uint32())
	var tun gotun.Device
	err := ns.run(func() (err error) {
		tun, err = gotun.CreateTUN(name, wireguard.DefaultMTU)
		return err
	})
	if err != nil {
		return nil, err
	}
	e := &kernelEnd{namespace: ns}
	e.dev = device.NewDevice(tun, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	if err := errors.Join(e.configureInterface(name, cfg), e.start(cfg, e.SetPeer)); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// configureInterface runs ip(8) once for all of it.
func (e *kernelEnd) configureInterface(name string, cfg wireguard.Config) error {
	var script strings.Builder
	fmt.Fprintf(&script, "link set %s mtu %d up\n", name, wireguard.DefaultMTU)
	for _, p := range cfg.Address {
		fmt.Fprintf(&script, "addr add %v dev %s", p, name)
		if p.Addr().Is6() {
			script.WriteString(" nodad")
		}
		script.WriteByte('\n')
	}
	for _, p := range cfg.Peers {
		for _, ips := range p.AllowedIPs {
			fmt.Fprintf(&script, "route add %v dev %s\n", ips, name)
		}
	}
	cmd := exec.Command("ip", "-n", string(e.namespace), "-batch", "-")
	cmd.Stdin = strings.NewReader(script.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", cmd, err, out)
	}
	return nil
}

// controlCongestion selects CUBIC: the default of a machine may be another.
// Connections that a listener accepts inherit it.
func controlCongestion(network, _ string, raw syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var err error
	if cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
	}); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("setsockopt TCP_CONGESTION", err)
}

func (e *kernelEnd) Listen(ctx context.Context, network, address string) (l net.Listener, err error) {
	err = e.run(func() (err error) {
		l, err = (&net.ListenConfig{Control: controlCongestion}).Listen(ctx, network, address)
		return err
	})
	return l, err
}

func (e *kernelEnd) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = e.run(func() (err error) {
		c, err = (&net.Dialer{Control: controlCongestion}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

func (e *kernelEnd) Close() error {
	e.dev.Close()
	return nil
}

// TestKernelEnd checks that the contestant works, and that both sides of its
// connections use CUBIC.
func TestKernelEnd(t *testing.T) {
	kinds, err := newKernelKinds(t, 2)
	if err != nil {
		t.Skip(err)
	}
	for _, pair := range [][2]kind{{kindOwn, kinds[0]}, {kinds[0], kindOwn}, {kinds[0], kinds[1]}} {
		t.Run(pairName(pair), func(t *testing.T) {
			r := tunnel{kinds: pair}.start(t)
			r.ping(t, 0, 4)
			r.streams(t, 6, 4<<20>>raceShift).finish(t)
			dialed, accepted := r.dial(t, 0, 4)
			for _, c := range []net.Conn{dialed, accepted} {
				tcp, ok := c.(*net.TCPConn)
				if !ok {
					continue
				}
				raw, err := tcp.SyscallConn()
				if err != nil {
					t.Fatal(err)
				}
				raw.Control(func(fd uintptr) {
					if got, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION); err != nil || strings.TrimRight(got, "\x00") != "cubic" {
						t.Errorf("congestion control is %q, %v", got, err)
					}
				})
			}
		})
	}
}
