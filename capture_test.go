package wireguard

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/udp"
	"github.com/wgstack/wireguard/netstack"
)

// captureLog is a Capture that notes what it receives.
type captureLog struct {
	mu     sync.Mutex
	events []string
	inner  [][]byte
}

func (c *captureLog) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, fmt.Sprintf(format, args...))
}

func (c *captureLog) OuterPacket(sent bool, local, remote netip.AddrPort, tos uint8, payload []byte) {
	c.note("outer sent=%v %v %v tos=%#x %v", sent, local, remote, tos, fakepeer.KindOf(payload))
}

func (c *captureLog) InnerPacket(sent bool, packet []byte) {
	c.note("inner sent=%v %d bytes", sent, len(packet))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inner = append(c.inner, slices.Clone(packet))
}

func (c *captureLog) HandshakeSecrets(lines []byte) {
	c.note("secrets of %d lines", strings.Count(string(lines), "\n"))
}

// wantEvents expects exactly these events since the last call.
func (c *captureLog) wantEvents(t *testing.T, what string, want ...string) {
	t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.events, want) {
		t.Errorf("%s: captured\n\t%s\nwant\n\t%s", what, strings.Join(c.events, "\n\t"), strings.Join(want, "\n\t"))
	}
	c.events = nil
}

func TestCaptureSeesEveryPacket(t *testing.T) {
	const (
		out = "outer sent=true 0.0.0.0:51820 192.0.2.2:51820 tos="
		in  = "outer sent=false 0.0.0.0:51820 192.0.2.2:51820 tos=0x0 "
	)
	c := new(captureLog)
	withTestbed(t, func(cfg *Config) { cfg.Capture = c }, func(b *testbed) {
		c.wantEvents(t, "start", "secrets of 1 lines")
		size := fmt.Sprintf("%d bytes", len(packet(devInner, farInner, "hello")))
		s := b.far.connectFromDevice()
		c.wantEvents(t, "as initiator",
			"inner sent=true "+size,
			"secrets of 4 lines", out+"0x88 initiation", in+"response",
			out+"0x0 data")
		b.far.sendData(s, "hello")
		c.wantEvents(t, "received", in+"data", "inner sent=false "+size)
		b.far.writeMessage([]byte("junk"))
		c.wantEvents(t, "junk", in+"unknown")
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(msg)
		c.wantEvents(t, "as responder", in+"initiation", "secrets of 4 lines", out+"0x88 response")
		b.setUnderLoad()
		b.far.writeMessage(msg)
		c.wantEvents(t, "cookie", in+"initiation", out+"0x88 cookie reply")

		b.dev.SetCapture(nil)
		b.far.sendData(s, "hello")
		b.outputTo(b.far, "hello")
		c.wantEvents(t, "stopped")
		b.dev.SetCapture(c)
		b.far.drainMessages()
		b.far.sendData(s, "hello")
		c.wantEvents(t, "started again", "secrets of 1 lines", in+"data", "inner sent=false "+size)
	})
}

// The source address is that of the datagrams, or the one that the system will
// choose, so that both directions of a session have the same.
func TestCaptureKnowsItsAddress(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := new(captureLog)
		b.dev.SetCapture(c)
		tap := b.installTap()
		b.dev.routeTo = func(udp.Socket, netip.Addr) (udp.Route, error) { return udp.Route{Source: devOuter}, nil }
		tap.received.Local.Addr = netip.MustParseAddr("192.0.2.9")
		b.outputTo(b.far, "x")
		hs := b.far.wantInitiation("packet")
		b.far.respondTo(hs)
		synctest.Wait()
		var locals []string
		for _, e := range c.events {
			if strings.HasPrefix(e, "outer") {
				locals = append(locals, strings.Fields(e)[2])
			}
		}
		want := []string{"192.0.2.1:51820", "192.0.2.9:51820", "192.0.2.9:51820"}
		if !slices.Equal(locals, want) {
			t.Errorf("local addresses %v, want %v", locals, want)
		}
	})
}

// A packet that leaves in segments is captured as these, and so is a run of
// datagrams that the system has joined.
func TestCaptureSeesSegments(t *testing.T) {
	withSegmentedPacket(t, func(pkt *netstack.Packet) {
		d, _, pair, _, _ := newSteadyDevice(t)
		c := new(captureLog)
		d.SetCapture(c)
		if err := d.output(pkt); err != nil {
			t.Fatal(err)
		}
		plain := packet(farInner, devInner, "x")
		d.readSocket(&runSocket{run: sealRun(pair, 0, 3, plain), segment: dataOverhead + len(plain)})
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.inner) < pkt.Segments() {
			t.Fatalf("%d inner packets for %d segments", len(c.inner), pkt.Segments())
		}
		for i := range pkt.Segments() {
			want := make([]byte, pkt.SegmentLen(i))
			pkt.CopySegment(want, i)
			if !slices.Equal(c.inner[i], want) {
				t.Errorf("segment %d differs", i)
			}
		}
		received := 0
		for _, e := range c.events {
			if strings.HasPrefix(e, "outer sent=false") {
				received++
			}
		}
		if received != 3 {
			t.Errorf("%d outer packets received, want 3", received)
		}
	})
}

// A benchmark of what the hooks of a batch cost: compare with and without.
func BenchmarkCaptureOff(b *testing.B) {
	d := newDevice(Config{MTU: DefaultMTU})
	ms := make([]udp.Message, 1)
	packets := [][]byte{nil}
	for b.Loop() {
		d.captureOuter(true, ms...)
		d.captureReceived(packets)
	}
}
