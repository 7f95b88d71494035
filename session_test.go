package wireguard

import (
	"testing"
	"time"
)

func TestInitiator(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.far.wantSilence("idle device", time.Hour)
		b.output(b.far, "one")
		b.output(b.far, "two")
		s := b.far.respond(b.far.wantInitiation("packet without session"))
		if n := b.far.wantData("staged", s, "one"); n != 0 {
			t.Fatalf("first counter %d", n)
		}
		b.far.wantData("staged in order", s, "two")
		b.far.data(s, "three")
		b.wantDelivered("data", "three")
		b.far.wantData("passive keepalive", s, "")
		b.far.wantSilence("keepalives need no answer", 100*time.Second)
	})
}

func TestResponder(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.initiate("initiation")
		b.output(b.far, "staged until confirmed")
		b.far.wantSilence("unconfirmed keys send nothing", time.Second)
		b.far.data(s, "confirms")
		b.far.wantData("flushed at confirmation", s, "staged until confirmed")
		b.wantDelivered("confirming packet", "confirms")
	})
}
