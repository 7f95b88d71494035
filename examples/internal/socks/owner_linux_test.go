package socks

import (
	"encoding/hex"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestMain makes the test binary the program of sendAs.
func TestMain(m *testing.M) {
	if to := os.Getenv("SOCKS_TEST_SEND_TO"); to != "" {
		if err := sendFromEnvironment(to); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// sendFromEnvironment sends a datagram, and keeps its socket, whose owner the
// server looks up, until standard input ends.
func sendFromEnvironment(to string) error {
	datagram, err := hex.DecodeString(os.Getenv("SOCKS_TEST_DATAGRAM"))
	if err != nil {
		return err
	}
	c, err := net.Dial("udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(datagram); err != nil {
		return err
	}
	os.Stdout.WriteString("sent")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// sendAs has a process of another user send a datagram. The process ends with
// the test.
func sendAs(t *testing.T, uid uint32, to netip.AddrPort, datagram string) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	// The other user may not have access to the directory of the test binary.
	f, err := os.CreateTemp("", "socks-test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(f.Name()) })
	f.Write(binary)
	f.Chmod(0o755)
	f.Close()
	cmd := exec.Command(f.Name())
	cmd.Dir = "/"
	cmd.Env = []string{"SOCKS_TEST_SEND_TO=" + to.String(), "SOCKS_TEST_DATAGRAM=" + hex.EncodeToString([]byte(datagram))}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("start a process as user %d: %v", uid, err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	if _, err := io.ReadFull(stdout, make([]byte, len("sent"))); err != nil {
		t.Fatal(err)
	}
}

// TestAssociateOtherUser checks that a process of another user, which sends
// before the client does, cannot use the relay.
func TestAssociateOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start a process as another user")
	}
	addr := start(t, &Server{})
	_, relay := associate(t, addr, address{ip: netip.IPv4Unspecified()})
	client, server := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0")
	sendAs(t, 65534, relay, wrap(at(server), "stolen"))
	client.send(relay, wrap(at(server), "client"))
	server.send(server.want("client"), "answer")
	client.want(wrap(at(server), "answer"))
}

func TestOwnerCheck(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		l, err := net.Listen("tcp", host+":0")
		if err != nil {
			t.Skip(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		owns := ownerCheck(addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()))
		if owns == nil {
			t.Fatalf("%s: the owner of a connection of this host is not known", host)
		}
		bound, err := net.ListenPacket("udp", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer bound.Close()
		if !owns(addrPort(bound.LocalAddr())) {
			t.Errorf("%s: a socket of this process belongs to another user", host)
		}
		wildcard, err := net.ListenPacket("udp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer wildcard.Close()
		from := netip.AddrPortFrom(addrPort(l.Addr()).Addr(), addrPort(wildcard.LocalAddr()).Port())
		if !owns(from) {
			t.Errorf("%s: a socket bound to the unspecified address belongs to another user", host)
		}
		bound.Close()
		if owns(addrPort(bound.LocalAddr())) {
			t.Errorf("%s: a port without a socket belongs to the client", host)
		}
		if ownerCheck(netip.MustParseAddrPort("192.0.2.1:1"), addrPort(l.Addr())) != nil {
			t.Errorf("%s: the owner of a client of another host is known", host)
		}
	}
}

func TestParseProcAddr(t *testing.T) {
	// The form is that of a little-endian machine.
	if got, ok := parseProcAddr("0100007F:0016"); !ok || got != netip.MustParseAddrPort("127.0.0.1:22") && got != netip.MustParseAddrPort("1.0.0.127:22") {
		t.Errorf("got %v, %v", got, ok)
	}
	for _, bad := range []string{"", "0100007F", "0100007:16", "0100007F:10000", "01:16"} {
		if got, ok := parseProcAddr(bad); ok {
			t.Errorf("%q: %v", bad, got)
		}
	}
}
