package wireguard

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/internal/udp"
)

// wantByteCounters expects the byte counters of r to have these values.
func (r *remote) wantByteCounters(what string, tx, rx uint64) {
	r.testbed.Helper()
	if st := r.stats(); st.TxBytes != tx || st.RxBytes != rx {
		r.testbed.Fatalf("%s: %d bytes sent, %d received, want %d and %d", what, st.TxBytes, st.RxBytes, tx, rx)
	}
}

func TestP89CountersAreBytesOfUDPPayload(t *testing.T) {
	const data = 32 + 48 // a UDP packet of 5 bytes is 33 bytes, padded to 48
	withTestbed(t, nil, func(b *testbed) {
		b.far.wantByteCounters("nothing yet", 0, 0)
		b.outputTo(b.far, "hello")
		hs := b.far.wantInitiation("packet")
		b.far.wantByteCounters("initiation", 148, 0)
		b.far.writeMessage(b.far.CookieReply(make([]byte, 148), hs.RemoteIndex, goodCookie, [24]byte{}))
		b.far.wantByteCounters("cookie reply in", 148, 0)
		s := b.far.respondTo(hs)
		b.far.wantByteCounters("response and data", 148+data, 92)
		b.far.sendKeepalive(s)
		b.far.wantByteCounters("keepalive in", 148+data, 92+32)
		b.far.sendData(s, "hello")
		b.far.wantByteCounters("data in", 148+data, 92+32+data)
		time.Sleep(keepaliveTimeout)
		b.far.wantByteCounters("keepalive out", 148+data+32, 92+32+data)
		b.setUnderLoad()
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(msg)
		b.far.wantByteCounters("cookie reply out", 148+data+32, 92+32+data)
		time.Sleep(underLoadAfter)
		msg, _ = b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(msg)
		b.far.wantByteCounters("initiation in, response out", 148+data+32+92, 92+32+data+148)
		b.far.writeMessage(msg)
		b.far.writeMessage(s.SealRaw(0, nil))
		b.far.wantByteCounters("replays", 148+data+32+92, 92+32+data+148)
		p := b.far.peer()
		p.txBytes.Store(1<<32 - 1)
		p.rxBytes.Store(1<<32 - 1)
		b.far.sendKeepalive(s)
		b.outputTo(b.far, "hello")
		b.far.wantByteCounters("beyond 32 bits", 1<<32-1+data, 1<<32-1+32)
	})
}

func TestN02TenPingsTakeTheExactBytes(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		var s *fakepeer.Session
		for i := range 10 {
			echo := fakepeer.Echo{ID: 1, Seq: uint16(i), Data: make([]byte, 56)}
			if err := b.outputPacket(fakepeer.Ping(devInner, farInner, echo)); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				s = b.far.respondTo(b.far.wantInitiation("first ping"))
			}
			if _, _, err := s.Open(b.far.wantMessage("ping", fakepeer.Data)); err != nil {
				t.Fatal(err)
			}
			echo.Reply = true
			b.far.writeMessage(s.Seal(fakepeer.Ping(farInner, devInner, echo)))
			time.Sleep(100 * time.Millisecond)
		}
		b.far.wantByteCounters("ten pings of 84 bytes", 1428, 1372)
	})
}

func TestP90OnlySentMessagesCount(t *testing.T) {
	var outer *simnet.Conn
	withTestbed(t, captureSocket(&outer), func(b *testbed) {
		outer.FailWrites(errors.New("no network"))
		b.outputTo(b.far, "hello")
		b.far.wantByteCounters("initiation that failed", 0, 0)
		outer.FailWrites(nil)
		s := b.far.respondTo(b.far.wantInitiation("retry"))
		b.far.wantByteCounters("initiation and data", 148+80, 92)
		outer.FailWrites(errors.New("no network"))
		b.outputTo(b.far, "hello")
		b.far.sendData(s, "hello")
		time.Sleep(keepaliveTimeout)
		b.far.wantByteCounters("data and keepalive that failed", 148+80, 92+80)
	})
}

func TestP90LastHandshakeIsWhenItCompleted(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		want := func(what string, at time.Time) {
			t.Helper()
			if got := b.far.stats().LastHandshake; !got.Equal(at) {
				t.Fatalf("%s: last handshake %v, want %v", what, got, at)
			}
		}
		want("never", time.Time{})
		b.outputTo(b.far, "hello")
		hs := b.far.wantInitiation("packet")
		time.Sleep(time.Second)
		want("initiation sent", time.Time{})
		b.far.wantData("completion", b.far.respondTo(hs), "hello")
		first := time.Now()
		time.Sleep(time.Second)
		want("response received", first)
		s := b.far.initiateSession("initiation")
		time.Sleep(time.Second)
		want("response sent", first)
		b.far.sendKeepalive(s)
		want("confirmed", time.Now())
	})
}

func TestStatsOfAPeer(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "hello")
		hs := b.far.wantInitiation("packet")
		if s := b.far.stats(); s.Staged != 1 || s.QueuedBytes < 5 || s.SessionAge != 0 || s.RoundTrip != 0 || s.PathMTU != DefaultMTU || s.Handshakes != (HandshakeStats{Started: 1}) {
			t.Errorf("before the session: %+v", s)
		}
		time.Sleep(20 * time.Millisecond)
		b.far.respondTo(hs)
		time.Sleep(time.Second)
		if s := b.far.stats(); s.Staged != 0 || s.QueuedBytes != 0 || s.SessionAge != time.Second || s.RoundTrip != 20*time.Millisecond || s.Handshakes != (HandshakeStats{Started: 1, Completed: 1}) {
			t.Errorf("with a session: %+v", s)
		}
		b.far.editPeer(func(p *peer) { p.path.noteRefused(b.dev.now(), DefaultMTU, 1280) })
		time.Sleep(rejectAfterTime)
		if s := b.far.stats(); s.SessionAge != 0 || s.PathMTU != 1280 {
			t.Errorf("later: %+v", s)
		}
	})
}

// TestStatsOfSockets has a device with sockets of the system.
func TestStatsOfSockets(t *testing.T) {
	d, err := New(Config{PrivateKey: NewPrivateKey(), Address: prefixes("10.0.0.1/32")})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s := d.Stats()
	if len(s.Sockets) == 0 || s.ListenPort == 0 {
		t.Fatalf("sockets %v, port %d", s.Sockets, s.ListenPort)
	}
	for i, socket := range s.Sockets {
		gso, gro := udp.Offloads(d.binding.Load().sockets[i])
		if want := (SocketStats{netip.AddrPortFrom(socket.Address.Addr(), s.ListenPort), gso, gro}); socket != want {
			t.Errorf("socket %+v, want %+v", socket, want)
		}
	}
}
