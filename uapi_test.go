package wireguard

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/keytext"
	"github.com/wgstack/wireguard/netstack"
)

func TestC01OperationsArePipelined(t *testing.T) {
	const text = "set=1\nfwmark=1\n\nget=1\n\nset=1\n\nset=1\nfwmark=2\n\nget=1\n\n"
	check := func(t *testing.T, c *uapiClient) {
		t.Helper()
		for i, want := range []string{"", "1", "", "", "2"} {
			lines, errno := c.readReply()
			if errno != 0 || (want == "") != (len(lines) == 0) {
				t.Fatalf("operation %d: %q, errno %d", i, lines, errno)
			}
			if want != "" {
				wantValues(t, lines, "fwmark", want)
			}
		}
	}
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		c.sendText(text)
		check(b.T, c)
		// The connection stays open and accepts operations split in any way.
		for _, size := range []int{1, 2, 3, 7, 16} {
			go func() {
				for piece := range slices.Chunk([]byte(text), size) {
					c.Write(piece)
				}
			}()
			check(b.T, c)
		}
	})
}

func TestC01ConnectionsAreServedAtOnce(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		l := newPipeListener()
		go b.dev.ServeUAPI(l)
		slow, other := l.dialClient(b), l.dialClient(b)
		slow.sendText("set=1\nfwmark=")
		synctest.Wait()
		other.mustSetLines("fwmark=1")
		slow.sendText("2\n\n")
		if _, errno := slow.readReply(); errno != 0 {
			b.Fatal(errno)
		}
		wantValues(b, other.getLines(), "fwmark", "2")
	})
}

func TestC01ReplyEndsWithErrno(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		if got := runUAPI(b.dev, "set=1\n\nset=1\nx\n\nset=1\nx=\n\n"); got != "errno=0\n\nerrno=-71\n\nerrno=-22\n\n" {
			b.Fatalf("got %q", got)
		}
	})
}

func TestC02ErrnoOfEachMistake(t *testing.T) {
	peer := "public_key=" + hexKey(key32(1))
	long := strings.Repeat("x", maxUAPILine)
	for _, test := range []struct {
		errno int
		lines []string
	}{
		{-71, []string{"listen_port"}},
		{-71, []string{"fwmark 1"}},
		{-71, []string{" "}},
		{-71, []string{peer, "remove"}},
		{-22, []string{"="}},
		{-22, []string{"=1"}},
		{-22, []string{"address=10.0.0.1"}},
		{-22, []string{"Fwmark=1"}},
		{-22, []string{" fwmark=1"}},
		{-22, []string{"errno=0"}},
		{-22, []string{"set=1"}},
		{-22, []string{"get=1"}},
		{-22, []string{peer, "mtu=1420"}},
		{-22, []string{peer, "tx_bytes=0"}},
		// A key of a peer before any peer, and a key of the device after a
		// peer.
		{-22, []string{"persistent_keepalive_interval=1"}},
		{-22, []string{peer, "fwmark=1"}},
		{-22, []string{peer, "private_key=" + zeroHex}},
		{-22, []string{peer, "listen_port=1"}},
		{-22, []string{peer, "replace_peers=true"}},
		// Only the first = separates key and value.
		{-22, []string{"fwmark=1=1"}},
		{-22, []string{"fwmark==1"}},
		// The first error counts.
		{-71, []string{"fwmark", "fwmark=x"}},
		{-22, []string{"fwmark=x", "fwmark"}},
		// Lines that are too long, as key and as value.
		{-22, []string{long}},
		{-22, []string{"fwmark=" + long}},
		{-22, []string{strings.Repeat(long, 50), "fwmark"}},
		{-22, []string{strings.Repeat("0", maxUAPILine-1) + "=1"}},
		{-71, []string{"fwmark", long}},
	} {
		withTestbed(t, nil, func(b *testbed) {
			c := b.dialUAPI()
			before := c.getLines()
			if errno := c.setLines(test.lines...); errno != test.errno {
				b.Errorf("%.80q: errno %d, want %d", test.lines, errno, test.errno)
			}
			if after := c.getLines(); !slices.Equal(after, before) {
				b.Errorf("%.80q changed %q to %q", test.lines, before, after)
			}
		})
	}
}

func TestC02GetRefusesLines(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		c.sendText("get=1\nfwmark\n\nget=1\nfwmark=1\nx\n\nget=1\n\n")
		for i, want := range []int{-71, -22, 0} {
			lines, errno := c.readReply()
			if errno != want || (len(lines) > 0) != (want == 0) {
				b.Errorf("get %d: %q, errno %d, want %d", i, lines, errno, want)
			}
		}
	})
}

func TestC02BusyPort(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		if _, err := b.net.Listen(netip.AddrPortFrom(devOuter, 7)); err != nil {
			b.Fatal(err)
		}
		c := b.dialUAPI()
		if errno := c.setLines("listen_port=7", "public_key="+hexKey(key32(1))); errno != -98 {
			b.Errorf("errno %d, want -98", errno)
		}
		lines := c.getLines()
		wantValues(b, lines, "listen_port", strconv.Itoa(devPort))
		if peerLines(lines, key32(1)) != nil {
			b.Error("a failed operation made a peer")
		}
		b.far.connectFromDevice() // the old socket works
	})
}

func TestC02ErrnoOfFailedChanges(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		listenPacket := b.dev.listenPacket
		b.dev.listenPacket = failingListen
		c := b.dialUAPI()
		if errno := c.setLines("listen_port=7"); errno != -55 {
			b.Errorf("errno %d, want -55", errno)
		}
		b.dev.listenPacket = listenPacket
		c.mustSetLines("listen_port=7")
	})
}

func TestC02TruncatedOperation(t *testing.T) {
	for _, input := range []string{"set=1\n", "set=1\nfwmark=1\n", "set=1\nfwmark=1", "set=1\nfwmark\n", "get=1\n"} {
		withTestbed(t, nil, func(b *testbed) {
			if got := runUAPI(b.dev, input); got != "errno=-5\n\n" {
				b.Errorf("%q: got %q", input, got)
			}
			if b.dev.Stats().FwMark != 0 {
				b.Errorf("%q was applied", input)
			}
		})
	}
}

func TestC02UnknownOperationCloses(t *testing.T) {
	for _, op := range []string{"", "set", "get", "set=2", "get=0", "set=1 ", "set=1\r", " get=1", "SET=1", "delete=1", "fwmark=1", strings.Repeat("set=1", maxUAPILine)} {
		withTestbed(t, nil, func(b *testbed) {
			c := b.dialUAPI()
			c.sendText("set=1\n\n" + op + "\n\nget=1\n\n")
			if _, errno := c.readReply(); errno != 0 {
				b.Errorf("errno %d before %.20q", errno, op)
			}
			c.wantClosed(fmt.Sprintf("operation %.20q", op))
		})
	}
}

func TestC02EndlessOperationIsBounded(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		line := "endpoint=[fe80::1%" + strings.Repeat("x", maxUAPILine-100) + "]:1\n"
		input := "set=1\npublic_key=" + hexKey(key32(1)) + "\n" + strings.Repeat(line, maxUAPIOperation/len(line)+1) + "\nset=1\n\n"
		if got := runUAPI(b.dev, input); got != "errno=-55\n\nerrno=0\n\n" {
			b.Errorf("got %q", got)
		}
		if b.dev.peer(key32(1)) != nil {
			b.Error("it was applied")
		}
	})
}

func TestUAPIConnectionsAreBounded(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		l := newPipeListener()
		go b.dev.ServeUAPI(l)
		var clients []*uapiClient
		for range maxUAPIConns {
			c := l.dialClient(b)
			c.getLines()
			clients = append(clients, c)
		}
		l.dialClient(b).wantClosed("one more")
		time.Sleep(time.Hour) // clients may be idle
		for _, c := range clients {
			c.getLines()
		}
		clients[0].Close()
		synctest.Wait()
		l.dialClient(b).getLines()
	})
}

func TestUAPIOperationsShareABound(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		line := "endpoint=[fe80::1%" + strings.Repeat("x", maxUAPILine-100) + "]:1\n"
		half := "set=1\npublic_key=" + hexKey(key32(1)) + "\n" + strings.Repeat(line, maxUAPIOperation/len(line)/2+1)
		l := newPipeListener()
		go b.dev.ServeUAPI(l)
		first, second := l.dialClient(b), l.dialClient(b)
		io.WriteString(first, half)
		second.sendText(half + "\n")
		if _, errno := second.readReply(); errno != -55 {
			b.Errorf("beside another operation: errno %d", errno)
		}
		io.WriteString(first, "\n")
		if _, errno := first.readReply(); errno != 0 {
			b.Errorf("the first operation: errno %d", errno)
		}
		second.sendText(half + "\n")
		if _, errno := second.readReply(); errno != 0 {
			b.Errorf("alone: errno %d", errno)
		}
		if n := b.dev.uapi.bytes.Load(); n != 0 {
			b.Errorf("%d bytes are counted without an operation", n)
		}
	})
}

func TestUAPIClientMustReadAndWrite(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		l := newPipeListener()
		go b.dev.ServeUAPI(l)
		for _, c := range []struct{ what, sent string }{
			{"does not read", "get=1\n\n"},
			{"does not end its operation", "set=1\nlisten_port=1\n"},
		} {
			client := l.dialClient(b)
			io.WriteString(client, c.sent)
			time.Sleep(uapiTimeout - 1)
			synctest.Wait()
			if n := b.dev.uapi.conns.Load(); n != 1 {
				b.Fatalf("a client that %s: %d connections after %v", c.what, n, uapiTimeout-1)
			}
			// The device tries to answer an operation that was not sent in time.
			time.Sleep(uapiTimeout + 1)
			synctest.Wait()
			if n := b.dev.uapi.conns.Load(); n != 0 {
				b.Errorf("a client that %s is still connected", c.what)
			}
		}
	})
}

// Covers M03.
func TestC03NothingIsAppliedUnlessAllIsValid(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		before := c.getLines()
		valid := []string{
			"private_key=" + hexKey(NewPrivateKey()), "listen_port=7", "fwmark=9", "replace_peers=true",
			"public_key=" + hexKey(key32(1)), "preshared_key=" + hexKey(key32(2)), "endpoint=192.0.2.9:9",
			"replace_allowed_ips=true", "allowed_ip=10.9.0.0/16", "persistent_keepalive_interval=9",
			"public_key=" + hexKey(b.far.Public), "remove=true",
		}
		// The rest of the operation after the error is ignored up to the blank
		// line; the next operation is served.
		for _, bad := range []string{"allowed_ip=10.0.0.0/33", "nonsense", "endpoint=example.com:1"} {
			c.sendText("set=1\n" + joinLines(valid) + bad + "\n" + joinLines(valid) + "set=1\nget=1\n\nget=1\n\n")
			if _, errno := c.readReply(); errno >= 0 {
				b.Errorf("%q: errno %d", bad, errno)
			}
			if after, _ := c.readReply(); !slices.Equal(after, before) {
				b.Errorf("%q: changed %q to %q", bad, before, after)
			}
		}
		c.mustSetLines(valid...)
		if len(b.dev.Stats().Peers) != 1 {
			b.Error("the valid part does not do what it should")
		}
	})
}

func TestC04DeviceKeysAreApplied(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		c.mustSetLines("private_key=" + strings.Repeat("fF", 32))
		want := PrivateKey(key32(0xff))
		want.clamp()
		wantValues(b, c.getLines(), "private_key", hexKey(want))
		if b.dev.Stats().PublicKey != want.PublicKey() {
			b.Error("private key not set")
		}
		c.mustSetLines("private_key=" + zeroHex)
		wantValues(b, c.getLines(), "private_key")

		c.mustSetLines("listen_port=7")
		wantValues(b, c.getLines(), "listen_port", "7")
		c.mustSetLines("listen_port=0")
		if p := valuesOf(c.getLines(), "listen_port"); len(p) != 1 || p[0] == "0" || p[0] == "7" {
			b.Errorf("port 0: got %q", p)
		}
		c.mustSetLines("fwmark=4294967295")
		wantValues(b, c.getLines(), "fwmark", "4294967295")
		c.mustSetLines("fwmark=0")
		wantValues(b, c.getLines(), "fwmark")

		c.mustSetLines("public_key="+hexKey(key32(1)), "allowed_ip=10.9.0.0/16")
		c.mustSetLines("replace_peers=true", "public_key="+hexKey(key32(2)))
		wantValues(b, c.getLines(), "public_key", hexKey(key32(2)))
		if b.dev.allowed.ownerOf(netip.MustParseAddr("10.9.0.1")) != nil {
			b.Error("the prefix of a replaced peer remains")
		}
		c.mustSetLines("replace_peers=true")
		wantValues(b, c.getLines(), "public_key")
	})
}

func TestC04InvalidDeviceValuesAreRefused(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		for _, line := range []string{
			"private_key=", "private_key=00", "private_key=" + zeroHex + "0", "private_key=" + zeroHex[1:],
			"private_key=" + zeroHex[1:] + "g", "private_key=" + zeroHex[1:] + " ", "private_key=0x" + zeroHex[2:],
			"listen_port=", "listen_port=65536", "listen_port=-1", "listen_port=+1", "listen_port=0x10", "listen_port=1 ",
			"fwmark=", "fwmark=4294967296", "fwmark=-1", "fwmark=0x1", "fwmark=off", "fwmark=1_0",
			"replace_peers=", "replace_peers=false", "replace_peers=1", "replace_peers=True", "replace_peers=true ",
		} {
			if errno := c.setLines(line); errno != -22 {
				b.Errorf("%q: errno %d, want -22", line, errno)
			}
		}
	})
}

func TestC05PeerKeysAreApplied(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		k := key32(1)
		header := "public_key=" + strings.ToUpper(hexKey(k))
		c.mustSetLines(header)
		got := peerLines(c.getLines(), k)
		if want := []string{"preshared_key=" + zeroHex, "protocol_version=1", "last_handshake_time_sec=0", "last_handshake_time_nsec=0",
			"tx_bytes=0", "rx_bytes=0", "persistent_keepalive_interval=0"}; !slices.Equal(got, want) {
			b.Fatalf("new peer: %q, want %q", got, want)
		}
		c.mustSetLines(header, "preshared_key="+hexKey(key32(0xab)), "endpoint=192.0.2.9:9", "persistent_keepalive_interval=65535",
			"allowed_ip=10.9.8.7/16", "allowed_ip=fd00::1/127", "allowed_ip=::ffff:10.8.7.6/112", "protocol_version=1")
		got = peerLines(c.getLines(), k)
		wantValues(b, got, "preshared_key", strings.Repeat("ab", 32))
		wantValues(b, got, "endpoint", "192.0.2.9:9")
		wantValues(b, got, "persistent_keepalive_interval", "65535")
		wantValues(b, got, "allowed_ip", "10.8.0.0/16", "10.9.0.0/16", "fd00::/127")

		for in, out := range map[string]string{
			"[2001:db8::9]:65535":      "[2001:db8::9]:65535",
			"[fe80::1%eth0]:9":         "[fe80::1%eth0]:9",
			"[::ffff:192.0.2.7]:9":     "192.0.2.7:9",
			"[2001:DB8:0:0:0:0:0:0]:1": "[2001:db8::]:1",
		} {
			c.mustSetLines(header, "endpoint="+in)
			wantValues(b, peerLines(c.getLines(), k), "endpoint", out)
		}

		c.mustSetLines(header, "preshared_key="+zeroHex, "persistent_keepalive_interval=0", "replace_allowed_ips=true")
		got = peerLines(c.getLines(), k)
		wantValues(b, got, "preshared_key", zeroHex)
		wantValues(b, got, "persistent_keepalive_interval", "0")
		wantValues(b, got, "allowed_ip")

		c.mustSetLines("public_key="+hexKey(key32(2)), "update_only=true", "allowed_ip=10.0.0.0/8")
		if peerLines(c.getLines(), key32(2)) != nil {
			b.Error("update_only made a peer")
		}
		c.mustSetLines(header, "update_only=true", "allowed_ip=10.0.0.0/8")
		wantValues(b, peerLines(c.getLines(), k), "allowed_ip", "10.0.0.0/8")
		c.mustSetLines(header, "remove=true")
		if peerLines(c.getLines(), k) != nil {
			b.Error("remove left the peer")
		}
	})
}

func TestC05RepeatedKeyReopensThePeer(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		one, two := "public_key="+hexKey(key32(1)), "public_key="+hexKey(key32(2))
		c.mustSetLines(one, "allowed_ip=10.1.0.0/16", two, "allowed_ip=10.2.0.0/16", one, "allowed_ip=10.3.0.0/16", "persistent_keepalive_interval=5")
		got := peerLines(c.getLines(), key32(1))
		wantValues(b, got, "allowed_ip", "10.1.0.0/16", "10.3.0.0/16")
		wantValues(b, got, "persistent_keepalive_interval", "5")
		wantValues(b, peerLines(c.getLines(), key32(2)), "allowed_ip", "10.2.0.0/16")
		// Removed and added again in one operation.
		c.mustSetLines(one, "remove=true", one, "allowed_ip=10.4.0.0/16")
		got = peerLines(c.getLines(), key32(1))
		wantValues(b, got, "allowed_ip", "10.4.0.0/16")
		wantValues(b, got, "persistent_keepalive_interval", "0")
	})
}

func TestC05AnyPublicKeyIsPeer(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		c.mustSetLines("public_key="+zeroHex, "endpoint=192.0.2.9:9", "persistent_keepalive_interval=1", "public_key=01"+zeroHex[2:])
		wantValues(b, peerLines(c.getLines(), PublicKey{}), "persistent_keepalive_interval", "1")
		if peerLines(c.getLines(), PublicKey{1}) == nil {
			b.Error("no low-order peer")
		}
	})
}

func TestC05InvalidPeerValuesAreRefused(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		for _, line := range []string{
			"public_key=", "public_key=00", "public_key=" + zeroHex + "00", "public_key=" + zeroHex[1:] + "g",
			"remove=", "remove=false", "update_only=1", "update_only=false", "replace_allowed_ips=yes", "replace_allowed_ips=false",
			"preshared_key=", "preshared_key=" + zeroHex[2:], "preshared_key=" + zeroHex[1:] + "/",
			"endpoint=", "endpoint=192.0.2.1", "endpoint=192.0.2.1:", "endpoint=192.0.2.1:65536", "endpoint=192.0.2.1:-1", "endpoint=192.0.2.1:http",
			"endpoint=example.com:1", "endpoint=2001:db8::1:1", "endpoint=[192.0.2.1]:1", "endpoint=[2001:db8::1]", "endpoint=192.0.2.1%eth0:1",
			"endpoint=192.0.2.256:1", "endpoint= 192.0.2.1:1", "endpoint=:1",
			"persistent_keepalive_interval=", "persistent_keepalive_interval=65536", "persistent_keepalive_interval=-1",
			"persistent_keepalive_interval=off", "persistent_keepalive_interval=1s",
			"allowed_ip=", "allowed_ip=-", "allowed_ip=10.0.0.0", "allowed_ip=10.0.0.0/", "allowed_ip=10.0.0.0/33", "allowed_ip=10.0.0.0/-1",
			"allowed_ip=10.0.0/8", "allowed_ip=fd00::/129", "allowed_ip=fe80::1%eth0/64", "allowed_ip=+10.0.0.0/8", "allowed_ip=--10.0.0.0/8",
			"allowed_ip=10.0.0.0/8,10.1.0.0/16", "allowed_ip=example.com/32",
			"protocol_version=", "protocol_version=0", "protocol_version=2", "protocol_version=01",
		} {
			if errno := c.setLines("public_key="+hexKey(key32(1)), line); errno != -22 {
				b.Errorf("%q: errno %d, want -22", line, errno)
			}
		}
		if peerLines(c.getLines(), key32(1)) != nil {
			b.Error("a failed operation made a peer")
		}
	})
}

func TestC06LastScalarWins(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		key := NewPrivateKey()
		c.mustSetLines("private_key="+hexKey(NewPrivateKey()), "private_key="+hexKey(key), "listen_port=7", "listen_port=8", "fwmark=1", "fwmark=2",
			"public_key="+hexKey(key32(1)),
			"preshared_key="+hexKey(key32(1)), "endpoint=192.0.2.1:1", "persistent_keepalive_interval=1", "allowed_ip=10.1.0.0/16",
			"preshared_key="+hexKey(key32(2)), "endpoint=192.0.2.2:2", "persistent_keepalive_interval=2", "allowed_ip=10.2.0.0/16")
		c.mustSetLines("public_key="+hexKey(key32(1)), "allowed_ip=10.3.0.0/16", "allowed_ip=10.3.0.0/16")
		lines := c.getLines()
		wantValues(b, lines, "private_key", hexKey(key))
		wantValues(b, lines, "listen_port", "8")
		wantValues(b, lines, "fwmark", "2")
		lines = peerLines(lines, key32(1))
		wantValues(b, lines, "preshared_key", hexKey(key32(2)))
		wantValues(b, lines, "endpoint", "192.0.2.2:2")
		wantValues(b, lines, "persistent_keepalive_interval", "2")
		wantValues(b, lines, "allowed_ip", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16")
	})
}

func TestC07RemoveAllowedIP(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		one, two := "public_key="+hexKey(key32(1)), "public_key="+hexKey(key32(2))
		c.mustSetLines(one, "allowed_ip=10.1.0.0/16", "allowed_ip=10.0.0.0/8", "allowed_ip=::/0", two, "allowed_ip=10.2.0.0/16")
		// Neither a prefix of another peer, nor an absent one, nor a wider or
		// narrower one.
		c.mustSetLines(one, "allowed_ip=-10.2.0.0/16", "allowed_ip=-10.3.0.0/16", "allowed_ip=-10.1.0.0/17", "allowed_ip=-10.0.0.0/7", "allowed_ip=-0.0.0.0/0")
		wantValues(b, peerLines(c.getLines(), key32(1)), "allowed_ip", "10.0.0.0/8", "10.1.0.0/16", "::/0")
		wantValues(b, peerLines(c.getLines(), key32(2)), "allowed_ip", "10.2.0.0/16")
		c.mustSetLines(one, "allowed_ip=-10.1.2.3/16", "allowed_ip=-::/0")
		wantValues(b, peerLines(c.getLines(), key32(1)), "allowed_ip", "10.0.0.0/8")
		// In order, replaced or not.
		for _, replace := range []string{"replace_allowed_ips=true", "protocol_version=1"} {
			c.mustSetLines(one, replace, "allowed_ip=-10.5.0.0/16", "allowed_ip=10.5.0.0/16", "allowed_ip=10.6.0.0/16", "allowed_ip=-10.6.0.0/16", "allowed_ip=-10.0.0.0/8")
			wantValues(b, peerLines(c.getLines(), key32(1)), "allowed_ip", "10.5.0.0/16")
		}
		// Removing a prefix does not add a peer.
		c.mustSetLines("public_key="+hexKey(key32(3)), "update_only=true", "allowed_ip=-10.5.0.0/16")
		wantValues(b, peerLines(c.getLines(), key32(1)), "allowed_ip", "10.5.0.0/16")
	})
}

func TestC08RemovedPeerIgnoresTheRest(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		rest := []string{"preshared_key=" + zeroHex, "endpoint=192.0.2.1:1", "allowed_ip=10.0.0.2/32", "persistent_keepalive_interval=1", "update_only=true"}
		absent := append([]string{"public_key=" + hexKey(key32(1)), "remove=true"}, rest...)
		c.mustSetLines(absent...)
		c.mustSetLines(absent...)
		if peerLines(c.getLines(), key32(1)) != nil {
			b.Error("there is a peer")
		}
		wantValues(b, peerLines(c.getLines(), b.far.Public), "allowed_ip", "10.0.0.2/32")
		// The ignored lines are still parsed.
		if errno := c.setLines(append(absent, "allowed_ip=x")...); errno != -22 {
			b.Errorf("bad value after remove: errno %d", errno)
		}
		c.mustSetLines(append([]string{"public_key=" + hexKey(b.far.Public), "remove=true"}, rest...)...)
		wantValues(b, c.getLines(), "public_key")
	})
}

func TestC09KeysOfABlockInAnyOrder(t *testing.T) {
	device := []string{"private_key=" + hexKey(NewPrivateKey()), "listen_port=7", "fwmark=1", "replace_peers=true"}
	peer := []string{"preshared_key=" + hexKey(key32(2)), "endpoint=192.0.2.1:1", "persistent_keepalive_interval=3", "replace_allowed_ips=true", "allowed_ip=10.1.0.0/16"}
	var want []string
	for i := range 5 {
		withTestbed(t, nil, func(b *testbed) {
			c := b.dialUAPI()
			public := "public_key=" + hexKey(key32(1))
			c.mustSetLines(public, "allowed_ip=10.0.0.0/8")
			d, p := slices.Clone(device), slices.Clone(peer)
			d, p = append(d[i%4:], d[:i%4]...), append(p[i:], p[:i]...)
			c.mustSetLines(append(append(d, public), p...)...)
			got := settableLines(c.getLines())
			if want == nil {
				want = got
			}
			if !slices.Equal(got, want) {
				b.Errorf("order %d gives %q, want %q", i, got, want)
			}
		})
	}
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		c.mustSetLines("public_key="+hexKey(b.far.Public), "allowed_ip=10.9.0.0/16", "replace_allowed_ips=true")
		wantValues(b, peerLines(c.getLines(), b.far.Public), "allowed_ip", "10.9.0.0/16")
		c.mustSetLines("public_key="+hexKey(b.far.Public), "allowed_ip=10.8.0.0/16", "remove=true")
		wantValues(b, c.getLines(), "public_key")
		c.mustSetLines("public_key="+hexKey(b.far.Public), "allowed_ip=10.8.0.0/16", "update_only=true")
		wantValues(b, c.getLines(), "public_key")
	})
}

func TestC10GetShowsTheConfiguration(t *testing.T) {
	withTestbed(t, func(cfg *Config) { cfg.FwMark = 5 }, func(b *testbed) {
		c := b.dialUAPI()
		time.Sleep(1234567) // not on a full second
		s := b.far.connectToDevice()
		b.far.sendData(s, "hello")
		c.mustSetLines("public_key="+hexKey(b.far.Public), "preshared_key="+hexKey(key32(0xcd)), "persistent_keepalive_interval=25", "allowed_ip=fd00::2/128")
		last := b.far.stats()
		if last.LastHandshake.IsZero() || last.TxBytes == 0 || last.RxBytes == 0 {
			b.Fatalf("nothing happened: %+v", last)
		}
		b.far.wantMessage("keepalive, as it is now persistent", fakepeer.Data)
		want := []string{
			"private_key=" + hexKey(b.dev.identity.Load().private),
			"listen_port=51820",
			"fwmark=5",
			"public_key=" + hexKey(b.far.Public),
			"preshared_key=" + strings.Repeat("cd", 32),
			"protocol_version=1",
			"endpoint=" + farOuter.String(),
			fmt.Sprintf("last_handshake_time_sec=%d", last.LastHandshake.Unix()),
			fmt.Sprintf("last_handshake_time_nsec=%d", last.LastHandshake.Nanosecond()),
			fmt.Sprintf("tx_bytes=%d", b.far.stats().TxBytes),
			fmt.Sprintf("rx_bytes=%d", last.RxBytes),
			"persistent_keepalive_interval=25",
			"allowed_ip=10.0.0.2/32",
			"allowed_ip=fd00::2/128",
		}
		if got := c.getLines(); !slices.Equal(got, want) {
			b.Errorf("got\n%s\nwant\n%s", joinLines(got), joinLines(want))
		}
	})
}

func TestC10GetRoundTrips(t *testing.T) {
	var lines []string
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		set := []string{"fwmark=77", "listen_port=99", "replace_peers=true"}
		for i := range byte(20) {
			set = append(set, "public_key="+hexKey(key32(i)), "allowed_ip="+fmt.Sprintf("10.%d.0.0/16", i), fmt.Sprintf("allowed_ip=fd00:%x::/32", i))
			if i%2 == 0 {
				set = append(set, "preshared_key="+hexKey(key32(^i)), fmt.Sprintf("persistent_keepalive_interval=%d", i))
			}
			if i%3 == 0 {
				set = append(set, fmt.Sprintf("endpoint=[fe80::%x%%eth%d]:%d", i, i, i))
			}
		}
		c.mustSetLines(append(set, "public_key="+hexKey(key32(200)), "allowed_ip=0.0.0.0/0", "allowed_ip=::/0")...)
		lines = settableLines(c.getLines())
		c.mustSetLines(lines...)
		if again := settableLines(c.getLines()); !slices.Equal(again, lines) {
			b.Errorf("onto itself: got\n%s\nwant\n%s", joinLines(again), joinLines(lines))
		}
	})
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		if got := len(valuesOf(lines, "public_key")); got != 21 {
			b.Fatalf("%d peers", got)
		}
		c.mustSetLines(append([]string{"replace_peers=true"}, lines...)...)
		if again := settableLines(c.getLines()); !slices.Equal(again, lines) {
			b.Errorf("onto another device: got\n%s\nwant\n%s", joinLines(again), joinLines(lines))
		}
	})
}

func TestC10GetOfAnEmptyDevice(t *testing.T) {
	withTestbed(t, func(cfg *Config) { cfg.PrivateKey, cfg.Peers = PrivateKey{}, nil }, func(b *testbed) {
		if got := b.dialUAPI().getLines(); !slices.Equal(got, []string{"listen_port=51820"}) {
			b.Errorf("got %q", got)
		}
	})
}

func TestM05PipelinedOperationsAfterAFailure(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		// One write with five operations: a set that fails in the middle, a
		// get, a set that fails in its first line, a set that succeeds, a get.
		c.sendText("set=1\nfwmark=1\nfwmark=x\nfwmark=2\n\nget=1\n\nset=1\nnonsense\n\nset=1\nfwmark=3\n\nget=1\n\n")
		for i, want := range []struct {
			errno  int
			fwmark []string
		}{{-22, nil}, {0, nil}, {-71, nil}, {0, nil}, {0, []string{"3"}}} {
			lines, errno := c.readReply()
			if errno != want.errno {
				b.Fatalf("operation %d: errno %d, want %d", i, errno, want.errno)
			}
			wantValues(b, lines, "fwmark", want.fwmark...)
		}
		c.sendText("set=1\n\n") // nothing of the failed operations is left
		if lines, errno := c.readReply(); len(lines) != 0 || errno != 0 {
			b.Fatalf("%q, errno %d", lines, errno)
		}
	})
}

func TestM30UpdateOnlyIsOfOnePeer(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		c.mustSetLines("public_key="+hexKey(key32(1)), "update_only=true", "public_key="+hexKey(key32(2)), "allowed_ip=10.2.0.0/16")
		if peerLines(c.getLines(), key32(1)) != nil {
			b.Error("update_only made a peer")
		}
		wantValues(b, peerLines(c.getLines(), key32(2)), "allowed_ip", "10.2.0.0/16")
		// Nor does it apply to a later block of the same peer.
		c.mustSetLines("public_key="+hexKey(key32(1)), "update_only=true", "public_key="+hexKey(key32(1)))
		if peerLines(c.getLines(), key32(1)) == nil {
			b.Error("update_only outlived its block")
		}
		c.mustSetLines("public_key="+hexKey(key32(3)), "remove=true", "replace_allowed_ips=true", "public_key="+hexKey(key32(2)), "allowed_ip=10.3.0.0/16")
		wantValues(b, peerLines(c.getLines(), key32(2)), "allowed_ip", "10.2.0.0/16", "10.3.0.0/16")
	})
}

func TestM41GetWhileRemoving(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		l := newPipeListener()
		go b.dev.ServeUAPI(l)
		b.far.connectToDevice()
		var done atomic.Bool
		var running sync.WaitGroup
		for range 2 {
			c := l.dialClient(b)
			running.Go(func() {
				for !done.Load() {
					for _, public := range valuesOf(c.getLines(), "public_key") {
						if _, ok := keytext.DecodeHex([]byte(public)); !ok {
							b.Errorf("public key %q", public)
						}
					}
				}
			})
		}
		running.Go(func() {
			for !done.Load() {
				b.dev.Stats()
				b.dev.output(netstack.NewPacket(packet(devInner, b.far.ip, "data"))) // the peer may be absent
			}
		})
		c := l.dialClient(b)
		far := settableLines(c.getLines())
		for i := range 100 {
			public := "public_key=" + hexKey(key32(byte(i)))
			c.mustSetLines(public, "endpoint="+farOuter.String(), "persistent_keepalive_interval=1", "allowed_ip=10.9.0.0/16")
			c.mustSetLines(public, "remove=true")
			if i%10 == 0 {
				c.mustSetLines("replace_peers=true")
				c.mustSetLines(far...)
			}
		}
		done.Store(true)
		running.Wait()
	})
}

func TestServeUAPIEndsWithTheDevice(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		var lines []string
		for i := range byte(100) {
			lines = append(lines, "public_key="+hexKey(key32(i)))
		}
		l := newPipeListener()
		served := make(chan error, 1)
		go func() { served <- b.dev.ServeUAPI(l) }()
		idle, within, deaf := l.dialClient(b), l.dialClient(b), l.dialClient(b)
		idle.mustSetLines(lines...)
		within.sendText("set=1\nfwmark=1\n")
		deaf.sendText(strings.Repeat("get=1\n\n", 100)) // this client reads no reply
		synctest.Wait()
		b.dev.Close()
		if err := <-served; err != nil {
			b.Errorf("ServeUAPI: %v", err)
		}
		for what, c := range map[string]*uapiClient{"idle": idle, "within an operation": within, "deaf": deaf} {
			if _, err := io.Copy(io.Discard, c); err != nil {
				b.Errorf("connection %s: %v", what, err)
			}
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			b.Errorf("listener is open: %v", err)
		}
		l = newPipeListener()
		if err := b.dev.ServeUAPI(l); !errors.Is(err, net.ErrClosed) {
			b.Errorf("closed device: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			b.Errorf("listener for a closed device is open: %v", err)
		}
	})
}

func TestServeUAPIEndsWithTheListener(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		l := newPipeListener()
		served := make(chan error, 1)
		go func() { served <- b.dev.ServeUAPI(l) }()
		c := l.dialClient(b)
		c.mustSetLines("fwmark=1")
		l.Close()
		if err := <-served; err != nil {
			b.Errorf("ServeUAPI: %v", err)
		}
		c.wantClosed("listener closed")
		b.far.connectFromDevice() // the device still works
	})
}

// A troubledListener returns its errors from Accept, one after another, before
// it accepts.
type troubledListener struct {
	*pipeListener
	errs []error
}

func (l *troubledListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, err
	}
	return l.pipeListener.Accept()
}

func TestServeUAPISurvivesLackOfDescriptors(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		l := &troubledListener{newPipeListener(), []error{
			&net.OpError{Op: "accept", Err: syscall.EMFILE}, &net.OpError{Op: "accept", Err: syscall.ENFILE},
		}}
		served := make(chan error, 1)
		go func() { served <- b.dev.ServeUAPI(l) }()
		l.dialClient(b).mustSetLines("fwmark=1")
		l.Close()
		if err := <-served; err != nil {
			b.Errorf("ServeUAPI: %v", err)
		}
		broken := errors.New("broken")
		if err := b.dev.ServeUAPI(&troubledListener{newPipeListener(), []error{broken}}); !errors.Is(err, broken) {
			b.Errorf("ServeUAPI: %v", err)
		}
	})
}

func TestUAPILogsNoKeys(t *testing.T) {
	var log bytes.Buffer
	private, psk := NewPrivateKey(), NewPresharedKey()
	withTestbed(t, func(cfg *Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 10}))
	}, func(b *testbed) {
		c := b.dialUAPI()
		b.dev.listenPacket = failingListen
		keys := []string{"private_key=" + hexKey(private), "public_key=" + hexKey(key32(1)), "preshared_key=" + hexKey(psk)}
		c.setLines(append([]string{"listen_port=7"}, keys...)...)
		c.setLines(append(keys, "nonsense="+hexKey(psk), hexKey(private))...)
		c.mustSetLines(keys...)
		c.getLines()
	})
	if log.Len() == 0 {
		t.Error("nothing was logged: the test shows nothing")
	}
	for _, secret := range []string{hexKey(private), hexKey(psk)} {
		if strings.Contains(log.String(), secret[4:60]) {
			t.Errorf("the log has a secret key:\n%s", &log)
		}
	}
}

func TestHexKey(t *testing.T) {
	for v := range 256 {
		var key [32]byte
		key[v%32] = byte(v)
		text := keytext.EncodeHex(&key)
		if string(text[:]) != hex.EncodeToString(key[:]) {
			t.Fatalf("%#x: encoded %s", v, text)
		}
		for _, s := range [][]byte{text[:], bytes.ToUpper(text[:])} {
			if k, ok := keytext.DecodeHex(s); !ok || k != key {
				t.Fatalf("%#x: decoded %x, %v", v, k, ok)
			}
		}
		// Both decoders must agree about each byte.
		text[v%64] = byte(v)
		want, err := hex.DecodeString(string(text[:]))
		if k, ok := keytext.DecodeHex(text[:]); ok != (err == nil) || ok && !bytes.Equal(k[:], want) {
			t.Fatalf("digit %#x: %x, %v, want %x, %v", v, k, ok, want, err)
		}
	}
}

// FuzzUAPI sends arbitrary bytes. Afterwards get must describe the state of the
// device, and setting that on another device must yield the same state.
func FuzzUAPI(f *testing.F) {
	public := "public_key=" + hexKey(key32(1)) + "\n"
	for _, seed := range []string{
		"get=1\n\n",
		"set=1\n\nget=1\n\n",
		"set=1\nprivate_key=" + hexKey(key32(7)) + "\nlisten_port=7\nfwmark=8\nreplace_peers=true\n" + public +
			"preshared_key=" + hexKey(key32(2)) + "\nendpoint=[fe80::1%eth0]:9\npersistent_keepalive_interval=25\n" +
			"replace_allowed_ips=true\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/8\nallowed_ip=-10.0.0.0/8\nprotocol_version=1\n\nget=1\n\n",
		"set=1\nprivate_key=" + zeroHex + "\n\nset=1\n" + public + "update_only=true\n" + public + "remove=true\n" + public + "\n",
		"set=1\n" + public + "allowed_ip=10.0.0.1/32\npublic_key=" + zeroHex + "\nallowed_ip=10.0.0.1/32\n\n",
		"set=1\nlisten_port\n\nset=1\nlisten_port=x\n\nget=1\nx\n\nunknown",
		"set=1\n" + strings.Repeat("0", maxUAPILine) + "\n\nget=1\n\n",
		"set=1\n" + public + "endpoint=[::ffff:192.0.2.1]:0\nallowed_ip=::ffff:10.0.0.1/120\nallowed_ip=::ffff:0:0/90\n\n",
	} {
		for _, piece := range []byte{0, 1, 5} {
			f.Add([]byte(seed), piece)
		}
	}
	f.Fuzz(func(t *testing.T, input []byte, piece byte) {
		var state []string
		withTestbed(t, nil, func(b *testbed) {
			l := newPipeListener()
			served := make(chan error, 1)
			go func() { served <- b.dev.ServeUAPI(l) }()
			wild := l.dialClient(b)
			go func() {
				size := int(piece)
				if size == 0 {
					size = max(1, len(input))
				}
				for p := range slices.Chunk(input, size) {
					wild.Write(p)
				}
				wild.SetReadDeadline(time.Now().Add(time.Second)) // in virtual time: when all goroutines are idle
			}()
			for {
				lines, errno, err := readReply(wild.in)
				if err != nil {
					break
				}
				if !slices.Contains([]int{0, -5, -22, -55, -71, -98}, errno) || errno != 0 && len(lines) != 0 {
					b.Fatalf("reply %q, errno %d", lines, errno)
				}
			}
			wild.Close()
			c := l.dialClient(b)
			state = settableLines(c.getLines())
			c.mustSetLines(state...)
			if again := settableLines(c.getLines()); !slices.Equal(again, state) {
				b.Fatalf("onto itself: got\n%s\nwant\n%s", joinLines(again), joinLines(state))
			}
			c.Close()
			b.dev.Close()
			if err := <-served; err != nil {
				b.Fatal(err)
			}
		})
		withTestbed(t, nil, func(b *testbed) {
			c := b.dialUAPI()
			c.mustSetLines("private_key="+zeroHex, "replace_peers=true")
			c.mustSetLines(state...)
			if again := settableLines(c.getLines()); !slices.Equal(again, state) {
				b.Fatalf("onto another device: got\n%s\nwant\n%s", joinLines(again), joinLines(state))
			}
		})
	})
}

// failingListen opens no sockets.
func failingListen(context.Context, string, string) (net.PacketConn, error) {
	return nil, syscall.EACCES
}
