package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/gopacket/gopacket/pcapgo"
)

var (
	local  = netip.MustParseAddrPort("192.0.2.1:51820")
	remote = netip.MustParseAddrPort("192.0.2.2:51820")
)

// gate is a writer that waits before each write.
type gate struct {
	bytes.Buffer
	open chan struct{}
}

func (g *gate) Write(b []byte) (int, error) {
	<-g.open
	return g.Buffer.Write(b)
}

// readBack returns the packets in a file, by interface, and its secrets.
func readBack(t *testing.T, file []byte) (packets [interfaces][][]byte, secrets string, stats [interfaces]pcapgo.NgInterfaceStatistics) {
	t.Helper()
	le := binary.LittleEndian
	options := pcapgo.DefaultNgReaderOptions
	options.WantMixedLinkType = true
	options.StatisticsCallback = func(i int, s pcapgo.NgInterfaceStatistics) { stats[i] = s }
	r, err := pcapgo.NewNgReader(bytes.NewReader(file), options)
	if err != nil {
		t.Fatal(err)
	}
	for {
		b, ci, err := r.ReadPacketData()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		packets[ci.InterfaceIndex] = append(packets[ci.InterfaceIndex], b)
	}
	// The reader of pcapgo hides the decryption secrets blocks.
	for rest := file; len(rest) > 0; {
		if le.Uint32(rest) == 10 && le.Uint32(rest[8:]) == 0x57474b4c {
			secrets += string(rest[16 : 16+le.Uint32(rest[12:])])
		}
		rest = rest[le.Uint32(rest[4:]):]
	}
	return packets, secrets, stats
}

func TestWriterNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &gate{open: make(chan struct{})}
		w := New(file, Options{})
		packet := make([]byte, 1<<16)
		const n = maxWaiting/(1<<16) + 10
		for range n {
			w.InnerPacket(true, packet)
		}
		w.HandshakeSecrets([]byte("secret\n"))
		close(file.open)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		packets, secrets, stats := readBack(t, file.Bytes())
		dropped := w.Dropped()
		if dropped == 0 || len(packets[inner])+int(dropped) != n {
			t.Errorf("%d packets dropped and %d written, of %d", dropped, len(packets[inner]), n)
		}
		if s := stats[inner]; s.PacketsReceived != n || s.PacketsDropped != dropped {
			t.Errorf("statistics: %d received, %d dropped", s.PacketsReceived, s.PacketsDropped)
		}
		if secrets != "secret\n" {
			t.Errorf("secrets %q", secrets)
		}
	})
}

func TestPacketsAreWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var file bytes.Buffer
		w := New(&file, Options{OmitSecrets: true})
		w.HandshakeSecrets([]byte("secret\n"))
		w.OuterPacket(true, local, remote, 0, []byte("out"))
		w.OuterPacket(false, local, remote, 0, []byte("in"))
		w.InnerPacket(true, []byte("packet"))
		synctest.Wait()
		packets, secrets, _ := readBack(t, file.Bytes())
		if len(packets[outer]) != 2 || len(packets[inner]) != 1 || string(packets[inner][0]) != "packet" {
			t.Errorf("packets %q", packets)
		}
		if !bytes.Equal(packets[outer][0], appendUDP(nil, local, remote, 0, []byte("out"))) ||
			!bytes.Equal(packets[outer][1], appendUDP(nil, remote, local, 0, []byte("in"))) {
			t.Errorf("outer packets %q", packets[outer])
		}
		if secrets != "" {
			t.Errorf("secrets %q", secrets)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		size := file.Len()
		w.InnerPacket(true, []byte("late"))
		w.OuterPacket(true, local, remote, 0, []byte("late"))
		if err := w.Close(); err != nil || file.Len() != size {
			t.Errorf("written after Close; error %v", err)
		}
	})
}

// failing is a writer that fails once.
type failing struct {
	err    error
	writes int
}

func (f *failing) Write(b []byte) (int, error) {
	f.writes++
	return 0, f.err
}

func TestWriteErrorEndsCapture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &failing{err: errors.New("disk is full")}
		w := New(file, Options{})
		synctest.Wait()
		w.InnerPacket(true, []byte("packet"))
		w.HandshakeSecrets([]byte("secret\n"))
		for range 2 {
			if err := w.Close(); !errors.Is(err, file.err) {
				t.Errorf("Close: %v", err)
			}
		}
		if file.writes != 1 {
			t.Errorf("%d writes", file.writes)
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	var file bytes.Buffer
	w := New(&file, Options{})
	const n = 100
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for range n {
				w.OuterPacket(true, local, remote, 0, []byte("out"))
				w.InnerPacket(false, []byte("in"))
				w.HandshakeSecrets([]byte("x\n"))
			}
		})
	}
	users.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	packets, secrets, _ := readBack(t, file.Bytes())
	if len(packets[outer]) != 4*n || len(packets[inner]) != 4*n || len(secrets) != 4*n*2 {
		t.Errorf("%d outer and %d inner packets, %d bytes of secrets", len(packets[outer]), len(packets[inner]), len(secrets))
	}
}
