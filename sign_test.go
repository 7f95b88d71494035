package wireguard

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/udp"
)

func TestSignsInARow(t *testing.T) {
	other := errors.New("other")
	type note struct {
		after   time.Duration
		attempt int
		err     error
		want    int
	}
	for name, notes := range map[string][]note{
		"each attempt":       {{0, 1, errNoReply, 1}, {rekeyTimeout, 2, errNoReply, 2}, {rekeyTimeout, 3, errNoReply, 3}},
		"one attempt":        {{0, 1, errNoReply, 1}, {0, 1, errNoReply, 1}},
		"every other":        {{0, 1, errNoReply, 1}, {2 * rekeyTimeout, 3, errNoReply, 1}},
		"another sign":       {{0, 1, errNoReply, 1}, {rekeyTimeout, 2, other, 1}, {rekeyTimeout, 3, other, 2}},
		"an old sign":        {{0, 1, errNoReply, 1}, {unreachableAfter, 2, errNoReply, 1}},
		"the same, in words": {{0, 1, errNoReply, 1}, {rekeyTimeout, 2, errors.New("no reply"), 2}},
	} {
		var s sign
		now := time.Now()
		for i, n := range notes {
			now = now.Add(n.after)
			s.noteSign(now, n.attempt, n.err)
			if s.count != n.want || s.err.Error() != n.err.Error() {
				t.Errorf("%s, note %d: %+v, want %d", name, i, s, n.want)
			}
		}
	}
}

// A forger answers initiations of the device with a sign.
type forger func(b *testbed, msg []byte)

func forgeResponse(b *testbed, msg []byte) {
	b.Helper()
	hs, _, err := b.far.ConsumeInitiation(msg)
	if err != nil {
		b.Fatal(err)
	}
	response, _ := b.far.Response(hs, fakepeer.ResponseOptions{})
	b.far.writeMessage(b.far.corruptHandshake(response, 50)) // the empty field
}

func forgeRefusal(b *testbed, msg []byte) {
	b.dev.handlePathError(udp.PathError{To: farOuter, Payload: msg, Errno: syscall.ECONNREFUSED, Offender: farOuter.Addr()})
}

// withForgers runs a transcript with each kind of sign. The result of Handshake
// comes from done.
func withForgers(t *testing.T, transcript func(b *testbed, forge forger, done <-chan attempt)) {
	for name, forge := range map[string]forger{"response": forgeResponse, "refusal": forgeRefusal} {
		t.Run(name, func(t *testing.T) {
			withTestbed(t, nil, func(b *testbed) {
				transcript(b, forge, b.startProof())
			})
		})
	}
}

// startProof calls Handshake in the background.
func (b *testbed) startProof() <-chan attempt {
	done := make(chan attempt, 1)
	start := time.Now()
	go func() {
		err := b.dev.Handshake(background, b.far.Public)
		done <- attempt{err, time.Since(start)}
	}()
	return done
}

func TestTwoSignsEndAnAttempt(t *testing.T) {
	withForgers(t, func(b *testbed, forge forger, done <-chan attempt) {
		for range decisiveSigns {
			msg := b.far.wantMessage("initiation", fakepeer.Initiation)
			forge(b, msg)
			forge(b, msg)
		}
		got, least := <-done, rekeyTimeout+signGrace
		if !errors.Is(got.err, ErrNoHandshake) || got.took < least || got.took > least+maxJitter {
			t.Fatalf("%v after %v", got.err, got.took)
		}

		// The next one waits for a sign of its own.
		done = b.startProof()
		forge(b, b.far.wantMessage("next initiation", fakepeer.Initiation))
		got, least = <-done, rekeyTimeout
		if !errors.Is(got.err, ErrNoHandshake) || got.took < least-signGrace || got.took > least+maxJitter {
			t.Fatalf("%v after %v", got.err, got.took)
		}
	})
}

func TestValidResponseAfterSigns(t *testing.T) {
	withForgers(t, func(b *testbed, forge forger, done <-chan attempt) {
		forge(b, b.far.wantMessage("first initiation", fakepeer.Initiation))
		msg := b.far.wantMessage("second initiation", fakepeer.Initiation)
		forge(b, msg)
		time.Sleep(signGrace - shortTime)
		hs, _, err := b.far.ConsumeInitiation(msg)
		if err != nil {
			t.Fatal(err)
		}
		b.far.respondTo(hs)
		if got := <-done; got.err != nil {
			t.Fatal(got.err)
		}
	})
}

func TestSignsThatEndNothing(t *testing.T) {
	wantFullWait := func(t *testing.T, done <-chan attempt) {
		t.Helper()
		if got := <-done; !errors.Is(got.err, ErrNoHandshake) || got.took != unreachableAfter {
			t.Fatalf("%v after %v", got.err, got.took)
		}
	}
	t.Run("every other attempt", func(t *testing.T) {
		withForgers(t, func(b *testbed, forge forger, done <-chan attempt) {
			forge(b, b.far.wantMessage("first initiation", fakepeer.Initiation))
			b.far.wantMessage("second initiation", fakepeer.Initiation)
			forge(b, b.far.wantMessage("third initiation", fakepeer.Initiation))
			wantFullWait(t, done)
		})
	})
	t.Run("with a session", func(t *testing.T) {
		withForgers(t, func(b *testbed, forge forger, done <-chan attempt) {
			b.far.respondTo(b.far.wantInitiation("initiation"))
			<-done
			b.far.wantMessage("confirmation", fakepeer.Data)
			time.Sleep(rekeyTimeout)
			done = b.startProof()
			for range unreachableAfter / (rekeyTimeout + maxJitter) {
				forge(b, b.far.wantMessage("initiation though there is a session", fakepeer.Initiation))
			}
			wantFullWait(t, done)
		})
	})
}
