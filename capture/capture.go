// Package capture writes what passes through a WireGuard device to a file that
// Wireshark and tshark read, in the pcapng format.
//
// The file has two interfaces, "outer" with the encrypted packets and "inner"
// with the decrypted ones, and the secrets of the handshakes, by which Wireshark
// decrypts the outer packets of every session that began during the capture:
//
//	f, err := os.Create("tunnel.pcapng")
//	…
//	w := capture.New(f, capture.Options{})
//	dev.SetCapture(w) // or wireguard.Config.Capture, for the first handshake too
//	…
//	dev.SetCapture(nil)
//	err = w.Close()
//
// The secrets include the private key of the device: who has the file can
// impersonate it. [Options.OmitSecrets] leaves them out; the inner packets can be
// read without them.
//
// The outer packets have IP and UDP headers that are made up from the addresses
// of the datagrams, since a program does not see the real ones.
package capture

import (
	"bytes"
	"io"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/wgstack/wireguard"
)

// maxWaiting is how many bytes may wait for a slow writer before packets are
// dropped.
const maxWaiting = 16 << 20

// The interfaces of the file.
const (
	outer = iota
	inner
	interfaces
)

// Options are the choices of a capture. The zero Options are the defaults.
type Options struct {
	// OmitSecrets leaves the secrets of handshakes out, so that the outer packets
	// stay encrypted.
	OmitSecrets bool
}

// A Writer writes a capture. It is a [wireguard.Capture], for one device. All
// methods may be called concurrently.
type Writer struct {
	omitSecrets bool
	w           io.Writer     // used by the goroutine of New only
	done        chan struct{} // closed when that goroutine has ended

	mu       sync.Mutex
	changed  sync.Cond // on mu: waiting is not empty, or closed
	waiting  *bytes.Buffer
	blocks   *pcapgo.NgWriter // encodes to waiting
	received [interfaces]uint64
	dropped  [interfaces]uint64
	packet   []byte // room for an outer packet
	started  time.Time
	closed   bool
	err      error // the first
}

var _ wireguard.Capture = (*Writer)(nil)

// New returns a Writer to w. A goroutine calls w.Write until [Writer.Close], at
// once for each packet unless it is still writing; a device never waits for it.
// If w is too slow, packets are dropped when 16 MiB wait.
func New(w io.Writer, options Options) *Writer {
	c := &Writer{
		omitSecrets: options.OmitSecrets,
		w:           w,
		done:        make(chan struct{}),
		waiting:     new(bytes.Buffer),
		started:     time.Now(),
	}
	c.changed.L = &c.mu
	c.blocks, c.err = pcapgo.NewNgWriterInterface(target{c}, rawInterface("outer", "encrypted packets, with IP and UDP headers made up"),
		pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{
			Hardware:    runtime.GOARCH,
			OS:          runtime.GOOS,
			Application: "github.com/wgstack/wireguard/capture",
		}})
	if c.err == nil {
		_, c.err = c.blocks.AddInterface(rawInterface("inner", "decrypted packets"))
	}
	c.endBlock()
	go c.writeWaiting()
	return c
}

func rawInterface(name, description string) pcapgo.NgInterface {
	return pcapgo.NgInterface{
		Name:                name,
		Description:         description,
		LinkType:            layers.LinkTypeRaw,
		TimestampResolution: 9,
	}
}

// target appends to the bytes that wait at present.
type target struct{ *Writer }

func (t target) Write(b []byte) (int, error) { return t.waiting.Write(b) }

// writeWaiting writes what waits until the Writer is closed.
func (c *Writer) writeWaiting() {
	defer close(c.done)
	writing := new(bytes.Buffer)
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for c.waiting.Len() == 0 && !c.closed {
			c.changed.Wait()
		}
		if c.waiting.Len() == 0 || c.err != nil {
			return
		}
		writing, c.waiting = c.waiting, writing
		c.mu.Unlock()
		_, err := c.w.Write(writing.Bytes())
		writing.Reset()
		c.mu.Lock()
		if c.err == nil {
			c.err = err
		}
	}
}

// endBlock has the blocks encoded so far written. c.mu is held.
func (c *Writer) endBlock() {
	if err := c.blocks.Flush(); c.err == nil {
		c.err = err
	}
	c.changed.Signal()
}

// OuterPacket implements [wireguard.Capture].
func (c *Writer) OuterPacket(sent bool, local, remote netip.AddrPort, tos uint8, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from, to := remote, local
	if sent {
		from, to = local, remote
	}
	c.packet = appendUDP(c.packet[:0], from, to, tos, payload)
	c.writePacket(outer, sent, c.packet)
}

// InnerPacket implements [wireguard.Capture].
func (c *Writer) InnerPacket(sent bool, packet []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writePacket(inner, sent, packet)
}

// writePacket encodes a packet, or drops it. c.mu is held.
func (c *Writer) writePacket(on int, sent bool, packet []byte) {
	if c.closed || c.err != nil {
		return
	}
	c.received[on]++
	if c.waiting.Len()+len(packet) > maxWaiting {
		c.dropped[on]++
		return
	}
	direction := pcapgo.NgEpbFlagDirectionInbound
	if sent {
		direction = pcapgo.NgEpbFlagDirectionOutbound
	}
	c.err = c.blocks.WritePacketWithOptions(gopacket.CaptureInfo{
		Timestamp:      time.Now(),
		CaptureLength:  len(packet),
		Length:         len(packet),
		InterfaceIndex: on,
	}, packet, pcapgo.NgPacketOptions{Flags: &pcapgo.NgEpbFlags{Direction: direction}})
	c.endBlock()
}

// HandshakeSecrets implements [wireguard.Capture].
func (c *Writer) HandshakeSecrets(lines []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.omitSecrets || c.closed || c.err != nil {
		return
	}
	c.err = c.blocks.WriteDecryptionSecretsBlock(pcapgo.DSB_SECRETS_TYPE_WIREGUARD, lines)
	c.endBlock()
}

// Dropped returns how many packets are not in the file because it was written too
// slowly.
func (c *Writer) Dropped() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped[outer] + c.dropped[inner]
}

// Close writes what waits and the numbers of packets, and ends the capture; what
// a device still passes on is ignored. It does not close the file, and returns the
// first error of writing to it. Closing again returns the same.
func (c *Writer) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		c.writeStatistics()
	}
	c.mu.Unlock()
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// writeStatistics encodes the numbers of packets. c.mu is held.
func (c *Writer) writeStatistics() {
	now := time.Now()
	for on := range interfaces {
		if c.err == nil {
			c.err = c.blocks.WriteInterfaceStats(on, pcapgo.NgInterfaceStatistics{
				LastUpdate:      now,
				StartTime:       c.started,
				EndTime:         now,
				PacketsReceived: c.received[on],
				PacketsDropped:  c.dropped[on],
			})
		}
	}
	c.endBlock()
}
