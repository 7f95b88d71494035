package wireguard

import (
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

func TestVectorsHandshake(t *testing.T) {
	now := time.Now()
	for _, v := range loadVectors[[]*exchangeVector](t, "wireguard.json") {
		t.Run(v.Name, func(t *testing.T) {
			var (
				initiatorID = newIdentity(PrivateKey(v.InitiatorPrivate))
				responderID = newIdentity(PrivateKey(v.ResponderPrivate))
				psk         = PresharedKey(v.PresharedKey)
				macs        cookieGenerator
			)
			wantBytes(t, "initiator", initiatorID.public[:], v.InitiatorPublic)
			wantBytes(t, "responder", responderID.public[:], v.ResponderPublic)

			ss, err := initiatorID.computeStaticSecret(&responderID.public)
			if err != nil {
				t.Fatal(err)
			}
			first, i, err := newInitiation(initiatorID, responderID.public, &ss, PrivateKey(v.InitiatorEphemeralPrivate), v.InitiatorIndex, tai64n(v.Timestamp))
			if err != nil {
				t.Fatal(err)
			}
			macs.addMACs(now, &responderID.public, first[:])
			wantBytes(t, "initiation", first[:], v.Initiation)

			var r responder
			if err := r.consumeStatic(responderID, v.Initiation); err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "static of the initiator", r.remote[:], v.InitiatorPublic)
			if r.remoteIndex != v.InitiatorIndex {
				t.Errorf("initiator's index %d, want %d", r.remoteIndex, v.InitiatorIndex)
			}
			if ss, err = responderID.computeStaticSecret(&r.remote); err != nil {
				t.Fatal(err)
			}
			stamp, err := r.consumeTimestamp(&ss)
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "timestamp", stamp[:], v.Timestamp)
			second, rk, err := r.newResponse(&psk, PrivateKey(v.ResponderEphemeralPrivate), v.ResponderIndex)
			if err != nil {
				t.Fatal(err)
			}
			var responderMACs cookieGenerator
			responderMACs.addMACs(now, &initiatorID.public, second[:])
			wantBytes(t, "response", second[:], v.Response)

			before := *i
			ik, index, err := i.consumeResponse(v.Response, &psk)
			if err != nil {
				t.Fatal(err)
			}
			if index != v.ResponderIndex {
				t.Errorf("responder's index %d, want %d", index, v.ResponderIndex)
			}
			if *i != before {
				t.Error("finish changed the pending handshake")
			}
			wantBytes(t, "initiator's sending key", ik.send[:], v.InitiatorToResponder)
			wantBytes(t, "initiator's receiving key", ik.receive[:], v.ResponderToInitiator)
			wantBytes(t, "responder's sending key", rk.send[:], v.ResponderToInitiator)
			wantBytes(t, "responder's receiving key", rk.receive[:], v.InitiatorToResponder)

			wrong := psk
			wrong[31] ^= 1
			if _, _, err := i.consumeResponse(v.Response, &wrong); err == nil {
				t.Error("finished with another preshared key")
			}

			for _, id := range []struct {
				checker *cookieChecker
				msg     []byte
			}{{&responderID.checker, v.Initiation}, {&initiatorID.checker, v.Response}} {
				if !id.checker.validMAC1(id.msg) {
					t.Errorf("mac1 of a message of %d bytes refused", len(id.msg))
				}
			}
		})
	}
}

func TestP05FailedConsumptionChangesNothing(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		away := b.far.openSecondSocket()
		msg, hs := b.far.Initiation(fakepeer.InitiationOptions{})
		for _, at := range []int{8 + 5, 40 + 5, 40 + 47, 88 + 5, 88 + 27} {
			away.writeMessage(away.corruptHandshake(msg, at))
		}
		away.wantSilence("corrupt initiations", time.Second)
		b.wantIndices("corrupt initiations", 0)
		if s := b.far.stats(); s.RxBytes != 0 || s.Endpoint != b.far.sock.AddrPort() {
			b.Errorf("after corrupt initiations: %+v", s)
		}
		// The failed initiations did not use up the timestamp, and do not count
		// for the interval between initiations.
		away.writeMessage(away.corruptHandshake(msg, 88+5))
		b.far.writeMessage(msg)
		s, err := b.far.ConsumeResponse(hs, b.far.wantMessage("intact initiation", fakepeer.Response))
		if err != nil {
			b.Fatal(err)
		}
		b.far.sendData(s, "confirms")
		b.wantDelivered("session", "confirms")
		b.far.wantData("passive keepalive", s, "")

		time.Sleep(rejectAfterTime)
		b.outputTo(b.far, "hello")
		pending := b.far.wantInitiation("keys expired")
		before := b.far.stats()
		response, s := b.far.Response(pending, fakepeer.ResponseOptions{})
		for _, at := range []int{12 + 5, 44 + 5, 44 + 15} {
			away.writeMessage(away.corruptHandshake(response, at))
		}
		if after := b.far.stats(); after.RxBytes != before.RxBytes || after.Endpoint != before.Endpoint || after.LastHandshake != before.LastHandshake {
			b.Errorf("corrupt responses changed %+v to %+v", before, after)
		}
		b.far.writeMessage(response)
		b.far.wantData("true response", s, "hello")
	})
}

// Covers N13, M28.
func TestP19PresharedKeyAppliesToTheNextHandshake(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		cfg := b.far.peerConfig()
		cfg.PresharedKey = NewPresharedKey()
		b.setPeer(cfg)
		b.far.wantSilence("new preshared key", time.Second)
		b.outputTo(b.far, "one")
		b.far.wantData("session goes on", s, "one")
		b.far.sendData(s, "two")
		b.wantDelivered("session goes on", "two")
		b.far.wantData("passive keepalive", s, "")

		time.Sleep(rejectAfterTime)
		b.outputTo(b.far, "three")
		hs := b.far.wantInitiation("keys expired")
		b.far.respondTo(hs)
		b.far.wantSilence("response without the preshared key", time.Second)
		b.far.PSK = cfg.PresharedKey
		s = b.far.respondTo(hs)
		b.far.wantData("response with the preshared key", s, "three")
		time.Sleep(time.Second)
		s = b.far.initiateSession("initiation with the preshared key")
		b.far.sendData(s, "three too")
		b.wantDelivered("session with the preshared key", "three too")

		b.far.PSK = [32]byte{}
		b.setPeer(b.far.peerConfig())
		b.outputTo(b.far, "four")
		b.far.wantData("preshared key taken away", s, "four")
		time.Sleep(time.Second)
		s = b.far.initiateSession("initiation without a preshared key")
		b.far.sendData(s, "five")
		b.wantDelivered("session without a preshared key", "five")
	})
}
