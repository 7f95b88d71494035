package wireguard

import (
	"errors"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
)

// wantBytes expects the counters of r to say so.
func (r *remote) wantBytes(what string, tx, rx uint64) {
	r.bed.Helper()
	if st := r.stats(); st.TxBytes != tx || st.RxBytes != rx {
		r.bed.Fatalf("%s: %d bytes sent, %d received, want %d and %d", what, st.TxBytes, st.RxBytes, tx, rx)
	}
}

func TestP89CountersAreBytesOfUDPPayload(t *testing.T) {
	const data = 32 + 48 // a UDP packet of 5 bytes is 33 bytes, padded to 48
	inBed(t, nil, func(b *bed) {
		b.far.wantBytes("nothing yet", 0, 0)
		b.output(b.far, "hello")
		hs := b.far.wantInitiation("packet")
		b.far.wantBytes("initiation", 148, 0)
		b.far.write(b.far.CookieReply(make([]byte, 148), hs.RemoteIndex, goodCookie, [24]byte{}))
		b.far.wantBytes("cookie reply in", 148, 0)
		s := b.far.respond(hs)
		b.far.wantBytes("response and data", 148+data, 92)
		b.far.keepalive(s)
		b.far.wantBytes("keepalive in", 148+data, 92+32)
		b.far.data(s, "hello")
		b.far.wantBytes("data in", 148+data, 92+32+data)
		time.Sleep(keepaliveTimeout)
		b.far.wantBytes("keepalive out", 148+data+32, 92+32+data)
		b.loaded()
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.write(msg)
		b.far.wantBytes("cookie reply out", 148+data+32, 92+32+data)
		time.Sleep(underLoadAfter)
		msg, _ = b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.write(msg)
		b.far.wantBytes("initiation in, response out", 148+data+32+92, 92+32+data+148)
		b.far.write(msg)
		b.far.write(s.SealRaw(0, nil))
		b.far.wantBytes("replays", 148+data+32+92, 92+32+data+148)
		p := b.far.peer()
		p.tx.Store(1<<32 - 1)
		p.rx.Store(1<<32 - 1)
		b.far.keepalive(s)
		b.output(b.far, "hello")
		b.far.wantBytes("beyond 32 bits", 1<<32-1+data, 1<<32-1+32)
	})
}

func TestN02TenPings(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		var s *fakepeer.Session
		for i := range 10 {
			echo := fakepeer.Echo{ID: 1, Seq: uint16(i), Data: make([]byte, 56)}
			if err := b.outputPacket(fakepeer.Ping(devInner, farInner, echo)); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				s = b.far.respond(b.far.wantInitiation("first ping"))
			}
			if _, _, err := s.Open(b.far.want("ping", fakepeer.Data)); err != nil {
				t.Fatal(err)
			}
			echo.Reply = true
			b.far.write(s.Seal(fakepeer.Ping(farInner, devInner, echo)))
			time.Sleep(100 * time.Millisecond)
		}
		b.far.wantBytes("ten pings of 84 bytes", 1428, 1372)
	})
}

func TestP90OnlyWhatWasSentCounts(t *testing.T) {
	var outer *simnet.Conn
	inBed(t, capture(&outer), func(b *bed) {
		outer.FailWrites(errors.New("no network"))
		b.output(b.far, "hello")
		b.far.wantBytes("initiation that failed", 0, 0)
		outer.FailWrites(nil)
		s := b.far.respond(b.far.wantInitiation("retry"))
		b.far.wantBytes("initiation and data", 148+80, 92)
		outer.FailWrites(errors.New("no network"))
		b.output(b.far, "hello")
		b.far.data(s, "hello")
		time.Sleep(keepaliveTimeout)
		b.far.wantBytes("data and keepalive that failed", 148+80, 92+80)
	})
}

func TestP90LastHandshakeIsWhenItCompleted(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		want := func(what string, at time.Time) {
			t.Helper()
			if got := b.far.stats().LastHandshake; !got.Equal(at) {
				t.Fatalf("%s: last handshake %v, want %v", what, got, at)
			}
		}
		want("never", time.Time{})
		b.output(b.far, "hello")
		hs := b.far.wantInitiation("packet")
		time.Sleep(time.Second)
		want("initiation sent", time.Time{})
		b.far.wantData("completion", b.far.respond(hs), "hello")
		first := time.Now()
		time.Sleep(time.Second)
		want("response received", first)
		s := b.far.initiate("initiation")
		time.Sleep(time.Second)
		want("response sent", first)
		b.far.keepalive(s)
		want("confirmed", time.Now())
	})
}
