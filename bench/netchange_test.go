package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
)

// What the network between two hosts does to a tunnel: routes that move, uplinks
// that die, packets that are blocked. The hosts are network namespaces, in which
// this test runs itself as the near and as the far end. It needs root.
//
//	near  eth0 10.1.0.2 ---- 10.1.0.1  router  10.3.0.1 ---- 10.3.0.2  far
//	      eth1 10.2.0.2 ---- 10.2.0.1
//
// The router drops what comes from the address of the other uplink, as networks
// of providers do.

// The targets are 2 s for a dial and 5 s for an open stream, after the network
// works again. A busy machine gets three times as long.
const (
	netchangeDialLimit   = 6 * time.Second
	netchangeStreamLimit = 15 * time.Second
)

// netchangeRole is the variable that makes this test an end: near or far.
const netchangeRole = "WG_NETCHANGE"

const netchangePort = 7

// runNetchange is the main function of an end.
func runNetchange(role string) {
	fail := func(err error) {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var own wireguard.PrivateKey
	var peer wireguard.PublicKey
	if err := own.UnmarshalText([]byte(os.Getenv(netchangeRole + "_KEY"))); err != nil {
		fail(err)
	}
	if err := peer.UnmarshalText([]byte(os.Getenv(netchangeRole + "_PEER"))); err != nil {
		fail(err)
	}
	cfg := wireguard.Config{
		PrivateKey: own,
		ListenPort: 51820,
		Address:    prefixes("10.9.0.1/32"),
		Peers:      []wireguard.PeerConfig{{PublicKey: peer, AllowedIPs: prefixes("10.9.0.2/32")}},
	}
	if role == "near" {
		cfg.Address, cfg.Peers[0].AllowedIPs = cfg.Peers[0].AllowedIPs, cfg.Address
		cfg.Peers[0].Endpoint = "10.3.0.2:51820"
	}
	d, err := wireguard.New(cfg)
	if err != nil {
		fail(err)
	}
	if role == "near" {
		err = runNetchangeNear(d)
	} else {
		err = runNetchangeFar(d)
	}
	if err != nil {
		fail(err)
	}
}

// runNetchangeFar echoes streams until its input ends.
func runNetchangeFar(d *wireguard.Device) error {
	l, err := d.Listen(context.Background(), "tcp", ":"+strconv.Itoa(netchangePort))
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// runNetchangeNear opens a stream. At each line of input it sends a byte on the
// stream and dials anew, and prints when each succeeds.
func runNetchangeNear(d *wireguard.Device) error {
	dial := func() (net.Conn, error) {
		return d.DialContext(context.Background(), "tcp", fmt.Sprintf("10.9.0.1:%d", netchangePort))
	}
	echo := func(c net.Conn) error {
		if _, err := c.Write([]byte{1}); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	stream, err := dial()
	if err != nil {
		return err
	}
	if err := echo(stream); err != nil {
		return err
	}
	fmt.Println("ready")
	report := func(what string, err error) { fmt.Println(what, time.Now().UnixNano(), err) }
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		go func() { report("stream", echo(stream)) }()
		go func() {
			for {
				c, err := dial()
				if err == nil {
					report("dial", nil)
					c.Close()
					return
				}
				fmt.Fprintln(os.Stderr, err)
			}
		}()
	}
	return nil
}

// A netchange is the network of one test.
type netchange struct {
	testing.TB
	prefix string // of the names of the namespaces
	keys   map[string]wireguard.PrivateKey
	near   *netchangeEnd
	far    *netchangeEnd
}

type netchangeEnd struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string
}

var netchanges atomic.Int32

// startNetchange makes the network and starts both ends, with a stream between
// them.
func startNetchange(t *testing.T) *netchange {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip(8), of iproute2, is not installed")
	}
	n := &netchange{
		TB:     t,
		prefix: fmt.Sprintf("wgn%d-%d", os.Getpid(), netchanges.Add(1)),
		keys:   map[string]wireguard.PrivateKey{"near": wireguard.NewPrivateKey(), "far": wireguard.NewPrivateKey()},
	}
	for _, host := range []string{"near", "router", "far"} {
		if out, err := exec.Command("ip", "netns", "add", n.namespace(host)).CombinedOutput(); err != nil {
			t.Skipf("no network namespaces: %v: %s", err, out)
		}
		t.Cleanup(func() { exec.Command("ip", "netns", "del", n.namespace(host)).Run() })
		n.ip(host, "link set lo up")
	}
	n.connect("eth0", "near", "10.1.0.2/24", "up0", "10.1.0.1/24")
	n.connect("eth1", "near", "10.2.0.2/24", "up1", "10.2.0.1/24")
	n.connect("eth0", "far", "10.3.0.2/24", "down0", "10.3.0.1/24")
	n.set("router", "net/ipv4/ip_forward", "1")
	for _, path := range []string{"all", "up0", "up1"} {
		n.set("router", "net/ipv4/conf/"+path+"/rp_filter", "1")
	}
	n.ip("near", "route add default via 10.1.0.1 dev eth0 metric 100")
	n.ip("far", "route add default via 10.3.0.1")
	n.far = n.startEnd("far", "near")
	n.near = n.startEnd("near", "far")
	return n
}

func (n *netchange) namespace(host string) string { return n.prefix + "-" + host }

// ip runs a command of ip(8) on a host.
func (n *netchange) ip(host, command string) {
	n.Helper()
	args := append([]string{"-n", n.namespace(host)}, strings.Fields(command)...)
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.Fatalf("ip %s on %s: %v: %s", command, host, err, out)
	}
}

// set writes a file below /proc/sys on a host.
func (n *netchange) set(host, path, value string) {
	n.Helper()
	out, err := exec.Command("ip", "netns", "exec", n.namespace(host), "sh", "-c", "echo "+value+" > /proc/sys/"+path).CombinedOutput()
	if err != nil {
		n.Skipf("%s on %s: %v: %s", path, host, err, out)
	}
}

// connect connects a host with the router.
func (n *netchange) connect(name, host, address, routerName, routerAddress string) {
	n.Helper()
	n.ip(host, fmt.Sprintf("link add %s type veth peer name %s netns %s", name, routerName, n.namespace("router")))
	n.ip(host, "addr add "+address+" dev "+name)
	n.ip("router", "addr add "+routerAddress+" dev "+routerName)
	n.ip("router", "link set "+routerName+" up")
	n.ip(host, "link set "+name+" up")
}

// startEnd starts an end and waits until it is ready.
func (n *netchange) startEnd(role, peer string) *netchangeEnd {
	n.Helper()
	exe, err := os.Executable()
	if err != nil {
		n.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", n.namespace(role), exe)
	cmd.Env = append(os.Environ(), netchangeRole+"="+role, netchangeRole+"_KEY="+n.keys[role].Base64(),
		netchangeRole+"_PEER="+n.keys[peer].PublicKey().String())
	cmd.Stderr = os.Stderr
	e := &netchangeEnd{cmd: cmd, lines: make(chan string, 100)}
	if e.stdin, err = cmd.StdinPipe(); err != nil {
		n.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		n.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.Fatal(err)
	}
	n.Cleanup(e.kill)
	go func() {
		defer close(e.lines)
		for out := bufio.NewScanner(stdout); out.Scan(); {
			e.lines <- out.Text()
		}
	}()
	select {
	case line := <-e.lines:
		if line != "ready" {
			n.Fatalf("%s end: %q", role, line)
		}
	case <-time.After(30 * time.Second):
		n.Fatalf("%s end is not ready", role)
	}
	return e
}

func (e *netchangeEnd) kill() {
	e.cmd.Process.Kill()
	e.cmd.Wait()
}

// probe has the near end use its stream and dial.
func (n *netchange) probe() {
	n.Helper()
	if _, err := io.WriteString(n.near.stdin, "\n"); err != nil {
		n.Fatal(err)
	}
}

// wantSuccess expects the dial, and with stream also the stream, to succeed soon
// after the network works again.
func (n *netchange) wantSuccess(since time.Time, stream bool) {
	n.Helper()
	waiting := map[string]time.Duration{"dial": netchangeDialLimit}
	if stream {
		waiting["stream"] = netchangeStreamLimit
	}
	timeout := time.After(time.Minute)
	for len(waiting) > 0 {
		select {
		case line := <-n.near.lines:
			fields := strings.SplitN(line, " ", 3)
			limit, ok := waiting[fields[0]]
			if !ok || len(fields) < 3 {
				continue
			}
			delete(waiting, fields[0])
			at, _ := strconv.ParseInt(fields[1], 10, 64)
			took := time.Unix(0, at).Sub(since)
			n.Logf("%s: %.2f s", fields[0], took.Seconds())
			if fields[2] != "<nil>" || took > limit {
				n.Errorf("%s after %v, error %s, want at most %v", fields[0], took, fields[2], limit)
			}
		case <-timeout:
			n.Errorf("not within a minute: %v", waiting)
			return
		}
	}
}

// TestNetworkChangeRouteMoves moves the default route to the other interface.
// The former one stays up.
func TestNetworkChangeRouteMoves(t *testing.T) {
	t.Parallel()
	n := startNetchange(t)
	since := time.Now()
	n.ip("near", "route replace default via 10.2.0.1 dev eth1 metric 100")
	n.probe()
	n.wantSuccess(since, true)
}

// TestNetworkChangeUplinkDies adds a better default route; then the former uplink
// dies.
func TestNetworkChangeUplinkDies(t *testing.T) {
	t.Parallel()
	n := startNetchange(t)
	since := time.Now()
	n.ip("near", "route add default via 10.2.0.1 dev eth1 metric 50")
	n.probe()
	n.wantSuccess(since, true)
	time.Sleep(2 * time.Second) // packets of the far end may pin the new address
	since = time.Now()
	n.ip("router", "link set up0 down")
	n.probe()
	n.wantSuccess(since, true)
}

// TestNetworkChangeBlocked blocks all packets without an answer, and then carries
// them again.
func TestNetworkChangeBlocked(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 20 s")
	}
	t.Parallel()
	n := startNetchange(t)
	blocked := []string{"10.1.0.2/32", "10.3.0.2/32"}
	for _, address := range blocked {
		n.ip("router", "route add blackhole "+address)
	}
	n.probe()
	time.Sleep(20 * time.Second)
	for _, address := range blocked {
		n.ip("router", "route del blackhole "+address)
	}
	n.wantSuccess(time.Now(), true)
}

// TestNetworkChangeFarEndRestarts restarts the far end during a dial.
func TestNetworkChangeFarEndRestarts(t *testing.T) {
	t.Parallel()
	n := startNetchange(t)
	n.far.kill()
	n.probe()
	time.Sleep(3 * time.Second)
	n.far = n.startEnd("far", "near")
	n.wantSuccess(time.Now(), false)
}
